"""A run in which one process fails: ``python -m tests.processes.failing FOLDER PHASE raise|kill|stop RANK``.

Started anew by torchrun, none fails; and none does where RANK is -1.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from hardwood.cli.app import main as command_line
from hardwood.negatives import ExactNegatives
from hardwood.training.corpus.targets import CorpusTargets

WHERE: dict[str, tuple[Any, str]] = {
    "encode": (CorpusTargets, "encode"),
    "sample": (ExactNegatives, "sample"),
    "observe": (ExactNegatives, "observe"),
    "save": (ExactNegatives, "save_state"),
}
"""Second call of ``save``, fourth of all others: the checkpoint of step 2 is there by then (but for ``encode``)."""


def fail_in(phase: str, how: str) -> None:
    kind, name = WHERE[phase]
    method, calls = getattr(kind, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"save": 2, "encode": 2}.get(phase, 4):
            if how == "raise":
                raise ValueError("made to fail")
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        return method(*args, **kwargs)

    setattr(kind, name, failing)


def main(folder: Path, phase: str, how: str, rank: int) -> None:
    if int(os.environ["RANK"]) == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        fail_in(phase, how)
    options = "--start-step 0 --refresh-every 3 --steps 9 --save-every 2 --batch-size 8 --dimension 16 --quiet"
    command = ["train", str(folder / "data"), "--output", str(folder / "run"), "--negatives", "exact"]
    sys.argv = ["hardwood", *command, *options.split()]
    command_line()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
