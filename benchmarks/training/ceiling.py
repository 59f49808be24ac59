"""The ceiling: the whole softmax with its whole gradient in each step, by brute force. What draws can at best estimate.

    python -m benchmarks.training.ceiling --steps 400 # HPO, static encoder: about 3 minutes on one core
    python -m benchmarks.training.ceiling --quick # few steps, and the check against the package's own loss
    python -m benchmarks.training.ceiling --config run.yaml  # the settings of one run of the study

Everything but the negatives is as in ``hardwood train``: optimiser, schedule, batches, seeds, evaluation. The corpus is
tokenised once, and the static encoder's bag sums do the rest; a transformer can't afford this.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from benchmarks._study import PLAIN_SOFTMAX
from torch import Tensor

from hardwood._files import written_whole
from hardwood.data import RetrievalDataset, write_hpo
from hardwood.encoders import load_encoder
from hardwood.evaluation import evaluate
from hardwood.negatives import Draw, Request, UniformNegatives
from hardwood.negatives.cost import reset_peaks
from hardwood.training import CorpusSoftmaxLoss, RunConfig
from hardwood.training.batch.candidates import Candidates, unique
from hardwood.training.estimate.weights import Strategy
from hardwood.training.job.assembly import make_trainer
from hardwood.training.job.run_folder import CHECKPOINTS
from hardwood.training.job.yaml_file import read_settings


class WholeSoftmaxLoss(CorpusSoftmaxLoss):
    """Cross entropy over all targets, every one encoded with gradient in every step; known positives excluded.

    The same as ``CorpusSoftmaxLoss`` with as many draws as there are targets, less the time of a draw that isn't one.
    """

    def __init__(self, model: Any, dataset: RetrievalDataset, *, scale: float, split: str, seed: int) -> None:
        super().__init__(model, dataset, UniformNegatives(), scale=scale, split=split, seed=seed, **PLAIN_SOFTMAX)
        self.suspects.observe_scores = lambda *_: None  # at first nearly everything outranks the positive

    def _draw(self, request: Request) -> list[Strategy]:
        draw = Draw.nothing(len(request.queries), request.queries.device)
        return [Strategy(draw, lambda ids: self.source.log_proposal(request, draw, ids))]

    def _candidates(self, given: Tensor, given_rows: Tensor, strategies: list[Strategy], batch_size: int) -> Candidates:
        ids, first, columns = unique(given_rows)
        is_other = torch.ones(self.targets.num_targets, dtype=torch.bool)
        is_other[ids] = False
        others = is_other.nonzero()[:, 0]
        encodings = torch.cat([given[first], self._embed_targets(others, like=given)])
        return Candidates(torch.cat([ids, others]), others, columns[:batch_size], encodings)

    def _weighed(
        self, candidates: Candidates, strategies: list[Strategy], scores: Tensor
    ) -> tuple[Tensor, None, list[Strategy]]:
        return torch.zeros_like(scores), None, []


def train_whole(config: RunConfig) -> dict[str, Any]:
    """Train as ``config`` says (its source and draws aside); write ``run.yaml`` and ``metrics.json``."""
    from transformers import set_seed

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    reset_peaks()
    set_seed(config.seed)
    data = RetrievalDataset.load(config.data)
    sizes = {"dimension": config.dimension, "vocabulary_size": config.vocabulary_size}
    model = load_encoder(config.encoder, data, seed=config.seed, device="cpu", **sizes)
    loss = WholeSoftmaxLoss(model, data, scale=config.scale, split=config.train_split, seed=config.seed)
    model.model_card_data.widget = [{"text": data.queries.texts([0])[0]}]
    config.save(Path(config.output) / "run.yaml")
    trainer = make_trainer(model, data, loss, config, quiet=True)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    splits = [name for name in data.splits if name != config.train_split]
    metrics: dict[str, Any] = {name: evaluate(model, data, split=name, progress=False) for name in splits}
    metrics["cost"] = loss.cost.report()
    metrics["training"] = {"steps": trainer.state.global_step, "seconds": round(seconds, 3)}
    with suppress(OSError):  # the trainer makes this folder even when it saves nothing
        (Path(config.output) / CHECKPOINTS).rmdir()
    with written_whole(Path(config.output) / "metrics.json") as temporary:  # last: it says that the run is complete
        temporary.write_text(json.dumps(metrics, indent=1))
    return metrics


def check(folder: str, pairs: int = 16) -> float:
    """The largest difference of a gradient's entries from those of the package's loss with every target drawn."""
    data = RetrievalDataset.load(folder)
    rows = data.training_pairs().select(range(pairs))
    gradients = []
    for whole in (True, False):
        model = load_encoder("static", data, device="cpu")
        loss = (
            WholeSoftmaxLoss(model, data, scale=20.0, split="train", seed=0)
            if whole
            else CorpusSoftmaxLoss(model, data, "uniform", num_negatives=len(data.corpus), scale=20.0, **PLAIN_SOFTMAX)
        ).train()
        features = [model.preprocess(rows[column]) for column in ("anchor", "positive")]
        sum(loss(features, torch.tensor(rows["label"])).values()).backward()
        gradients.append(next(model.parameters()).grad.to_dense())
    return float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/hpo", help="BEIR folder; HPO is written there if it is not there")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="a run's settings, instead of those above")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", default="runs/ceiling")
    arguments = parser.parse_args()
    if arguments.config is not None:
        config = RunConfig.from_mapping(read_settings(arguments.config))
    else:
        if not Path(arguments.data, "corpus.jsonl").exists():
            write_hpo(arguments.data)
        config = RunConfig(
            **PLAIN_SOFTMAX,
            data=arguments.data,
            output=arguments.output,
            negatives="uniform",
            steps=5 if arguments.quick else arguments.steps,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )
        if arguments.quick:
            print(f"largest relative difference of the gradient from the package's: {check(config.data):.1e}")
    metrics = train_whole(config)
    quality = {name: round(value["mrr@10"], 4) for name, value in metrics.items() if "mrr@10" in value}
    steps, seconds = metrics["training"]["steps"], metrics["training"]["seconds"]
    print(f"{config.output}: {steps} steps at {seconds / steps:.2f} s, MRR@10 {quality}")


if __name__ == "__main__":
    main()
