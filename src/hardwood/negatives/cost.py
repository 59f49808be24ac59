"""What a source costs, counted where it arises and reported in the same words for all."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

_ALWAYS = ("targets_reencoded", "texts_encoded", "pairs_judged")
"""Counters that stand in each report; ``targets_reused`` is there where it is not 0."""
PARTS = ("encode", "index", "sample", "judge", "forward_backward")


class Cost:
    """Counters of one run.

    Attributes:
        targets_reencoded: every encoding of a target made outside the loss, the first one of the corpus included.
        targets_reused: those of its encodings that an earlier process of the run has made, and that were read from disk
            (`hardwood.training.checkpoint.encoding_spool`).
        texts_encoded: texts that the loss itself encoded with gradient (queries, positives, negatives).
        pairs_judged: (query, target) pairs that a guide has scored.
        seconds: wall-clock by part: ``encode`` (re-encoding targets), ``index`` (building and maintaining whatever is
            sampled from), ``sample`` (drawing), ``judge`` (a guide's scores), ``forward_backward`` (all the rest of a
            training step).
    """

    def __init__(self) -> None:
        self.targets_reencoded = 0
        self.targets_reused = 0
        self.texts_encoded = 0
        self.pairs_judged = 0
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the enclosed block to ``seconds[part]``."""
        _synchronize()
        begin = time.perf_counter()
        try:
            yield
        finally:
            _synchronize()
            self.seconds[part] += time.perf_counter() - begin

    def add_reused(self, targets: int) -> None:
        """Count encodings that were read from disk."""
        self.targets_reused += targets

    def add_step(self, seconds: float, before: dict[str, float]) -> None:
        """Book a training step of ``seconds``, less what the other parts took since ``before``."""
        others = sum(self.seconds[part] - before[part] for part in PARTS if part != "forward_backward")
        self.seconds["forward_backward"] += max(seconds - others, 0.0)

    def report(self) -> dict[str, Any]:
        """The counters and this process's memory peaks since `reset_peaks`, as plain numbers."""
        return {
            **self._counts(),
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
            "peak_host_bytes": peak_host_bytes(),
            "peak_accelerator_bytes": peak_accelerator_bytes(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The counters alone, for a checkpoint."""
        return {
            **self._counts(),
            "seconds": dict(self.seconds),
        }

    def _counts(self) -> dict[str, int]:
        names = ["targets_reencoded", *(["targets_reused"] if self.targets_reused else []), *_ALWAYS[1:]]
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint.

        Raises:
            ValueError: for anything but what `state_dict` gave; the counters are as they were.
        """
        seconds = state.get("seconds")
        counts: list[Any] = [*(state.get(name) for name in _ALWAYS), state.get("targets_reused", 0)]
        if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(seconds, dict):
            raise ValueError(f"the costs of a run are counts and seconds by part, got {str(state)[:200]}")
        if set(seconds) != set(PARTS) or not all(_is_duration(value) for value in seconds.values()):
            raise ValueError(f"the seconds of a run are numbers for {', '.join(PARTS)}, got {str(seconds)[:200]}")
        self.targets_reencoded, self.texts_encoded, self.pairs_judged, self.targets_reused = counts
        self.seconds.update(seconds)


def added_up(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The costs of several processes that train together, of the `Cost.state_dict` of each.

    What each has encoded or judged outside the loss adds up; the loss's texts are those of the batch of all, which each
    counts. Seconds are those of the first.
    """
    counts = {name: sum(state[name] for state in states) for name in ("targets_reencoded", "pairs_judged")}
    reused = sum(state.get("targets_reused", 0) for state in states)
    return {**states[0], **counts} | ({"targets_reused": reused} if reused else {})


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _synchronize() -> None:
    # CUDA works behind our back: without this a part would be charged for what another one queued.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def reset_peaks() -> None:
    """Start the memory peaks anew, where the system can (Linux; CUDA)."""
    # On another system, or in a locked-down container, the peak stays that of the process's whole life.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_host_bytes() -> int:
    """The most memory this process held in RAM since `reset_peaks`, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_accelerator_bytes() -> int:
    """The most memory PyTorch held on the accelerator since `reset_peaks`, in bytes; 0 without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
