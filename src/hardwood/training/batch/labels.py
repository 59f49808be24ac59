"""Pairs and their labels: which rows of the dataset they are, and whether they are of the loss's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardwood.data import TextTable
from hardwood.training.batch.columns import LABELS, NamedSet, text_columns

_LOOKED_AT = 4096


@dataclass(frozen=True)
class Misfits:
    """How many pairs name other texts than their labels.

    Attributes:
        looked_at: pairs, all over the set.
        count: those of them with a text that is not the one that their label names.
        example: one of them, in words; empty where there is none.
    """

    looked_at: int
    count: int
    example: str


def misfits_of(pairs: Any, queries: TextTable, corpus: TextTable) -> Misfits | None:
    """Compare training pairs with what their labels name, column by column.

    A text may be cut short or have something around it; letter case and white space don't count.

    Args:
        pairs: a training set.
        queries: the loss's queries.
        corpus: its targets.

    Returns:
        ``None`` for what can't be checked: a stream, or labels that are no rows (the loss has errors for these).
    """
    names = getattr(pairs, "column_names", None) or []
    texts = text_columns(names)
    label = next((name for name in LABELS if name in names), None)
    if label is None or len(texts) < 2 or not hasattr(pairs, "select") or not len(pairs):
        return None
    looked_at = pairs.select(np.unique(np.linspace(0, len(pairs) - 1, min(_LOOKED_AT, len(pairs))).astype(np.int64)))
    rows = looked_at[:]
    try:
        labels = np.array(rows[label], dtype=np.int64)
    except (TypeError, ValueError):
        return None
    if labels.ndim != 2 or labels.shape[1] < 2:
        return None
    wrong, example = np.zeros(len(labels), dtype=bool), ""
    columns = zip(texts, (queries, *[corpus] * (len(texts) - 1)), labels.T, strict=False)
    for column, table, named in columns:
        inside = np.flatnonzero((named >= 0) & (named < len(table)))
        meant = table.texts(named[inside])
        fits = np.zeros(len(named), dtype=bool)
        fits[inside] = [_is_within(text, str(rows[column][place])) for text, place in zip(meant, inside, strict=True)]
        if not fits.all() and not example:
            place = int(np.argmin(fits))
            row = int(named[place])
            is_there = f"is {table.texts([row])[0][:80]!r}" if 0 <= row < len(table) else f"is none of {len(table):,}"
            example = (
                f"the label names {column} row {row}, which {is_there} in the loss's dataset and "
                f"{str(rows[column][place])[:80]!r} in the pairs"
            )
        wrong |= ~fits
    return Misfits(len(labels), int(wrong.sum()), example)


def own_sets(sets: Sequence[NamedSet], queries: TextTable, corpus: TextTable) -> list[NamedSet]:
    """Those of a trainer's datasets whose labels name the loss's own texts; of a single one that can't be checked,
    that one.

    Raises:
        ValueError: pairs of a single set, or some of a set among several, name other texts than their labels, or no set
            is the loss's. (A set among several of which no pair fits is another loss's; if it does reach this loss,
            the forward pass says so.)
    """
    found = [(name, data, misfits_of(data, queries, corpus)) for name, data in sets]
    for name, _, misfits in found:
        if misfits is not None and misfits.count and (misfits.count < misfits.looked_at or len(found) == 1):
            of_set = "" if name is None else f" of the dataset {name!r}"
            raise ValueError(
                f"of {misfits.looked_at:,} training pairs{of_set} that were checked {misfits.count:,} name other "
                f"texts than their labels: {misfits.example}. {_WAY_OUT}"
            )
    if len(found) < 2:
        return list(sets)
    own = [(name, data) for name, data, misfits in found if misfits is not None and not misfits.count]
    if not own and all(misfits is not None for *_, misfits in found):
        counts = ", ".join(f"{name}: {m.count:,} of {m.looked_at:,}" for name, _, m in found if m is not None)
        raise ValueError(
            f"none of the trainer's {len(found)} datasets is the loss's own (pairs that name other texts than their "
            f"labels: {counts}). {_WAY_OUT}"
        )
    return own


_WAY_OUT = (
    "Negatives and known positives would be wrong: train on the training_pairs() of the dataset that the loss was "
    "given (with several datasets a loss of its own for each); for edited texts make a dataset of them "
    "(RetrievalDataset.from_pairs) and train on its training_pairs()"
)


def _is_within(text: str, other: str) -> bool:
    """Whether one of the two is in the other, whatever the case and the white space."""
    text, other = (" ".join(part.casefold().split()) for part in (text, other))
    return text in other or other in text


def rows_of(labels: Tensor | None, num_columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Query rows ``(B,)`` and target rows ``(B, num_columns - 1)`` of a batch's labels ``(B, num_columns)``.

    Raises:
        ValueError: no labels, or others than one row for each column of texts.
    """
    if labels is None or labels.ndim != 2 or labels.shape[1] != num_columns:
        received = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)}"
        if num_columns > 2:
            raise ValueError(
                f"of {num_columns} columns of texts the last {num_columns - 2} are given negatives, and the loss must "
                f"know which targets they are, but it received {received}: train on dataset.label_pairs(pairs), whose "
                "'label' column holds [query row, target row, a row for each negative]"
            )
        raise ValueError(
            f"the loss must know which query and which target each pair is, but it received {received}: train on "
            "dataset.training_pairs(), whose 'label' column holds [query row, target row]"
        )
    rows = labels.cpu().numpy().astype(np.int64)
    return rows[:, 0], np.ascontiguousarray(rows[:, 1:])


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
