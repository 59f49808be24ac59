"""The few largest of many numbers, without sorting them."""

from __future__ import annotations

import numpy as np

from hardwood.tree._numeric import jit

CHUNK = 16
"""Consecutive numbers whose maximum is taken together: the compiler makes it a handful of vector instructions."""


@jit
def kth_largest(values, n, k):  # type: ignore[no-untyped-def]
    """The ``k``-th largest of ``values[:n]``, which are reordered (Hoare's algorithm)."""
    low, high, k = 0, n - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


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
