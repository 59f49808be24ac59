"""Corpora and queries of BEIR folders, read line by line into Arrow batches and checked on the way."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.data.files.left_out import LENIENT, NO_QUERY_TEXT, NO_TARGET_TEXT
from hardwood.data.files.lines import line_of_record, numbered_lines
from hardwood.data.records.table import TextTable, TextTableBuilder
from hardwood.errors import DataError

BATCH_ROWS = 8192  # Python objects alive at a time
_NAMES = ("_id", "title", "text")
_UNNAMEABLE = re.compile(r"[\t\r\n]")  # an id with one of these can't stand in a qrels file


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one that says twice what its id or text is says nothing."""
    members = dict(pairs)
    if len(members) < len(pairs):
        for name in _NAMES:
            if sum(name == other for other, _ in pairs) > 1:
                raise ValueError(f"it has two {name}")
    return members


_JSON = json.JSONDecoder(object_pairs_hook=_members)


def read_table(
    path: Path,
    what: str,
    titles: bool,
    left_out: Counter[str] | None = None,
    builder: TextTableBuilder | None = None,
    advance: Callable[[int], None] | None = None,
) -> TextTable:
    """A ``corpus.jsonl`` or ``queries.jsonl``.

    Args:
        path: the file.
        what: "target" or "query", for messages.
        titles: whether a row may have a title.
        left_out: counts the rows without a text, which are left out; None: they are errors.
        builder: makes the table; None: one in memory.
        advance: see `numbered_lines`.

    Raises:
        DataError: naming the line, for every way in which a line can be wrong.
    """
    builder = TextTableBuilder() if builder is None else builder
    lines: list[int] = []
    rows: list[tuple[str, str, str]] = []

    def flush() -> None:
        if rows:
            try:
                builder.add(*zip(*rows, strict=True))
            except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which no UTF-8 text can hold
                bad = next(line for line, row in zip(lines, rows, strict=True) if not _is_unicode(row))
                raise DataError("a lone surrogate escape (\\ud800 to \\udfff) is no text", path, bad) from None
            lines.clear()
            rows.clear()

    skipped: list[int] = []
    for place, (number, line) in enumerate(numbered_lines(path, advance)):
        record = _parse_record(line, path, number, titles, lenient=left_out is not None)
        if record is None:
            skipped.append(place)
            continue
        rows.append(record)
        lines.append(number)
        if len(rows) == BATCH_ROWS:
            flush()
    flush()
    table = builder.finish()
    if left_out is not None:
        left_out[NO_TARGET_TEXT if titles else NO_QUERY_TEXT] += len(skipped)
    if not len(table):
        raise DataError(f"the file holds no {what}; it needs at least one line", path)
    if (pair := table.first_duplicate()) is not None:
        places = np.delete(np.arange(len(table) + len(skipped)), skipped)
        first, second = (line_of_record(path, int(places[row])) for row in pair)
        raise DataError(f"the _id {table.ids([pair[1]])[0]!r} is already on line {first}", path, second)
    return table


def check_all_used(queries: TextTable, used: Iterable[NDArray[np.int64]], path: Path) -> None:
    """``DataError`` for the first query that none of ``used``, rows of splits, has."""
    judged = np.zeros(len(queries), dtype=bool)
    for rows in used:
        judged[rows] = True
    unjudged = np.flatnonzero(~judged)
    if unjudged.size:
        row = int(unjudged[0])
        raise DataError(
            f"the query {queries.ids([row])[0]!r} has no target in any split ({unjudged.size:,} such); "
            'judge or remove them, or leave them unused with unjudged="ignore" (--ignore-unjudged)',
            path,
            line_of_record(path, row),
        )


def _parse_record(line: str, path: Path, number: int, titles: bool, lenient: bool) -> tuple[str, str, str] | None:
    """Id, title and text; None, if lenient, where there is neither title nor text."""
    try:
        record: Any = _JSON.decode(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this line is not JSON: {error}", path, number) from error
    if not isinstance(record, dict):
        raise DataError(f"this line is a JSON {_kind(record)}, not an object", path, number)
    identifier = record.get("_id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str):
        problem = f"has a {_kind(identifier)} as _id" if "_id" in record else "has no _id"
        raise DataError(f"this line {problem}; it must be a string or an integer", path, number)
    if not identifier or identifier.isspace():
        raise DataError("this line has an empty _id", path, number)
    if _UNNAMEABLE.search(identifier):
        raise DataError(f"the _id {identifier!r} has a tab or line break, so no qrels can name it", path, number)
    text = record.get("text")
    if text is None and lenient:
        text = ""
    if not isinstance(text, str):
        problem = f"has a {_kind(text)} as text" if "text" in record else "has no text"
        raise DataError(f"this line {problem}; it must be a string", path, number)
    title = (record.get("title") if titles else None) or ""
    if not isinstance(title, str):
        raise DataError(f"this line has a {_kind(title)} as title; it must be a string", path, number)
    if not text.strip() and not title.strip():
        if lenient:
            return None
        raise DataError(f"{identifier!r} has an empty text{' and no title' if titles else ''}{LENIENT}", path, number)
    return identifier, title, text


def _is_unicode(row: tuple[str, ...]) -> bool:
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
