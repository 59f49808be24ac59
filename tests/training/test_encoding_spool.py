"""Encodings of the corpus that are spooled: gone on with after a crash, thrown away where they are of others."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.processes.spooling import BLOCK, small_blocks

from hardwood.data import RetrievalDataset
from hardwood.training import RunConfig, train
from hardwood.training.callback import NegativesCallback
from hardwood.training.checkpoint.encoding_spool import Block, EncodingSpool, Rows
from hardwood.training.checkpoint.spool_folder import SPOOL_FOLDER, shard_name, spooled
from hardwood.training.checkpoint.spooling import _LEAST

from .conftest import small_run

ROOT = Path(__file__).parents[2]
NUM_TARGETS = 60
NOTE = {"global_batch": 16, "shards": 1}
OF = {"weights": "a", "texts": "b", "dimension": 5}
DYNAMIC: dict[str, Any] = {"negatives": "dynamic", "negatives_options": {"landmarks": 12, "refresh_every": 3}}
STATIC: dict[str, Any] = {"negatives": "static", "negatives_options": {"start_step": 3}}


def spool_run(folder: Path, **changes: Any) -> RunConfig:
    settings = {"steps": 5, "device": "cpu", "spool_encodings": True, "report": False, "evaluation_splits": ["test"]}
    return small_run(folder, **settings | changes)


def killed(config: RunConfig, tmp_path: Path, blocks: int = 3) -> Path:
    """The folder of a run whose process was killed when it had written so many blocks."""
    (tmp_path / "settings.json").write_text(json.dumps(asdict(config)))
    command = [sys.executable, "-m", "tests.processes.spooling", str(tmp_path / "settings.json"), "0", str(blocks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    return Path(config.output) / "checkpoints" / SPOOL_FOLDER


def same_weights(one: Path, other: Path) -> bool:
    tensors, others = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return all(np.array_equal(tensors[name].numpy(), others[name].numpy()) for name in tensors)


@pytest.fixture(autouse=True)
def blocks_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [DYNAMIC, STATIC, {**DYNAMIC, "encoder": "transformer"}], ids=str)
def test_an_encoding_that_a_kill_broke_off_goes_on_bit_for_bit(
    changes: dict[str, Any],
    dataset_folder: Path,
    transformer_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "encoder" in changes:
        changes = {**changes, "encoder": str(transformer_folder)}
    whole = train(spool_run(tmp_path / "whole", data=str(dataset_folder), **changes))
    config = spool_run(tmp_path / "broken", data=str(dataset_folder), **changes)
    folder = killed(config, tmp_path)
    assert spooled(folder) is not None
    assert spooled(folder).targets == 3 * BLOCK  # type: ignore[union-attr]
    capsys.readouterr()
    resumed = train(config, resume=True)
    assert "encodings of 24 of 60 targets are there from before; the other 36 are encoded" in capsys.readouterr().err
    assert same_weights(tmp_path / "broken", tmp_path / "whole")
    assert resumed.metrics["test"] == whole.metrics["test"]
    cost, of_whole = resumed.metrics["cost"], whole.metrics["cost"]
    assert "targets_reused" not in of_whole
    assert cost["targets_reused"] == 3 * BLOCK
    assert cost["targets_reencoded"] == of_whole["targets_reencoded"] - 3 * BLOCK
    assert not folder.exists()


def test_what_is_spooled_goes_when_a_checkpoint_has_it(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, seen = tmp_path / "run" / "checkpoints", {}
    save = NegativesCallback._save

    def saved(callback: NegativesCallback, checkpoint: Path) -> None:
        assert spooled(output / SPOOL_FOLDER).targets == NUM_TARGETS  # type: ignore[union-attr]
        save(callback, checkpoint)

    def ended(callback: NegativesCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seen[state.global_step] = (output / SPOOL_FOLDER).exists()

    monkeypatch.setattr(NegativesCallback, "_save", saved)
    monkeypatch.setattr(NegativesCallback, "on_step_begin", _after(NegativesCallback.on_step_begin, ended))
    train(spool_run(tmp_path / "run", **DYNAMIC, steps=4, save_every=4), dataset=dataset, quiet=True)
    assert seen == {0: True, 1: True, 2: True, 3: True}
    assert not (output / SPOOL_FOLDER).exists()
    monkeypatch.undo()


def _after(method: Any, then: Any) -> Any:
    def both(*words: Any, **named: Any) -> None:
        method(*words, **named)
        then(*words, **named)

    return both


def broken_off(
    config: RunConfig, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch, *, resume: bool = False
) -> ValueError:
    """The error of a run that fails when it has written three blocks."""
    write, written = EncodingSpool._write, []

    def fail(*words: Any) -> None:
        write(*words)
        written.append(words)
        if len(written) == 3:
            raise ValueError("made to fail")

    with monkeypatch.context() as patched:
        patched.setattr(EncodingSpool, "_write", fail)
        with pytest.raises(ValueError, match="made to fail") as caught:
            train(config, dataset=dataset, resume=resume, quiet=True)
    return caught.value


def test_resume_says_what_it_goes_on_with_and_refuses_another_run(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = spool_run(tmp_path / "run", **DYNAMIC)
    error = broken_off(config, dataset, monkeypatch)
    assert error.__notes__[0].startswith(
        "no checkpoint was written yet, but the encodings of 24 targets are kept; go on"
    )
    for changes, message in (
        ({"learning_rate": 0.5}, "other settings .learning_rate"),
        ({"batch_size": 8}, "global_batch was 16, is 8"),
    ):
        other = spool_run(tmp_path / "run", **DYNAMIC, **changes)
        with pytest.raises(ValueError, match=message):
            train(other, dataset=dataset, resume=True, quiet=True)
    off = spool_run(tmp_path / "run", **DYNAMIC | {"spool_encodings": False})
    with pytest.warns(UserWarning, match="thrown away: this run spools no encodings"):
        result = train(off, dataset=dataset, resume=True, quiet=True)
    assert "targets_reused" not in result.metrics["cost"]


def test_encodings_of_other_weights_or_shards_are_thrown_away_with_a_word(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = spool_run(tmp_path / "run", **DYNAMIC)
    broken_off(config, dataset, monkeypatch)
    load = train.__globals__["load_encoder"]

    def load_other(*words: Any, **options: Any) -> Any:
        model = load(*words, **options)
        next(model.parameters()).data[0] += 1
        return model

    with monkeypatch.context() as patched:
        patched.setattr("hardwood.training.job.run.load_encoder", load_other)
        with pytest.warns(UserWarning, match="are of other weights: they are thrown away"):
            broken_off(config, dataset, monkeypatch, resume=True)
    divided = spool_run(tmp_path / "run", **DYNAMIC, num_shards=2)
    with pytest.warns(UserWarning, match="are thrown away: the corpus of this run is divided into 2"):
        result = train(divided, dataset=dataset, resume=True, quiet=True)
    assert "targets_reused" not in result.metrics["cost"]


class Encoder:
    """Gives rows as vectors, in blocks, and counts what it was asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.encoded, self.reused, self.stop_at = 0, 0, stop_at

    def __call__(self, rows: Rows) -> Iterator[Block]:
        for start in range(0, len(rows), BLOCK):
            if self.stop_at is not None and self.encoded >= self.stop_at:
                raise KeyboardInterrupt
            block = rows[start : start + BLOCK]
            self.encoded += len(block)
            yield block, np.sqrt(block[:, None] + np.arange(5)).astype(np.float32)

    def count(self, reused: int) -> None:
        self.reused += reused

    def through(self, spool: EncodingSpool, rows: Rows, of: dict[str, Any] = OF) -> None:
        """All encodings through a spool: in order, and right."""
        found = list(spool.completed(rows, NUM_TARGETS, BLOCK, of, self, self.count))
        assert np.array_equal(np.concatenate([block for block, _ in found]), rows)
        vectors = np.concatenate([vectors for _, vectors in found])
        assert np.array_equal(vectors, np.sqrt(rows[:, None] + np.arange(5)).astype(np.float32))


ROWS = np.arange(1, NUM_TARGETS, 2)
NAME = shard_name(1, 2)


def open_spool(folder: Path, least: int = 1) -> EncodingSpool:
    return EncodingSpool(folder / SPOOL_FOLDER, least, [NAME], note=NOTE)


def left_behind(folder: Path) -> Path:
    """The folder of a shard of 30 of whose blocks the first two are there."""
    with pytest.raises(KeyboardInterrupt):
        Encoder(stop_at=2 * BLOCK).through(open_spool(folder), ROWS)
    return folder / SPOOL_FOLDER / NAME


def test_whole_shards_alone_are_spooled_and_once_until_a_checkpoint(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, least=30)
    assert spool.takes(ROWS, NUM_TARGETS)
    for others in (np.arange(0, NUM_TARGETS, 2), np.arange(NUM_TARGETS), ROWS[:-1], ROWS[::-1], ROWS + 2, ROWS[:0]):
        assert not spool.takes(others, NUM_TARGETS)
    assert not open_spool(tmp_path, least=31).takes(ROWS, NUM_TARGETS)
    Encoder().through(spool, ROWS)
    assert not spool.takes(ROWS, NUM_TARGETS)
    assert spooled(tmp_path / SPOOL_FOLDER).targets == 30  # type: ignore[union-attr]
    spool.checkpoint_has_them()
    assert spool.takes(ROWS, NUM_TARGETS)
    assert not (tmp_path / SPOOL_FOLDER).exists()


def test_what_is_there_is_not_encoded_again(tmp_path: Path) -> None:
    left_behind(tmp_path)
    encoder = Encoder()
    encoder.through(open_spool(tmp_path), ROWS)
    assert (encoder.reused, encoder.encoded) == (2 * BLOCK, 30 - 2 * BLOCK)
    again = Encoder()
    again.through(open_spool(tmp_path), ROWS)
    assert (again.reused, again.encoded) == (30, 0)


@pytest.mark.parametrize("differs", ["weights", "texts", "dimension", "precision"])
def test_what_is_of_something_else_is_thrown_away(differs: str, tmp_path: Path) -> None:
    left_behind(tmp_path)
    encoder = Encoder()
    with pytest.warns(UserWarning, match=f"are of other {differs}: they are thrown away"):
        encoder.through(open_spool(tmp_path), ROWS, {**OF, differs: 5 if differs == "precision" else 6})
    assert (encoder.reused, encoder.encoded) == (0, 30)


@pytest.mark.parametrize("damage", ["a bit", "cut off", "empty", "another block", "no safetensors"])
def test_a_damaged_block_is_encoded_again(damage: str, tmp_path: Path) -> None:
    path = left_behind(tmp_path) / "block-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    others = {"cut off": content[:-9], "empty": b"", "no safetensors": b"x" * 100}
    others |= {"a bit": content, "another block": path.with_name("block-00000.safetensors").read_bytes()}
    path.write_bytes(others[damage])
    encoder = Encoder()
    with pytest.warns(UserWarning, match=re.escape(f"{path} is damaged (")):
        encoder.through(open_spool(tmp_path), ROWS)
    assert (encoder.reused, encoder.encoded) == (BLOCK, 30 - BLOCK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoder(stop_at=0).through(open_spool(tmp_path), ROWS)  # it is whole again


@pytest.mark.parametrize("record", [b"", b"{}", b'{"of": 3, "note": 4}', None])
def test_without_its_record_nothing_is_used(record: bytes | None, tmp_path: Path) -> None:
    path = left_behind(tmp_path) / "spool.json"
    path.unlink() if record is None else path.write_bytes(record)
    assert spooled(tmp_path / SPOOL_FOLDER) is None
    encoder = Encoder()
    with pytest.warns(UserWarning, match="without a readable record"):
        encoder.through(open_spool(tmp_path), ROWS)
    assert (encoder.reused, encoder.encoded) == (0, 30)


def test_a_full_disk_is_said_once_and_left_with_nothing_of_it(tmp_path: Path) -> None:
    left_behind(tmp_path)
    before, encoder = resource.getrlimit(resource.RLIMIT_FSIZE), Encoder()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            encoder.through(open_spool(tmp_path), ROWS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (encoder.reused, encoder.encoded) == (2 * BLOCK, 30 - 2 * BLOCK)
    (one,) = said
    assert "are not kept on the disk while they are made (" in str(one.message)
    assert "too large" in str(one.message)
    assert not (tmp_path / SPOOL_FOLDER).exists()


def test_a_folder_that_cannot_be_written_is_said_once(dataset: RetrievalDataset, tmp_path: Path) -> None:
    place = tmp_path / "run" / "checkpoints" / SPOOL_FOLDER
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    (tmp_path / "run" / "run.yaml").touch()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        spool = EncodingSpool(place, 1, [NAME], note=NOTE)
        Encoder().through(spool, ROWS)
    assert [str(one.message).startswith("the encodings of the corpus are not kept") for one in said] == [True]


def test_by_itself_a_run_spools_what_takes_long_alone(dataset: RetrievalDataset, tmp_path: Path) -> None:
    seen: list[Any] = []
    takes = EncodingSpool.takes

    def look(spool: EncodingSpool, rows: Rows, num_targets: int) -> bool:
        seen.append(spool.least)
        return takes(spool, rows, num_targets)

    by_itself = {**DYNAMIC, "spool_encodings": None, "steps": 1}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EncodingSpool, "takes", look)
        train(spool_run(tmp_path / "run", **DYNAMIC, steps=1), dataset=dataset, quiet=True)
        assert seen == [1]
        train(spool_run(tmp_path / "static", **by_itself), dataset=dataset, quiet=True)
        assert seen == [1]
        patched.setattr("hardwood.training.checkpoint.spooling.is_static", lambda model: False)
        train(spool_run(tmp_path / "another", **by_itself), dataset=dataset, quiet=True)
    assert seen == [1, _LEAST + 1]
