"""The loss and the callback in somebody's own ``SentenceTransformerTrainer``: what a checkpoint promises."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback, set_seed

from hardwood import CorpusSoftmaxLoss, NegativesCallback, RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import last_checkpoint
from hardwood.training.checkpoint.seal import read_seal


def trainer(
    make_static: Callable, dataset: RetrievalDataset, folder: Path, *more: TrainerCallback, **arguments: Any
) -> SentenceTransformerTrainer:
    set_seed(0)
    model = make_static()
    source = make_source("dynamic", refresh_every=3, landmarks=20, leaf_size=8, probes=3)
    loss = CorpusSoftmaxLoss(model, dataset, source, num_negatives=4)
    settings = {"max_steps": 6, "save_steps": 2, "save_total_limit": 2, "per_device_train_batch_size": 16,
                "learning_rate": 0.1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
                "dataloader_pin_memory": False, **arguments}  # fmt: skip
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(str(folder), **settings),
        dataset.training_pairs(),
        loss=loss,
        callbacks=[*more, NegativesCallback(loss)],
    )


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, what: Callable[[Any], None]) -> None:
        self.step, self.what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.what(model)


def weights(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def stop(_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_passed_over(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    whole = trainer(make_static, dataset, tmp_path / "whole")
    whole.train()
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        trainer(make_static, dataset, out, At(5, stop)).train()
    (out / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="checkpoint-4 is not whole: a crash has cut it short"):
        NegativesCallback(whole.loss).check(out / "checkpoint-4")
    checkpoint = last_checkpoint(out)
    assert checkpoint == out / "checkpoint-2"
    resumed = trainer(make_static, dataset, out)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert last_checkpoint(out) == out / "checkpoint-6"
    suspects = "checkpoint-6/hardwood/suspects.safetensors"
    assert (out / suspects).read_bytes() == (tmp_path / "whole" / suspects).read_bytes()


@pytest.mark.slow
def test_what_another_run_left_is_not_taken_for_ours(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    trainer(make_static, dataset, tmp_path).train()
    stale = tmp_path / "checkpoint-4" / "hardwood" / "index" / "stale"
    stale.touch()
    # Another run in the same folder is killed when it has written its model over the old one's, and no more.
    second = trainer(make_static, dataset, tmp_path, save_steps=4, learning_rate=0.2)
    second._save_optimizer_and_scheduler = stop
    with pytest.raises(KeyboardInterrupt):
        second.train()
    assert read_seal(tmp_path / "checkpoint-4") is None
    trainer(make_static, dataset, tmp_path, save_steps=4, learning_rate=0.2).train()
    assert read_seal(tmp_path / "checkpoint-4") is not None
    assert not stale.exists()


def test_weights_that_are_not_finite_are_no_checkpoint(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    def diverge(model: Any) -> None:
        next(iter(model.parameters())).data[5] = torch.nan

    with pytest.raises(ValueError, match=r"the model has diverged: its weights .* after 4 steps"):
        trainer(make_static, dataset, tmp_path, At(4, diverge)).train()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_keeping_one_checkpoint_is_warned_of(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a crash at that moment leaves none: keep 2"):
        trainer(make_static, dataset, tmp_path, max_steps=1, save_total_limit=1).train()


def test_a_checkpoint_is_on_the_disk_before_it_is_sealed(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", noted)
    trainer(make_static, dataset, tmp_path, max_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"
    listed = json.loads((checkpoint / "hardwood" / "source.json").read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "hardwood/source.safetensors"} <= set(listed)
    place = max(i for i, path in enumerate(synced) if path.name.startswith(".source.json"))
    assert {checkpoint / name for name in listed} <= set(synced[:place])
