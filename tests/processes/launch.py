"""Starts real processes that find each other through torch.distributed (gloo), as a launcher would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(size: int, command: list[str], **environment: str) -> list[subprocess.Popen]:
    """``size`` processes of a Python command, with what torchrun puts into their environment."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, when all have ended; whoever has not ended by then is killed."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            found.append((process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return found


def run(size: int, command: list[str], timeout: float = 300, **environment: str) -> list[str]:
    """What each process writes to stdout; an error of any of them is this test's."""
    found = finish(start(size, command, **environment), timeout)
    said = "\n".join(f"rank {rank} ended with {code}:\n{err[-3000:]}" for rank, (code, _, err) in enumerate(found))
    assert all(code == 0 for code, *_ in found), said
    return [out for _, out, _ in found]
