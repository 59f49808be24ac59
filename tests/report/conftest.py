"""Runs to look at, and a browser to look with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardwood.data import RetrievalDataset
from hardwood.training import RunConfig, train

OPTIONS: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "uniform": {},
    "static": {"start_step": 2},
    "periodic": {"start_step": 2, "refresh_every": 5},
    "cache": {"start_step": 2, "cache_size": 20, "refresh_size": 3},
    "pool": {"start_step": 2, "share": 0.33, "refresh_every": 5},
    "exact": {"start_step": 2, "refresh_every": 4},
    "dynamic": {"start_step": 2, "refresh_every": 5, "landmarks": 20, "leaf_size": 8, "probes": 3},
}


def config(folder: Path, negatives: str = "dynamic", **changes: Any) -> RunConfig:
    """Settings of a small run."""
    settings: dict[str, Any] = {
        "data": "ailments",
        "output": str(folder),
        "batch_size": 16,
        "num_negatives": 4,
        "dimension": 16,
        "vocabulary_size": 300,
        "steps": 24,
        "device": "cpu",
        "negatives": negatives,
        "negatives_options": OPTIONS[negatives],
    }
    if changes.get("encoder", "static") != "static":
        settings |= {"dimension": None, "vocabulary_size": None}
    return RunConfig(**settings | changes)


@pytest.fixture(scope="session")
def run_folder(dataset: RetrievalDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a report can show."""
    folder = tmp_path_factory.mktemp("report") / "run"
    train(config(folder, evaluate_every=6, steps=40), quiet=True, dataset=dataset)
    return folder
