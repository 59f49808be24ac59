"""The commands when something fails half-way: one line says what, the exit code says so too, and nothing is lost."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hardwood import DataError, RetrievalDataset, TargetIndex
from hardwood.training import last_checkpoint

from .conftest import TRAIN, EncoderFault, end_of, hardwood, mounted, no_file_above, said

STEP_7 = 3 * 6  # the encoder's calls with gradient before step 7: three a step


def raising(error: BaseException) -> Callable[[Tensor], Tensor]:
    def fault(_: Tensor) -> Tensor:
        raise error

    return fault


def poisoned(value: float) -> Callable[[Tensor], Tensor]:
    def fault(embeddings: Tensor) -> Tensor:
        return torch.where(torch.arange(len(embeddings))[:, None] == 2, torch.tensor(value), embeddings)

    return fault


def signalled(number: int) -> Callable[[Tensor], Tensor]:
    def fault(embeddings: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return embeddings

    return fault


CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8000000000 bytes. Error code 12 (Cannot allocate memory)"
)
FAULTS: dict[str, tuple[int, bool, Callable[[Tensor], Tensor], int, str]] = {
    # the number of the encoder's call, whether with gradient, what happens, the exit code, what is said
    "raises": (STEP_7, True, raising(ValueError("no such token")), 2, "error: no such token"),
    "raises what nobody foresaw": (STEP_7 + 1, True, raising(KeyError("w")), 1, r"error: KeyError: 'w' \(.*line \d+;"),
    "raises in the first encoding": (0, False, raising(ValueError("in the build")), 2, "error: in the build"),
    "raises in a refresh": (1, False, raising(ValueError("in the refresh")), 2, "error: in the refresh"),
    "NaN in queries": (STEP_7, True, poisoned(torch.nan), 2, "error: the encoding of query 'q.* in step 7"),
    "NaN in positives": (STEP_7 + 1, True, poisoned(torch.nan), 2, "error: the encoding of target 'c.* in step 7"),
    "inf in drawn targets": (STEP_7 + 2, True, poisoned(torch.inf), 2, "error: the encoding of target 'c.* in step 7"),
    "NaN in a refresh": (1, False, poisoned(torch.nan), 2, "error: the encoding of target 'c.* is not finite"),
    "accelerator memory": (STEP_7, True, raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.0 GiB"
                                                                        )), 2, "error: out of memory: CUDA out of"),
    "host memory": (STEP_7, True, raising(MemoryError()), 2, "error: out of memory: MemoryError"),
    "PyTorch's host memory": (STEP_7, True, raising(RuntimeError(CPU_MEMORY)), 2, "error: out of memory: .enforce fai"),
    "Ctrl-C": (STEP_7, True, signalled(signal.SIGINT), 130, "interrupted$"),
    "SIGTERM": (STEP_7, True, signalled(signal.SIGTERM), 143, r"terminated \(SIGTERM\)$"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_whose_encoder_fails_goes_on_from_its_last_checkpoint(
    name: str, encoder_fault: EncoderFault, dataset_folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    at, training, fault, code, message = FAULTS[name]
    run = tmp_path / "run"
    encoder_fault.plan(at, training, fault)
    broken = hardwood("train", dataset_folder, "--output", run, *TRAIN)
    error, kept = said(broken)
    assert broken.exit_code == code
    assert re.match(message, error), error
    if name == "raises in the first encoding":
        assert kept.startswith("no checkpoint was written yet")
        assert "nothing to resume" in said(hardwood("train", "--output", run, "--resume"))[0]
        again = hardwood("train", dataset_folder, "--output", run, "--overwrite", *TRAIN)
    else:
        assert kept == (
            f"the last whole checkpoint is that of step 4; go on with: hardwood train --resume --output {run}"
        )
        assert not (run / "metrics.json").exists()
        again = hardwood("train", "--resume", "--output", run, "--quiet")
    assert again.exit_code == 0, again.output
    assert end_of(run) == end_of(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["full", "full for one file", "read-only"])
def test_a_disk_that_fails_in_mid_run(
    disk: str, encoder_fault: EncoderFault, dataset_folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    place, filler = tmp_path / "disk", tmp_path / "disk" / "filler"
    with (
        no_file_above(10**9)
        if disk == "full for one file"
        else mounted(place, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    ):
        run = place / "run"

        def fail(embeddings: Tensor) -> Tensor:
            if disk == "full":
                _fill(filler)
            elif disk == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return embeddings

        encoder_fault.plan(STEP_7, True, fail)
        broken = hardwood("train", dataset_folder, "--output", run, *TRAIN)
        assert broken.exit_code in (1, 2)
        lines = said(broken)
        assert "the last whole checkpoint is that of step 4" in lines[1]
        if disk == "full":
            assert re.match(rf"the disk of {run} is full: \d+ bytes are free", lines[2])
            filler.unlink()
        elif disk == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        assert last_checkpoint(run / "checkpoints") == run / "checkpoints" / "checkpoint-4"
        again = hardwood("train", "--resume", "--output", run, "--quiet")
        assert again.exit_code == 0, again.output
        assert end_of(run) == end_of(unbroken)
        assert not list(run.rglob("*.tmp"))


def _fill(path: Path) -> None:
    """Until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65536)):
            pass


def test_a_folder_that_can_not_be_written(dataset_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    with mounted(place, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        refused = hardwood("train", dataset_folder, "--output", place / "run", *TRAIN)
        assert refused.exit_code == 2
        (line,) = said(refused)
        assert line.startswith(f"error: can't write to {place / 'run'}: Read-only file system")


def _index(folder: Path, factor: float) -> None:
    vectors = torch.eye(40).numpy() * factor
    TargetIndex.build(vectors, leaf_size=8, progress=False).save(folder)


WRITERS: dict[str, tuple[Callable[..., object], Callable[[Path], object]]] = {
    # what writes a second time what is there, and what reads it, down to the last byte
    "index": (lambda data, path, n: _index(path, n), lambda path: TargetIndex.load(path, verify=True).check()),
    "dataset": (lambda data, path, n: data.save(path, overwrite=True), RetrievalDataset.load),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_leaves_what_was_there(what: str, dataset: RetrievalDataset, tmp_path: Path) -> None:
    write, read = WRITERS[what]
    write(dataset, tmp_path / "it", 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with no_file_above(1000), pytest.raises(OSError, match="File too large"):
        write(dataset, tmp_path / "it", 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    read(tmp_path / "it")


def test_no_room_for_chunks_says_where(tmp_path: Path) -> None:
    chunks = (torch.ones(100, 8).numpy() for _ in range(3))
    with no_file_above(1000), pytest.raises(OSError, match=r"no room for 3,200 bytes of vectors.*; set TMPDIR"):
        TargetIndex.build(chunks, progress=False)


def test_a_corpus_that_vanishes_while_it_is_read(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardwood.data import _dataset

    folder = tmp_path / "data"
    shutil.copytree(dataset_folder, folder)
    find = _dataset.find_qrels

    def find_and_lose(*arguments: Any) -> Any:
        (folder / "corpus.jsonl").unlink()
        return find(*arguments)

    monkeypatch.setattr(_dataset, "find_qrels", find_and_lose)
    lost = hardwood("train", folder, "--output", tmp_path / "run", *TRAIN)
    assert lost.exit_code == 2
    (line,) = said(lost)
    assert "corpus.jsonl" in line
    assert "No such file" in line
    assert not (tmp_path / "run").exists()


def test_a_corpus_that_changes_while_it_is_read(dataset_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(dataset_folder, folder)
    lines = (folder / "corpus.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_bytes(b"".join(lines)[:-40])  # cut off in the middle of its last line
    with pytest.raises(DataError, match=r"corpus.jsonl:60"):
        RetrievalDataset.load(folder)


@pytest.mark.slow
def test_data_that_change_before_a_run_is_resumed(
    encoder_fault: EncoderFault, dataset_folder: Path, tmp_path: Path
) -> None:
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset_folder, folder)
    encoder_fault.plan(STEP_7, True, raising(ValueError("stop")))
    assert hardwood("train", folder, "--output", run, *TRAIN).exit_code == 2
    corpus = (folder / "corpus.jsonl").read_text()
    (folder / "corpus.jsonl").write_text(corpus.replace("heart", "hearts", 1))
    refused = hardwood("train", "--resume", "--output", run, "--quiet")
    assert refused.exit_code == 2
    assert "was made with other data" in said(refused)[0]
    (folder / "corpus.jsonl").write_text(corpus)
    assert hardwood("train", "--resume", "--output", run, "--quiet").exit_code == 0


@pytest.mark.slow
def test_two_runs_in_one_folder(encoder_fault: EncoderFault, dataset_folder: Path, tmp_path: Path) -> None:
    run, inner = tmp_path / "run", []

    def start_another(embeddings: Tensor) -> Tensor:
        inner.append(hardwood("train", dataset_folder, "--output", run, "--overwrite", *TRAIN))
        return embeddings

    encoder_fault.plan(STEP_7, True, start_another)
    assert hardwood("train", dataset_folder, "--output", run, *TRAIN).exit_code == 0
    assert inner[0].exit_code == 2
    assert f"another process is training in {run}" in said(inner[0])[0]


@pytest.mark.slow
def test_an_encoder_that_fails_while_it_is_measured_or_mined(
    encoder_fault: EncoderFault, dataset_folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    model, output = unbroken / "model", tmp_path / "out.jsonl"
    mine = ("mine", model, dataset_folder, "--num-negatives", 3, "--output", output, "--device", "cpu", "--quiet")
    assert hardwood(*mine).exit_code == 0
    before = output.read_bytes()
    for fault, code in ((raising(MemoryError()), 2), (poisoned(torch.nan), 2), (raising(KeyError("w")), 1),
                        (signalled(signal.SIGTERM), 143)):  # fmt: skip
        encoder_fault.plan(0, False, fault)
        failed = hardwood(*mine, "--overwrite")
        assert failed.exit_code == code
        assert len(said(failed)) == 1
        assert output.read_bytes() == before
        encoder_fault.plan(1, False, fault)
        failed = hardwood("evaluate", model, dataset_folder, "--output", tmp_path / "m.json", "--quiet")
        assert failed.exit_code == code
        assert len(said(failed)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_overwritten_run_survives_bad_settings(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.yaml", "metrics.json"):
        (run / name).write_text("of days of work")
    assert "nowhere" in said(hardwood("train", "nowhere", "--output", run, "--overwrite", *TRAIN))[0]
    assert sorted(path.name for path in run.iterdir()) == ["metrics.json", "run.yaml"]
