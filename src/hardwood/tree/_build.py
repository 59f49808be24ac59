"""Building the tree: groups from a sample, every vector to its group, each group's leaves by k-means, rows
laid out leaf by leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree._bounds import OUTWARD
from hardwood.tree._cluster import Floats, kmeans, nearest, subtree
from hardwood.tree._nodes import Nodes, group_lists
from hardwood.tree._statistics import group_statistics, leaf_statistics, pooled_shape
from hardwood.tree._threads import split_work

CHUNK = 16384
SHAPE_SAMPLE = 16384


def room_for(count: int) -> int:
    """Rows a leaf of ``count`` targets is given: a sixteenth more, and a few."""
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
        """The given rows as float32, ``(len, d)``."""
        return self._prepare(self._array[rows])


def build(
    source: Source,
    ids: NDArray[np.int64],
    dtype: np.dtype[Any],
    leaf_size: int,
    seed: int,
    threads: int,
    tick: Callable[[str, int, int], None],
) -> tuple[Nodes, int]:
    """The tree over ``source`` and the number of rows in use. Needs the stored vectors once, and about a
    tenth more."""
    n, d = source.shape
    rng = np.random.default_rng(seed)
    n_groups = max(1, round(math.sqrt(n / leaf_size)))
    labels = np.zeros(n, dtype=np.int32)
    if n_groups > 1:
        sample = np.sort(rng.choice(n, size=min(n, max(128 * n_groups, 16384)), replace=False))
        centres = kmeans(source.take(sample), n_groups, 8, rng)
        for start in range(0, n, CHUNK):
            labels[start : start + CHUNK] = nearest(source.take(slice(start, start + CHUNK)), centres)
            tick("groups", min(start + CHUNK, n), n)
    order = np.argsort(labels, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_groups))])
    bounds = np.concatenate([[0], bounds[1:][np.diff(bounds) > 0]])
    n_groups = len(bounds) - 1
    del labels

    # Memory that is never touched costs nothing: the end of this array is room to grow.
    capacity = n + n // 8 + 64 + 4 * (n // max(1, leaf_size // 2) + n_groups)
    rows = np.empty((capacity, d), dtype=dtype)
    row_id, row_leaf = np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.int32)
    starts: list[int] = []
    counts: list[int] = []
    rooms: list[int] = []
    leaf_group: list[int] = []
    used = 0
    for g in range(n_groups):
        members = np.sort(order[bounds[g] : bounds[g + 1]])
        points = source.take(members)
        leaf_of = subtree(points, leaf_size, 5, rng)
        inner = np.argsort(leaf_of, kind="stable")
        stored = encode(points[inner], dtype)
        done = 0
        for count in np.bincount(leaf_of).tolist():
            room = room_for(count)
            if used + room > capacity:
                room = count
            rows[used : used + count] = stored[done : done + count]
            row_id[used : used + count] = ids[members[inner[done : done + count]]]
            row_leaf[used : used + room] = len(starts)
            starts.append(used)
            counts.append(count)
            rooms.append(room)
            leaf_group.append(g)
            used, done = used + room, done + count
        tick("leaves", int(bounds[g + 1]), n)
    del order
    L = len(starts)
    offsets, leaves = group_lists(np.array(leaf_group, dtype=np.int64), n_groups)
    nodes = Nodes(
        rows, row_id, row_leaf, np.array(starts), np.array(counts), np.array(rooms), np.array(leaf_group),
        np.zeros((L, d), np.float32), np.zeros((L, 4)), offsets, leaves,
        np.zeros(n_groups, np.int64), np.zeros((n_groups, d), np.float32), np.zeros((n_groups, 4)),
        np.zeros((1, d), np.float32), np.zeros((1, d), np.float32), np.full(2, 1.0 / d),
    )  # fmt: skip
    refresh(nodes, np.arange(L), threads)
    return with_shapes(nodes, rng), used


def refresh(nodes: Nodes, leaves: NDArray[np.int64], threads: int, groups: NDArray[np.int64] | None = None) -> None:
    """Recomputes the statistics of the given leaves and of the groups above them (and of the given
    groups)."""
    split_work(lambda a, b: leaf_statistics(nodes, leaves, a, b, OUTWARD), len(leaves), threads, least=16)
    groups = np.union1d(nodes.leaf_group[leaves], nodes.leaf_group[:0] if groups is None else groups)
    group_statistics(nodes, groups[groups >= 0])


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
    points = decoded(nodes.rows[at]).astype(np.float64)
    leaf_shape, leaf_even = pooled_shape(points - nodes.leaf_mean[picked])
    group_shape, group_even = pooled_shape(points - nodes.group_mean[nodes.leaf_group[picked]])
    return nodes._replace(leaf_shape=leaf_shape, group_shape=group_shape, evenly=np.array([leaf_even, group_even]))
