"""What to write back of a training step's encodings when dropout has made them noisy: several rules on one run.

    python -m benchmarks.training.write_back # MiniLM, 100 steps on HPO: ten minutes of a core
    python -m benchmarks.training.write_back --encoder transformer --steps 300 --batch-size 80 --learning-rate 5e-4

One run with dynamic negatives records what each step encoded; then each rule replays these, beginning with the
encodings of the corpus at the start, without predictions. The table has the mean cosine error to an encoding of the
corpus at the end, without dropout, of the targets that were encoded at least once, and of those encoded three times or
more. Noise is what the run has measured: in its first step, and anew in each refresh.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from benchmarks._models import folder_of, small_transformer
from benchmarks._report import ROOT
from benchmarks._study import PLAIN_SOFTMAX, data_folder
from numpy.typing import NDArray

from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import DynamicNegatives
from hardwood.negatives.dynamic.noise import settled
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer

Array = NDArray[np.float32]
Rule = Callable[[Array, Array, float], Array]


@dataclass
class Record:
    """The corpus as it was encoded at first, and of each step ids, fresh encodings, and the noise it reckoned with."""

    start: Array | None = None
    steps: list[tuple[NDArray[np.int64], Array, float]] = field(default_factory=list)


class RecordedNegatives(DynamicNegatives):
    """The dynamic source, telling ``record`` what it learns."""

    record: Record

    def observe(self, request: Any, draw: Any, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        if self.record.start is None:
            self.record.start = self.stored_vectors(torch.arange(self._attached().num_targets)).numpy().copy()
        super().observe(request, draw, rows, vectors)
        fresh = vectors.float().cpu().numpy().copy()
        self.record.steps.append((rows.cpu().numpy().copy(), fresh, self._noise.level))


def recorded(arguments: argparse.Namespace) -> tuple[Record, Array, Array]:
    """Train; what was recorded, the encodings of the corpus at the end, and what the tree has for them."""
    data = RetrievalDataset.load(data_folder(arguments.data))
    encoder = folder_of(arguments.encoder)
    if encoder == "transformer":
        encoder = str(small_transformer(data, ROOT / "runs" / "models" / f"{data.name}-transformer-seed0"))
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            **PLAIN_SOFTMAX,
            data=arguments.data,
            output=folder,
            encoder=encoder,
            negatives="dynamic",
            num_negatives=2,
            batch_size=arguments.batch_size,
            steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            threads=1,
        )
        torch.manual_seed(0)
        model = load_encoder(encoder, max_length=arguments.max_length, device="cpu")
        loss = make_loss(model, data, config)
        record = Record()
        source = RecordedNegatives()
        source.record = record
        source.attach(loss.targets, loss.cost)
        loss.source = source
        make_trainer(model, data, loss, config, quiet=True).train()
        end = np.empty((len(data.corpus), loss.targets.dimension), dtype=np.float32)
        for rows, vectors in loss.targets.encode():
            end[rows.numpy()] = vectors.numpy()
        return record, end, source.stored_vectors(torch.arange(len(end))).numpy()


def replayed(record: Record, rule: Rule) -> Array:
    """All encodings after every step's have been written back by ``rule``."""
    assert record.start is not None
    kept = record.start.copy()
    for ids, fresh, noise in record.steps:
        kept[ids] = rule(kept[ids], fresh, noise)
    return kept


def halfway(stored: Array, fresh: Array, noise: float) -> Array:
    """The mean of both, of unit length."""
    mean = stored + fresh
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hpo")
    parser.add_argument("--encoder", default="minilm", help="minilm, transformer (from scratch), or a folder")
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record, end, tree = recorded(arguments)
    times = np.bincount(np.concatenate([ids for ids, _, _ in record.steps]), minlength=len(end))
    first = record.steps[0][2]
    rules: dict[str, Rule] = {
        "nothing": lambda stored, fresh, noise: stored,
        "fresh encodings, as they are": lambda stored, fresh, noise: fresh,
        "halfway": halfway,
        "less the first step's noise": lambda stored, fresh, noise: settled(stored, fresh, first),
        "less noise, measured anew": settled,
    }
    print(f"noise {first:.4f} in the first step, {record.steps[-1][2]:.4f} at the end; {(times > 0).sum():,} targets")
    print("| written back | error, once or more | three times or more |\n|---|---|---|")
    for name, rule in rules.items():
        error = 1 - np.einsum("nd,nd->n", replayed(record, rule), end)
        print(f"| {name} | {error[times > 0].mean():.4f} | {error[times >= 3].mean():.4f} |")
    error = 1 - np.einsum("nd,nd->n", tree, end) / np.linalg.norm(tree, axis=1)
    print(f"\nThe run's own tree, with its predictions: {error.mean():.4f}, all {len(end):,} targets")


if __name__ == "__main__":
    main()
