"""Rows that say the same under different ids: what answers one query answers its twin, and so does a target's twin."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows
from hardwood.data._table import TextTable

MOST = 100  # rows of one text; of more there would be too many pairs, and it is hardly a text ("N/A")
_BATCH_ROWS = 8192


def text_hashes(table: TextTable) -> NDArray[np.int64]:
    """A number for each row's text (`TextTable.texts`), ``(n,)`` int64, equal for equal texts of this process alone."""
    # 64 random bits a text: that two of twenty million different ones agree happens in one corpus of 90,000.
    return np.fromiter(
        (hash(text) for texts in table.iter_texts(_BATCH_ROWS) for text in texts), dtype=np.int64, count=len(table)
    )


def first_rows(table: TextTable, what: str, hashes: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """For each row the first row that has its text (`TextTable.texts`), ``(n,)`` int64: its own, if no other has it.

    A text that more than `MOST` rows have is taken for a different one in each, with a warning; ``what`` ("targets",
    "queries") is for its message. ``hashes`` are the table's `text_hashes`, where they are at hand.
    """
    hashes = text_hashes(table) if hashes is None else hashes
    _, first, group, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    rows = first[group]
    if (too_many := np.flatnonzero(counts > MOST)).size:
        largest = too_many[np.argmax(counts[too_many])]
        row = int(first[largest])
        advice = "give them one id" if what == "queries" else "remove all but one"
        warnings.warn(
            f"{counts[largest]:,} {what} have the same text {_shown(table.texts([row])[0])} (the first is "
            f"{table.ids([row])[0]!r}; {too_many.size:,} such texts). Up to {MOST} are taken for one where known "
            f"positives are left out of the negatives, so many are not: {advice}",
            stacklevel=2,
        )
        rows = np.where(counts[group] > MOST, np.arange(len(table)), rows)
    return rows


def with_twins(
    queries: NDArray[np.int64],
    targets: NDArray[np.int64],
    same_query: NDArray[np.int64],
    same_target: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs ``(p,)`` of rows, and those that follow: each of these queries with all targets of its twins among them,
    and with all twins of these. ``same_query`` and ``same_target`` are of `first_rows`. Repeats are possible."""
    groups = same_query[queries]
    members = np.unique(queries)
    if len(np.unique(groups)) < len(members):
        shared = RaggedRows.from_pairs(groups, targets, len(same_query)).take(same_query[members])
        queries, targets = members[shared.row_ids()], shared.values
    if (twins := np.flatnonzero(same_target != np.arange(len(same_target)))).size:
        texts = RaggedRows.from_pairs(queries, same_target[targets], len(same_query))  # each once a query
        queries, targets = texts.row_ids(), texts.values
        further = RaggedRows.from_pairs(same_target[twins], twins, len(same_target)).take(targets)
        queries = np.concatenate([queries, queries[further.row_ids()]])
        targets = np.concatenate([targets, further.values])
    return queries, targets


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
