"""Datasets made from (anchor, positive) text pairs of Hugging Face ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hardwood.data._judgements import Judgements
from hardwood.data._table import TextTable, TextTableBuilder
from hardwood.errors import DataError

_BATCH = 65536


def tables_from_pairs(
    splits: Mapping[str, Any], anchor: str, positive: str
) -> tuple[TextTable, TextTable, dict[str, Judgements]]:
    """Corpus, queries and splits from datasets by split name; rows are in order of first appearance."""
    sides = {
        column: {name: text_column(name, data, column) for name, data in splits.items()}
        for column in (anchor, positive)
    }
    query_texts, target_texts = (_distinct(list(sides[column].values())) for column in (anchor, positive))
    judgements = {}
    for name in splits:
        query_rows, target_rows = (
            np.asarray(pc.index_in(sides[column][name], value_set=texts), dtype=np.int64)
            for column, texts in ((anchor, query_texts), (positive, target_texts))
        )
        query_rows, target_rows = _without_repeats(query_rows, target_rows)
        judgements[name] = Judgements.from_triples(query_rows, target_rows, np.ones(len(query_rows), dtype=np.int32))
    return _numbered(target_texts, "t"), _numbered(query_texts, "q"), judgements


def text_column(split: str, data: Any, column: str) -> pa.ChunkedArray:
    """A text column, stripped, as one chunked array; read in batches that respect the dataset's selection."""
    if column not in data.column_names:
        raise DataError(f"split {split!r} has no column {column!r}; it has {', '.join(data.column_names)}")
    chunks = []
    rows = 0
    for batch in data.select_columns([column]).with_format("arrow").iter(_BATCH):
        values = batch.column(column)
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise DataError(f"column {column!r} of split {split!r} holds {values.type}, not strings")
        values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        empty = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(values, ""), True)))
        if empty.size:
            raise DataError(f"row {rows + int(empty[0])} of split {split!r} has an empty {column!r}")
        chunks.extend(values.chunks)
        rows += len(values)
    if not rows:
        raise DataError(f"split {split!r} has no rows; leave it out")
    return pa.chunked_array(chunks, type=pa.large_string())


def _distinct(columns: list[pa.ChunkedArray]) -> pa.Array:
    return pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks]))


def _without_repeats(
    queries: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.lexsort((targets, queries))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(queries[order]) != 0) | (np.diff(targets[order]) != 0)
    keep = np.sort(order[fresh])
    return queries[keep], targets[keep]


def _numbered(texts: pa.Array, letter: str) -> TextTable:
    builder = TextTableBuilder()
    for start in range(0, len(texts), _BATCH):
        part = texts.slice(start, _BATCH)
        ids = [f"{letter}{row}" for row in range(start, start + len(part))]
        builder.add(ids, [""] * len(part), part)
    return builder.finish()
