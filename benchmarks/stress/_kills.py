"""Jobs in forked processes that are killed (SIGKILL) at a random moment, or at a chosen operation on their files."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "ctypes.dlsym"}


@dataclass
class Ended:
    """How a job ended: an exit code, or minus the signal; how many operations on its files, if it finished."""

    code: int
    seconds: float
    operations: int = 0


@dataclass
class Tally:
    """What a campaign counts.

    ``kills``, of which ``at_operations`` on files; what can go on after them: ``started`` anew, ``resumed`` from a
    checkpoint; ``cut_short``: checkpoints found half-written; ``leftovers_swept``: temporary files that were there
    before the last start, and not after it; ``compared``: ends held against the unbroken run; ``problems``: what
    should not be.
    """

    kills: int = 0
    at_operations: int = 0
    resumed: int = 0
    started: int = 0
    cut_short: int = 0
    compared: int = 0
    leftovers_swept: int = 0
    problems: list[str] = field(default_factory=list)


def run_forked(
    job: Callable[[], None],
    folder: Path,
    *,
    kill_after: float | None = None,
    kill_at: int | None = None,
) -> Ended:
    """Do ``job`` in a forked process.

    Args:
        job: what to do; an exception is exit code 1.
        folder: whose operations count; temporary files go to ``folder/tmp``.
        kill_after: seconds until SIGKILL.
        kill_at: the number of the operation before which the process kills itself.
    """
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        _be_the_child(job, folder, writer, kill_at)
    os.close(writer)
    status = None
    while status is None:
        done, code = os.waitpid(process, os.WNOHANG)
        if done:
            status = code
        elif kill_after is not None and time.perf_counter() - began > kill_after:
            os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        else:
            time.sleep(0.002)
    with os.fdopen(reader, "rb") as told:
        operations = told.read()
    return Ended(
        os.waitstatus_to_exitcode(status), time.perf_counter() - began, int(operations or b"0") if status == 0 else 0
    )


def _be_the_child(job: Callable[[], None], folder: Path, writer: int, kill_at: int | None) -> None:
    code = 1
    try:
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        log = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        count = _counted(str(folder), kill_at)
        job()
        os.write(writer, str(count[0]).encode())
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
        if code == 0:
            os.write(writer, str(count[0]).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _counted(folder: str, kill_at: int | None) -> list[int]:
    """Counts this process's operations on files under ``folder`` from now on, and ends it before number ``kill_at``."""
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event not in _EVENTS:
            return
        if event != "ctypes.dlsym" and not str(arguments[0] if arguments else "").startswith(folder):
            return
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def moment(rng: random.Random, whole: Ended) -> dict[str, float | int]:
    """Where to kill next: half of the time at any moment, half of the time at an operation on files."""
    if rng.random() < 0.5:
        return {"kill_after": rng.uniform(0, whole.seconds)}
    return {"kill_at": rng.randint(1, max(whole.operations, 1))}


def temporaries(folder: Path) -> list[str]:
    """Temporary files and folders under ``folder``, of the job's own and of libraries."""
    own = [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name.endswith((".tmp", ".old"))]
    return own + [str(path.relative_to(folder)) for path in (folder / "tmp").iterdir()]
