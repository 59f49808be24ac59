"""One model against another on the same queries: how many are won and lost, and how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.data import Judgements

RANKS = ("1", "2-3", "4-10", "11-100", "not found")
"""Places of a query's first positive, as the page counts them."""
_EDGES = (2, 4, 11, 101)
_CUTOFF = 10
_RESAMPLES = 10_000

Ranks = NDArray[np.int16]


def first_ranks(ranking: NDArray[np.int64], judgements: Judgements) -> Ranks:
    """The place of each query's first positive, from 1; 0 where none is among those retrieved.

    Args:
        ranking: ``(m, k)`` target rows, best first; -1 fills up.
        judgements: ``m`` queries.
    """
    positives = judgements.positives
    size = 1 + max(int(ranking.max(initial=0)), int(positives.values.max(initial=0)))
    known = positives.row_ids() * size + positives.values
    keys = np.arange(len(ranking))[:, None] * size + np.maximum(ranking, 0)
    is_positive = np.isin(keys, known) & (ranking >= 0)
    return np.where(is_positive.any(axis=1), 1 + is_positive.argmax(axis=1), 0).astype(np.int16)


def reciprocal_ranks(ranks: Ranks) -> NDArray[np.float64]:
    """``1 / rank`` up to the tenth place, 0 beyond: their mean is MRR@10."""
    inside = (ranks > 0) & (ranks <= _CUTOFF)
    return np.where(inside, 1.0 / np.maximum(ranks, 1), 0.0)


def compare_ranks(before: Ranks, after: Ranks, seed: int) -> dict[str, Any]:
    """What has changed from one model to another, with 95 % intervals over queries (paired bootstrap, percentiles).

    A query is won where its first positive has come nearer to the top; queries are taken for independent of each other.

    Args:
        before: ``(m,)`` of `first_ranks`, by the first model.
        after: the same queries' by the second one.
        seed: of the resampling.

    Returns:
        ``queries``, ``won``, ``lost``, ``same``; ``net`` (won less lost, as a share of the queries) and ``mrr@10``
        (the difference), each ``[value, low, high]``; ``moves``: counts ``(5, 5)`` from `RANKS` before to after.
    """
    old, new = (np.where(ranks == 0, np.iinfo(np.int16).max, ranks) for ranks in (before, after))
    signs = np.sign(old.astype(np.int64) - new).astype(np.float64)
    gains = reciprocal_ranks(after) - reciprocal_ranks(before)
    moves = np.zeros((len(RANKS), len(RANKS)), dtype=np.int64)
    np.add.at(moves, (np.digitize(old, _EDGES), np.digitize(new, _EDGES)), 1)
    return {
        "queries": len(before),
        "won": int((signs > 0).sum()),
        "lost": int((signs < 0).sum()),
        "same": int((signs == 0).sum()),
        "net": _mean_with_interval(signs, seed),
        "mrr@10": _mean_with_interval(gains, seed),
        "moves": moves.tolist(),
    }


def _mean_with_interval(values: NDArray[np.float64], seed: int) -> list[float]:
    """``[mean, low, high]``. There are few distinct values, so that a resample is one multinomial draw of their
    counts."""
    distinct, counts = np.unique(values.round(12), return_counts=True)
    total = counts.sum()
    if not total:
        return [0.0, 0.0, 0.0]
    generator = np.random.Generator(np.random.PCG64(seed))
    means = generator.multinomial(total, counts / total, size=_RESAMPLES) @ distinct / total
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(distinct @ counts / total), float(low), float(high)]
