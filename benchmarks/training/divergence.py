"""The total variation that each step estimates from its draws, held against the truth with all targets encoded.

    python -m benchmarks.training.divergence                        # pretrained static embeddings on HPO, k = 8
    python -m benchmarks.training.divergence --encoder minilm --batch-size 32 --num-negatives 2 --learning-rate 5e-5

At some steps of a run with dynamic negatives every target is encoded with the weights of that step; the total
variations between what was drawn from, the softmax of the stored encodings and that of fresh ones are then exact
(means over the batch's queries). The run itself is not changed by it.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
from benchmarks._models import folder_of
from benchmarks._study import data_folder

from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import Draw, DynamicNegatives, RefreshPolicy, Request, log_prior_of
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer

NAMES = ("total", "tree", "staleness")


class MeasuredNegatives(DynamicNegatives):
    """The dynamic source, that compares what it estimates with the truth at some steps."""

    at: frozenset[int] = frozenset()
    step = 0

    def begin_step(self, step: int) -> None:
        self.step = step
        super().begin_step(step)

    def observe(self, request: Request, draw: Draw, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        truth = self._truth(request, draw) if self.step in self.at else None
        super().observe(request, draw, rows, vectors)
        if truth is not None and self._divergence is not None:
            found = [getattr(self._divergence, name) for name in NAMES]
            cells = " | ".join(f"{f:.4f} / {t:.4f}" for f, t in zip(found, truth, strict=True))
            bound = 2 * found[0] * request.scale
            print(f"| {self.step} | {cells} | {self._divergence.effective_share:.3f} | {bound:.2f} |", flush=True)

    def _truth(self, request: Request, draw: Draw) -> list[float]:
        targets = self._attached()
        everything = torch.arange(targets.num_targets)
        fresh = np.empty((targets.num_targets, targets.dimension), dtype=np.float32)
        for block, encoded in targets.encode():
            fresh[block.numpy()] = encoded.numpy()
        drawn_from = self._built().log_proposal(
            request.queries.cpu(), everything, scale=request.scale, exclude=draw.exclude, probes=self.probes
        )
        drawn_from = drawn_from.double()
        forbidden = torch.isinf(drawn_from)
        prior = log_prior_of(targets)
        softmaxes = []
        for vectors in (self.stored_vectors(everything), torch.from_numpy(fresh)):
            scores = request.scale * request.queries.double().cpu() @ vectors.double().T
            scores = scores + (0 if prior is None else prior.double())
            softmaxes.append(torch.softmax(scores.masked_fill(forbidden, -torch.inf), dim=1))
        q, (s, p) = drawn_from.exp(), softmaxes
        return [float((a - b).abs().sum(1).mean()) / 2 for a, b in ((q, p), (q, s), (s, p))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo")
    parser.add_argument("--encoder", default="wordllama", help="static, wordllama, minilm, or a folder")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-negatives", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--refresh-when", type=float, default=0.02, help="see RefreshPolicy")
    parser.add_argument("--at", type=int, nargs="+", default=[0, 1, 3, 10, 20, 50, 100, 150, 199])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = RetrievalDataset.load(data_folder(arguments.data))
    encoder = "static" if arguments.encoder == "static" else folder_of(arguments.encoder)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("batch_size", "num_negatives", "steps")}
        config = RunConfig(
            data=str(data_folder(arguments.data)),
            output=folder,
            encoder=encoder,
            negatives="dynamic",
            learning_rate=arguments.learning_rate,
            threads=1,
            **settings,
        )
        torch.manual_seed(0)
        model = load_encoder(encoder, data, device="cpu")
        loss = make_loss(model, data, config)
        source = MeasuredNegatives(refresh=RefreshPolicy(when=arguments.refresh_when))
        source.at = frozenset(arguments.at)
        source.attach(loss.targets, loss.cost)
        loss.source = source
        print("estimated / true total variation\n")
        print("| step | drawn from, and fresh | tree's part | staleness's part | effective draws | bound 2εβ |")
        print("|---|---|---|---|---|---|")
        make_trainer(model, data, loss, config, quiet=True).train()


if __name__ == "__main__":
    main()
