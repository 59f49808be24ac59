"""The files that a report is made of, and the texts that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardwood.data import TextTable

TRACE, LOG, METRICS, RUN_FILE = "trace.json", "log.json", "metrics.json", "run.yaml"
SUSPECTS = "suspected_false_negatives.jsonl"
FORMAT, VERSION = "hardwood-trace", 1
MOST_BYTES = 5_000_000


class Named:
    """Rows of a table that a file mentions: each is written once, and named by its place after that.

    Args:
        table: of queries or targets.
        length: characters of a text at most; 0: ids alone.
    """

    def __init__(self, table: TextTable, length: int) -> None:
        self._table, self._length = table, length
        self._places: dict[int, int] = {}

    def place(self, row: int) -> int:
        """The place of a row in `content`."""
        return self._places.setdefault(int(row), len(self._places))

    def content(self) -> list[list[str]]:
        """``[id, text]`` of each row that was mentioned, in the order of their places; ``[id]`` without texts."""
        rows = list(self._places)
        if not rows:
            return []
        if not self._length:
            return [[one] for one in self._table.ids(rows)]
        texts = (shortened(text, self._length) for text in self._table.texts(rows))
        return [[one, text] for one, text in zip(self._table.ids(rows), texts, strict=True)]


def shortened(text: str, length: int) -> str:
    """The beginning of a text, with an ellipsis where anything is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def place_of(entry: list[Any]) -> str:
    """What to call a row of `Named.content`: its text, or its id where there is none."""
    return str(entry[1]) if len(entry) > 1 else str(entry[0])
