"""A pool of threads for each process, and the lock that lets many read or one write."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from hardwood._processors import step_aside, this_processor
from hardwood.tree.compiled.numeric import jit

TURNS = 50_000
"""Spins while helpers work, some 80 µs, before the caller goes to sleep: waking takes 50."""

LINGER = 6_000
"""Extra spins after the last helper reports, so that it can release the GIL before the caller takes it."""

_tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
_helpers = 0
_helpers_lock = threading.Lock()


def _forget() -> None:
    """After a fork no thread of the parent's lives: start afresh, with a new lock."""
    global _tasks, _helpers, _helpers_lock
    _tasks, _helpers, _helpers_lock = SimpleQueue(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _help(tasks: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        tasks.get()()


def _ask(task: Callable[[], None], helpers: int) -> None:
    """Has ``task`` called once by each of so many helpers, when they find the time."""
    global _helpers  # noqa: PLW0603
    with _helpers_lock:
        while _helpers < helpers:
            threading.Thread(target=_help, args=(_tasks,), name=f"hardwood-{_helpers}", daemon=True).start()
            _helpers += 1
    for _ in range(helpers):
        _tasks.put(task)


@intrinsic
def _peek(context: Any, flags: Any, at: Any) -> Any:
    """``flags[at]``, read anew each time: of a plain read in a loop the compiler makes one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load_atomic(place, "monotonic", 8)

    return types.int64(flags, at), generate


@jit
def watch(flags, n, turns):  # type: ignore[no-untyped-def]
    """Returns when ``flags[:n]`` (int64) are all raised, or after so many looks."""
    seen = last = 0
    for turn in range(turns):
        if seen < n and _peek(flags, seen) != 0:
            seen, last = seen + 1, turn
        if seen == n and turn >= last + LINGER * (n > 0):
            break


def split_work(task: Callable[[int, int], object], size: int, threads: int, least: int = 1) -> None:
    """Calls ``task(begin, end)`` over pieces of ``range(size)``, in this process's threads when there is
    enough to share.

    Not by concurrent.futures: what is shared here often takes half a millisecond, and a future's locks some 40 µs of
    it."""
    pieces = min(threads * 4, size // max(1, least))
    if threads <= 1 or pieces <= 1:
        if size:
            task(0, size)
        return
    edges = [size * i // pieces for i in range(pieces + 1)]
    next_piece, helpers = itertools.count(), min(threads, pieces) - 1  # a count's steps are atomic
    place, here, finished = itertools.count(), this_processor(), np.zeros(helpers, dtype=np.int64)
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        while (i := next(next_piece)) < pieces:
            task(edges[i], edges[i + 1])

    def help_out() -> None:
        if (mine := next(place)) >= helpers:
            return  # the caller has gone
        try:
            step_aside(here)
            work()
        except BaseException as error:  # the caller's to raise
            ended.put(error)
        else:
            ended.put(None)
        finished[mine] = 1

    # The caller works too: waking a thread and being woken by it takes longer than a small piece.
    _ask(help_out, helpers)
    try:
        work()
    finally:
        # Those that have not begun by now have nothing left to do, and must not begin.
        begun = helpers - sum(next(place) < helpers for _ in range(helpers))
        watch(finished, begun, TURNS)
        errors = [error for error in (ended.get() for _ in range(begun)) if error is not None]
    if errors:
        raise errors[0]


class ReadWriteLock:
    """Any number of readers, or one writer; a waiting writer goes first; made anew in a forked child, where
    the parent's holders do not exist. A thread must not ask twice."""

    def __init__(self) -> None:
        self._unfinished: str | None = None
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0

    def _mine(self) -> threading.Condition:
        if self._pid != os.getpid():
            self._reset()
        return self._condition

    def reading(self) -> _Reading:
        """Held while arrays are read."""
        return _Reading(self)

    def _enter(self) -> threading.Condition:
        condition = self._mine()
        with condition:
            while self._writing or self._waiting:
                condition.wait()
            self._readers += 1
        return condition

    def _leave(self, condition: threading.Condition) -> None:
        with condition:
            self._readers -= 1
            if self._waiting and not self._readers:
                condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Held while arrays change: alone."""
        condition = self._mine()
        with condition:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    condition.wait()
                self._writing = True
            finally:
                self._waiting -= 1
        try:
            self._check_whole()
            yield
        finally:
            with condition:
                self._writing = False
                condition.notify_all()

    @contextmanager
    def changing(self, what: str) -> Iterator[None]:
        """Held by a writer once nothing it was asked for can be refused any more. If the end of the block is not
        reached (Ctrl-C, no memory), the arrays do not belong together, and every later call is refused."""
        self._unfinished = what
        yield
        self._unfinished = None

    def _check_whole(self) -> None:
        if self._unfinished is not None:
            raise RuntimeError(
                f"{self._unfinished} was broken off half-way, and the index is no longer whole: load it, or build it "
                "anew."
            )


class _Reading:
    """`ReadWriteLock.reading`: a class, as a generator takes several microseconds longer to enter and to leave."""

    __slots__ = ("_condition", "_lock")

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._condition = self._lock._enter()
        try:
            self._lock._check_whole()
        except BaseException:
            self._lock._leave(self._condition)
            raise

    def __exit__(self, *_: object) -> None:
        self._lock._leave(self._condition)
