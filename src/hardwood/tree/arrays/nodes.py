"""The arrays of a tree, as kernels see them.

Two levels of nodes stand over the targets: *groups*, about four times the square root of the number of *leaves*, and
these, each of some tens of targets. A leaf's targets lie in consecutive rows of one array, with a little room after
them for targets to come.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Queries that a kernel looks at together: enough that several share a group, few enough for the processor's caches."""


class Nodes(NamedTuple):
    """Everything a kernel needs to read; ``L`` leaves, ``G`` groups, ``d`` dimensions. A dead leaf has count
    0 and group -1."""

    rows: NDArray[np.float32] | NDArray[np.uint16]  # (capacity, d) targets; uint16 holds the bits of bfloat16
    row_id: NDArray[np.int64]  # (capacity,)
    row_leaf: NDArray[np.int32]  # (capacity,) the leaf that owns a row, in use or not
    leaf_start: NDArray[np.int64]  # (L,)
    leaf_count: NDArray[np.int64]  # (L,)
    leaf_room: NDArray[np.int64]  # (L,) rows it owns
    leaf_group: NDArray[np.int64]  # (L,)
    leaf_mean: NDArray[np.float32]  # (L, d)
    leaf_stats: NDArray[np.float64]  # (L, 4) radius, reach, spread, log count: see `arrays.bounds`
    group_offsets: NDArray[
        np.int64
    ]  # (G + 1,) group g's leaves are group_leaves[group_offsets[g]:group_offsets[g + 1]]
    group_leaves: NDArray[np.int64]
    group_count: NDArray[np.int64]  # (G,)
    group_mean: NDArray[np.float32]  # (G, d)
    group_stats: NDArray[np.float64]  # (G, 4)
    leaf_shape: NDArray[np.float32]  # (R, d) directions in which leaves spread more than evenly
    group_shape: NDArray[np.float32]  # (R, d) the same for groups
    evenly: NDArray[np.float64]  # (2,) what remains a direction, leaves and groups


def group_lists(leaf_group: NDArray[np.int64], groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``group_offsets`` and ``group_leaves`` from each leaf's group; dead leaves are left out."""
    order = np.argsort(leaf_group, kind="stable")
    dead = int((leaf_group < 0).sum())
    counts = np.bincount(leaf_group[leaf_group >= 0], minlength=groups)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), order[dead:].astype(np.int64)
