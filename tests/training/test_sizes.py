"""The default numbers of pairs and draws in a step, chosen by the number of passes over the pairs."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from tests.conftest import make_dataset
from tests.tiny_models import make_static

from hardwood.comparison import compare
from hardwood.comparison.plan import plan_runs
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, RunConfig, train
from hardwood.training.batch import sizes as sizes_module


def config(**settings: Any) -> RunConfig:
    return RunConfig(data="data", output="output", **settings)


@pytest.mark.parametrize(
    ("settings", "pairs", "processes", "sizes"),
    [
        ({"steps": 100}, 12_801, 1, (427, 1)),
        ({"steps": 100}, 12_800, 1, (256, 3)),  # one pass
        ({"steps": 100}, 6_401, 1, (256, 3)),
        ({"steps": 100}, 6_400, 1, (128, 8)),
        ({"steps": 100}, 12_800, 2, (128, 8)),  # two, of two processes together
        ({"steps": 50, "gradient_accumulation": 2}, 6_400, 1, (128, 8)),
        ({"epochs": 1.0}, 12_800, 1, (128, 8)),  # as often as was asked for
        ({}, 12_800, 1, (256, 3)),  # as many steps and texts as one epoch of 128 pairs
        ({"negatives": "in-batch"}, 12_800, 1, (128, 8)),
        ({"batch_size": 64}, 12_800, 1, (64, 8)),
        ({"steps": 100, "batch_size": 64}, 12_800, 1, (64, 8)),  # what is given stays
        ({"steps": 100, "num_negatives": 4}, 12_800, 1, (128, 4)),
        ({"steps": 100, "hardest": 2}, 12_800, 1, (128, 8)),
        ({"steps": 100, "negatives": "in-batch"}, 12_800, 1, (128, 8)),
        ({"steps": 100, "negatives": "uniform"}, 12_801, 1, (427, 1)),
        ({"steps": 1}, 0, 1, (128, 8)),
    ],
)
def test_sizes_are_chosen_by_the_number_of_passes(
    settings: dict[str, Any], pairs: int, processes: int, sizes: tuple[int, int]
) -> None:
    sized = config(**settings).sized(pairs, processes)
    assert (sized.batch_size, sized.num_negatives) == sizes
    assert sized.sized(1, 1) == sized
    assert sized.differs_in(config(**settings)) == []
    assert pytest.approx((2 + 8) * 128, rel=1e-3) == (2 + 1) * 427  # as many texts


@pytest.mark.parametrize(
    ("settings", "epochs", "steps"),
    [
        ({}, 2.0, 100),
        ({"negatives": "in-batch"}, 1.0, 100),
        ({"batch_size": 64}, 1.0, 200),
        ({"num_negatives": 3}, 1.0, 100),
        ({"epochs": 3.0}, 3.0, 300),
        ({"epochs": 1.0, "batch_size": 100, "gradient_accumulation": 3}, 1.0, 43),
    ],
)
def test_the_length_is_chosen_with_the_sizes(settings: dict[str, Any], epochs: float, steps: int) -> None:
    sized = config(**settings).sized(12_800)
    assert (sized.epochs, sized.steps) == (epochs, None)
    assert sized.sized(1) == sized
    in_steps = sized.in_steps(12_800)
    assert (in_steps.epochs, in_steps.steps, in_steps.sizes) == (None, steps, sized.sizes)


def test_few_epochs_that_are_asked_for_stay_and_get_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {
        "data": "data", "output": str(tmp_path / "run"), "dimension": 8, "negatives": "uniform", "report": False,
    }  # fmt: skip
    train(RunConfig(**settings, epochs=1), dataset=make_dataset())
    assert "give epochs=2, batch_size=256 and num_negatives=3" in capsys.readouterr().err
    written = RunConfig.load(tmp_path / "run" / "run.yaml")
    assert (written.epochs, written.batch_size, written.num_negatives) == (1, 128, 8)


def test_a_run_of_default_length_says_so_and_is_as_long_when_it_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "data": "data", "output": str(tmp_path / "run"), "dimension": 8, "negatives": "uniform", "report": False,
        "save_every": 1,
    }  # fmt: skip
    dataset = make_dataset()
    first = train(RunConfig(**settings), dataset=dataset)
    assert "2 epochs of batches of 256 pairs with 3 draws a query (give" in capsys.readouterr().err
    (tmp_path / "run" / "metrics.json").unlink()
    again = train(RunConfig(**settings), dataset=dataset, resume=True)
    written = RunConfig.load(tmp_path / "run" / "run.yaml")
    assert (written.epochs, written.batch_size, written.num_negatives) == (2, 256, 3)
    assert first.metrics["training"]["steps"] == again.metrics["training"]["steps"] == 2


def test_a_comparison_by_epochs_gives_all_sources_as_many_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else in-batch training would pass over the pairs in fewer, larger steps, and encode fewer texts than it says."""
    dataset, found = make_dataset(), []
    dataset.save(tmp_path / "data")
    monkeypatch.setattr("hardwood.comparison.run.run_all", lambda planned, *_, **__: found.extend(planned))
    base = RunConfig(data=str(tmp_path / "data"), output=str(tmp_path / "out"), epochs=3, batch_size=8)
    said: list[str] = []
    compare(base, ["in-batch", "dynamic"], num_seeds=1, announce=said.append)
    assert any("steps for every source, as many as 3 epochs of 8 pairs" in line for line in said)
    assert {run.config.batch_size for run in found} == {8, 40}
    assert {(run.config.steps, run.config.epochs) for run in found} == {
        (math.ceil(3 * len(dataset.training_pairs()) / 8), None)
    }


def test_a_comparison_gives_in_batch_training_as_many_texts() -> None:
    base = config(steps=100).sized(12_801)
    batches = {(run.negatives, run.config.batch_size) for run in plan_runs(base, ["in-batch", "dynamic"], 1)}
    assert batches == {("in-batch", 427), ("in-batch", 640), ("dynamic", 427)}


def test_a_run_says_what_it_has_chosen_and_keeps_it_when_it_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes_module, "BELOW", ((3.0, sizes_module.Sizes(427, 1)),))
    dataset = make_dataset()
    pairs = len(dataset.training_pairs())
    assert 128 / 3 < pairs < 2 * 128 / 3
    settings: dict[str, Any] = {
        "data": "data", "output": str(tmp_path / "run"), "dimension": 8, "negatives": "uniform", "report": False,
        "save_every": 1,
    }  # fmt: skip
    train(RunConfig(**settings, steps=1), dataset=dataset)
    assert f"1 steps of 128 pairs would see 128 pairs, and there are {pairs}: batches of 427" in capsys.readouterr().err
    written = RunConfig.load(tmp_path / "run" / "run.yaml")
    assert (written.batch_size, written.num_negatives) == (427, 1)
    longer = RunConfig(**settings, steps=2)
    assert longer.sized(pairs).batch_size == 128  # by itself it would choose otherwise
    train(longer, dataset=dataset, resume=True)
    assert "would see" not in capsys.readouterr().err
    written = RunConfig.load(tmp_path / "run" / "run.yaml")
    assert (written.steps, written.batch_size, written.num_negatives) == (2, 427, 1)


@pytest.mark.parametrize(
    ("steps", "draws", "pairs_instead"), [(1, 8, 107), (1, 1, 0), (2, 8, 64), (2, 3, 0), (60, 8, 0)]
)
def test_a_script_is_advised(
    steps: int, draws: int, pairs_instead: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, model = make_dataset(), make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=draws)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=32, report_to="none", use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset.training_pairs(),
        loss=loss,
        callbacks=[NegativesCallback(loss)],
    )
    caplog.set_level(logging.WARNING, "hardwood")
    trainer.train()
    if pairs_instead:
        assert (
            f"as many steps of {pairs_instead} pairs with num_negatives={3 if steps > 1 else 1} encode" in caplog.text
        )
    else:
        assert "as many steps" not in caplog.text
