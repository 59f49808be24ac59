"""``hardwood doctor``."""

from __future__ import annotations

import typer
from rich.console import Console

from hardwood.cli._errors import user_errors


@user_errors
def doctor() -> None:
    """Say what runs will find on this machine, and what to mend. Ends with 1 if something would make them fail."""
    from hardwood.doctor import examine

    console = Console(highlight=False, soft_wrap=True)
    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        style = "red" if finding.is_error else "yellow" if finding.advice else None
        console.print(f"{finding.name:<{width}}  {finding.value}", style=style, markup=False)
        if finding.advice:
            console.print(f"{'':<{width}}  -> {finding.advice}", style=style, markup=False)
    if any(finding.is_error for finding in findings):
        raise typer.Exit(1)
