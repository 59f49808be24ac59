"""Which leaf each target belongs to: k-means with as many centres as there are leaves, made affordable by the groups.

Clusters inside clusters are quick to make but their borders are in the way: measured on 117 659 real encodings,
leaves of 64 made group by group give recall@10 of 0.60 where 0.8 % of the targets are opened, and 0.77 after Lloyd's
iterations over all leaves at once. A target looks at the leaves of its nearest groups only, so that an iteration costs
about ``n * (G + 8 L / G)`` products instead of ``n * L``; where groups are thousands, it looks for these among the
groups around the nearest of √G regions only, and G becomes ``9 √G``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.nodes import Floats, group_lists
from hardwood.tree.compiled.threads import split_work
from hardwood.tree.construct.assign import NOWHERE, everywhere, nearest_leaves
from hardwood.tree.construct.kmeans import kmeans, means, nearest, split_large, subtree

CHUNK = 16384
LOOKED_INTO = 8
"""Groups whose leaves a target is compared with."""

MOST_COMPARED = 1024
"""Groups that every target is compared with; where there are more, each looks for its nearest ones in a region."""

REACH = 8
"""How many regions' worth of groups is looked at around each region."""

ITERATIONS = 5
PER_LEAF = 48
"""Targets a leaf that the iterations are run on; the last pass takes all."""

MOST_TRAINED = 1 << 21
LEAVES_A_GROUP = 64
PER_GROUP = 32
"""Leaves a group that groups are made from."""


class Vectors(Protocol):
    """Where vectors come from (`hardwood.tree.construct.layout.Source`)."""

    shape: tuple[int, int]

    def take(self, rows: slice | NDArray[np.int64]) -> Floats:
        """The given rows as float32."""
        ...


def group_count(leaves: int) -> int:
    """How many groups to make of so many leaves: four times the square root, so that a query which looks into the best
    of them scores about as many groups as leaves; of millions of targets more, lest a group be too coarse."""
    return min(leaves, max(1, round(4 * math.sqrt(leaves)), leaves // LEAVES_A_GROUP))


class Grouping:
    """Leaf centres and the groups they form."""

    def __init__(self, centres: Floats, rng: np.random.Generator) -> None:
        self.centres = centres
        self.half = 0.5 * np.einsum("ij,ij->i", centres, centres)
        count = group_count(len(centres))
        sample = centres
        if len(centres) > PER_GROUP * count:
            sample = centres[np.sort(rng.choice(len(centres), PER_GROUP * count, replace=False))]
        labels = nearest(centres, kmeans(sample, count, 6, rng))
        used, self.leaf_group = np.unique(labels, return_inverse=True)
        self.leaf_group = self.leaf_group.reshape(-1)
        self.group_centres = means(centres, self.leaf_group, len(used))[0]
        self.group_half = 0.5 * np.einsum("ij,ij->i", self.group_centres, self.group_centres)
        self.offsets, self.leaves = group_lists(self.leaf_group, len(used))
        self.regions, self.around = None, everywhere(len(used))
        if len(used) > MOST_COMPARED:
            self.regions, self.around = regions_of(self.group_centres, self.group_half, rng)

    def nearest_leaves(self, points: Floats, out: NDArray[Any], threads: int = 1) -> None:
        """Writes the closest centre of each point among the leaves of its nearest groups into ``out`` ``(n,)``. The
        same for any number of threads."""
        best = np.empty(len(points), dtype=np.float32)
        homes = NOWHERE if self.regions is None else nearest(points, self.regions)

        def assign(begin: int, end: int) -> None:
            nearest_leaves(
                points, homes, self.around, self.group_centres, self.group_half, self.offsets, self.leaves,
                self.centres, self.half, LOOKED_INTO, begin, end, best, out,
            )  # fmt: skip

        split_work(assign, len(points), threads, least=CHUNK)


def regions_of(centres: Floats, half: Floats, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Regions of the groups with these centres: their own centres ``(√G, d)``, and the groups around each, ascending,
    ``(√G, 8 √G)`` or, for the sake of a large region, a little more. Each group is around the region that it belongs
    to. ``half`` is ``½‖c‖²``."""
    count = round(math.sqrt(len(centres)))
    regions = kmeans(centres, count, 6, rng)
    home = nearest(centres, regions)
    nearness = regions @ centres.T - half
    nearness[home, np.arange(len(centres))] = np.inf
    width = max(REACH * count, int(np.bincount(home).max()))
    around = np.argpartition(-nearness, width - 1, axis=1)[:, :width]
    return regions, np.sort(around.astype(np.int64), axis=1)


def leaf_labels(
    source: Vectors,
    leaf_size: int,
    rng: np.random.Generator,
    threads: int,
    tick: Callable[[str, int, int], None],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The leaf of every target and the group of every leaf.

    Args:
        source: the vectors.
        leaf_size: targets in a leaf, on average; none gets more than twice as many.
        rng: of the samples and first centres.
        threads: for the iterations and the last pass. Pieces are the same for any number of them, so the tree is too.
        tick: called with progress.

    Returns:
        ``(n,)`` leaf numbers, every one in use, and ``(L,)`` group numbers, every one in use, ascending.
    """
    n = source.shape[0]
    if n <= leaf_size:
        return np.zeros(n, dtype=np.int32), np.zeros(1, dtype=np.int64)
    grouping = _trained(source, leaf_size, rng, threads, tick)
    labels = np.empty(n, dtype=np.int32)

    size = CHUNK if grouping.regions is None else 4 * CHUNK

    def assign(first: int, last: int) -> None:
        for chunk in range(first, last):
            rows = slice(chunk * size, min((chunk + 1) * size, n))
            grouping.nearest_leaves(source.take(rows), labels[rows])
            tick("leaves", rows.stop, n)

    split_work(assign, -(-n // size), threads, least=1)
    return _cut(source, labels, grouping, leaf_size, rng)


def _trained(
    source: Vectors, leaf_size: int, rng: np.random.Generator, threads: int, tick: Callable[[str, int, int], None]
) -> Grouping:
    """Leaf centres by Lloyd's iterations on a sample, begun with clusters inside clusters."""
    n = source.shape[0]
    leaves = max(1, round(n / leaf_size))
    size = min(n, max(PER_LEAF * leaves, 50_000), max(MOST_TRAINED, 8 * leaves))
    points = source.take(slice(0, n) if size == n else np.sort(rng.choice(n, size, replace=False)))
    groups = max(1, round(math.sqrt(leaves)))
    first = points[np.sort(rng.choice(size, min(size, max(128 * groups, 16_384)), replace=False))]
    outer = nearest(points, kmeans(first, groups, 8, rng))
    labels = np.empty(size, dtype=np.int32)
    count = 0
    for group in range(groups):
        members = np.flatnonzero(outer == group)
        if len(members):
            inner = subtree(points[members], max(1, round(leaf_size * size / n)), 3, rng)
            labels[members] = count + inner
            count += int(inner.max()) + 1
    for iteration in range(ITERATIONS):
        grouping = Grouping(_live_means(points, labels), rng)
        grouping.nearest_leaves(points, labels, threads)
        tick("centres", iteration + 1, ITERATIONS)
    return Grouping(_live_means(points, labels), rng)


def _live_means(points: Floats, labels: NDArray[Any]) -> Floats:
    centres, counts = means(points, labels, int(labels.max()) + 1)
    return centres[counts > 0]


def _cut(
    source: Vectors, labels: NDArray[np.int32], grouping: Grouping, leaf_size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Cuts leaves that hold too many, forgets empty ones, and numbers the rest group by group."""
    leaf_group = grouping.leaf_group.tolist()
    counts = np.bincount(labels, minlength=len(leaf_group))
    large = np.flatnonzero(counts > 2 * leaf_size)
    if len(large):
        order = np.argsort(labels, kind="stable")
        starts = np.cumsum(counts) - counts
        for leaf in large.tolist():
            members = order[starts[leaf] : starts[leaf] + counts[leaf]]
            parts = split_large(source.take(members), np.zeros(len(members), np.int64), 1, 2 * leaf_size, rng)
            for part in range(1, int(parts.max()) + 1):
                labels[members[parts == part]] = len(leaf_group)
                leaf_group.append(leaf_group[leaf])
    groups = np.array(leaf_group, dtype=np.int64)
    used = np.flatnonzero(np.bincount(labels, minlength=len(groups)))
    used = used[np.argsort(groups[used], kind="stable")]
    number = np.empty(len(groups), dtype=np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    return number[labels], np.unique(groups[used], return_inverse=True)[1].reshape(-1)
