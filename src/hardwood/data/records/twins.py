"""Rows that say the same under different ids: what answers one query answers its twin, and so does a target's twin."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows
from hardwood.data.records.equal import repeats
from hardwood.data.records.table import TextTable

MOST = 100  # rows of one text; of more there would be too many pairs, and it is hardly a text ("N/A")

Twins = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows, and for each an earlier one that says the same."""


def twins_of(table: TextTable, what: str, hashes: NDArray[np.int64] | None = None) -> Twins:
    """The rows whose text (`TextTable.texts`) an earlier row has, ascending, and that row, both ``(m,)`` int64.

    A text that more than `MOST` rows have is taken for a different one in each, with a warning; ``what`` ("targets",
    "queries") is for its message. ``hashes`` are the table's `TextTable.text_hashes`, where they are at hand.
    """
    rows, firsts = repeats(table.text_hashes() if hashes is None else hashes, table.text_array)
    distinct, group, counts = np.unique(firsts, return_inverse=True, return_counts=True)
    counts = counts + 1  # the first itself
    if (too_many := np.flatnonzero(counts > MOST)).size:
        largest = too_many[np.argmax(counts[too_many])]
        row = int(distinct[largest])
        advice = "give them one id" if what == "queries" else "remove all but one"
        warnings.warn(
            f"{counts[largest]:,} {what} have the same text {_shown(table.texts([row])[0])} (the first is "
            f"{table.ids([row])[0]!r}; {too_many.size:,} such texts). Up to {MOST} are taken for one where known "
            f"positives are left out of the negatives, so many are not: {advice}",
            stacklevel=2,
        )
        few = counts[group] <= MOST
        rows, firsts = rows[few], firsts[few]
    return rows, firsts


def first_rows(twins: Twins, count: int) -> NDArray[np.int64]:
    """For each of ``count`` rows the first that has its text, ``(count,)`` int64: its own, if no other has it."""
    rows = np.arange(count)
    rows[twins[0]] = twins[1]
    return rows


def with_twins(
    queries: NDArray[np.int64],
    targets: NDArray[np.int64],
    same_query: NDArray[np.int64],
    target_twins: Twins,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs ``(p,)`` of rows, and those that follow: each of these queries with all targets of its twins among them,
    and with all twins of these. ``same_query`` is of `first_rows`, ``target_twins`` of `twins_of`. Repeats are
    possible."""
    groups = same_query[queries]
    members = np.unique(queries)
    if len(np.unique(groups)) < len(members):
        shared = RaggedRows.from_pairs(groups, targets, len(same_query)).take(same_query[members])
        queries, targets = members[shared.row_ids()], shared.values
    twins, firsts = target_twins
    if len(twins):
        distinct, group = np.unique(firsts, return_inverse=True)  # nothing here is as long as the corpus
        place = np.searchsorted(twins, targets).clip(max=len(twins) - 1)
        named = np.where(twins[place] == targets, firsts[place], targets)
        texts = RaggedRows.from_pairs(queries, named, len(same_query))  # each once a query
        queries, targets = texts.row_ids(), texts.values
        place = np.searchsorted(distinct, targets).clip(max=len(distinct) - 1)
        with_further = np.flatnonzero(distinct[place] == targets)
        further = RaggedRows.from_pairs(group, twins, len(distinct)).take(place[with_further])
        queries = np.concatenate([queries, queries[with_further][further.row_ids()]])
        targets = np.concatenate([targets, further.values])
    return queries, targets


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
