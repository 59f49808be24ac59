"""The options by which every command names its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA_HELP = "BEIR folder, table of pairs (.csv, .tsv, .jsonl, .parquet), datasets folder, or OWNER/NAME on the hub."

_COLUMNS = "Pairs of texts"

Source = Annotated[str, typer.Argument(help=DATA_HELP, show_default=False)]
Query = Annotated[str | None, typer.Option(help="Column of the queries.", rich_help_panel=_COLUMNS)]
Positive = Annotated[str | None, typer.Option(help="Column of the targets that answer them.", rich_help_panel=_COLUMNS)]
Corpus = Annotated[
    Path | None, typer.Option(help="Table of all targets, those without a pair too.", rich_help_panel=_COLUMNS)
]
CorpusColumn = Annotated[str | None, typer.Option(help="Its column of texts.", rich_help_panel=_COLUMNS)]
TestShare = Annotated[
    float | None,
    typer.Option(help="Targets held out as a test where the data has none; 0: none. [0.1]", rich_help_panel=_COLUMNS),
]
IgnoreUnjudged = Annotated[bool, typer.Option(help="Accept queries that no split judges.")]
Lenient = Annotated[bool, typer.Option(help="Leave out what is broken in the data, and count it.")]
