"""When to refresh: the error of *all* vectors in the tree while the encoder moves, for several schedules, on HPO.

    python benchmarks/schedule.py                      # the table of docs/training.md; half a minute a run
    python benchmarks/schedule.py --steps 60 --only 1  # the first schedule, a look

A run of the dynamic source, static encoder; at some steps the whole corpus is encoded anew, beside the run and not
booked on it, and compared with what the tree holds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, set_seed

from hardwood.data import RetrievalDataset, write_hpo
from hardwood.encoders import load_encoder
from hardwood.encoding import target_vectors
from hardwood.evaluation import evaluate
from hardwood.training import RunConfig
from hardwood.training.run import make_loss, make_trainer

ROOT = Path(__file__).resolve().parent.parent
LOOKS = (60, 100, 200, 400)
SCHEDULES: tuple[dict[str, Any], ...] = (
    {"start_step": 20, "refresh_every": 50, "refresh_when": None},
    {"start_step": 20},
    {"start_step": 5},
    {"start_step": 0},
    {"start_step": 10, "refresh_spacing": 20, "landmarks": 256, "reencode": 1024},
    {"start_step": 10, "refresh_spacing": 25, "landmarks": 256, "reencode": 4096},
    {"refresh_when": None},
)


class TrueError(TrainerCallback):
    """After some steps: the mean cosine error of the vectors in the tree against the model's own of that moment."""

    def __init__(self, model: Any, data: RetrievalDataset, source: Any) -> None:
        self._model, self._data, self._source = model, data, source
        self.errors: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, if it is time."""
        if state.global_step not in LOOKS or not self._source.is_ready(state.global_step):
            return
        true = target_vectors(self._model, self._data.corpus, similarity="cosine", progress=False)
        stored = self._source.stored_vectors(torch.arange(len(true))).numpy()
        cosine = (true * stored).sum(axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
        self.errors[state.global_step] = float(1 - cosine.mean())


def run(data: RetrievalDataset, options: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """Train with one schedule; what it cost, how far the tree was off, what came of it."""
    output = Path(tempfile.mkdtemp(prefix="hardwood-schedule-"))
    config = RunConfig(
        data="hpo", output=str(output), negatives="dynamic", negatives_options=options, steps=steps, seed=seed
    )
    set_seed(seed)
    model = load_encoder(config.encoder, data, dimension=config.dimension, seed=seed, device="cpu")
    loss = make_loss(model, data, config)
    trainer = make_trainer(model, data, loss, config, quiet=True)
    look = TrueError(model, data, loss.source)
    trainer.add_callback(look)
    trainer.train()
    shutil.rmtree(output)
    return {
        "reencoded": loss.cost.targets_reencoded,
        "errors": look.errors,
        "mrr@10": evaluate(model, data, split="dev", progress=False)["mrr@10"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", default=range(1, len(SCHEDULES) + 1), help="numbers from 1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "data" / "hpo"
    if not (folder / "corpus.jsonl").exists():
        write_hpo(folder)
    data = RetrievalDataset.load(folder)
    looks = [step for step in LOOKS if step <= arguments.steps]
    print(f"| schedule | re-encoded | error at {' / '.join(map(str, looks))} | MRR@10 dev |\n|---|---|---|---|")
    for number in arguments.only:
        options = SCHEDULES[number - 1]
        found = run(data, options, arguments.steps, arguments.seed)
        errors = " / ".join(f"{found['errors'][step]:.4f}" for step in looks)
        name = ", ".join(f"{key}={value}" for key, value in options.items())
        print(f"| {name} | {found['reencoded']:,} | {errors} | {found['mrr@10']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
