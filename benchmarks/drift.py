"""How far stale encodings are off while a static encoder trains on HPO, and what each drift model recovers.

    python benchmarks/drift.py            # a few minutes
    python benchmarks/drift.py --quick

Encodings are taken at ``--start`` and after each interval; models are fitted on landmarks and measured on 4 000 other
targets. Prints a Markdown table of mean cosines, and writes JSON and ``docs/images/drift.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from transformers import TrainerCallback

from hardwood.data import RetrievalDataset, read_hpo
from hardwood.drift import DRIFT_MODELS, make_drift
from hardwood.encoders import load_encoder
from hardwood.encoding import target_vectors
from hardwood.training import RunConfig
from hardwood.training.run import make_loss, make_trainer

HELD_OUT = 4000


class Snapshots(TrainerCallback):
    """Keeps all targets' encodings after certain steps."""

    def __init__(self, dataset: RetrievalDataset, steps: list[int]) -> None:
        self.dataset, self.steps = dataset, steps
        self.encodings: dict[int, NDArray[np.float32]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            self.encodings[state.global_step] = target_vectors(model, self.dataset.corpus, progress=False)


def snapshots(start: int, intervals: list[int], negatives: str) -> dict[int, NDArray[np.float32]]:
    """Encodings at the start and after each interval of one training run, by step."""
    dataset = read_hpo()
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(data="hpo", output=folder, negatives=negatives, steps=start + intervals[-1])
        model = load_encoder("static", dataset, device="cpu")
        trainer = make_trainer(model, dataset, make_loss(model, dataset, config), config, quiet=True)
        taken = Snapshots(dataset, [start, *(start + interval for interval in intervals)])
        trainer.add_callback(taken)
        trainer.train()
    return taken.encodings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--intervals", type=int, nargs="+", default=[20, 50, 100, 200, 400])
    parser.add_argument("--landmarks", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--negatives", default="exact", help="what the encoder is trained with")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/drift.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/drift.png"))
    arguments = parser.parse_args()
    intervals, counts = arguments.intervals, arguments.landmarks
    if arguments.quick:
        intervals, counts = intervals[:2], counts[:1]
    encodings = snapshots(arguments.start, intervals, arguments.negatives)
    old = encodings[arguments.start]
    order = np.random.default_rng(0).permutation(len(old))
    test = order[:HELD_OUT]
    print("| model | landmarks | " + " | ".join(f"after {interval}" for interval in intervals) + " |")
    print("|---" * (2 + len(intervals)) + "|")
    records = []
    for name in DRIFT_MODELS:
        for count in counts if name != "stale" else counts[:1]:
            rows = order[HELD_OUT : HELD_OUT + count]
            cosines = []
            for interval in intervals:
                new = encodings[arguments.start + interval]
                model = make_drift(name).fit(old[rows], new[rows])
                cosines.append(1 - model.error(old[test], new[test]))
            records.append({"model": name, "landmarks": count, "cosine": dict(zip(intervals, cosines, strict=True))})
            shown = "–" if name == "stale" else str(count)
            print(f"| {name} | {shown} | " + " | ".join(f"{cosine:.3f}" for cosine in cosines) + " |", flush=True)
    for path in (arguments.output, arguments.figure):
        path.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(records, indent=1))
    draw(records, arguments.figure)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Cosine against steps, a line a model at its largest number of landmarks, fainter at fewer."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(record["model"] for record in records))
    most = max(record["landmarks"] for record in records)
    for record in records:
        label = record["model"] if record["model"] == "stale" else f"{record['model']}, {record['landmarks']} landmarks"
        strength = 0.35 + 0.65 * record["landmarks"] / most if record["model"] != "stale" else 1.0
        axes.plot(
            list(record["cosine"]),
            list(record["cosine"].values()),
            marker="o",
            color=f"C{names.index(record['model'])}",
            alpha=strength,
            label=label,
        )
    axes.set(xlabel="optimiser steps since the encoding", ylabel="mean cosine to the true encoding")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
