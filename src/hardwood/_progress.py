"""A bar on stderr for what takes a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hardwood._waiting import end_sign


@contextmanager
def progress_bar(description: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with count, rate and remaining time; gives the function that advances it.

    Args:
        description: what is being done.
        total: how many steps it takes.
        show: None for only where stderr is a terminal.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    end_sign()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, rate="")

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, rate="" if speed is None else f"{speed:,.0f}/s")

        yield advance
