"""BEIR folders, read line by line into Arrow batches and checked on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood.data._judgements import Judgements
from hardwood.data._lines import find_file, line_of_record, numbered_lines
from hardwood.data._table import TextTable, TextTableBuilder
from hardwood.errors import DataError

BATCH_ROWS = 8192  # Python objects alive at a time
_NAMES = ("_id", "title", "text")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_INT32 = np.iinfo(np.int32)
_UNNAMEABLE = re.compile(r"[\t\r\n]")  # an id with one of these can't stand in a qrels file
_QRELS_SUFFIXES = (".tsv", ".tsv.gz")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one that says twice what its id or text is says nothing."""
    members = dict(pairs)
    if len(members) < len(pairs):
        for name in _NAMES:
            if sum(name == other for other, _ in pairs) > 1:
                raise ValueError(f"it has two {name}")
    return members


_JSON = json.JSONDecoder(object_pairs_hook=_members)


def read_table(path: Path, what: str, titles: bool) -> TextTable:
    """A ``corpus.jsonl`` or ``queries.jsonl``; ``what`` ("target", "query") is for messages.

    Raises:
        DataError: naming the line, for every way in which a line can be wrong.
    """
    builder = TextTableBuilder()
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

    for number, line in numbered_lines(path):
        rows.append(_parse_record(line, path, number, titles))
        lines.append(number)
        if len(rows) == BATCH_ROWS:
            flush()
    flush()
    table = builder.finish()
    if not len(table):
        raise DataError(f"the file holds no {what}; it needs at least one line", path)
    if (pair := table.first_duplicate()) is not None:
        first, second = (line_of_record(path, row) for row in pair)
        raise DataError(f"the _id {table.ids([pair[1]])[0]!r} is already on line {first}", path, second)
    return table


def find_qrels(folder: Path, splits: Sequence[str] | None) -> dict[str, Path]:
    """The qrels files by split name; only ``splits`` where given, in that order."""
    qrels = folder / "qrels"
    if not qrels.is_dir():
        raise DataError("there is no such folder; a dataset needs one with a SPLIT.tsv for every split", qrels)
    names = sorted(
        {
            path.name.removesuffix(".gz").removesuffix(".tsv")
            for path in qrels.iterdir()
            if path.name.endswith(_QRELS_SUFFIXES) and not path.name.startswith(".")
        }
    )
    if not names:
        raise DataError("the folder holds no SPLIT.tsv; it needs one for every split", qrels)
    for name in names if splits is None else splits:
        if name not in names:
            raise DataError(f"there is no split {name!r}; the folder has {', '.join(names)}", qrels)
    return {name: find_file(qrels, f"{name}.tsv") for name in (names if splits is None else splits)}


def read_qrels(path: Path, queries: TextTable, corpus: TextTable) -> Judgements:
    """One qrels file: tab-separated query id, target id and integer score, with or without a header.

    Raises:
        DataError: naming the line, for every way in which a line can be wrong.
    """
    query_ids, target_ids, grades, header = _parse_qrels(path)

    def at(row: int) -> int:
        return line_of_record(path, row + header)

    query_rows, target_rows = queries.find(query_ids), corpus.find(target_ids)
    for rows, ids, where in ((query_rows, query_ids, "queries"), (target_rows, target_ids, "corpus")):
        if (unknown := np.flatnonzero(rows < 0)).size:
            row = int(unknown[0])
            raise DataError(f"the id {ids[row].as_py()!r} is not in {where}.jsonl", path, at(row))
    if (pair := _first_repeat(query_rows, target_rows)) is not None:
        raise DataError(f"this pair is already judged on line {at(pair[0])}", path, at(pair[1]))
    judgements = Judgements.from_triples(query_rows, target_rows, grades)
    without = np.flatnonzero(~np.isin(query_rows, judgements.queries))
    if without.size:
        row = int(without[0])
        raise DataError(
            f"the query {query_ids[row].as_py()!r} has no target with a score above 0 in this file",
            path,
            at(row),
        )
    return judgements


def check_all_judged(queries: TextTable, splits: dict[str, Judgements], path: Path) -> None:
    """``DataError`` for the first query that no split judges."""
    judged = np.zeros(len(queries), dtype=bool)
    for judgements in splits.values():
        judged[judgements.queries] = True
    unjudged = np.flatnonzero(~judged)
    if unjudged.size:
        row = int(unjudged[0])
        raise DataError(
            f"the query {queries.ids([row])[0]!r} has no target in any split ({unjudged.size:,} such); "
            'judge or remove them, or leave them unused with unjudged="ignore" (--ignore-unjudged)',
            path,
            line_of_record(path, row),
        )


def _parse_record(line: str, path: Path, number: int, titles: bool) -> tuple[str, str, str]:
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
    if not isinstance(text, str):
        problem = f"has a {_kind(text)} as text" if "text" in record else "has no text"
        raise DataError(f"this line {problem}; it must be a string", path, number)
    title = (record.get("title") if titles else None) or ""
    if not isinstance(title, str):
        raise DataError(f"this line has a {_kind(title)} as title; it must be a string", path, number)
    if not text.strip() and not title.strip():
        raise DataError(f"{identifier!r} has an empty text{' and no title' if titles else ''}", path, number)
    return identifier, title, text


def _parse_qrels(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray, NDArray[np.int32], bool]:
    queries: list[str] = []
    targets: list[str] = []
    grades: list[int] = []
    batches: list[tuple[pa.Array, pa.Array, NDArray[np.int32]]] = []

    def flush() -> None:
        large = pa.large_string()
        batches.append((pa.array(queries, large), pa.array(targets, large), np.array(grades, dtype=np.int32)))
        for column in (queries, targets, grades):
            column.clear()

    header, first = False, True
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(
                f"this line has {len(fields)} tab-separated columns, not 3 (query-id, corpus-id, score)",
                path,
                number,
            )
        score = fields[2].strip()
        if first and _is_header(fields):
            header, first = True, False
            continue
        first = False
        if not _INTEGER.fullmatch(score) or len(score) > 11 or not _INT32.min <= int(score) <= _INT32.max:
            raise DataError(f"the score {fields[2]!r} is not an integer of 32 bits", path, number)
        queries.append(fields[0])
        targets.append(fields[1])
        grades.append(int(score))
        if len(grades) == BATCH_ROWS:
            flush()
    flush()
    query_arrays, target_arrays, grade_arrays = zip(*batches, strict=True)
    all_grades = np.concatenate(grade_arrays)
    if not len(all_grades):
        raise DataError("the split is empty; give it at least one line, or remove the file", path)
    return pa.chunked_array(query_arrays), pa.chunked_array(target_arrays), all_grades, header


def _is_header(fields: list[str]) -> bool:
    return not _INTEGER.fullmatch(fields[2].strip()) and (
        fields[2].strip().lower() in {"score", "relevance", "rel", "label", "grade"}
        or fields[0].strip().lower() in {"query-id", "query_id", "qid", "query"}
    )


def _first_repeat(queries: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[int, int] | None:
    order = np.lexsort((targets, queries))  # stable: repeats stay in file order
    queries, targets = queries[order], targets[order]
    repeats = np.flatnonzero((queries[1:] == queries[:-1]) & (targets[1:] == targets[:-1]))
    if not repeats.size:
        return None
    earliest = repeats[np.argmin(order[repeats + 1])]
    return int(order[earliest]), int(order[earliest + 1])


def _is_unicode(row: tuple[str, ...]) -> bool:
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
