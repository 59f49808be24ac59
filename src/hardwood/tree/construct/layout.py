"""Building the tree: every vector to its leaf, every leaf to its group, rows laid out leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.bounds import OUTWARD
from hardwood.tree.arrays.nodes import Nodes, group_lists
from hardwood.tree.arrays.statistics import group_statistics, leaf_statistics, pooled_shape, sum_slack
from hardwood.tree.compiled.threads import split_work
from hardwood.tree.construct.assign import next_rows
from hardwood.tree.construct.kmeans import Floats
from hardwood.tree.construct.leaves import CHUNK, leaf_labels

SHAPE_SAMPLE = 16384


def room_for(count: Any) -> Any:
    """Rows a leaf of ``count`` targets (a number or an array) is given: a sixteenth more, and a few."""
    return count + count // 16 + 2


def encode(vectors: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """float32 as stored: itself, or bfloat16's bits, rounded to nearest even."""
    if dtype == np.float32:
        return vectors
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def decoded(rows: NDArray[Any]) -> Floats:
    """Stored rows as float32."""
    if rows.dtype == np.float32:
        return rows
    return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Source:
    """Where vectors come from: rows of an array or memmap, made float32 (and unit for cosine) a piece at a
    time, then rounded as stored."""

    def __init__(self, array: Any, prepare: Callable[[Any], Floats]) -> None:
        self._array, self._prepare = array, prepare
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))

    def take(self, rows: slice | NDArray[np.int64]) -> Floats:
        """The given rows as float32, ``(len, d)``; writable, or kernels would be compiled once more for what is
        not."""
        return np.require(self._prepare(self._array[rows]), requirements="W")


def build(
    source: Source,
    ids: NDArray[np.int64],
    dtype: np.dtype[Any],
    leaf_size: int,
    seed: int,
    threads: int,
    tick: Callable[[str, int, int], None],
) -> tuple[Nodes, int]:
    """The tree over ``source`` and the number of rows in use. Holds the stored vectors once, with a little room beside
    each leaf; before that, the sample that leaves are sought on (see `construct.leaves`)."""
    n, d = source.shape
    rng = np.random.default_rng(seed)
    labels, leaf_group = leaf_labels(source, leaf_size, rng, threads, tick)
    counts = np.bincount(labels, minlength=len(leaf_group))

    # Memory that is never touched costs nothing: the end of this array is room to grow.
    rooms = room_for(counts)
    starts = np.cumsum(rooms) - rooms
    used = int(rooms.sum())
    capacity = used + n // 16 + 64
    # Zeros, not whatever memory held: rooms without a target are saved too, and same targets make the same file.
    rows = np.zeros((capacity, d), dtype=dtype)
    row_id, row_leaf = np.zeros(capacity, dtype=np.int64), np.zeros(capacity, dtype=np.int32)
    row_leaf[:used] = np.repeat(np.arange(len(counts), dtype=np.int32), rooms)
    # The source is read once, in its own order: no second array as long as it, and no leaps over a disk.
    cursor, at = starts.copy(), np.empty(CHUNK, dtype=np.int64)
    for begin in range(0, n, CHUNK):
        here = slice(begin, min(begin + CHUNK, n))
        place = at[: here.stop - begin]
        next_rows(labels[here], cursor, place)
        rows[place] = encode(source.take(here), dtype)
        row_id[place] = ids[here]
        tick("rows", here.stop, n)
    del labels
    L, n_groups = len(counts), int(leaf_group.max()) + 1
    offsets, leaves = group_lists(leaf_group, n_groups)
    nodes = Nodes(
        rows, row_id, row_leaf, starts, counts, rooms, leaf_group,
        np.zeros((L, d), np.float32), np.zeros((L, 4)), offsets, leaves,
        np.zeros(n_groups, np.int64), np.zeros((n_groups, d), np.float32), np.zeros((n_groups, 4)),
        np.zeros((1, d), np.float32), np.zeros((1, d), np.float32), np.full(2, 1.0 / d),
    )  # fmt: skip
    refresh(nodes, np.arange(L), threads)
    return with_shapes(nodes, rng), used


def refresh(nodes: Nodes, leaves: NDArray[np.int64], threads: int, groups: NDArray[np.int64] | None = None) -> None:
    """Recomputes the statistics of the given leaves and of the groups above them, or of the given groups."""
    slack = sum_slack(nodes.rows.shape[1])
    split_work(lambda a, b: leaf_statistics(nodes, leaves, a, b, OUTWARD, slack), len(leaves), threads, least=16)
    above = np.unique(nodes.leaf_group[leaves] if groups is None else groups)
    above = above[above >= 0]
    split_work(lambda a, b: group_statistics(nodes, above, a, b, OUTWARD), len(above), threads, least=4)


def with_shapes(nodes: Nodes, rng: np.random.Generator) -> Nodes:
    """The tree with covariance shapes measured on a sample of its targets, about their leaves and about their
    groups."""
    d = nodes.rows.shape[1]
    live = np.flatnonzero(nodes.leaf_count > 1)
    if len(live) == 0:
        return nodes
    size = min(int(nodes.leaf_count[live].sum()), SHAPE_SAMPLE if d <= 512 else 1024)
    picked = rng.choice(live, size=size, p=nodes.leaf_count[live] / nodes.leaf_count[live].sum())
    at = nodes.leaf_start[picked] + (rng.random(size) * nodes.leaf_count[picked]).astype(np.int64)
    points = decoded(nodes.rows[at])
    leaf_shape, leaf_even = pooled_shape(points - nodes.leaf_mean[picked])
    group_shape, group_even = pooled_shape(points - nodes.group_mean[nodes.leaf_group[picked]])
    return nodes._replace(leaf_shape=leaf_shape, group_shape=group_shape, evenly=np.array([leaf_even, group_even]))
