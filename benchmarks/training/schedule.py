"""When to refresh: the error of *all* vectors in the tree while the encoder moves, for several schedules.

    python -m benchmarks.training.schedule # HPO: the table of docs/lab/schedule.md; half a minute a run
    python -m benchmarks.training.schedule --data taxa # 200,000 targets, 1,000 steps; five minutes a run
    python -m benchmarks.training.schedule --steps 60 --only 1  # the first schedule, a look

A run of the dynamic source, static encoder; at some steps the whole corpus is encoded anew, beside the run and not
booked on it, and compared with what the tree holds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks._study import PLAIN_SOFTMAX, data_folder
from transformers import TrainerCallback, set_seed

from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.encoding import target_vectors
from hardwood.evaluation import evaluate
from hardwood.training import RunConfig
from hardwood.training.job.assembly import make_loss, make_trainer

SPLITS = ("test", "dev", "test_unseen")


@dataclass(frozen=True)
class Study:
    """What is tried on a set: the settings of its runs, the steps to look at, the schedules."""

    run: dict[str, Any]
    looks: tuple[int, ...]
    schedules: tuple[dict[str, Any], ...]


STUDIES = {
    "hpo": Study(
        {"steps": 400},
        (60, 100, 200, 400),
        (
            {"start_step": 20, "refresh_every": 50, "refresh_when": None},
            {"start_step": 20},
            {"start_step": 5},
            {"start_step": 0},
            {"start_step": 10, "refresh_spacing": 20, "landmarks": 256, "refresh_reencode": 1024},
            {"start_step": 10, "refresh_spacing": 25, "landmarks": 256, "refresh_reencode": 4096},
            {"refresh_when": None},
        ),
    ),
    # The oracle of the study needs 9,800,000 encodings; the first 200,000 count.
    "taxa": Study(
        {"steps": 1000, "batch_size": 160, "num_negatives": 2},
        (100, 200, 400, 700, 1000),
        (
            {},
            {"refresh_when": None},
            {"start_step": 60},
            {"start_step": 100},
            {"refresh_reencode": 8192},
            {"start_step": 60, "refresh_reencode": 8192},
            {"start_step": 100, "refresh_reencode": 8192},
            {"start_step": 60, "refresh_reencode": 16384, "refresh_spacing": 25},
            {"start_step": 60, "refresh_reencode": 16384, "refresh_spacing": 25, "refresh_drift": "stale"},
            {"landmarks": 4096},
            {"refresh_drift": "linear"},
            {"refresh_drift": "corrector"},
        ),
    ),
}


class TrueError(TrainerCallback):
    """After some steps: the mean cosine error of the vectors in the tree against the model's own of that moment."""

    def __init__(self, model: Any, data: RetrievalDataset, source: Any, looks: tuple[int, ...]) -> None:
        self._model, self._data, self._source, self._looks = model, data, source, looks
        self.errors: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, if it is time."""
        if state.global_step not in self._looks or not self._source.is_ready(state.global_step):
            return
        true = target_vectors(self._model, self._data.corpus, similarity="cosine", progress=False)
        stored = self._source.stored_vectors(torch.arange(len(true))).numpy()
        cosine = (true * stored).sum(axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
        self.errors[state.global_step] = float(1 - cosine.mean())


def run(data: RetrievalDataset, study: Study, options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Train with one schedule; what it cost, how far the tree was off, what came of it."""
    output = Path(tempfile.mkdtemp(prefix="hardwood-schedule-"))
    config = RunConfig(
        **PLAIN_SOFTMAX,
        data="none",
        output=str(output),
        negatives="dynamic",
        negatives_options=options,
        **{**study.run, **settings},
    )
    set_seed(config.seed)
    model = load_encoder(config.encoder, data, dimension=config.dimension, seed=config.seed, device="cpu")
    loss = make_loss(model, data, config)
    trainer = make_trainer(model, data, loss, config, quiet=True)
    look = TrueError(model, data, loss.source, study.looks)
    trainer.add_callback(look)
    trainer.train()
    shutil.rmtree(output)
    splits = [split for split in SPLITS if split in data.splits]
    measured = [evaluate(model, data, split=split, progress=False)["mrr@10"] for split in splits]
    return {"reencoded": loss.cost.targets_reencoded, "errors": look.errors, "mrr@10": measured}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=STUDIES, default="hpo")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probes", type=int, default=None, help="leaves opened for each query; else the default")
    parser.add_argument("--only", type=int, nargs="+", default=None, help="numbers from 1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = STUDIES[arguments.data]
    data = RetrievalDataset.load(data_folder(arguments.data))
    steps = arguments.steps or study.run["steps"]
    looks = [step for step in study.looks if step <= steps]
    print(f"| schedule | re-encoded | error at {' / '.join(map(str, looks))} | MRR@10 {' / '.join(SPLITS)} |")
    print("|---|---|---|---|")
    for number in arguments.only or range(1, len(study.schedules) + 1):
        options = study.schedules[number - 1]
        drawn_with = {"probes": arguments.probes} if arguments.probes else {}
        found = run(data, study, options | drawn_with, {"steps": steps, "seed": arguments.seed})
        errors = " / ".join(f"{found['errors'][step]:.4f}" if step in found["errors"] else "-" for step in looks)
        measured = " / ".join(f"{value:.4f}" for value in found["mrr@10"])
        name = ", ".join(f"{key}={value}" for key, value in options.items()) or "default"
        print(f"| {name} | {found['reencoded']:,} | {errors} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
