"""Work beside the accelerator's: on the host, while the backward pass runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent import futures
from weakref import WeakSet


class Beside:
    """One piece of work at a time in a thread of its own.

    Whoever started it waits before touching what it changes: so the same things happen in the same order as without a
    thread, and a run can be repeated. A process that forks waits too, since its child has no such thread; a copy has
    nothing to do.
    """

    def __init__(self) -> None:
        self._thread: futures.ThreadPoolExecutor | None = None
        self._work: futures.Future[None] | None = None
        _THERE.add(self)

    def start(self, work: Callable[[], None]) -> None:
        """Begin ``work``; the last one is waited for."""
        self.wait()
        if self._thread is None:
            self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="hardwood-beside")
        self._work = self._thread.submit(work)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to wait for."""
        return self._work is not None

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises:
            Exception: what the work raised, once.
        """
        if self._work is None:
            return
        futures.wait([self._work])  # whoever is interrupted here must be able to wait again
        work, self._work = self._work, None
        work.result()

    def __reduce__(self) -> tuple[type[Beside], tuple[()]]:
        return Beside, ()


_THERE: WeakSet[Beside] = WeakSet()


def _finish_all() -> None:
    futures.wait([beside._work for beside in _THERE if beside._work is not None])


def _start_over_in_child() -> None:
    for beside in _THERE:
        beside._thread = None


if hasattr(os, "register_at_fork"):  # not on Windows, which can't fork
    os.register_at_fork(before=_finish_all, after_in_child=_start_over_in_child)
