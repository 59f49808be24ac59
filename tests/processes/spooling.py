"""A run that kills itself while it spools encodings: ``python -m tests.processes.spooling FILE RANK BLOCKS``.

FILE has the settings of the run as JSON. RANK is killed when it has written so many BLOCKS; with -1 none is, and the
run is resumed if there is something to resume.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from hardwood.training import RunConfig, train
from hardwood.training.checkpoint.encoding_spool import EncodingSpool
from hardwood.training.corpus.targets import CorpusTargets

BLOCK = 8


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 targets, so that a small corpus has several."""
    monkeypatch.setitem(CorpusTargets.__init__.__kwdefaults__, "block_size", BLOCK)


def kill_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process killed, as by the system, when it has written so many blocks."""
    write, written = EncodingSpool._write, 0

    def write_and_die(*words: Any) -> None:
        nonlocal written
        write(*words)
        written += 1
        if written == blocks:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(EncodingSpool, "_write", write_and_die)


def main(settings: Path, rank: int, blocks: int) -> None:
    config = RunConfig(**json.loads(settings.read_text()))
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_blocks(monkeypatch)
        if int(os.environ.get("RANK", "0")) == rank:
            kill_after(blocks, monkeypatch)
        train(config, resume=rank == -1 and Path(config.output).exists())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
