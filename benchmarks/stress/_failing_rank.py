"""One process of a training that fails at a chosen moment: ``python -m benchmarks.stress._failing_rank MOMENT ...``.

``MOMENT`` is JSON: ``{"rank": 1, "signal": 9, "phase": "sample", "call": 4}``, or ``"seconds"`` after the processes
have met, instead of a phase; ``{}`` for none. ``"note"`` names a folder, in which each process writes how often it came
to each phase and how long it took, and the failing one when it failed. What follows are the arguments of ``hardwood``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from hardwood.cli.app import main as command_line
from hardwood.negatives import DynamicNegatives
from hardwood.negatives.dynamic.moving_index import MovingIndex
from hardwood.ranks import Ranks
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback
from hardwood.training.corpus.targets import CorpusTargets

PHASES: dict[str, tuple[Any, str]] = {
    "encode": (CorpusTargets, "encode"),
    "begin a step": (CorpusSoftmaxLoss, "begin_step"),
    "sample": (DynamicNegatives, "sample"),
    "exchange": (Ranks, "gather"),
    "backward": (torch.Tensor, "backward"),
    "observe": (DynamicNegatives, "observing"),
    "write back": (MovingIndex, "learn"),
    "save": (NegativesCallback, "on_save"),
    "save a shard": (DynamicNegatives, "save_state"),
}


def main(moment: dict[str, Any], arguments: list[str]) -> None:
    rank, note = int(os.environ["RANK"]), Path(moment["note"])
    counts = dict.fromkeys(PHASES, 0)
    met: list[float] = []
    is_chosen = moment.get("rank") == rank

    def fail() -> None:
        (note / "failed").write_text(str(time.time()))
        os.kill(os.getpid(), moment["signal"])

    def watched(phase: str, kind: Any, name: str) -> None:
        method = getattr(kind, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if not met:  # whatever comes first: the processes have met
                met.append(time.monotonic())
                if is_chosen and "seconds" in moment:
                    timer = threading.Timer(moment["seconds"], fail)
                    timer.daemon = True
                    timer.start()
            counts[phase] += 1
            if is_chosen and moment.get("phase") == phase and counts[phase] == moment["call"]:
                fail()
            return method(*args, **kwargs)

        setattr(kind, name, counted)

    for phase, place in PHASES.items():
        watched(phase, *place)
    sys.argv = ["hardwood", *arguments]
    try:
        command_line()
    finally:
        seconds = time.monotonic() - met[0] if met else 0.0
        (note / f"calls-{rank}.json").write_text(json.dumps({"calls": counts, "seconds": seconds}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
