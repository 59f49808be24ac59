"""Qrels: which targets answer which queries, in tab-separated files that are checked while they are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood.data.files.beir_lines import BATCH_ROWS
from hardwood.data.files.left_out import (
    LENIENT,
    MISSING_POSITIVE,
    NO_POSITIVE_THERE,
    NOT_POSITIVE,
    OF_MISSING_QUERY,
    OF_MISSING_TARGET,
    REPEATED,
)
from hardwood.data.files.lines import find_file, line_of_record, numbered_lines
from hardwood.data.records.judgements import Judgements
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError

_INTEGER = re.compile(r"([+-]?[0-9]+)(\.0*)?")  # pandas writes 1 as 1.0 where another score is missing
_INT32 = np.iinfo(np.int32)
_SUFFIXES = (".tsv", ".tsv.gz")
_QUERY, _TARGET, _SCORE = COLUMNS = ("query-id", "corpus-id", "score")
_NAMES = {
    _QUERY: {"query-id", "queryid", "qid", "query", "topic"},
    _TARGET: {"corpus-id", "corpusid", "doc-id", "docid", "document-id", "passage-id", "did", "pid", "doc", "document"},
    _SCORE: {"score", "relevance", "rel", "label", "grade"},
}
"""What headers call the columns, with hyphens for underscores."""


def find_qrels(folder: Path, splits: Sequence[str] | None) -> dict[str, Path]:
    """The qrels files by split name; only ``splits`` where given, in that order."""
    qrels = folder / "qrels"
    if not qrels.is_dir():
        raise DataError("there is no such folder; a dataset needs one with a SPLIT.tsv for every split", qrels)
    names = sorted(
        {
            path.name.removesuffix(".gz").removesuffix(".tsv")
            for path in qrels.iterdir()
            if path.name.endswith(_SUFFIXES) and not path.name.startswith(".")
        }
    )
    if not names:
        raise DataError("the folder holds no SPLIT.tsv; it needs one for every split", qrels)
    for name in names if splits is None else splits:
        if name not in names:
            raise DataError(f"there is no split {name!r}; the folder has {', '.join(names)}", qrels)
    return {name: find_file(qrels, f"{name}.tsv") for name in (names if splits is None else splits)}


def read_qrels(path: Path, queries: TextTable, corpus: TextTable, left_out: Counter[str] | None = None) -> Judgements:
    """One qrels file: tab-separated query id, target id and integer score, with or without a header.

    A header may name the columns in another order. ``1.0`` is an integer too.

    Args:
        path: the file.
        queries: their ids count.
        corpus: its ids count.
        left_out: counts by kind what is broken; None: whatever is broken is an error.

    Raises:
        DataError: naming the line, for every way in which a line can be wrong.
    """
    query_ids, target_ids, grades, header = _parse(path)
    query_rows, target_rows = queries.find(query_ids), corpus.find(target_ids)

    def at(row: int) -> int:
        return line_of_record(path, row + header)

    if left_out is None:
        for rows, ids, where in ((query_rows, query_ids, "queries"), (target_rows, target_ids, "corpus")):
            if (unknown := np.flatnonzero(rows < 0)).size:
                row = int(unknown[0])
                raise DataError(f"the id {ids[row].as_py()!r} is not in {where}.jsonl{LENIENT}", path, at(row))
    target_rows = _numbered(target_rows, target_ids)
    kept = np.arange(len(grades)) if left_out is None else _usable(query_rows, target_rows, grades, left_out)
    if (pair := _first_repeat(query_rows[kept], target_rows[kept])) is not None:
        first, second = kept[list(pair)].tolist()
        raise DataError(f"this pair is already judged on line {at(first)}", path, at(second))
    missing_ids = target_ids.take(pa.array(kept[target_rows[kept] < 0])).to_pylist()
    judgements = Judgements.from_triples(query_rows[kept], target_rows[kept], grades[kept], missing_ids)
    without = kept[~np.isin(query_rows[kept], judgements.queries)]
    if left_out is not None:
        left_out[NOT_POSITIVE] += len(np.unique(query_rows[without]))
        left_out[NO_POSITIVE_THERE] += int((judgements.positives.counts == 0).sum())
        if not len(judgements):
            raise DataError("nothing is left of this split: no score above 0 is one of a query that there is", path)
    elif without.size:
        row = int(without[0])
        raise DataError(
            f"the query {query_ids[row].as_py()!r} has no target with a score above 0 in this file{LENIENT}",
            path,
            at(row),
        )
    return judgements


def _numbered(target_rows: NDArray[np.int64], target_ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """The rows, with a negative number of its own for each id that has none."""
    missing = np.flatnonzero(target_rows < 0)
    if not missing.size:
        return target_rows
    numbered = target_rows.copy()
    codes = target_ids.take(pa.array(missing)).combine_chunks().dictionary_encode().indices
    numbered[missing] = -1 - np.asarray(codes, dtype=np.int64)
    return numbered


def _usable(
    query_rows: NDArray[np.int64], target_rows: NDArray[np.int64], grades: NDArray[np.int32], left_out: Counter[str]
) -> NDArray[np.int64]:
    """The places of the judgements that can be used, missing positives among them; counts the others."""
    has_query, has_target, is_positive = query_rows >= 0, target_rows >= 0, grades > 0
    left_out[OF_MISSING_QUERY] += int((~has_query).sum())
    left_out[OF_MISSING_TARGET] += int((has_query & ~has_target & ~is_positive).sum())
    kept = np.flatnonzero(has_query & (has_target | is_positive))
    judgements = np.stack([query_rows[kept], target_rows[kept], grades[kept]])
    _, first = np.unique(judgements, axis=1, return_index=True)
    left_out[REPEATED] += len(kept) - len(first)
    kept = kept[np.sort(first)]
    left_out[MISSING_POSITIVE] += int((target_rows[kept] < 0).sum())
    return kept


def _parse(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray, NDArray[np.int32], bool]:
    """Query ids, target ids and grades of all lines, and whether there is a header."""
    queries: list[str] = []
    targets: list[str] = []
    grades: list[int] = []
    batches: list[tuple[pa.Array, pa.Array, NDArray[np.int32]]] = []

    def flush() -> None:
        large = pa.large_string()
        batches.append((pa.array(queries, large), pa.array(targets, large), np.array(grades, dtype=np.int32)))
        for column in (queries, targets, grades):
            column.clear()

    order: tuple[int, ...] | None = None
    header = False
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(
                f"this line has {len(fields)} tab-separated columns, not 3 ({', '.join(COLUMNS)})", path, number
            )
        if order is None:
            named = _header(fields, path, number)
            order, header = named or (0, 1, 2), named is not None
            if header:
                continue
        query, target, score = (fields[place] for place in order)
        integer = _INTEGER.fullmatch(score.strip())
        if integer is None or len(integer[1]) > 11 or not _INT32.min <= int(integer[1]) <= _INT32.max:
            raise DataError(f"the score {score!r} is not an integer of 32 bits", path, number)
        queries.append(query)
        targets.append(target)
        grades.append(int(integer[1]))
        if len(grades) == BATCH_ROWS:
            flush()
    flush()
    query_arrays, target_arrays, grade_arrays = zip(*batches, strict=True)
    all_grades = np.concatenate(grade_arrays)
    if not len(all_grades):
        raise DataError("the split is empty; give it at least one line, or remove the file", path)
    return pa.chunked_array(query_arrays), pa.chunked_array(target_arrays), all_grades, header


def _header(fields: list[str], path: Path, number: int) -> tuple[int, ...] | None:
    """The places of query id, target id and score that a first line names; None where it is no header.

    A name that isn't known is taken for what is left.
    """
    if _INTEGER.fullmatch(fields[2].strip()):
        return None
    names = [field.strip().lower().replace("_", "-") for field in fields]
    roles = [next((role for role in COLUMNS if name in _NAMES[role]), None) for name in names]
    known = [role for role in roles if role is not None]
    if not known:
        return None
    if len(set(known)) < len(known):
        raise DataError(
            f"the header {fields} names a column twice; it must name {', '.join(COLUMNS)}, in any order", path, number
        )
    rest = (role for role in COLUMNS if role not in known)
    return tuple(map([role or next(rest) for role in roles].index, COLUMNS))


def _first_repeat(queries: NDArray[np.int64], targets: NDArray[np.int64]) -> tuple[int, int] | None:
    order = np.lexsort((targets, queries))  # stable: repeats stay in file order
    queries, targets = queries[order], targets[order]
    repeats = np.flatnonzero((queries[1:] == queries[:-1]) & (targets[1:] == targets[:-1]))
    if not repeats.size:
        return None
    earliest = repeats[np.argmin(order[repeats + 1])]
    return int(order[earliest]), int(order[earliest + 1])
