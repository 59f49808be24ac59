"""The command and its parts."""

from __future__ import annotations

import typer

from hardwood._version import __version__
from hardwood.cli import data, doctor, evaluate, mine, report, train

app = typer.Typer(
    name="hardwood",
    help="Train dual encoders against the whole corpus.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(train.compare)
app.command()(evaluate.evaluate)
app.command()(mine.mine)
app.command()(report.report)
app.command()(report.clean)
app.command()(doctor.doctor)


@app.callback(invoke_without_command=True)
def _global(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``hardwood`` command."""
    app()
