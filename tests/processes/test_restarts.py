"""Restarts within one launch (``torchrun --max-restarts``): the run goes on by itself, and only its own run does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.conftest import make_dataset
from torch.distributed import HashStore, TCPStore

from hardwood import _launch
from hardwood._launch import agreed_name, launch_name
from hardwood.training import RunConfig, train
from hardwood.training.job.run_folder import LAUNCH

from .launch import finish, free_port, start

ONE_AGENT = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]


def _launched(tmp_path: Path, phase: str, how: str, rank: int, *flags: str) -> tuple[int, str, str]:
    command = [*ONE_AGENT, *flags, "-m", "tests.processes.failing", str(tmp_path), phase, how, str(rank)]
    (found,) = finish(start(1, command, HARDWOOD_RANK_TIMEOUT="20"), timeout=280)
    return found


def _weights(folder: Path) -> dict[str, Any]:
    assert not (folder / "run" / LAUNCH).exists()
    return load_file(folder / "run" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken")
    make_dataset().save(folder / "data")
    code, _, error = _launched(folder, "observe", "kill", -1, "--standalone")
    assert code == 0, error[-3000:]
    assert "torchrun starts the processes again" not in error
    return _weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "how", "standalone"), [("observe", "kill", True), ("save", "kill", False), ("encode", "raise", False)]
)
def test_a_run_that_torchrun_starts_anew_ends_as_an_unbroken_one(
    tmp_path: Path, unbroken: dict[str, Any], phase: str, how: str, standalone: bool
) -> None:
    make_dataset().save(tmp_path / "data")
    # A launch without a rendezvous has an address of the caller's, and another kind of store.
    flags = ["--standalone"] if standalone else ["--master-port", str(free_port())]
    code, _, error = _launched(tmp_path, phase, how, 1, *flags)
    assert code == 0, error[-3000:]
    assert error.count("torchrun starts the processes again") == 1
    weights = _weights(tmp_path)
    assert weights.keys() == unbroken.keys()
    assert all(bool((weights[name] == unbroken[name]).all()) for name in weights)


def _all_at_once(calls: list[Callable[[], str]]) -> list[str]:
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n, call=call: found.__setitem__(n, call()), daemon=True)
        for n, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[n] for n in range(len(calls))]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_restart_has_a_name_of_its_own(size: int) -> None:
    store = HashStore()
    names = []
    for _ in range(20):  # what the last ones wrote is still there
        found = _all_at_once([lambda rank=rank: agreed_name(store, rank, size) for rank in range(size)])
        assert len(set(found)) == 1
        names += found[:1]
    assert len(set(names)) == 20


def test_a_process_that_comes_late_is_waited_for_though_an_earlier_one_had_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_launch, "_LIMIT_SECONDS", 20.0)
    store = HashStore()
    _all_at_once([lambda rank=rank: agreed_name(store, rank, 3) for rank in range(3)])
    found: list[str] = []
    early = [
        threading.Thread(target=lambda rank=rank: found.append(agreed_name(store, rank, 3)), daemon=True)
        for rank in (0, 1)
    ]
    for thread in early:
        thread.start()
    early[0].join(0.5)
    assert not found  # the last process 2 is no more
    found.append(agreed_name(store, 2, 3))
    for thread in early:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1


def test_waiting_for_processes_has_an_end_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "_LIMIT_SECONDS", 0.2)
    store = HashStore()
    with pytest.raises(RuntimeError, match=r"rank 0 of 3 has waited .* these have never come: 1, 2"):
        agreed_name(store, 0, 3)


def test_a_launch_has_one_name_and_another_launch_another() -> None:
    one, other = HashStore(), HashStore()
    assert launch_name(one) == launch_name(one)
    assert launch_name(one) != launch_name(other)
    assert launch_name(None) is None


def _environment(monkeypatch: pytest.MonkeyPatch, restarts: int) -> Any:
    """That of a process that torchrun has started, whose store this keeps."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }.items():
        monkeypatch.setenv(name, value)
    return store


def _config(tmp_path: Path, **settings: Any) -> RunConfig:
    make_dataset().save(tmp_path / "data")
    settings = {"steps": 1, "dimension": 8, "negatives": "in-batch", "report": False, **settings}
    return RunConfig(data=str(tmp_path / "data"), output=str(tmp_path / "run"), **settings)


def test_a_restart_does_not_touch_what_another_launch_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    train(config, quiet=True)
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    for note in (None, "the name of another launch"):
        if note is not None:
            (tmp_path / "run" / LAUNCH).write_text(note)
        store = _environment(monkeypatch, restarts=1)
        with pytest.raises(ValueError, match="is not empty: choose another"):
            train(config, quiet=True)
        del store
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_a_restart_before_anything_is_kept_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    store = _environment(monkeypatch, restarts=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAUNCH).write_text(str(launch_name(store)))  # it was killed as soon as it had written this
    train(config, quiet=True)
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert not (tmp_path / "run" / LAUNCH).exists()


def test_a_restart_that_cannot_know_its_launch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(ValueError, match="leave out --max-restarts and start the same command again with --resume"):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists()
