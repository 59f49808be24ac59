"""Masses of leaves and nodes: exact of a leaf that is opened, estimated and bounded of those that stay shut."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.bounds import (
    LOG_COUNT,
    RADIUS,
    REACH,
    SPREAD,
    mass_estimate,
    mass_lower,
    mass_upper,
    score_error,
)
from hardwood.tree.arrays.products import row_products
from hardwood.tree.compiled.numeric import dot, exp32, first_from, jit


@jit
def along(unit, shape, even):  # type: ignore[no-untyped-def]
    """The share of a pooled covariance that lies along ``unit``: ``even + ‖shape · unit‖²``."""
    total = 0.0
    for r in range(shape.shape[0]):
        part = dot(unit, shape, r)
        total += part * part
    return even + total


@jit
def score_leaf(nodes, leaf, unit, beta_norm, excluded, head, weight, ahead):  # type: ignore[no-untyped-def]
    """Writes the leaf's dot products to ``head``, -inf for excluded rows, and their masses, up to a common factor, to
    ``weight``; returns the exact log mass of the leaf. Meanwhile the rows from ``ahead`` on, which will be next, come
    from memory (-1: not known)."""
    here = np.zeros(1, np.int64)
    one = unit.reshape((1, unit.shape[0]))
    row_products(one, here, here, 1, nodes.rows, nodes.leaf_start[leaf], nodes.leaf_count[leaf], head, ahead)
    return weigh_leaf(nodes, leaf, beta_norm, excluded, head, weight)


@jit
def weigh_leaf(nodes, leaf, beta_norm, excluded, head, weight):  # type: ignore[no-untyped-def]
    """`score_leaf` where the dot products are in ``head`` already."""
    start, count = nodes.leaf_start[leaf], nodes.leaf_count[leaf]
    e, n = first_from(excluded, excluded.shape[0], start), excluded.shape[0]  # rows ascend
    while e < n and excluded[e] < start + count:
        head[excluded[e] - start] = -np.inf
        e += 1
    best = largest(head, count, np.float32(-np.inf))
    if best == -np.inf:
        weight[:count] = 0.0
        return -np.inf
    total = 0.0
    for i in range(count):
        weight[i] = exp32((head[i] - best) * beta_norm)
        total += weight[i]
    return np.log(total) + beta_norm * best


@jit
def log_total(values, n, shift):  # type: ignore[no-untyped-def]
    """``Σ exp(values[:n] - shift)``; the values' own terms below e^-87 count as nothing."""
    total = 0.0
    for i in range(n):
        total += exp32(values[i] - shift)
    return total


@jit
def largest(values, n, floor):  # type: ignore[no-untyped-def]
    """The maximum of ``floor`` and ``values[:n]``; four chains of comparisons, as one waits for itself."""
    a = b = c = d = floor
    for i in range(0, n - 3, 4):
        a = values[i] if values[i] > a else a
        b = values[i + 1] if values[i + 1] > b else b
        c = values[i + 2] if values[i + 2] > c else c
        d = values[i + 3] if values[i + 3] > d else d
    for i in range(n - n % 4, n):
        a = values[i] if values[i] > a else a
    return max(a, b, c, d)


@jit
def masses(values, n, shift, out):  # type: ignore[no-untyped-def]
    """Writes ``exp(values[:n] - shift)`` to ``out`` and returns the sum; nothing where the shift is -inf."""
    total = 0.0
    for i in range(n):
        out[i] = exp32(values[i] - shift) if shift > -np.inf else 0.0
    for i in range(n):
        total += out[i]
    return total


@jit
def log_sums(first, n, second, m):  # type: ignore[no-untyped-def]
    """``log Σ exp`` over ``first[:n]`` and ``second[:m]`` together."""
    shift = largest(second, m, largest(first, n, -np.inf))
    if shift == -np.inf:
        return -np.inf
    return np.log(log_total(first, n, shift) + log_total(second, m, shift)) + shift


@jit
def log_sums_by(first, n, second, m, shift):  # type: ignore[no-untyped-def]
    """The same with a ``shift`` that is known to be about as large as the largest value, or larger."""
    total = log_total(first, n, shift) + log_total(second, m, shift)
    return np.log(total) + shift if total > 1e-30 else log_sums(first, n, second, m)


@jit
def leaf_estimate(nodes, leaf, unit, beta_norm, share):  # type: ignore[no-untyped-def]
    """The estimated log mass of one leaf; ``share`` is the part of its spread along the query."""
    s = nodes.leaf_stats
    score = beta_norm * dot(unit, nodes.leaf_mean, leaf)
    return mass_estimate(s[leaf, LOG_COUNT], score, beta_norm, s[leaf, RADIUS], s[leaf, REACH], s[leaf, SPREAD], share)


@jit
def children(nodes, group, unit, beta_norm, share, out):  # type: ignore[no-untyped-def]
    """Writes the estimated log masses of a group's leaves to ``out`` and returns how many and their log
    sum."""
    start = nodes.group_offsets[group]
    n = nodes.group_offsets[group + 1] - start
    for i in range(n):
        out[i] = leaf_estimate(nodes, nodes.group_leaves[start + i], unit, beta_norm, share)
    return n, log_sums(out, n, out, 0)


@jit
def columns_of(stats, index, begin, n, out, at):  # type: ignore[no-untyped-def]
    """Copies the statistics of nodes ``index[begin : begin + n]`` to ``out[:, at : at + n]``: column by column, so that
    loops over them vectorise."""
    for i in range(n):
        node = index[begin + i]
        for c in range(4):
            out[c, at + i] = stats[node, c]


@jit
def span(stats, dots, n, beta_norm, share, gamma, middle, low, high, certify):  # type: ignore[no-untyped-def]
    """Estimates and bounds of the log masses of ``n`` nodes with ``stats`` (4, n), whose means have the products
    ``dots`` with the unit query, into ``middle``, ``low`` and ``high``."""
    radius, reach, spread, log_count = stats[RADIUS], stats[REACH], stats[SPREAD], stats[LOG_COUNT]
    for i in range(n):
        middle[i] = mass_estimate(log_count[i], beta_norm * dots[i], beta_norm, radius[i], reach[i], spread[i], share)
    if certify:
        for i in range(n):
            low[i] = mass_lower(log_count[i], beta_norm * dots[i], score_error(beta_norm, reach[i], gamma))
        for i in range(n):
            err = score_error(beta_norm, reach[i], gamma)
            high[i] = mass_upper(log_count[i], beta_norm * dots[i], err, beta_norm, radius[i], reach[i])
