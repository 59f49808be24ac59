"""Which targets stand for the others: a systematic sample along the tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spread_over(index: Any, count: int, seed: int) -> NDArray[np.int64]:
    """Ids of ``count`` targets spread over a tree, ascending: every n/count-th along its leaves, group by group.

    Neighbours in the tree are alike, so such a sample is stratified: each cluster has landmarks in proportion to its
    targets, where a uniform sample leaves small ones without by chance.

    Args:
        index: a `hardwood.tree.TargetIndex`.
        count: how many; all of them if there are fewer.
        seed: of the place where the sample begins.
    """
    count = min(count, len(index))
    if hasattr(index, "spread"):
        return np.sort(index.spread(count, seed))
    tree = index._tree
    order = tree.nodes.row_id[tree.live_rows(tree.nodes.group_leaves)]
    offset = np.random.Generator(np.random.PCG64(seed)).random()
    places = ((np.arange(count) + offset) * (len(order) / count)).astype(np.int64)
    return np.sort(order[np.minimum(places, len(order) - 1)])
