"""Labels for pairs of one's own: which rows of a dataset their texts are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hardwood._ragged import RaggedRows
from hardwood.data.records.pairs import LABELS, column_names, columns_of, is_number, text_columns
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError

if TYPE_CHECKING:
    import datasets


def labelled(
    pairs: datasets.Dataset,
    queries: TextTable,
    corpus: TextTable,
    known: RaggedRows,
    columns: Sequence[str] | None,
) -> datasets.Dataset:
    """See `hardwood.data.RetrievalDataset.label_pairs`."""
    if not hasattr(pairs, "select_columns"):
        raise TypeError(f"pairs must be a datasets.Dataset, got a {type(pairs).__name__}")
    there = column_names("pairs", pairs)
    names = _text_names(there) if columns is None else list(columns)
    if len(names) < 2:
        raise DataError(f"pairs need a column of queries and one of targets; there are {', '.join(there)}")
    _refuse_wrong_pairs(pairs, [name for name in LABELS if name in there and name not in names])
    texts = text_columns("pairs", pairs, names)
    tables = [queries] + [corpus] * (len(names) - 1)
    rows = [table.find_texts(texts[name]) for name, table in zip(names, tables, strict=True)]
    missing = {name: np.flatnonzero(found < 0) for name, found in zip(names, rows, strict=True)}
    if any(len(places) for places in missing.values()):
        counts = ", ".join(f"{len(places):,} of {name!r}" for name, places in missing.items() if len(places))
        name, places = next((name, places) for name, places in missing.items() if len(places))
        first = texts[name][int(places[0])].as_py()
        raise DataError(
            f"of {len(rows[0]):,} pairs these texts are not in the dataset: {counts} "
            f"(row {places[0]}: {first[:80]!r}). "
            "Only what is in the corpus can be a negative, since the softmax is over the corpus: make the dataset with "
            "these texts among its queries and targets (RetrievalDataset.from_pairs(pairs, corpus=texts)), or leave "
            "such pairs out"
        )
    _warn_of_positives(names, rows, known)
    label = pa.FixedSizeListArray.from_arrays(pa.array(np.stack(rows, axis=1).ravel()), len(names))
    import datasets as hub

    return hub.Dataset(pa.table({**texts, "label": label}))


def _text_names(columns: Sequence[str]) -> list[str]:
    """Anchor, positive and the negatives, by sentence-transformers' names; else the first two columns."""
    first = ["anchor", "positive"] if {"anchor", "positive"} <= set(columns) else list(columns[:2])
    negatives = [name for name in columns if name == "negative" or name.startswith("negative_")]
    return [*first, *(name for name in negatives if name not in first)]


def _refuse_wrong_pairs(pairs: datasets.Dataset, labels: Sequence[str]) -> None:
    """Rows labelled 0 among rows labelled 1 are no positives; scores of other kinds say nothing of the sort."""
    for name, values in (columns_of("pairs", pairs, labels) if labels else {}).items():
        if not is_number(values.type):
            continue
        numbers = np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan))
        wrong = int((numbers == 0).sum())
        if wrong and np.isin(numbers, (0, 1)).all():
            raise DataError(
                f"of {len(numbers):,} pairs {wrong:,} have 0 as {name!r}, so their second text is no positive: keep "
                f"the rows that have 1, or remove the column {name!r} if it says something else"
            )


def _warn_of_positives(names: Sequence[str], rows: Sequence[np.ndarray], known: RaggedRows) -> None:
    """Negatives that are known positives of their query count for nothing: a warning with their number."""
    query_rows = known.row_ids()
    size = int(max([known.values.max(initial=-1), *(found.max(initial=-1) for found in rows)])) + 1
    right = query_rows * size + known.values
    wrong = {
        name: int(np.isin(rows[0] * size + found, right).sum()) for name, found in zip(names[2:], rows[2:], strict=True)
    }
    if any(wrong.values()):
        counts = ", ".join(f"{count:,} in {name!r}" for name, count in wrong.items() if count)
        warnings.warn(
            f"of {len(rows[0]):,} pairs some have a given negative that is a known positive of their query ({counts}): "
            "it does not count against that query, only against others",
            stacklevel=4,
        )
