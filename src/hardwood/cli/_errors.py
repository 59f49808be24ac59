"""What goes wrong is one line on stderr and an exit code; where it went wrong is shown on request.

Exit code 2: what a user can mend (``ValueError``, ``OSError``, ``ImportError``, ``RuntimeError``, memory that ran out).
1: anything else, such as an error inside an encoder, with its place. 130 and 143: stopped by Ctrl-C (SIGINT), SIGTERM.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

P = ParamSpec("P")
R = TypeVar("R")

DEBUG = "HARDWOOD_DEBUG"
_MENDABLE = (ValueError, OSError, ImportError, RuntimeError, MemoryError)


class _Terminated(BaseException):
    """SIGTERM, so that what is half-written is cleared away before the process ends."""


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show a command's errors by their message alone.

    Set ``HARDWOOD_DEBUG=1`` to see where they came from.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _terminated_by_exception():
                return command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _show("interrupted", error)
            raise typer.Exit(128 + signal.SIGINT) from error
        except _Terminated as error:
            _show("terminated (SIGTERM)", error)
            raise typer.Exit(128 + signal.SIGTERM) from error
        except Exception as error:
            if _is_typers_own(error) or os.environ.get(DEBUG):
                raise
            _show(f"error: {_said(error)}", error)
            raise typer.Exit(2 if isinstance(error, _MENDABLE) else 1) from error

    return wrapped


def _said(error: Exception) -> str:
    """The message on one line; of an unforeseen error, its kind and place too."""
    text = error.strerror if isinstance(error, OSError) and error.filename is None and error.strerror else str(error)
    message = " ".join(line.strip() for line in text.splitlines() if line.strip())
    if _is_out_of_memory(error):
        return f"out of memory: {message or type(error).__name__}"
    if isinstance(error, _MENDABLE):
        return message or type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {message} ({place.filename}, line {place.lineno}; {DEBUG}=1 shows the way there)"


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's own, for accelerators, is a RuntimeError by that name; on the CPU it has no name.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _is_typers_own(error: Exception) -> bool:
    """Exits and complaints about options, which typer shows itself."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message")


def _show(message: str, error: BaseException) -> None:
    console = Console(stderr=True)
    head, colon, rest = message.partition(": ")
    console.print(f"[bold red]{head}{colon}[/]{escape(rest)}", highlight=False, soft_wrap=True)
    for note in getattr(error, "__notes__", []):
        console.print(escape(note), highlight=False, soft_wrap=True)


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
