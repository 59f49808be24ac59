"""The head and the tail: which leaves a query opens, and what is estimated and proved about the nodes it
leaves shut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardwood.tree._bounds import mass_estimate, mass_lower, mass_upper, score_error
from hardwood.tree._nodes import Nodes
from hardwood.tree._numeric import dot, exp32, jit, select_largest


class Cut(NamedTuple):
    """One query's partition of all targets. ``sizes`` is (opened leaves, unopened nodes, head rows).

    The first arrays are about opened leaves: ``open_log`` is the exact log mass (of what is not excluded),
    ``head`` the dot products of its targets with the unit query (-inf where excluded) from ``open_at`` on.
    The ``tail`` arrays are about unopened nodes: a leaf by its number, a group by ``~number``. ``lower`` and
    ``upper`` certify the log mass of all of it.
    """

    sizes: np.ndarray
    open_leaf: np.ndarray
    open_at: np.ndarray
    open_log: np.ndarray
    head: np.ndarray
    tail_node: np.ndarray
    tail_log: np.ndarray
    log_z: float
    lower: float
    upper: float


@jit
def along(unit, shape, even):  # type: ignore[no-untyped-def]
    """The share of a pooled covariance that lies along ``unit``: ``even + ‖shape · unit‖²``."""
    total = 0.0
    for r in range(shape.shape[0]):
        part = dot(unit, shape, r)
        total += part * part
    return even + total


@jit
def score_leaf(nodes, leaf, unit, bx, excluded, head, at):  # type: ignore[no-untyped-def]
    """Writes the leaf's dot products to ``head[at:]``, -inf for excluded rows, and returns their exact log
    mass."""
    start, count, rows = nodes.leaf_start[leaf], nodes.leaf_count[leaf], nodes.rows
    best = np.float32(-np.inf)
    for i in range(count):
        head[at + i] = dot(unit, rows, start + i)
    for e in range(excluded.shape[0]):
        if start <= excluded[e] < start + count:
            head[at + excluded[e] - start] = -np.inf
    for i in range(count):
        best = head[at + i] if head[at + i] > best else best
    if best == -np.inf:
        return -np.inf
    total = 0.0
    for i in range(count):
        total += exp32((head[at + i] - best) * bx)
    return np.log(total) + bx * best


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
def log_sums(first, n, second, m):  # type: ignore[no-untyped-def]
    """``log Σ exp`` over ``first[:n]`` and ``second[:m]`` together."""
    shift = largest(second, m, largest(first, n, -np.inf))
    if shift == -np.inf:
        return -np.inf
    return np.log(log_total(first, n, shift) + log_total(second, m, shift)) + shift


@jit
def explore(nodes: Nodes, unit, bx, probes, groups, excluded, gamma, certify):  # type: ignore[no-untyped-def]
    """Opens the ``probes`` leaves with the largest estimated mass among those of the best ``groups`` groups,
    and every leaf that holds an excluded row; returns the `Cut`. ``certify=False`` skips the bounds."""
    G, L = nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    leaf_share = along(unit, nodes.leaf_shape, nodes.evenly[0])
    group_share = along(unit, nodes.group_shape, nodes.evenly[1])

    # Arrays by name once: a view or a field taken inside a loop counts references, atomically, beside other
    # threads.
    leaf_mean, leaf_stats, leaf_count = nodes.leaf_mean, nodes.leaf_stats, nodes.leaf_count
    group_mean, group_stats = nodes.group_mean, nodes.group_stats
    group_offsets, group_leaves = nodes.group_offsets, nodes.group_leaves

    # Groups: score all, then look inside the best ones and those that hold an excluded row.
    group_log, group_dot = np.empty(G), np.empty(G)
    order = np.empty(G, np.int64)
    live = 0
    for g in range(G):
        if nodes.group_count[g] > 0:
            group_dot[g] = bx * dot(unit, group_mean, g)
            group_log[g] = mass_estimate(
                group_stats[g, 3],
                group_dot[g],
                bx,
                group_stats[g, 0],
                group_stats[g, 1],
                group_stats[g, 2],
                group_share,
            )
            order[live] = g
            live += 1
    groups = min(groups, live)
    select_largest(group_log, order, live, groups)
    forced = np.empty(excluded.shape[0], np.int64)
    n_forced = 0
    for e in range(excluded.shape[0]):
        leaf = np.int64(nodes.row_leaf[excluded[e]])
        known = False
        for f in range(n_forced):
            known = known or forced[f] == leaf
        if not known:
            forced[n_forced] = leaf
            n_forced += 1
    for f in range(n_forced):
        for t in range(groups, live):
            if order[t] == nodes.leaf_group[forced[f]]:
                order[t], order[groups] = order[groups], order[t]
                groups += 1
                break

    # Leaves of those groups.
    seen = 0
    for t in range(groups):
        seen += group_offsets[order[t] + 1] - group_offsets[order[t]]
    leaf_log, leaf_dot, leaf_of = np.empty(seen), np.empty(seen), np.empty(seen, np.int64)
    pick = np.arange(seen)
    n = 0
    for t in range(groups):
        for c in range(group_offsets[order[t]], group_offsets[order[t] + 1]):
            leaf = group_leaves[c]
            leaf_of[n] = leaf
            leaf_dot[n] = bx * dot(unit, leaf_mean, leaf)
            n += 1
    for i in range(seen):
        j = leaf_of[i]
        leaf_log[i] = mass_estimate(
            leaf_stats[j, 3],
            leaf_dot[i],
            bx,
            leaf_stats[j, 0],
            leaf_stats[j, 1],
            leaf_stats[j, 2],
            leaf_share,
        )
    for f in range(n_forced):
        for i in range(seen):
            if leaf_of[i] == forced[f]:
                leaf_log[i] = np.inf
                break
    opened = min(max(probes, n_forced), seen)
    select_largest(leaf_log, pick, seen, opened)

    # Open the head.
    total_rows = 0
    for i in range(opened):
        total_rows += leaf_count[leaf_of[pick[i]]]
    head = np.empty(total_rows, np.float32)
    open_leaf, open_at, open_log = np.empty(opened, np.int64), np.empty(opened, np.int64), np.empty(opened)
    at = 0
    for i in range(opened):
        leaf = leaf_of[pick[i]]
        open_leaf[i], open_at[i] = leaf, at
        open_log[i] = score_leaf(nodes, leaf, unit, bx, excluded, head, at)
        at += leaf_count[leaf]

    # The tail: unopened leaves of the groups looked into, then the other groups.
    n_tail = seen - opened + live - groups
    tail_node, tail_log = np.empty(n_tail, np.int64), np.empty(n_tail)
    for i in range(opened, seen):
        tail_node[i - opened], tail_log[i - opened] = leaf_of[pick[i]], leaf_log[pick[i]]
    for t in range(groups, live):
        j = seen - opened + t - groups
        tail_node[j], tail_log[j] = ~order[t], group_log[order[t]]
    log_z = log_sums(open_log, opened, tail_log, n_tail)

    lower = upper = log_z
    if certify:
        open_low, open_high = np.empty(opened), np.empty(opened)
        for i in range(opened):
            err = score_error(bx, nodes.leaf_stats[open_leaf[i], 1], gamma) + 1e-14 * abs(open_log[i])
            if open_log[i] == -np.inf:
                err = 0.0
            open_low[i], open_high[i] = open_log[i] - err, open_log[i] + err
        low, high = np.empty(n_tail), np.empty(n_tail)
        for i in range(opened, seen):
            j, score = leaf_of[pick[i]], leaf_dot[pick[i]]
            err = score_error(bx, leaf_stats[j, 1], gamma)
            low[i - opened] = mass_lower(leaf_stats[j, 3], score, err)
            high[i - opened] = mass_upper(leaf_stats[j, 3], score, err, bx, leaf_stats[j, 0], leaf_stats[j, 1])
        for t in range(groups, live):
            g, j = order[t], seen - opened + t - groups
            err = score_error(bx, group_stats[g, 1], gamma)
            low[j] = mass_lower(group_stats[g, 3], group_dot[g], err)
            high[j] = mass_upper(group_stats[g, 3], group_dot[g], err, bx, group_stats[g, 0], group_stats[g, 1])
        # Every exponential errs by a part in 10^5 at most; the shift itself by its own rounding.
        lower = log_sums(open_low, opened, low, n_tail)
        upper = log_sums(open_high, opened, high, n_tail)
        lower -= 1e-5 + 1e-14 * abs(lower)
        upper += 1e-5 + 1e-14 * abs(upper)
        log_z = min(max(log_z, lower), upper)
    sizes = np.array([opened, n_tail, at, L])
    return Cut(sizes, open_leaf, open_at, open_log, head, tail_node, tail_log, log_z, lower, upper)
