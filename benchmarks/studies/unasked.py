"""Targets that no training query asks for: what they should count, and whether they should be moved.

    python -m benchmarks.studies.unasked --data hpo --encoder wordllama       # hpo, taxa or a BEIR folder
    python -m benchmarks.studies.unasked --data hpo --encoder wordllama --report
    python -m benchmarks.studies.unasked --data hpo --encoder wordllama --held-out 0.1

Trains with the dynamic source at each pair of ``unasked_prior`` and ``unasked_push`` and prints MRR@10 of every other
split. A run that is done is not repeated. The table goes to ``benchmarks/results/unasked-DATA-ENCODER.json``.

With ``--held-out SHARE`` so many of the targets leave training, with their queries, and become the split
``held_out``, as ``hardwood data split`` makes it: is the pair that is best there good on ``test_unseen`` too? That goes
to ``benchmarks/results/held-out-DATA-ENCODER.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._models import folder_of
from benchmarks._report import ROOT
from benchmarks._study import data_folder

from hardwood._files import written_whole
from hardwood.data import RetrievalDataset, split_unseen
from hardwood.training import RunConfig, train

PAIRS = [(1.0, 1.0), (0.1, 1.0), (0.01, 1.0), (1.0, 0.0), (0.3, 0.0), (0.2, 0.0), (0.1, 0.0), (0.01, 0.0)]
"""``(unasked_prior, unasked_push)``; the first is the plain softmax over the corpus."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What all runs of a study have in common."""
    parser.add_argument("--data", default="hpo", help="hpo, taxa, or a BEIR folder")
    parser.add_argument("--encoder", default="static", help="static, wordllama, minilm, or a folder")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-negatives", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="peak; default: what hardwood train takes")
    parser.add_argument("--max-length", type=int)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that a file of results is for."""
    return {name: getattr(arguments, name) for name in ("steps", "batch_size", "num_negatives", "learning_rate")}


def read_runs(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What is there, or none; ends the program where it is of other settings."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings, "runs": []}
    if found["settings"] != settings:
        raise SystemExit(f"{path} is of other settings, {found['settings']}: move it away")
    return found


def measured(arguments: argparse.Namespace, data: Path, prior: float, push: float, seed: int) -> dict[str, float]:
    """MRR@10 by split, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            data=str(data),
            output=f"{folder}/run",
            encoder=folder_of(arguments.encoder) if arguments.encoder != "static" else "static",
            negatives="dynamic",
            unasked_prior=prior,
            unasked_push=push,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            num_negatives=arguments.num_negatives,
            learning_rate=arguments.learning_rate,
            max_length=arguments.max_length,
            seed=seed,
            threads=1,
        )
        metrics = train(config, quiet=True).metrics
    return {split: values["mrr@10"] for split, values in metrics.items() if "mrr@10" in values}


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, as Markdown."""
    splits = sorted({split for row in rows for split in row["mrr@10"]})
    lines = ["| prior | push | seeds | " + " | ".join(splits) + " |", "|---" * (3 + len(splits)) + "|"]
    for prior, push in PAIRS:
        runs = [row["mrr@10"] for row in rows if (row["prior"], row["push"]) == (prior, push)]
        if runs:
            means = [f"{sum(run[split] for run in runs) / len(runs):.4f}" for split in splits]
            lines.append(f"| {prior} | {push} | {len(runs)} | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--held-out", type=float, help="share of the targets that leave training, to choose by")
    parser.add_argument("--report", action="store_true", help="only print what is finished")
    arguments = parser.parse_args()
    data = data_folder(arguments.data)
    kind = "unasked" if arguments.held_out is None else "held-out"
    path = ROOT / "benchmarks" / "results" / f"{kind}-{data.name}-{Path(arguments.encoder).name}.json"
    settings = settings_of(arguments)
    if arguments.held_out is not None:
        settings["held_out"] = arguments.held_out
    found = read_runs(path, settings)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.held_out is not None:
            whole, data = RetrievalDataset.load(data), Path(folder) / data.name
            split_unseen(whole, arguments.held_out, name="held_out").save(data)
        _train_all(arguments, data, path, found)
    print(table(found["runs"]))


def _train_all(arguments: argparse.Namespace, data: Path, path: Path, found: dict[str, Any]) -> None:
    for seed in range(0 if arguments.report else arguments.seeds):
        for prior, push in PAIRS:
            if any((run["prior"], run["push"], run["seed"]) == (prior, push, seed) for run in found["runs"]):
                continue
            measures = measured(arguments, data, prior, push, seed)
            found["runs"].append({"prior": prior, "push": push, "seed": seed, "mrr@10": measures})
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1))
            print(table(found["runs"]), flush=True)


if __name__ == "__main__":
    main()
