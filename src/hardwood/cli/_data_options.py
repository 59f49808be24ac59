"""The options by which every command names its data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset

DATA_HELP = "BEIR folder, table of pairs (.csv, .tsv, .jsonl, .parquet), datasets folder, or OWNER/NAME on the hub."

COLUMNS = "Pairs of texts"

Source = Annotated[str, typer.Argument(help=DATA_HELP, show_default=False)]
TestShare = Annotated[
    float | None,
    typer.Option(help="Targets held out as a test where the data has none; 0: none. [0.1]", rich_help_panel=COLUMNS),
]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What of a table is what, and how it is read."""

    query: Annotated[str | None, typer.Option(help="Column of the queries.", rich_help_panel=COLUMNS)] = None
    positive: Annotated[
        str | None, typer.Option(help="Column of the targets that answer them.", rich_help_panel=COLUMNS)
    ] = None
    corpus: Annotated[
        Path | None, typer.Option(help="Table of all targets, those without a pair too.", rich_help_panel=COLUMNS)
    ] = None
    corpus_column: Annotated[str | None, typer.Option(help="Its column of texts.", rich_help_panel=COLUMNS)] = None

    def read(self, data: str, **settings: Any) -> RetrievalDataset:
        """`hardwood.data.read_dataset` of these columns; ``settings`` are its other arguments."""
        from hardwood.data import read_dataset

        return read_dataset(data, **{field.name: getattr(self, field.name) for field in fields(Columns)}, **settings)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Columns):
    """The same, and what is done about data that is not as it should be."""

    ignore_unjudged: Annotated[bool, typer.Option(help="Accept queries that no split judges.")] = False
    lenient: Annotated[bool, typer.Option(help="Leave out what is broken in the data, and count it.")] = False

    def read(self, data: str, **settings: Any) -> RetrievalDataset:
        """The same, with what these options allow."""
        unjudged = "ignore" if self.ignore_unjudged else "error"
        return super().read(data, unjudged=unjudged, lenient=self.lenient, **settings)
