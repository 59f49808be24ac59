"""Run files and the errors that they are answered with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hardwood.training import RunConfig
from hardwood.training.job.config import versions
from hardwood.training.job.yaml_file import read_settings


def test_round_trip(tmp_path: Path) -> None:
    config = RunConfig(
        data="d", output="o", negatives="cache", negatives_options={"cache_size": 64}, margin=0.1, epochs=2.5
    )
    config.save(tmp_path / "run.yaml")
    assert RunConfig.from_mapping(read_settings(tmp_path / "run.yaml")) == config
    assert read_settings(tmp_path / "run.yaml")["made_with"] == versions()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batchsize": 3}, "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ({"zzz": 3}, "unknown setting 'zzz'; there are data, output"),
        ({"left_out": "own-text"}, "'left_out' is what a run notes of its data, .* got 'own-text': .* 'leave_out'"),
        ({"steps": 5, "epochs": 1}, r"give steps or epochs, not both \(got steps=5, epochs=1\)"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": "many"}, r"steps must be of type int \| None, got 'many'"),
        ({"batch_size": True}, r"batch_size must be of type int \| None, got True"),
        ({"scale": 0}, "scale must be positive and finite, got 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf"),
        ({"warmup_ratio": 1.0}, r"warmup_ratio must lie in \[0, 1\), got 1.0"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16, got 'int8'"),
        ({"towers": "twin"}, "towers must be one of shared, separate, got 'twin'"),
        ({"weighting": "all"}, "weighting must be one of shared, tempered, own, uncorrected, got 'all'"),
        ({"negatives": "ance"}, "negatives must be one of in-batch, .*, got 'ance'"),
        ({"negatives_options": {"cache_size": 3}}, "'dynamic' negatives have no option 'cache_size'"),
        ({"margin": -0.1}, "margin must be 0 or more and finite, got -0.1"),
    ],
)
def test_bad_settings_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.from_mapping({"data": "d", "output": "o", **settings})


def test_missing_settings_are_explained() -> None:
    with pytest.raises(ValueError, match="the setting 'data' is missing"):
        RunConfig.from_mapping({"output": "o"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", "must hold settings by name, such as 'negatives: dynamic', got list"),
        ("a: [", "is not a YAML file"),
        ("", "must hold settings by name, such as 'negatives: dynamic', got NoneType"),
    ],
)
def test_files_that_are_no_run_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(path)
    with pytest.raises(ValueError, match="there is no run file"):
        read_settings(tmp_path / "none.yaml")


def test_runs_differ_in_what_is_in_force_not_in_what_is_spelled_out() -> None:
    exact = RunConfig(data="d", output="o", negatives="exact")
    dynamic = dataclasses.replace(exact, negatives="dynamic")
    assert (exact.weighting_in_force, dynamic.weighting_in_force) == ("shared", "tempered")
    assert exact.differs_in(dataclasses.replace(exact, weighting="shared")) == []
    assert dynamic.differs_in(dataclasses.replace(dynamic, weighting="shared", scale=3.0)) == ["scale", "weighting"]
    assert dynamic.differs_in(exact) == ["negatives"]
