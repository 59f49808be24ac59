"""Which targets to encode in a refresh: landmarks that stand for the others, and those known least well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardwood.negatives.dynamic.index_form import VectorIndex
from hardwood.negatives.records import Ints


def spread_over(index: VectorIndex, count: int, seed: int) -> Ints:
    """Ids of ``count`` targets spread over a tree, ascending: every n/count-th along its leaves, group by group
    (systematic sampling; Madow and Madow, 1944).

    Neighbours in the tree are alike, so each cluster has landmarks in proportion to its targets, where a uniform sample
    leaves small ones without by chance.

    Args:
        index: the tree; or the flat index, whose neighbourhoods stand for leaves.
        count: how many; all of them if there are fewer.
        seed: of the place where the sample begins.
    """
    return np.sort(_every_so_many(leaf_order(index), count, seed))


def oldest(index: VectorIndex, periods: NDArray[np.int16], count: int, seed: int) -> Ints:
    """Ids of the ``count`` targets whose true encodings are the oldest, ascending.

    Of a period of which some but not all are wanted, those are taken that are spread over the tree.

    Args:
        index: the tree or flat index, with the ids ``0 .. n-1``.
        periods: ``(n,)``, when each target was truly encoded; the current period (the largest) is left out.
        count: how many; all that are not current if there are fewer.
        seed: as in `spread_over`.
    """
    order = leaf_order(index)
    chosen: list[Ints] = []
    for period in np.unique(periods)[:-1]:
        members = order[periods[order] == period]
        chosen.append(_every_so_many(members, count, seed))
        count -= len(chosen[-1])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _every_so_many(order: Ints, count: int, seed: int) -> Ints:
    count = min(count, len(order))
    offset = np.random.Generator(np.random.PCG64(seed)).random()
    places = ((np.arange(count) + offset) * (len(order) / max(count, 1))).astype(np.int64)
    return order[np.minimum(places, len(order) - 1)]


def leaf_order(index: VectorIndex) -> Ints:
    """All ids: of a tree leaf by leaf and group by group, of a flat index neighbourhood by neighbourhood."""
    return np.asarray(index.spread(len(index)), dtype=np.int64)
