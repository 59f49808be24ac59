"""Work beside the accelerator's: on the host, while the backward pass runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """One piece of work at a time in a thread of its own.

    Whoever started it waits before touching what it changes: so the same things happen in the same order as without a
    thread, and a run can be repeated.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin ``work``; the last one is waited for."""
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="hardwood-beside")
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
        work, self._work = self._work, None
        if work is not None:
            work.result()
