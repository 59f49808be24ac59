"""Priors over targets that are no constant: by how often a target is asked for, by the step, mixed with in-batch's own.

    python -m benchmarks.studies.priors --data hpo --encoder wordllama --learning-rate 0.05

Trains with the dynamic source and each idea, and prints MRR@10 of every other split beside the default's. None of them
is an option of the library: each takes the place of ``UnaskedTargets`` in this process. A run that is done is not
repeated. The table goes to ``benchmarks/results/priors-DATA-ENCODER.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks._report import ROOT
from benchmarks._study import data_folder
from benchmarks.studies import unasked
from numpy.typing import NDArray
from torch import Tensor

from hardwood._files import written_whole
from hardwood._ragged import RaggedRows
from hardwood.training import softmax_loss
from hardwood.training._limits import DEFAULT_UNASKED_PRIOR, DEFAULT_UNASKED_PUSH
from hardwood.training.corpus.unasked import UnaskedTargets


@dataclass(frozen=True)
class Idea:
    """A prior over targets.

    Attributes:
        of_counts: ``(n,)`` π from ``(n,)`` numbers of training queries that ask for a target; ``None``: the default.
        of_share: what is added to ``log π`` of targets that no query asks for, by the share of training that is done.
    """

    of_counts: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    of_share: Callable[[float], float] | None = None


def _powered(power: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    def prior(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        asked = counts[counts > 0] ** power
        return np.where(counts > 0, np.maximum(counts, 1) ** power / asked.mean(), 0.2)

    return prior


def _mixed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the default, half how often a target is a positive, which is how often in-batch training has it."""
    return 0.5 * np.where(counts > 0, 1.0, 0.2) + 0.5 * np.maximum(counts / counts[counts > 0].mean(), 0.01)


IDEAS = {
    "default": Idea(),
    "count ** 0.5": Idea(_powered(0.5)),
    "count": Idea(_powered(1.0)),
    "count ** -0.5": Idea(_powered(-0.5)),
    "half in-batch's": Idea(_mixed),
    "1 to 0.04 by step": Idea(of_share=lambda done: float(np.log(5) * (1 - 2 * done))),
    "0.04 to 1 by step": Idea(of_share=lambda done: float(np.log(5) * (2 * done - 1))),
}


def _kind(idea: Idea) -> type[UnaskedTargets]:
    class Prior(UnaskedTargets):
        def __init__(self, asked: RaggedRows, num_targets: int, *, prior: float, push: float) -> None:
            super().__init__(asked, num_targets, prior=prior, push=push)
            if idea.of_counts is not None:
                counts = np.bincount(asked.values, minlength=num_targets).astype(np.float64)
                self.log_prior = np.log(idea.of_counts(counts)).astype(np.float32)

    return Prior


def _log_prior_of(idea: Idea, steps: int) -> Callable[[Any, Tensor], Tensor | None]:
    """The loss's own look at the prior, once a step: what a source draws from stays."""
    real, done = softmax_loss.log_prior_of, 0

    def log_prior_of(targets: Any, rows: Tensor) -> Tensor | None:
        nonlocal done
        found = real(targets, rows)
        if idea.of_share is None or found is None:
            return found
        share, done = min(1.0, done / steps), done + 1
        return torch.where(found < 0, found + idea.of_share(share), found)

    return log_prior_of


def measured(arguments: argparse.Namespace, data: Path, idea: Idea, seed: int) -> dict[str, float]:
    """MRR@10 by split, of one run."""
    with (
        mock.patch.object(softmax_loss, "UnaskedTargets", _kind(idea)),
        mock.patch.object(softmax_loss, "log_prior_of", _log_prior_of(idea, arguments.steps)),
    ):
        return unasked.measured(arguments, data, DEFAULT_UNASKED_PRIOR, DEFAULT_UNASKED_PUSH, seed)


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    splits = sorted({split for run in runs for split in run["mrr@10"]})
    lines = ["| prior | seeds | " + " | ".join(splits) + " |", "|---" * (2 + len(splits)) + "|"]
    for name in IDEAS:
        found = [run["mrr@10"] for run in runs if run["idea"] == name]
        if found:
            means = [f"{sum(run[split] for run in found) / len(found):.4f}" for split in splits]
            lines.append(f"| {name} | {len(found)} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    unasked.add_options(parser)
    parser.add_argument("--only", nargs="*", choices=list(IDEAS), default=list(IDEAS))
    arguments = parser.parse_args()
    data = data_folder(arguments.data)
    path = ROOT / "benchmarks" / "results" / f"priors-{data.name}-{Path(arguments.encoder).name}.json"
    found = unasked.read_runs(path, unasked.settings_of(arguments))
    for seed in range(arguments.seeds):
        for name in arguments.only:
            if any((run["idea"], run["seed"]) == (name, seed) for run in found["runs"]):
                continue
            measures = measured(arguments, data, IDEAS[name], seed)
            found["runs"].append({"idea": name, "seed": seed, "mrr@10": measures})
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1))
            print(table(found["runs"]), flush=True)


if __name__ == "__main__":
    main()
