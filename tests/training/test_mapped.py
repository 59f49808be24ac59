"""A run over texts that are mapped is the run over texts in memory: draws, weights, measures, and what it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback

from hardwood.data import RetrievalDataset
from hardwood.training import train
from hardwood.training.job import run as run_module

from .test_trainer import OPTIONS, config, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


class _StopAtSeven(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= 7


def test_a_run_of_either_is_resumed_by_the_other(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = RetrievalDataset.load(dataset_folder, mapped=False)
    mapped = RetrievalDataset.load(dataset_folder, mapped=True, cache=tmp_path / "cache")
    options = {"negatives": "dynamic", "negatives_options": OPTIONS["dynamic"], "save_every": 5}
    whole = train(config(tmp_path / "whole", **options), quiet=True, dataset=memory)
    make_trainer = run_module.make_trainer

    def stopping_trainer(*args: Any, **kwargs: Any) -> SentenceTransformerTrainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.add_callback(_StopAtSeven())
        return trainer

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "make_trainer", stopping_trainer)
        train(config(tmp_path / "parts", **options), quiet=True, dataset=memory)
    resumed = train(config(tmp_path / "parts", **options), resume=True, quiet=True, dataset=mapped)
    assert resumed.metrics["training"]["steps"] == whole.metrics["training"]["steps"] == 12
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [resumed.metrics[split] for split in ("test", "dev")] == [whole.metrics[split] for split in ("test", "dev")]
    assert (tmp_path / "parts" / "suspected_false_negatives.jsonl").read_text() == (
        tmp_path / "whole" / "suspected_false_negatives.jsonl"
    ).read_text()
