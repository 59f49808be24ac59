"""Errors a user can mend are one line on stderr and exit code 2; everything else is a bug and shows its traceback."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

P = ParamSpec("P")
R = TypeVar("R")

DEBUG = "HARDWOOD_DEBUG"


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show ``ValueError``, ``OSError``, ``ImportError`` and ``RuntimeError`` of a command by their message alone.

    Set ``HARDWOOD_DEBUG=1`` to see where they came from.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            # typer's own exits are RuntimeErrors with an exit code; they are no errors of ours.
            if isinstance(error, typer.Exit) or os.environ.get(DEBUG):
                raise
            Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error

    return wrapped
