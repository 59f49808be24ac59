"""A sign of life while something takes long: on a terminal what is done and for how long, elsewhere one line.

For work that has no count of steps to show; where there is one, `hardwood._progress.progress_bar` shows it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["end_sign", "waiting"]

SECONDS = 5.0
"""What is done sooner needs no sign."""
_under_way: list[_Sign] = []


@contextmanager
def waiting(doing: str, show: bool = True) -> Iterator[None]:
    """Say on stderr what the block within does, once it takes long; nothing is left of it on a terminal.

    Of several processes (torchrun) the first one says it.

    Args:
        doing: such as ``"Saving checkpoint-800"``.
        show: ``False``: say nothing.
    """
    if not show or os.environ.get("RANK", "0") != "0":
        yield
        return
    sign = _Sign(doing)
    timer = threading.Timer(SECONDS, sign.show)
    timer.daemon = True
    _under_way.append(sign)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        sign.end()
        _under_way.remove(sign)


def end_sign() -> None:
    """Make room for a bar, which says more: two at a time would write over each other."""
    for sign in _under_way:
        sign.end()


class _Sign:
    """What is shown, by a timer's thread, and taken away again, by the thread that waits."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._progress: Any = None
        self._ended = False
        self._lock = threading.Lock()

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        with self._lock:
            if self._ended:
                return
            if not console.is_terminal:
                sys.stderr.write(f"{self._doing} ...\n")
                sys.stderr.flush()
                return
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self._progress = Progress(*columns, console=console, transient=True)
            self._progress.add_task(self._doing, total=None)
            self._progress.start()

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._progress is not None:
                self._progress.stop()
                self._progress = None
