"""Datasets made from (anchor, positive) text pairs of Hugging Face ``datasets``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hardwood.data.records.judgements import Judgements
from hardwood.data.records.table import TextTable, TextTableBuilder
from hardwood.errors import DataError

_BATCH = 65536
_TEXT = pa.large_string()
LABELS = ("label", "labels", "score", "scores")  # as sentence-transformers' trainer knows them


def tables_from_pairs(
    splits: Mapping[str, Any], anchor: str, positive: str, corpus: Any = None
) -> tuple[TextTable, TextTable, dict[str, Judgements]]:
    """Corpus, queries and splits from datasets by split name; rows are in order of first appearance.

    Texts of ``corpus``, of a list or a dataset, follow those of the pairs. Warns of columns that are not used.
    """
    read = {name: _read(f"split {name!r}", data, anchor, positive) for name, data in splits.items()}
    unused: dict[str, list[str]] = {}
    for name, rows in read.items():
        for column in rows.unused:
            if corpus is None or not column.startswith("negative"):  # whose texts label_pairs looks up in the corpus
                unused.setdefault(column, []).append(name)
    if unused:
        listed = ", ".join(f"{column!r} ({', '.join(where)})" for column, where in unused.items())
        given = [
            f". For given negatives put their texts into the corpus (such as corpus=data[{column!r}]) and "
            "train on dataset.label_pairs(data)"
            for column in unused
            if column.startswith("negative")
        ]
        warnings.warn(
            f"pairs are made of the columns {anchor!r} and {positive!r}; these are not used: {listed}. Remove them to "
            f"say that this is meant{''.join(given[:1])}",
            stacklevel=3,
        )
    further = [] if corpus is None else [_corpus_texts(corpus, positive)]
    target_texts = _distinct([*(rows.targets for rows in read.values()), *further])
    pairs = {name: rows.pairs() for name, rows in read.items()}
    query_texts = _distinct([queries for queries, _ in pairs.values()])
    judgements = {}
    for name, texts in pairs.items():
        query_rows, target_rows = (
            np.asarray(pc.index_in(side, value_set=distinct), dtype=np.int64)
            for side, distinct in zip(texts, (query_texts, target_texts), strict=True)
        )
        query_rows, target_rows = _without_repeats(query_rows, target_rows)
        judgements[name] = Judgements.from_triples(query_rows, target_rows, np.ones(len(query_rows), dtype=np.int32))
    return _numbered(target_texts, "t"), _numbered(query_texts, "q"), judgements


class _Rows(NamedTuple):
    """One split's texts, which rows are positives (None: all), and the columns that are not used."""

    queries: pa.ChunkedArray
    targets: pa.ChunkedArray
    is_positive: NDArray[np.bool_] | None
    unused: list[str]

    def pairs(self) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Query and target of each positive."""
        if self.is_positive is None:
            return self.queries, self.targets
        mask = pa.array(self.is_positive)
        return self.queries.filter(mask), self.targets.filter(mask)


def _read(where: str, data: Any, anchor: str, positive: str) -> _Rows:
    names = column_names(where, data)
    _check_columns(where, names, (anchor, positive))
    labels = [column for column in LABELS if column in names and column not in (anchor, positive)]
    columns = columns_of(where, data, [anchor, positive, *labels])
    queries, targets = (_texts(where, column, columns[column]) for column in (anchor, positive))
    labels = [column for column in labels if is_number(columns[column].type)]
    if len(labels) > 1:
        raise DataError(f"{where} has labels in the columns {' and '.join(labels)}; remove all but one of them")
    is_positive = _is_labelled(where, labels[0], columns[labels[0]]) if labels else None
    return _Rows(queries, targets, is_positive, [name for name in names if name not in (anchor, positive, *labels)])


def _is_transformed(data: Any) -> bool:
    """Whether rows are made anew each time that they are read (``with_transform``)."""
    return (getattr(data, "format", None) or {}).get("type") == "custom"


def column_names(where: str, data: Any) -> list[str]:
    """The columns; those of the first row where only reading can tell, as of a mapped stream."""
    if data.column_names is not None and not _is_transformed(data):
        return list(data.column_names)
    first = next(iter(data), None)
    if first is None:
        raise DataError(f"{where} has no rows; leave it out")
    return list(first)


def _check_columns(where: str, names: Sequence[str], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in names:
            raise DataError(f"{where} has no column {column!r}; it has {', '.join(names)}")


def text_columns(where: str, data: Any, columns: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Columns of texts, stripped; ``DataError`` for one that is missing, and for anything but texts."""
    _check_columns(where, column_names(where, data), columns)
    return {name: _texts(where, name, values) for name, values in columns_of(where, data, columns).items()}


def columns_of(where: str, data: Any, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Some columns as Arrow has them, read in batches that respect a selection, a mapping and a transform."""
    chunks: dict[str, list[pa.Array]] = {name: [] for name in names}
    for batch in _batches(data, list(names)):
        for name in names:
            try:
                column = batch[name]
                array = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([pa.array(column)])
            except KeyError:
                raise DataError(f"some rows of {where} have no {name!r}") from None
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"column {name!r} of {where} holds values of several kinds: {error}") from error
            chunks[name].extend(array.chunks)
    if not any(map(len, chunks[names[0]])):
        raise DataError(f"{where} has no rows; leave it out")
    return {name: _joined(where, name, arrays) for name, arrays in chunks.items()}


def _batches(data: Any, names: list[str]) -> Iterator[Any]:
    import datasets

    if _is_transformed(data):
        return data.iter(_BATCH)
    if isinstance(data, datasets.Dataset):
        return (batch for batch in data.select_columns(names).with_format("arrow").iter(_BATCH))
    # a stream's own mapping must not be given Arrow tables
    plain = data.with_format(None)
    return (plain if data.column_names is None else plain.select_columns(names)).iter(_BATCH)


def _joined(where: str, name: str, arrays: list[pa.Array]) -> pa.ChunkedArray:
    """One column; batches of nulls alone, and of integers before floats, know no better type."""
    types = {array.type for array in arrays if not pa.types.is_null(array.type)}
    if len(types) < 2:
        kind = types.pop() if types else pa.null()
        return pa.chunked_array([array.cast(kind) for array in arrays], type=kind)
    if all(map(is_number, types)):
        return pa.chunked_array([array.cast(pa.float64()) for array in arrays], type=pa.float64())
    raise DataError(f"column {name!r} of {where} holds values of several kinds: {', '.join(sorted(map(str, types)))}")


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold labels."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _texts(where: str, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's texts, stripped; ``DataError`` for one that is empty, and for anything else."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type)):
        raise DataError(f"column {column!r} of {where} holds {values.type}, not strings; give one pair of texts a row")
    texts = pc.utf8_trim_whitespace(values.cast(_TEXT))
    empty = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(texts, ""), True)))
    if empty.size:
        raise DataError(f"row {int(empty[0])} of {where} has an empty {column!r}")
    return texts


def _is_labelled(where: str, column: str, values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which rows are labelled 1; ``DataError`` for a label that is neither 0 nor 1."""
    labels = np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan))
    strange = np.flatnonzero((labels != 0) & (labels != 1))
    if strange.size:
        row = int(strange[0])
        raise DataError(
            f"row {row} of {where} has {values[row].as_py()!r} as {column!r}, but only 0 (no positive) and 1 (a "
            f"positive) are understood; keep the rows that are positives, and remove the column {column!r}"
        )
    if not labels.any():
        raise DataError(f"no row of {where} has 1 as {column!r}, so it has no positives; leave it out")
    return labels == 1


def _corpus_texts(corpus: Any, positive: str) -> pa.ChunkedArray:
    where = "the corpus"
    if hasattr(corpus, "select_columns"):
        names = column_names(where, corpus)
        column = names[0] if len(names) == 1 else positive
        if column not in names:
            raise DataError(f"{where} has no column {positive!r}; it has {', '.join(names)}: select one of them")
        return _texts(where, column, columns_of(where, corpus, [column])[column])
    texts = [] if isinstance(corpus, str) else list(corpus)  # once: an iterator has no second time
    if isinstance(corpus, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"corpus must be a list of texts or a datasets.Dataset, got {type(corpus).__name__} of others")
    return _texts(where, "text", pa.chunked_array([pa.array(texts, type=_TEXT)]))


def _distinct(columns: list[pa.ChunkedArray]) -> pa.Array:
    return pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=_TEXT))


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
