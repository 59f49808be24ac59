"""Runs that are broken off and resumed: the end is that of one which was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback

from hardwood._checkpoint_tensors import read_state
from hardwood._json import stamped, without_stamp
from hardwood.data import RetrievalDataset
from hardwood.errors import DataError
from hardwood.negatives import DynamicNegatives, MarginFilter
from hardwood.negatives.dynamic import moving_index
from hardwood.training import (
    CachedCorpusSoftmaxLoss,
    CorpusSoftmaxLoss,
    NegativesCallback,
    RunConfig,
    last_checkpoint,
    train,
)
from hardwood.training.checkpoint.resume_rules import MAY_DIFFER, changes, shared_settings
from hardwood.training.checkpoint.seal import read_description, remove_cut_short, seal

from .test_trainer import OPTIONS, config, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(
    "negatives",
    [
        pytest.param("static", marks=pytest.mark.slow),
        pytest.param("cache", marks=pytest.mark.slow),
        "pool",
        pytest.param("exact", marks=pytest.mark.slow),
        "dynamic, {refresh_when: 0.001, refresh_spacing: 3}",
        "dynamic, {index_dimension: 8, refresh_every: 3}",
        "dynamic, {index_kind: flat, refresh_every: 3}",
        pytest.param(
            "dynamic, {refresh_drift: corrector, refresh_reencode: 7, refresh_every: 3}", marks=pytest.mark.slow
        ),
        pytest.param(
            "dynamic, {true_dtype: bfloat16, index_dtype: bfloat16, refresh_when: 0.01, refresh_spacing: 2}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_resumed_run_ends_like_an_unbroken_one(
    negatives: str, dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, rest = negatives.partition(", ")
    more = yaml.safe_load(rest) if rest else {}
    options = {"negatives": name, "negatives_options": {**OPTIONS[name], **more}, "save_every": 5}
    train(config(tmp_path / "whole", **options), quiet=True, dataset=dataset)
    _train_in_parts(config(tmp_path / "broken", **options), 7, dataset, monkeypatch)
    _assert_ended_alike(tmp_path / "whole", tmp_path / "broken")


def test_a_run_that_was_broken_off_after_its_last_step_makes_none_beyond_it(
    dataset: RetrievalDataset, tmp_path: Path
) -> None:
    # The fifth step is in mid-epoch, and the constant schedule would move the weights in a sixth.
    settings = config(
        tmp_path / "run",
        **{"negatives": "exact", "negatives_options": OPTIONS["exact"], "scheduler": "constant"},
        **{"steps": 5, "save_every": 5, "batch_size": 8},
    )
    train(settings, quiet=True, dataset=dataset)
    whole, metrics = weights(tmp_path / "run"), json.loads((tmp_path / "run" / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    resumed = train(settings, resume=True, quiet=True, dataset=dataset).metrics
    assert torch.equal(weights(tmp_path / "run"), whole)
    assert resumed["training"]["steps"] == 5
    assert resumed["test"] == metrics["test"]
    for name in ("targets_reencoded", "texts_encoded"):
        assert resumed["cost"][name] == metrics["cost"][name]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-5"]
    # More steps go on from there.
    longer = train(replace(settings, steps=7), resume=True, quiet=True, dataset=dataset)
    assert longer.metrics["training"]["steps"] == 7


def test_a_step_beyond_the_last_is_refused(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    """A script that resumes with the trainer itself would make one from the checkpoint of the last step."""

    def trainer() -> SentenceTransformerTrainer:
        model = make_static()
        loss = CorpusSoftmaxLoss(model, dataset, "uniform")
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path), max_steps=2, save_steps=2, per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True,
            report_to="none",
        )  # fmt: skip
        pairs, callbacks = dataset.training_pairs(), [NegativesCallback(loss)]
        return SentenceTransformerTrainer(model, arguments, pairs, loss=loss, callbacks=callbacks)

    trainer().train()
    with pytest.raises(ValueError, match="of step 2, the last of 2, and the trainer would make one more"):
        trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("drift", ["nystrom", pytest.param("corrector", marks=pytest.mark.slow)])
def test_a_run_with_overlap_ends_the_same_wherever_it_is_broken_off(
    drift: str, dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, in mid-refresh, with an evaluation there and two micro-batches a step."""
    monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", 1)
    source = {**OPTIONS["dynamic"], "overlap": True, "refresh_every": 8, "refresh_drift": drift}
    options = {"negatives": "dynamic", "negatives_options": source, "gradient_accumulation": 2, "evaluate_every": 3}
    train(config(tmp_path / "whole", steps=20, **options), quiet=True, dataset=dataset)
    # The refresh that begins with step 10 goes on until step 13.
    broken = config(tmp_path / "broken", steps=20, save_every=12, **options)
    _train_in_parts(broken, 13, dataset, monkeypatch)
    state = load_file(tmp_path / "broken" / "checkpoints" / "checkpoint-12" / "hardwood" / "source.safetensors")
    assert state["refresh"].tolist() == [2, 4]
    _assert_ended_alike(tmp_path / "whole", tmp_path / "broken")


def _train_in_parts(
    settings: RunConfig, stop_at: int, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop, as by a crash, and go on from the last checkpoint."""
    from hardwood.training.job import run as run_module

    make_trainer = run_module.make_trainer

    def stopping_trainer(*args: Any, **kwargs: Any) -> SentenceTransformerTrainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.add_callback(StopAt(stop_at))
        return trainer

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "make_trainer", stopping_trainer)
        stopped = train(settings, quiet=True, dataset=dataset)
    assert stopped.metrics["training"]["steps"] == stop_at
    resumed = train(settings, resume=True, quiet=True, dataset=dataset)
    assert resumed.metrics["training"]["steps"] == settings.steps


def _assert_ended_alike(one: Path, other: Path) -> None:
    assert torch.equal(weights(one), weights(other))
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    assert ours["test"] == theirs["test"]
    assert ours["cost"]["targets_reencoded"] == theirs["cost"]["targets_reencoded"]


def test_resuming_passes_over_a_checkpoint_that_was_not_finished(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}/hardwood").mkdir(parents=True)
        (tmp_path / f"checkpoint-{step}/optimizer.pt").write_bytes(b"12345")
    (tmp_path / "checkpoint-last").mkdir()  # no checkpoint of a trainer
    assert last_checkpoint(tmp_path) is None
    for step in (5, 10):
        description = {"negatives": "static", "weighting": "shared", "weights": "", "data": "", "cost": {}}
        seal(tmp_path / f"checkpoint-{step}", {**description, "settings": {}})
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10/optimizer.pt").write_bytes(b"1234")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    remove_cut_short(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-last"]


def test_resuming_with_another_source_is_an_error(dataset: RetrievalDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume: no whole checkpoint"):
        train(config(tmp_path / "run"), resume=True, quiet=True, dataset=dataset)
    train(config(tmp_path / "run", save_every=5), quiet=True, dataset=dataset)
    other = config(tmp_path / "run", negatives="uniform", negatives_options={}, steps=20)
    with pytest.raises(ValueError, match=r"started with other settings \(negatives, negatives_options\)"):
        train(other, resume=True, quiet=True, dataset=dataset)
    with pytest.raises(ValueError, match=r"output folder .* is not empty"):
        train(config(tmp_path / "run"), quiet=True, dataset=dataset)


def test_a_checkpoint_of_another_source_is_an_error(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    exact = NegativesCallback(CorpusSoftmaxLoss(model, dataset, "exact"))
    exact._save(tmp_path / "checkpoint-1")
    uniform = NegativesCallback(CorpusSoftmaxLoss(model, dataset, "uniform"))
    with pytest.raises(ValueError, match="trained with 'exact' negatives, this run asks for 'uniform'"):
        uniform._load(tmp_path / "checkpoint-1")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ValueError, match="saved without NegativesCallback"):
        uniform._load(tmp_path / "elsewhere")


def test_a_checkpoint_of_another_weighting_is_an_error(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    NegativesCallback(CorpusSoftmaxLoss(model, dataset, "exact", weighting="own"))._save(tmp_path / "checkpoint-1")
    default = NegativesCallback(CorpusSoftmaxLoss(model, dataset, "exact"))
    with pytest.raises(ValueError, match="trained with 'own' weighting, this run has 'shared': give the loss"):
        default._load(tmp_path / "checkpoint-1")


@pytest.mark.parametrize("missing", ["weighting", "settings", "checksum"])
def test_a_description_that_lacks_something_is_damaged(
    missing: str, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    callback = NegativesCallback(CorpusSoftmaxLoss(make_static(), dataset, "uniform"))
    callback._save(tmp_path / "checkpoint-1")
    path = tmp_path / "checkpoint-1/hardwood/source.json"
    description = json.loads(path.read_text())
    if missing == "checksum":
        kept = without_stamp(description, path)
    else:
        kept = stamped({name: value for name, value in without_stamp(description, path).items() if name != missing})
    path.write_text(json.dumps(kept))
    with pytest.raises(DataError, match="it is damaged"):
        read_description(path.parent)
    with pytest.raises(ValueError, match="is not whole"):
        callback.check(tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"scale": 10.0}, "scale was 20.0, is 10.0"),
        ({"num_negatives": 4, "seed": 3}, "num_negatives was 8, is 4; seed was 0, is 3"),
        ({"margin": MarginFilter(margin=0.1)}, "margin was None, is 0.1"),
        ({"target_prompt": "find "}, "target_prompt was .*, is 'find '"),
        ({"landmarks": 7}, r"negatives_options.landmarks was 512, is 7\)"),
    ],
)
def test_a_checkpoint_of_other_settings_is_an_error(
    changed: dict, told: str, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    def callback(mini_batch_size: int, **options: Any) -> NegativesCallback:
        source = DynamicNegatives(**{name: options.pop(name) for name in ("landmarks",) if name in options})
        loss = CachedCorpusSoftmaxLoss(model, dataset, source, mini_batch_size=mini_batch_size, **options)
        return NegativesCallback(loss)

    model = make_static()
    callback(5)._save(tmp_path / "checkpoint-1")
    callback(6)._load(tmp_path / "checkpoint-1")  # how a step is cut makes no difference
    with pytest.raises(ValueError, match=rf"was trained with other settings \({told}"):
        callback(5, **changed)._load(tmp_path / "checkpoint-1")


def test_a_checkpoint_of_processes_that_each_had_a_source_of_their_own_is_an_error(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    callback = NegativesCallback(CorpusSoftmaxLoss(make_static(), dataset, "uniform"))
    callback._save(tmp_path / "checkpoint-1")
    path = tmp_path / "checkpoint-1" / "hardwood" / "source.json"
    description = without_stamp(json.loads(path.read_text()), path)
    settings = {name: value for name, value in description["settings"].items() if name != "shards"}
    for processes, is_refused in ((1, False), (4, True)):
        changed = {**description, "settings": {**settings, "processes": processes}}
        path.write_text(json.dumps(stamped(changed)))
        with pytest.raises(ValueError, match="is of 4 processes") if is_refused else nullcontext():
            callback.check(tmp_path / "checkpoint-1")


def test_settings_that_json_cannot_hold_are_passed_over() -> None:
    settings = {"a": np.float64(1), "b": object(), "c": {"d": None, "e": (1, [2])}, "mini_batch_size": 3}
    settings |= {"p": Path("x") / "y", "o": [object()]}
    assert shared_settings(settings) == {"a": 1.0, "c.d": None, "c.e": [1, [2]], "p": str(Path("x") / "y")}
    assert changes({"t": float("nan"), "s": 20}, {"t": float("nan"), "s": 20.0}) == []
    assert changes({"t": float("nan")}, {"t": 1.0}) == ["t was nan, is 1.0"]
    assert changes({"a": 2, "gone": 1, "same": 0.5}, {"a": 1, "new": 3, "same": 0.5}) == ["a was 2, is 1"]


def test_a_run_may_be_resumed_with_other_settings_of_memory_and_time(dataset: RetrievalDataset, tmp_path: Path) -> None:
    """The command line's run and a script's loss have one list of them."""
    train(config(tmp_path / "run", save_every=5), quiet=True, dataset=dataset)
    other = {"mini_batch_size": 5, "encode_batch_size": 7, "threads": 1, "steps": 14}
    assert other.keys() <= MAY_DIFFER
    resumed = train(config(tmp_path / "run", save_every=5, **other), resume=True, quiet=True, dataset=dataset)
    assert resumed.metrics["training"]["steps"] == 14
    # Of the batch of all processes the checkpoint knows: its share may be another one with another number of them.
    with pytest.raises(ValueError, match=r"other settings \(global_batch was 16, is 4\)"):
        train(config(tmp_path / "run", **other, batch_size=4), resume=True, quiet=True, dataset=dataset)


@pytest.mark.parametrize("fault", ["flipped bit", "another layout"])
def test_suspects_that_are_damaged_are_refused(
    fault: str, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    callback = NegativesCallback(CorpusSoftmaxLoss(make_static(), dataset, "uniform"))
    callback.loss.suspects.observe(np.array([1]), np.array([2]), np.array([0.5]))
    callback._save(tmp_path / "checkpoint-1")
    path = tmp_path / "checkpoint-1/hardwood/suspects.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if fault == "flipped bit":
        path.write_bytes(content)
        with pytest.raises(DataError, match="does not match its checksum"):
            callback._load(tmp_path / "checkpoint-1")
    else:
        state = read_state(path)
        with pytest.raises(ValueError, match=r"'leads' has the shape \(2,\)"):
            callback.loss.suspects.load_state_dict({**state, "leads": state["leads"].repeat(2)})
        with pytest.raises(ValueError, match="holds \\['counts', 'keys'\\] where"):
            callback.loss.suspects.load_state_dict({name: state[name] for name in ("keys", "counts")})


def test_a_state_of_other_weights_is_an_error(dataset: RetrievalDataset, tmp_path: Path) -> None:
    train(config(tmp_path / "a", save_every=5), quiet=True, dataset=dataset)
    path = tmp_path / "a/checkpoints/checkpoint-12/hardwood/source.json"
    description = without_stamp(json.loads(path.read_text()), path)
    path.write_text(json.dumps(stamped({**description, "weights": "of another model"})))
    with pytest.raises(ValueError, match="belongs to other weights than the model has now"):
        train(config(tmp_path / "a", save_every=5), resume=True, quiet=True, dataset=dataset)
