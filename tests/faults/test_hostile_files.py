"""Datasets, run files and checkpoints that are not what they seem."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.stress.fuzz import TARGETS

from hardwood import DataError
from hardwood._checkpoint_tensors import write_state
from hardwood.data import RetrievalDataset
from hardwood.data.files import lines as lines_module
from hardwood.negatives import make_source
from hardwood.training import RunConfig
from hardwood.training.checkpoint.seal import read_description

RUN = "data: d\noutput: o\n"
LAUGHS = "\n".join([f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [x]" for i in range(12)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "steps: 3\nsteps: 4", "a key stands twice"),
        (LAUGHS + "\n" + RUN, "stands for more than 20,000 values"),
        (RUN + "report_to: &a [*a]", "unconstructable recursive node"),
        ("a: &a {data: d, output: o}\n<<: *a", "could not determine a constructor"),
        (RUN + "seed: !!timestamp x", "AttributeError"),
        (RUN + "trust_remote_code: !!bool x", "KeyError"),
        ("- " * 2_000, "is not a YAML file"),
        (RUN + "x: " + "y" * 100_000, "a run file has some thousand"),
        (RUN + f"seed: {2**63}", "seed is a number of 64 bits"),
        (RUN + "report_to: [1]", r"report_to must be of type list\[str\]"),
        (RUN + "negatives_options: {name: x}", "have no option 'name'"),
        (RUN + "negatives: dynamic\nnegatives_options: {probes: 1.5}", "'probes' .* must be of type int, got 1.5"),
        (RUN + "negatives: dynamic\nnegatives_options: {write_back: 1}", "'write_back' .* must be of type bool, got 1"),
        (RUN + "negatives: dynamic\nnegatives_options: {1: 1}", "negatives_options must be of type dict"),
    ],
)
def test_run_files_are_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig.load(path)
    assert str(path) in str(caught.value)


def dataset(folder: Path, **files: bytes) -> Path:
    TARGETS["dataset"](folder)
    for name, content in files.items():
        (folder / "good" / f"{name}.jsonl").unlink()
        (folder / "good" / f"{name}.jsonl.gz").write_bytes(content)
    return folder / "good"


def test_a_record_that_names_itself_twice(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "a", "_id": "b", "text": "x"}\n')
    with pytest.raises(DataError, match="it has two _id") as caught:
        RetrievalDataset.load(folder)
    assert caught.value.line == 13


@pytest.mark.parametrize(
    ("line", "message"), [(b"x" * 4000, "longer than"), (b'{"_id": "%d", "text": "x"}', "unpacks to")]
)
def test_gzip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str) -> None:
    monkeypatch.setattr(lines_module, "MOST_IN_A_LINE", 1000)
    monkeypatch.setattr(lines_module, "SURELY_TEXT", 5000)
    monkeypatch.setattr(lines_module, "MOST_EXPANSION", 2)
    text = b"\n".join(line % i if b"%" in line else line for i in range(1000))
    with pytest.raises(DataError, match=message):
        RetrievalDataset.load(dataset(tmp_path, corpus=gzip.compress(text)))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Any:
    return TARGETS["checkpoint"](tmp_path)


def changed(checkpoints: Any, name: str, key: str, value: torch.Tensor | None) -> None:
    """Other tensors, with their checksum."""
    source = checkpoints._loaded(checkpoints.good, name)
    state = {other: tensor.clone().contiguous() for other, tensor in source.state_dict().items()}
    if value is None:
        del state[key]
    else:
        state[key] = value
    write_state(state, checkpoints.good / name / "source.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("static", "vectors", torch.full((40, 6), torch.nan), "NaN or infinite"),
        ("static", "vectors", torch.zeros(40, 5), r"\'vectors\' has the shape \(40, 5\)"),
        ("static", "more", torch.zeros(1), r"holds \['more', 'vectors'\]"),
        ("cache", "row_of_slot", torch.arange(16), "filled in another order"),
        ("cache", "position", torch.tensor([-(2**63), 0]), "impossible count"),
        ("pool", "row_of_slot", torch.arange(16), "filled in another order"),
        ("pool", "position", torch.tensor([1]), "filled in another order"),
        ("pool", "position", torch.tensor([-1]), "impossible number"),
        ("dynamic", "period", torch.full((40,), 9, dtype=torch.int16), "do not belong together"),
        ("dynamic", "landmarks", torch.tensor([0, 1, 2, 3, 4, 5, 6, 40]), "not targets of this corpus"),
        ("dynamic", "history", None, "where .* are needed"),
        ("dynamic", "drift.order", torch.zeros(5056, dtype=torch.uint8)[:-1], "random generator|order"),
    ],
)
def test_states_that_fit_no_source_are_refused(
    checkpoints: Any, name: str, key: str, value: torch.Tensor | None, message: str
) -> None:
    changed(checkpoints, name, key, value)
    source = checkpoints._source(name)
    with pytest.raises(ValueError, match=message):
        source.load_state(checkpoints.good / name)
    assert not source.is_ready(1000)  # as it was


@pytest.mark.slow
def test_a_checkpoint_is_whole_or_refused(checkpoints: Any) -> None:
    folder = checkpoints.good / "dynamic"
    content = bytearray((folder / "source.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "source.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="does not match its checksum"):
        make_source("dynamic").load_state(folder)
    content[-3] ^= 1
    (folder / "source.safetensors").write_bytes(content)
    (folder / "index").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="the checkpoint is not whole"):
        checkpoints._loaded(checkpoints.good, "dynamic")
    (folder / "source.safetensors").unlink()
    with pytest.raises(DataError, match="there is no such file"):
        checkpoints._loaded(checkpoints.good, "dynamic")


@pytest.mark.slow
def test_a_description_is_under_its_checksum(checkpoints: Any) -> None:
    path = checkpoints.good / "static" / "source.json"
    description = json.loads(path.read_text())
    assert read_description(path.parent)["negatives"] == "static"
    for change in ({"weights": "1" * 32}, {"checksum": "0"}, {"chfcksum": description["checksum"]}):
        path.write_text(json.dumps({**description, **change}))
        with pytest.raises(DataError, match="damaged") as caught:
            read_description(path.parent)
        assert caught.value.path == path


def test_a_drift_state_with_settings_that_no_model_has() -> None:
    from hardwood.drift import make_drift

    old = np.random.default_rng(0).normal(size=(30, 4))
    model = make_drift("nystrom").fit(old, 1.1 * old)
    with pytest.raises(ValueError, match="width and square must be positive"):
        model.load_state_dict({**model.state_dict(), "chosen": torch.tensor([1.0, 0.1, -1.0], dtype=torch.float64)})


def test_drift_of_any_length_is_predicted() -> None:
    """Squares of these lengths are lost in float32."""
    from hardwood.drift import make_drift

    generator = np.random.default_rng(0)
    plain = generator.normal(size=(60, 6))
    for name in ("linear", "nystrom"):
        for length in (1e-30, 1e-3, 1e15, 1e18):
            old = (length * plain).astype(np.float32)
            new = (1.1 * old + 0.1 * old[:, ::-1]).astype(np.float32)
            predicted = make_drift(name).fit(old, new).predict(old)
            np.testing.assert_allclose(predicted / length, new / length, atol=5e-3)
