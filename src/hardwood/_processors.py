"""How many threads share the tree's work in this process, and on which processors.

Kept outside `hardwood.tree`, so that setting the number of threads does not import the kernels.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

from hardwood import _checks

_given: int | None = None


def set_threads(threads: int | None) -> None:
    """Say how many threads the trees of this process work with, those that exist among them.

    As `torch.set_num_threads` does for PyTorch. An index that was given ``threads`` of its own keeps these. Draws are
    the same for any number. A forked child goes by what was said here, and so does an index that is pickled (to a
    spawned worker, say) or copied; indexes that a spawned process makes or loads itself do not.

    ``OMP_NUM_THREADS`` is not heeded: it is set to keep the threads of numerical libraries from spinning, and the
    tree's wait asleep.

    Args:
        threads: at least 1, the one that calls included; ``None``: as many as this process may use processors, which
            is the default.

    Raises:
        TypeError: for what is not a whole number.
        ValueError: for a number below 1.
    """
    global _given  # noqa: PLW0603
    _given = None if threads is None else _checks.count(threads, "threads")


def given_threads() -> int | None:
    """What `set_threads` was given; ``None`` without it."""
    return _given


def default_threads() -> int:
    """What `set_threads` was given, or the processors this process may use: its part of them, where a launcher such as
    torchrun has started several on this machine."""
    if _given is not None:
        return _given
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, processors // max(1, int(beside))) if beside.isdigit() else processors


def _this_processor() -> int:
    return -1


if sys.platform == "linux":
    with suppress(OSError, AttributeError):  # a C library without it
        _this_processor = ctypes.PyDLL(None).sched_getcpu  # PyDLL keeps the interpreter's lock: it is a microsecond


def this_processor() -> int:
    """The number of the processor that the calling thread runs on; -1 where the system does not say."""
    return int(_this_processor())


def step_aside(processor: int) -> None:
    """Has the calling thread leave ``processor``, if it runs there and others are allowed, and not come back.

    For threads that help another one: the kernel of a virtual machine treats idle virtual processors as preempted. It
    wakes helpers on the caller's processor, where they share its time slice for milliseconds. -1 is no processor.
    """
    if processor < 0 or this_processor() != processor:
        return
    others = os.sched_getaffinity(os.getpid()) - {processor}
    if others:
        with suppress(OSError):  # forbidden, or gone meanwhile: then it shares
            os.sched_setaffinity(0, others)
