"""Given negatives of a dataset folder: targets that were judged, and judged wrong."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._ragged import RaggedRows
from hardwood.data.records.judgements import Judgements
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError


def judged_negatives(
    judgements: Judgements, never: RaggedRows, queries: TextTable, split: str, count: int
) -> NDArray[np.int64]:
    """Target rows ``(len(judgements), count)`` that were judged 0 or below for each query.

    The first ``count`` of a query, in the file's order. One that has fewer gets its own again: a candidate counts once
    however often it is given.

    Args:
        judgements: of the split.
        never: what is no negative of a query, by query row: a copy of a positive under another id may be judged 0.
        queries: for messages.
        split: its name, for messages.
        count: negatives a query, m.

    Raises:
        ValueError: ``count`` is below 1.
        DataError: queries without any.
    """
    _checks.at_least(0, count, "given_negatives")
    found = RaggedRows.empty(len(judgements)) if judgements.negatives is None else judgements.negatives
    excluded = never.take(judgements.queries)
    size = int(max(found.values.max(initial=-1), excluded.values.max(initial=-1))) + 1
    places = found.row_ids()
    is_usable = ~np.isin(places * size + found.values, excluded.row_ids() * size + excluded.values)
    counts = np.bincount(places[is_usable], minlength=len(judgements))
    if (none := np.flatnonzero(counts == 0)).size:
        raise DataError(
            f"given_negatives={count} takes targets that qrels/{split}.tsv judges 0 or below, and {len(none):,} of "
            f"{len(judgements):,} queries of the split {split!r} have none that could be a negative (the first is "
            f"{queries.ids(judgements.queries[none[:1]])[0]!r}): judge one for each, leave these queries out of the "
            "split, or ask for none (given_negatives=0)"
        )
    notes = []
    if wrong := int((~is_usable).sum()):
        notes.append(
            f"{wrong:,} are left out, since a positive or the query itself has the same text, or the query's id"
        )
    if few := int((counts < count).sum()):
        notes.append(f"{few:,} of {len(judgements):,} queries have fewer than {count}, and get theirs again")
    if notes:
        warnings.warn(
            f"of the targets that are judged 0 or below in the split {split!r} {'; '.join(notes)}", stacklevel=3
        )
    starts = np.cumsum(counts) - counts
    return found.values[is_usable][starts[:, None] + np.arange(count) % counts[:, None]]
