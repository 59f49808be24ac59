"""Gradients that move stored targets directly, beside what the dynamic source does: how true does each keep them?

    python -m benchmarks.training.gradient_steps                                       # static, HPO: a few minutes
    python -m benchmarks.training.gradient_steps --data data/medquad --encoder wordllama --learning-rate 0.05

dback (AAAI 2026, https://github.com/cgmta/dback) takes cached target encodings for parameters and moves them by the
loss's own gradient. One run with dynamic negatives records each step's queries, positives and fresh encodings, and the
true encodings of all targets at ``--start`` and ``--interval`` steps later. Then each rule begins with the encodings
of ``--start``. ``gradient`` moves **all** targets that were not encoded in a step, by the exact gradient of the softmax
over the stored encodings, with the step size that turned out best of a grid: an upper bound of what it could do in
training, where but a part is scored and the step size must be known beforehand. Prints the mean cosine error to the
truth of targets that were encoded in none of the steps, and how far scores of the last step's queries are off.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from benchmarks._models import folder_of
from benchmarks._study import PLAIN_SOFTMAX, data_folder
from torch import Tensor
from transformers import TrainerCallback

from hardwood.data import RetrievalDataset
from hardwood.drift import NystromDrift
from hardwood.encoders import load_encoder
from hardwood.encoding import target_vectors
from hardwood.negatives import DynamicNegatives, Request
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer

SIZES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""Step sizes: times the loss's gradient with respect to an encoding, and the learning rate as a share of its peak."""
LANDMARKS = 512


@dataclass
class Step:
    """What a step has asked, and what it has encoded."""

    queries: Tensor
    positives: Tensor
    scale: float
    rows: Tensor
    fresh: Tensor


@dataclass
class Record:
    """Steps after the start, learning rates, and true encodings ``(n, d)`` at the start and at each interval's end."""

    steps: list[Step] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    truth: dict[int, Tensor] = field(default_factory=dict)


class RecordedNegatives(DynamicNegatives):
    """The dynamic source; ``record`` learns of every step."""

    record: Record

    def observe(self, request: Request, draw: Any, rows: Tensor, vectors: Tensor) -> None:
        super().observe(request, draw, rows, vectors)
        step = Step(request.queries.clone(), request.positives.clone(), request.scale, rows.clone(), vectors.clone())
        self.record.steps.append(step)


class Truth(TrainerCallback):
    """Encodes the whole corpus after certain steps."""

    def __init__(self, record: Record, dataset: RetrievalDataset, steps: set[int]) -> None:
        self.record, self.dataset, self.steps = record, dataset, steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.record.rates.append(float(kwargs["lr_scheduler"].get_last_lr()[0]))
        if state.global_step in self.steps:
            vectors = target_vectors(model, self.dataset.corpus, np.arange(len(self.dataset.corpus)), progress=False)
            self.record.truth[state.global_step] = torch.from_numpy(vectors)


def add_options(parser: argparse.ArgumentParser, start: int, intervals: list[int]) -> None:
    """Those of a recorded run."""
    parser.add_argument("--data", default="hpo")
    parser.add_argument("--encoder", default="static", help="static, wordllama, minilm, or a folder")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--start", type=int, default=start, help="step at which encodings are stored")
    parser.add_argument("--intervals", type=int, nargs="+", default=intervals)
    parser.add_argument("--prior", action="store_true", help="the library's defaults, instead of the plain softmax")


def recorded(arguments: argparse.Namespace) -> Record:
    """One training run."""
    data = RetrievalDataset.load(data_folder(arguments.data))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            **({} if arguments.prior else PLAIN_SOFTMAX),
            data=arguments.data,
            output=folder,
            encoder=folder_of(arguments.encoder),
            negatives="dynamic",
            num_negatives=8,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            steps=arguments.start + max(arguments.intervals),
            threads=1,
        )
        model = load_encoder(config.encoder, data, max_length=arguments.max_length, device="cpu")
        loss = make_loss(model, data, config)
        record, source = Record(), RecordedNegatives(start_step=0)
        source.record = record
        source.attach(loss.targets, loss.cost)
        loss.source = source
        trainer = make_trainer(model, data, loss, config, quiet=True)
        trainer.add_callback(Truth(record, data, {arguments.start + n for n in (0, *arguments.intervals)}))
        trainer.train()
    record.steps, record.rates = record.steps[arguments.start :], record.rates[arguments.start :]
    return record


def replayed(record: Record, start: int, steps: int, size: float) -> Tensor:
    """Stored encodings ``(n, d)`` after some steps: what was encoded is written, the rest moves by ``size``."""
    kept, peak = record.truth[start].clone(), max(record.rates)
    for step, rate in zip(record.steps[:steps], record.rates, strict=False):
        if size:
            push = torch.softmax(step.scale * step.queries @ kept.T, dim=1)
            push[torch.arange(len(push)), step.positives] -= 1
            gradient = step.scale / len(push) * push.T @ step.queries
            gradient -= (gradient * kept).sum(1, keepdim=True) * kept  # along the sphere
            kept = torch.nn.functional.normalize(kept - size * rate / peak * gradient)
        kept[step.rows] = step.fresh
    return kept


def predicted(kept: Tensor, begun: Tensor, truth: Tensor, landmarks: Tensor, untouched: Tensor) -> Tensor:
    """What a refresh makes of them: targets that were never encoded move as the landmarks did."""
    found = kept.clone()
    model = NystromDrift().fit(begun[landmarks].numpy(), truth[landmarks].numpy())
    found[untouched] = torch.nn.functional.normalize(torch.from_numpy(model.predict(begun[untouched].numpy())))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, start=50, intervals=[10, 30, 100])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = recorded(arguments)
    begun = record.truth[arguments.start]
    print("| steps | never encoded | rule | step size | cosine error | score error |\n|---|---|---|---|---|---|")
    for steps in arguments.intervals:
        truth = record.truth[arguments.start + steps]
        is_touched = torch.zeros(len(truth), dtype=torch.bool)
        for step in record.steps[:steps]:
            is_touched[step.rows] = True
        order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(1))
        untouched = order[~is_touched[order]]
        count = min(LANDMARKS, len(untouched) // 2)
        landmarks, judged = untouched[:count], untouched[count:]
        sizes = {size: replayed(record, arguments.start, steps, size) for size in SIZES}
        errors = {size: _error(found, truth, judged) for size, found in sizes.items()}
        best = min(SIZES[1:], key=errors.__getitem__)
        still, moved = sizes[0.0], sizes[best]
        rules = {
            "encoded ones written back": ("–", still),
            "and the gradient on all others": (f"{best:g}", moved),
            "and Nyström": ("–", predicted(still, begun, truth, landmarks, untouched)),
            "and gradient, then Nyström": (f"{best:g}", predicted(moved, moved, truth, landmarks, untouched)),
        }
        last = record.steps[steps - 1]
        for rule, (size, found) in rules.items():
            off = last.scale * last.queries @ (found[judged] - truth[judged]).T
            cells = f"{_error(found, truth, judged):.4f} | {float(off.abs().mean()):.3f}"
            print(f"| {steps} | {len(judged):,} | {rule} | {size} | {cells} |", flush=True)


def _error(found: Tensor, truth: Tensor, judged: Tensor) -> float:
    return float(1 - (found[judged] * truth[judged]).sum(1).mean())


if __name__ == "__main__":
    main()
