"""Pairs and their labels: which rows of the dataset they are, and whether they are of the loss's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardwood.data import TextTable

_LOOKED_AT = 64
_COLUMNS = ("anchor", "positive")


def other_pairs(pairs: Any, queries: TextTable, corpus: TextTable) -> str | None:
    """What is wrong with ``pairs``, in words, or ``None``: rows of ``training_pairs()`` say what their labels name.

    Looks at a few, all over the set, and finds fault only where not a single text is as it should be, whatever was put
    around it: texts may have been worked on. What is no such table (a stream, several sets) is not looked at.

    Args:
        pairs: the training set.
        queries: the loss's queries.
        corpus: its targets.
    """
    if not {*_COLUMNS, "label"} <= set(getattr(pairs, "column_names", None) or ()) or not hasattr(pairs, "select"):
        return None
    looked_at = pairs.select(np.unique(np.linspace(0, len(pairs) - 1, min(_LOOKED_AT, len(pairs))).astype(np.int64)))
    rows = looked_at[:]
    try:
        labels = np.array(rows["label"], dtype=np.int64)
    except (TypeError, ValueError):
        return None
    if labels.ndim != 2 or labels.shape[1] != 2:  # the loss has an error for these
        return None
    for column, table, named in zip(_COLUMNS, (queries, corpus), labels.T, strict=True):
        if not len(named) or named.min() < 0 or named.max() >= len(table):
            continue  # the loss has an error for these, which names them
        meant = table.texts(named)
        found = [str(text) for text in rows[column]]
        if not any(text in other for text, other in zip(meant, found, strict=True)):
            return (
                f"of {len(named)} training pairs that were looked at none has the {column} that its label names: row "
                f"{named[0]} is {meant[0][:80]!r} in the loss's dataset and {found[0][:80]!r} in the pairs. If "
                "the pairs are another dataset's, negatives and known positives are wrong: train on the "
                "training_pairs() of the dataset that the loss was given"
            )
    return None


def rows_of(labels: Tensor | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Query rows and target rows of a batch's labels ``(B, 2)``; ``ValueError`` for anything else."""
    if labels is None or labels.ndim != 2 or labels.shape[1] != 2:
        received = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ValueError(
            f"the loss must know which query and which target each pair is, but it received {received}: train on "
            "dataset.training_pairs(), whose 'label' column holds [query row, target row]"
        )
    rows = labels.cpu().numpy().astype(np.int64)
    return rows[:, 0], np.ascontiguousarray(rows[:, 1])


def check_rows(
    query_rows: NDArray[np.int64], target_rows: NDArray[np.int64], num_queries: int, num_targets: int
) -> None:
    """``ValueError`` for a row that the loss's dataset does not have."""
    for what, rows, count in (("query", query_rows, num_queries), ("target", target_rows, num_targets)):
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            bad = rows.max() if rows.max() >= count else rows.min()
            raise ValueError(
                f"a pair's label names {what} row {bad}, but the loss was given a dataset of {count:,}: train on the "
                "training_pairs() of that very dataset"
            )
