"""What becomes of all processes when one of them fails: they end, one speaks, and names the rank."""

from __future__ import annotations

import atexit
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_dataset

from hardwood import _rank_watch, ranks
from hardwood.training import last_checkpoint

from .launch import ROOT, finish, start

PHASES = ("encode", "sample", "observe", "save")


def _failing(tmp_path: Path, phase: str, how: str, rank: int, size: int = 2, limit: str = "20") -> list:
    """Processes that train, of which one fails in its third call of what belongs to a phase."""
    make_dataset().save(tmp_path / "data")
    command = ["-m", "tests.processes.failing", str(tmp_path), phase, how, str(rank)]
    return start(size, command, HARDWOOD_RANK_TIMEOUT=limit)


def _spoken(found: list[tuple[int, str, str]]) -> list[str]:
    return [line for _, _, err in found for line in err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    "phase",
    [
        PHASES[1],
        pytest.param(PHASES[0], marks=pytest.mark.slow),
        *[pytest.param(phase, marks=pytest.mark.slow) for phase in PHASES[2:]],
    ],
)
def test_an_error_on_one_rank_ends_all_with_one_message(tmp_path: Path, phase: str) -> None:
    found = finish(_failing(tmp_path, phase, "raise", 1), timeout=240)
    assert all(code != 0 for code, *_ in found), found
    spoken = _spoken(found)
    assert len(spoken) == 1, found
    assert "made to fail" in spoken[0]
    assert "rank 1 of 2" in found[1][2]
    _nothing_half_written(tmp_path)


@pytest.mark.parametrize(
    "phase", [PHASES[2], *[pytest.param(phase, marks=pytest.mark.slow) for phase in (PHASES[0], PHASES[1], PHASES[3])]]
)
def test_a_rank_that_is_killed_ends_all_with_one_message(tmp_path: Path, phase: str) -> None:
    found = finish(_failing(tmp_path, phase, "kill", 1), timeout=240)
    assert found[1][0] == -signal.SIGKILL
    assert found[0][0] == 1
    (spoken,) = _spoken(found)
    assert "rank 1 of 2" in spoken
    assert "killed" in spoken
    kept = last_checkpoint(tmp_path / "run" / "checkpoints")
    step = "the last whole checkpoint is that of step 2; go on with: hardwood train --resume"
    assert (step if kept is not None else "no checkpoint was written yet: start anew") in found[0][2]
    _nothing_half_written(tmp_path)


@pytest.mark.parametrize(
    ("phase", "rank", "size"),
    [(PHASES[1], 0, 2), *[pytest.param(phase, rank, 3, marks=pytest.mark.slow) for phase in PHASES for rank in (0, 1)]],
)
def test_the_one_that_keeps_the_store_may_be_killed_and_speaks_once(
    tmp_path: Path, phase: str, rank: int, size: int
) -> None:
    """The first process keeps the store: if it is killed nothing can be asked, and if it speaks it must not go before
    the others have read that it has."""
    found = finish(_failing(tmp_path, phase, "kill", rank, size), timeout=240)
    assert [code for code, *_ in found] == [-signal.SIGKILL if number == rank else 1 for number in range(size)]
    (spoken,) = _spoken(found)
    assert f"rank {rank} of {size}" in spoken
    assert "was killed or has crashed" in spoken


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_rank_that_stands_still_ends_all_the_others(tmp_path: Path, phase: str) -> None:
    processes = _failing(tmp_path, phase, "stop", 0)
    try:
        _, error = processes[1].communicate(timeout=240)
        assert processes[1].returncode == 1
        (spoken,) = [line for line in error.splitlines() if line.startswith("error: ")]
        assert "rank 0 of 2" in spoken
        assert "no sign of life for 20 seconds" in spoken
        _nothing_half_written(tmp_path)
    finally:
        for process in processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.communicate()


def _nothing_half_written(folder: Path) -> None:
    """Every checkpoint that passes for whole can be resumed from: at least that of step 2, none that was broken off."""
    checkpoint = last_checkpoint(folder / "run" / "checkpoints")
    assert checkpoint is None or checkpoint.name == "checkpoint-2"


def test_waiting_has_a_limit_that_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardwood._rank_watch import TIMEOUT, timeout_seconds

    for wrong in ("soon", "0", "-3", "inf"):
        monkeypatch.setenv(TIMEOUT, wrong)
        with pytest.raises(ValueError, match=TIMEOUT):
            timeout_seconds()
    monkeypatch.setenv(TIMEOUT, "30")
    assert timeout_seconds() == 30


def test_no_thread_is_left_in_the_store_when_a_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter ends such a thread within the store's C++, and that aborts the process (2 of 80 with short beats).
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(_rank_watch, "_PERIOD_SECONDS", 0.001)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = torch.distributed.HashStore()
    watch = _rank_watch.RankWatch(store, 0, 2)
    begun = [thread for thread in threading.enumerate() if thread.name == "hardwood-ranks"]
    assert len(begun) == 2
    watch.say_goodbye()
    atexit.unregister(watch.say_goodbye)
    assert not any(thread.is_alive() for thread in begun)
    assert store.get("hardwood/beat/0") == b"bye"


class _LostStore:
    """A store that can be lost, as when the process that keeps it dies."""

    def __init__(self) -> None:
        self.store, self.is_lost = torch.distributed.HashStore(), False

    def __getattr__(self, name: str) -> Any:
        if self.is_lost:
            raise torch.distributed.DistNetworkError("Broken pipe")
        return getattr(self.store, name)


@contextmanager
def _watch_of_two(
    store: _LostStore, keeper: int, monkeypatch: pytest.MonkeyPatch, *, looks: bool = False
) -> Iterator[_rank_watch.RankWatch]:
    """The watch of the second of two processes; ``keeper`` is the process of the first. Its threads look only where
    ``looks`` says so."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    if not looks:
        monkeypatch.setattr(_rank_watch.RankWatch, "_watch", lambda watch: None)
        monkeypatch.setattr(_rank_watch.RankWatch, "_watch_the_store", lambda watch: None)
    store.set("hardwood/who/0", json.dumps({"host": platform.node(), "process": keeper}))
    watch = _rank_watch.RankWatch(store, 1, 2)
    try:
        watch._who(0)  # as the thread does, twice a second
        yield watch
    finally:
        watch.say_goodbye()
        atexit.unregister(watch.say_goodbye)


def _gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("is_killed", [True, False])
def test_without_a_store_one_process_says_once_who_kept_it(
    is_killed: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store, keeper = _LostStore(), _gone() if is_killed else os.getppid()
    with _watch_of_two(store, keeper, monkeypatch) as watch:
        store.is_lost = True
        for _ in range(2):
            error = watch.failed(RuntimeError("[gloo] Connection closed by peer"))
            assert isinstance(error, _rank_watch.OtherRankFailed)
    (spoken,) = capfd.readouterr().err.splitlines()
    kind = "was killed or has crashed" if is_killed else "can't be reached"
    assert spoken.startswith("error: rank 0 of 2")
    assert f"(process {keeper} on" in spoken
    assert kind in spoken


@pytest.mark.parametrize("is_done", [True, False])
def test_a_store_that_goes_when_its_keeper_is_done_is_no_failure(
    is_done: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_rank_watch, "_PERIOD_SECONDS", 0.01)
    monkeypatch.setenv(_rank_watch.TIMEOUT, "0.1")
    ended = threading.Event()
    exits: list[int] = []

    def leave(code: int) -> None:
        exits.append(code)
        ended.set()

    monkeypatch.setattr(_rank_watch.os, "_exit", leave)
    store = _LostStore()
    store.set("hardwood/beat/0", "bye" if is_done else "1")
    with _watch_of_two(store, os.getppid(), monkeypatch, looks=True) as watch:
        if is_done:
            while not watch._keeper_is_done:
                ended.wait(0.01)
        store.is_lost = True
        ended.wait(1 if is_done else 60)
    assert bool(exits) != is_done
    assert ("error: rank 0 of 2" in capfd.readouterr().err) != is_done  # alive, as far as can be seen: out of reach


def test_an_error_of_ones_own_is_said_without_a_store_too(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _LostStore()
    with _watch_of_two(store, _gone(), monkeypatch) as watch:
        store.is_lost, own = True, ValueError("made to fail")
        assert watch.failed(own) is own
        assert watch.failed(_Stopped()) is own


def test_one_that_has_spoken_does_not_speak_again_when_the_store_goes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = _LostStore()
    with _watch_of_two(store, _gone(), monkeypatch) as watch:
        claim = watch._claim

        def claim_and_lose(message: str) -> bool:
            store.is_lost, is_mine = False, claim(message)
            store.is_lost = True
            return is_mine

        monkeypatch.setattr(watch, "_claim", claim_and_lose)
        error = watch.failed(RuntimeError("[gloo] Connection closed by peer"))
        assert isinstance(error, _rank_watch.OtherRankFailed)
    (spoken,) = capfd.readouterr().err.splitlines()
    assert "was killed or has crashed" in spoken


def test_an_error_is_judged_where_no_thread_is_to_be_had(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with _watch_of_two(_LostStore(), _gone(), monkeypatch) as watch:
        with monkeypatch.context() as patched:

            def refuse(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patched.setattr(threading.Thread, "start", refuse)
            error = watch.failed(RuntimeError("[gloo] Connection closed by peer"))
        assert isinstance(error, _rank_watch.OtherRankFailed)
    assert capfd.readouterr().err.startswith("error: rank 0 of 2")


def test_the_advice_is_there_before_a_process_claims_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills it while it looks for advice leaves the message to another."""
    with _watch_of_two(_LostStore(), _gone(), monkeypatch) as watch:
        said: list[str | None] = []

        def advice() -> str:
            said.append(watch._said())
            return "go on"

        watch.advice = advice
        watch.failed(RuntimeError("[gloo] Connection closed by peer"))
        assert said == [None]


class _Stopped(BaseException):
    """What a signal raises in the main thread."""


def test_a_signal_does_not_keep_one_that_has_claimed_to_speak_from_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A launcher sends one to the others as soon as a process is gone."""

    def stop(number: int, frame: Any) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with _watch_of_two(_LostStore(), _gone(), monkeypatch) as watch:
            claim = watch._claim

            def claim_and_signal(message: str) -> bool:
                is_mine = claim(message)
                os.kill(os.getpid(), signal.SIGUSR1)
                watch._ended.wait(0.2)  # the main thread hears of it
                return is_mine

            monkeypatch.setattr(watch, "_claim", claim_and_signal)
            error = watch.failed(RuntimeError("[gloo] Connection closed by peer"))
            assert isinstance(error, _rank_watch.OtherRankFailed)
            assert watch.failed(_Stopped()) is error
    finally:
        signal.signal(signal.SIGUSR1, before)
    (spoken,) = capfd.readouterr().err.splitlines()
    assert "rank 0 of 2" in spoken


@pytest.mark.parametrize("of_ones_own", [True, False])
def test_one_that_ends_quietly_waits_until_the_speaker_has_spoken(
    of_ones_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it went at once, a launcher would end the speaker before it has shown anything."""
    store = _LostStore()
    with _watch_of_two(store, os.getppid(), monkeypatch) as watch:
        if of_ones_own:
            own = ValueError("made to fail")
            assert watch.failed(own) is own
            assert watch.failed(_Stopped()) is own  # as it unwinds: what it has to show is the first
            assert not store.check(["hardwood/shown"])  # whoever shows it has not come so far
            watch.say_goodbye()
            assert store.check(["hardwood/shown"])
            return
        store.set("hardwood/end", "0\nrank 0: made to fail")
        assert isinstance(watch.failed(ValueError("of a connection")), _rank_watch.OtherRankFailed)
        going = threading.Thread(target=watch.say_goodbye, daemon=True)
        going.start()
        going.join(0.5)
        assert going.is_alive()
        store.set("hardwood/shown", "")
        going.join(_rank_watch._GOODBYE_SECONDS / 2)
        assert not going.is_alive()


def test_the_keeper_of_the_store_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with _watch_of_two(_LostStore(), os.getpid(), monkeypatch) as watch, monkeypatch.context() as patched:
        patched.setattr(watch, "number", 0)
        processes = (os.getpid(), _gone())
        watch._known = {
            number: {"host": platform.node(), "process": process} for number, process in enumerate(processes)
        }
        patched.setattr(_rank_watch.time, "sleep", lambda seconds: pytest.fail("it waits"))
        watch._linger()


def test_an_exchange_ends_when_gloo_has_let_go_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thread of gloo's may free them when the interpreter is gone, and that aborts a run that was done."""
    held: list[torch.Tensor] = []

    def all_gather(found: list[torch.Tensor], own: torch.Tensor, group: Any) -> None:
        held.extend(tensor.view(-1) for tensor in (own, *found))  # each view holds its tensor, as gloo's thread does

    monkeypatch.setattr(ranks.distributed, "all_gather", all_gather)
    tensors = [torch.ones(3), torch.empty(3)]
    exchange = threading.Thread(target=ranks._all_gather, args=(tensors[1:], tensors[0], None), daemon=True)
    exchange.start()
    exchange.join(0.3)
    assert exchange.is_alive()
    held.clear()
    exchange.join(5)
    assert not exchange.is_alive()


@pytest.mark.slow
def test_a_campaign_of_kills_finds_nothing() -> None:
    """A short form of ``benchmarks/stress/ranks.py``; it fails where the options that it gives are none."""
    command = [sys.executable, "-m", "benchmarks.stress.ranks", "--failures", "1", "--processes", "2", "--seed", "3"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 2 |" in done.stdout
