"""The nearest leaf for each of many points: products by tiles of four points and two centres, so that each number
loaded serves several products.

Numba and not BLAS: it takes no memory beside a few integers a point, runs in our own threads without waking another
pool, and with the search for the largest in the same loop it is as quick (5.0 ns a product at d = 128, BLAS 4.5, one
product at a time 11).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.products import tile
from hardwood.tree.compiled.numeric import jit

CHUNK, A_GROUP = 4096, 16
"""Points whose groups are sorted at a time: enough to fill tiles group by group, few enough for the cache. Of thousands
of groups more, `A_GROUP` for each and up to 16 times as many: every chunk reads the centres of nearly all leaves."""

NOWHERE = np.empty(0, np.int64)
"""The homes of points that may be near any group."""


def everywhere(groups: int) -> NDArray[np.int64]:
    """All groups, for points that have no home."""
    return np.arange(groups)[None, :]


@jit
def score_four(points, p0, p1, p2, p3, centres, half, own, first, last, scores):  # type: ignore[no-untyped-def]
    """``p·c - ½‖c‖²`` of the points ``p0`` to ``p3`` with the centres ``own[first:last]`` into ``scores[:, 0..]``, two
    centres at a time; an odd last one is written twice. Their maximum is sought elsewhere: a comparison in this loop
    keeps the compiler from using vectors (19 ns a product)."""
    for j in range(first, last, 2):
        left, right = own[j], own[min(j + 1, last - 1)]
        s = tile(points, p0, p1, p2, p3, centres, left, right)
        h0, h1, at = half[left], half[right], j - first
        scores[0, at], scores[1, at], scores[2, at], scores[3, at] = s[0] - h0, s[1] - h0, s[2] - h0, s[3] - h0
        at += 1
        scores[0, at], scores[1, at], scores[2, at], scores[3, at] = s[4] - h1, s[5] - h1, s[6] - h1, s[7] - h1


@jit
def best_of(points, rows, begin, end, centres, half, own, first, last, scores, best, leaf):  # type: ignore[no-untyped-def]
    """For the points ``rows[begin:end]``: the largest ``p·c - ½‖c‖²`` among the centres ``own[first:last]``, where it
    is above ``best``, and its centre into ``leaf``; among equal ones the first."""
    for t in range(begin, end, 4):
        # The last tile repeats its last point, and forgets it.
        score_four(
            points, rows[t], rows[min(t + 1, end - 1)], rows[min(t + 2, end - 1)], rows[min(t + 3, end - 1)],
            centres, half, own, first, last, scores,
        )  # fmt: skip
        for p in range(min(4, end - t)):
            row = rows[t + p]
            top, place = best[row], -1
            for j in range(last - first):
                if scores[p, j] > top:
                    top, place = scores[p, j], j
            if place >= 0:
                best[row], leaf[row] = top, own[first + place]


@jit
def best_groups(points, rows, begin, end, first, centres, half, among, scores, near):  # type: ignore[no-untyped-def]
    """Writes the ``near.shape[1]`` of the groups ``among`` with largest ``p·c - ½‖c‖²`` of the points ``i =
    rows[begin:end]`` into ``near[i - first]``, -1 where there are fewer. A group without targets has an infinite
    ``half``."""
    most, count = near.shape[1], among.shape[0]
    top = np.empty(most, np.float32)
    for t in range(begin, end, 4):
        score_four(
            points, rows[t], rows[min(t + 1, end - 1)], rows[min(t + 2, end - 1)], rows[min(t + 3, end - 1)],
            centres, half, among, 0, count, scores,
        )  # fmt: skip
        for p in range(min(4, end - t)):
            keep = near[rows[t + p] - first]
            top[:] = -np.inf
            keep[:] = -1
            for j in range(count):
                s = scores[p, j]
                if s > top[most - 1]:
                    at = most - 1
                    while at > 0 and top[at - 1] < s:
                        top[at], keep[at] = top[at - 1], keep[at - 1]
                        at -= 1
                    top[at], keep[at] = s, among[j]


@jit
def nearest_groups(points, centres, half, among, begin, end, near):  # type: ignore[no-untyped-def]
    """Writes the ``near.shape[1]`` of the groups ``among`` that are nearest to each point ``begin <= i < end``, nearest
    first, into ``near[i]``. Takes no more memory than one score of each group for four of them."""
    scores = np.empty((4, among.shape[0] + 1), np.float32)
    best_groups(points, np.arange(begin, end), 0, end - begin, 0, centres, half, among, scores, near)


@jit
def by_home(homes, begin, end, count):  # type: ignore[no-untyped-def]
    """``begin..end`` listed by ``homes``, in order; those of home ``h`` from ``edges[h]`` to ``edges[h + 1]``. All in
    the first one where ``homes`` is empty."""
    rows, edges = np.arange(begin, end), np.zeros(count + 1, np.int64)
    if homes.shape[0] == 0:
        edges[1:] = end - begin
        return rows, edges
    for i in range(begin, end):
        edges[homes[i] + 1] += 1
    for h in range(count):
        edges[h + 1] += edges[h]
    filled = edges.copy()
    for i in range(begin, end):
        rows[filled[homes[i]]] = i
        filled[homes[i]] += 1
    return rows, edges


@jit
def by_group(points, begin, end, homes, around, group_centres, group_half, offsets, looked):  # type: ignore[no-untyped-def]
    """The points ``begin <= i < end`` listed by group, each under its ``looked`` nearest ones of the groups
    ``around[homes[i]]`` (``around[0]`` where ``homes`` is empty): ``order`` has those of group ``g`` from ``edges[g]``
    to ``edges[g + 1]``. And the largest number of leaves or groups to score at once."""
    G, looked = group_centres.shape[0], min(looked, around.shape[1])
    near, order = np.empty((end - begin, looked), np.int32), np.empty((end - begin) * looked, np.int64)
    edges, most = np.zeros(G + 2, np.int64), around.shape[1]
    for g in range(G):
        most = max(most, offsets[g + 1] - offsets[g])
    scores = np.empty((4, most + 1), np.float32)
    rows, runs = by_home(homes, begin, end, around.shape[0])
    for h in range(around.shape[0]):
        best_groups(points, rows, runs[h], runs[h + 1], begin, group_centres, group_half, around[h], scores, near)
    # Counts two places on, so that filling a group in leaves its beginning where it belongs.
    for i in range(end - begin):
        for f in range(looked):
            if near[i, f] >= 0:
                edges[near[i, f] + 2] += 1
    for g in range(G):
        edges[g + 2] += edges[g + 1]
    for i in range(end - begin):
        for f in range(looked):
            if near[i, f] >= 0:
                order[edges[near[i, f] + 1]] = begin + i
                edges[near[i, f] + 1] += 1
    return order, edges, most


@jit
def nearest_leaves(  # type: ignore[no-untyped-def]
    points, homes, around, group_centres, group_half, offsets, leaves, centres, half, looked, begin, end, best, leaf
):  # fmt: skip
    """For points ``begin <= i < end``: the nearest centre among the leaves of their ``looked`` nearest groups, of those
    that are ``around`` their ``homes`` (see `by_group`).

    Group ``g``'s leaves are ``leaves[offsets[g]:offsets[g + 1]]``; ``half`` and ``group_half`` are ``½‖c‖²``. Writes
    the leaf into ``leaf[i]`` (-1 where no group has any) and ``p·c - ½‖c‖²`` into ``best[i]``. Points are taken
    `CHUNK` at a time or more, and group by group, so that a group's centres stay in the cache.
    """
    chunk = max(CHUNK, min(A_GROUP * group_centres.shape[0], 16 * CHUNK))
    for start in range(begin, end, chunk):
        stop = min(start + chunk, end)
        order, edges, most = by_group(
            points, start, stop, homes, around, group_centres, group_half, offsets, looked
        )  # fmt: skip
        scores = np.empty((4, most + 1), np.float32)
        for i in range(start, stop):
            best[i], leaf[i] = -np.inf, -1
        for g in range(group_centres.shape[0]):
            best_of(
                points, order, edges[g], edges[g + 1], centres, half, leaves, offsets[g], offsets[g + 1], scores, best,
                leaf,
            )  # fmt: skip


@jit
def stay_unless(points, centres, half, current, gain, begin, end, best, leaf):  # type: ignore[no-untyped-def]
    """Puts ``current[i]`` back into ``leaf[i]`` unless the new centre's squared distance is below ``gain`` times the
    present one's. ``best[i]`` is the new centre's ``p·c - ½‖c‖²``."""
    for i in range(begin, end):
        here = current[i]
        if here == leaf[i]:
            continue
        norm = product = 0.0
        for c in range(points.shape[1]):
            y = np.float64(points[i, c])
            norm += y * y
            product += y * np.float64(centres[here, c])
        if norm - 2.0 * best[i] > gain * (norm - 2.0 * (product - half[here])):
            leaf[i] = here


@jit
def add_up(points, labels, sums, counts):  # type: ignore[no-untyped-def]
    """Adds each point to its label's row of ``sums`` and of ``counts``, in order."""
    for i in range(points.shape[0]):
        k = labels[i]
        counts[k] += 1
        for c in range(points.shape[1]):
            sums[k, c] += points[i, c]


@jit
def next_rows(labels, cursor, out):  # type: ignore[no-untyped-def]
    """Gives each label in turn the next row of its block: ``out[i] = cursor[labels[i]]``, which then moves on."""
    for i in range(labels.shape[0]):
        out[i] = cursor[labels[i]]
        cursor[labels[i]] += 1
