"""Opening leaves until something is certain: ``log Z`` to a tolerance, and exact samples of the softmax."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.bounds import (
    LOG_COUNT,
    RADIUS,
    REACH,
    SPREAD,
    SUM_ERROR,
    mass_estimate,
    mass_lower,
    mass_upper,
    score_error,
)
from hardwood.tree.compiled.numeric import dot, jit, mix, uniform, widest
from hardwood.tree.compiled.numeric import unit as to_unit
from hardwood.tree.read.masses import along, log_sums, score_leaf
from hardwood.tree.read.sample import pick


@jit
def bound_leaves(nodes, unit, beta_norm, gamma, low, middle, high):  # type: ignore[no-untyped-def]
    """Bounds and estimates of the log mass of every leaf; -inf for dead ones. Returns how many live."""
    share = along(unit, nodes.leaf_covariance, nodes.even_variance[0])
    live = 0
    for leaf in range(nodes.leaf_count.shape[0]):
        low[leaf] = middle[leaf] = high[leaf] = -np.inf
        if nodes.leaf_count[leaf] > 0:
            s = nodes.leaf_stats[leaf]
            count = s[LOG_COUNT]
            score = beta_norm * dot(unit, nodes.leaf_mean, leaf)
            err = score_error(beta_norm, s[REACH], gamma)
            low[leaf] = mass_lower(count, score, err)
            middle[leaf] = mass_estimate(count, score, beta_norm, s[RADIUS], s[REACH], s[SPREAD], share)
            high[leaf] = mass_upper(count, score, err, beta_norm, s[RADIUS], s[REACH])
            live += 1
    return live


@jit
def summed(low, middle, high, out):  # type: ignore[no-untyped-def]
    """``log Σ exp`` of the three arrays into ``out``: estimate, lower, upper, the bounds moved outward by
    what the sums may err."""
    n = low.shape[0]
    out[0] = log_sums(middle, n, middle, 0)
    out[1] = log_sums(low, n, low, 0)
    out[2] = log_sums(high, n, high, 0)
    if out[2] > -np.inf:
        out[2] += SUM_ERROR + 1e-14 * abs(out[2])
    if out[1] > -np.inf:
        out[1] -= SUM_ERROR + 1e-14 * abs(out[1])
    out[0] = min(max(out[0], out[1]), out[2])


@jit
def open_leaf(nodes, leaf, unit, beta_norm, excluded, gamma, head, weight, low, middle, high):  # type: ignore[no-untyped-def]
    """Scores a leaf into ``head`` and ``weight`` (see `score_leaf`) and replaces its bounds and estimate by its exact
    mass, give or take rounding."""
    exact = score_leaf(nodes, leaf, unit, beta_norm, excluded, head, weight, -1)
    low[leaf] = middle[leaf] = high[leaf] = exact
    if exact > -np.inf:
        err = score_error(beta_norm, nodes.leaf_stats[leaf, REACH], gamma) + 1e-14 * abs(exact)
        low[leaf], high[leaf] = exact - err, exact + err
    return exact


@jit
def refine(  # type: ignore[no-untyped-def]
    nodes, queries, scale, tolerance, budget, excluded_offsets, excluded_rows, gamma, begin, end, marks, opened, certain
):
    """For queries ``begin <= b < end``: opens leaves, widest gap between bounds first, until the whole gap is
    within ``tolerance`` or ``budget`` leaves are open. Estimate and bounds go to ``marks`` (B, 3). Leaves
    with excluded rows are always opened."""
    d, L = queries.shape[1], nodes.leaf_count.shape[0]
    unit = np.empty(d, np.float32)
    low, middle, high = np.empty(L), np.empty(L), np.empty(L)
    gap, wide = np.empty(L), widest(nodes.leaf_count)
    head, weight = np.empty(wide, np.float32), np.empty(wide, np.float32)
    for b in range(begin, end):
        beta_norm = scale * to_unit(queries[b], unit)
        excluded = excluded_rows[excluded_offsets[b] : excluded_offsets[b + 1]]
        live = bound_leaves(nodes, unit, beta_norm, gamma, low, middle, high)
        for leaf in range(L):
            gap[leaf] = -np.inf
            if nodes.leaf_count[leaf] > 0:
                gap[leaf] = high[leaf] + np.log(-np.expm1(min(low[leaf] - high[leaf], -1e-300)))
        forced = 0
        for e in range(excluded.shape[0]):
            hiding = nodes.row_leaf[excluded[e]]
            if gap[hiding] < np.inf:
                gap[hiding] = np.inf
                forced += 1
        order = np.argsort(-gap)
        done, check = 0, forced
        for t in range(live + 1):
            if t >= check or t == live or t >= budget:
                summed(low, middle, high, marks[b])
                if t >= forced and (marks[b, 2] - marks[b, 1] <= tolerance or t >= budget or t == live):
                    break
                check = t + 1 + t // 16
            open_leaf(nodes, order[t], unit, beta_norm, excluded, gamma, head, weight, low, middle, high)
            done += 1
        opened[b] = done
        certain[b] = marks[b, 2] - marks[b, 1] <= tolerance or marks[b, 2] == -np.inf


@jit
def weigh(nodes, high, shift, leaf_weight, group_weight):  # type: ignore[no-untyped-def]
    """Weights ``exp(high - shift)`` of leaves and their sums by group; returns the whole sum."""
    group_weight[:] = 0.0
    total = 0.0
    for leaf in range(high.shape[0]):
        leaf_weight[leaf] = 0.0
        if high[leaf] > -np.inf:
            leaf_weight[leaf] = np.exp(high[leaf] - shift)
            group_weight[nodes.leaf_group[leaf]] += leaf_weight[leaf]
            total += leaf_weight[leaf]
    return total


@jit
def choose(nodes, leaf_weight, group_weight, total, u):  # type: ignore[no-untyped-def]
    """A leaf with probability proportional to its weight: first its group, then itself."""
    goal, group = u * total, 0
    for g in range(group_weight.shape[0]):
        if group_weight[g] > 0.0:
            group = g
            if goal < group_weight[g]:
                break
            goal -= group_weight[g]
    last = np.int64(-1)
    for c in range(nodes.group_offsets[group], nodes.group_offsets[group + 1]):
        leaf = nodes.group_leaves[c]
        if leaf_weight[leaf] > 0.0:
            last = leaf
            if goal < leaf_weight[leaf]:
                break
            goal -= leaf_weight[leaf]
    return last


@jit
def draw_exact(  # type: ignore[no-untyped-def]
    nodes, queries, scale, excluded_offsets, excluded_rows, seed, first, gamma, begin, end, rows, scores, marks
):
    """For queries ``begin <= b < end``: ``k`` independent exact draws of P each, by rejection under the
    certified upper bounds.

    A leaf is chosen in proportion to its upper bound ``U`` and opened; the draw is accepted with probability
    ``mass / U`` and made within the leaf by its exact scores, so an accepted draw has probability ``exp(s)/Σ
    U`` times a constant: P. From then on the leaf's own mass is its bound, so every rejection makes the next
    try likelier to be accepted, and in the end all leaves are open and none is rejected.
    """
    d, k = queries.shape[1], rows.shape[1]
    G, L = nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    unit = np.empty(d, np.float32)
    low, middle, high = np.empty(L), np.empty(L), np.empty(L)
    leaf_weight, group_weight = np.empty(L), np.empty(G)
    at = np.empty(L, np.int64)
    wide = widest(nodes.leaf_count)
    head, weight = np.empty(wide, np.float32), np.empty(64 * wide, np.float32)
    for b in range(begin, end):
        beta_norm = scale * to_unit(queries[b], unit)
        excluded = excluded_rows[excluded_offsets[b] : excluded_offsets[b + 1]]
        bound_leaves(nodes, unit, beta_norm, gamma, low, middle, high)
        at[:] = -1
        used = 0
        for e in range(excluded.shape[0]):
            leaf = np.int64(nodes.row_leaf[excluded[e]])
            if at[leaf] < 0:
                if used + wide > weight.shape[0]:
                    weight = np.concatenate((weight, np.empty_like(weight)))
                at[leaf] = used
                high[leaf] = open_leaf(
                    nodes, leaf, unit, beta_norm, excluded, gamma, head, weight[used:], low, middle, high
                )
                used += nodes.leaf_count[leaf]
        stream, tries = mix(seed, first + b), 0
        shift = high.max()
        total = weigh(nodes, high, shift, leaf_weight, group_weight) if shift > -np.inf else 0.0
        j = 0
        while j < k and shift > -np.inf:
            leaf = choose(nodes, leaf_weight, group_weight, total, uniform(stream, 3 * tries))
            accept = True
            if at[leaf] < 0:
                if used + wide > weight.shape[0]:
                    weight = np.concatenate((weight, np.empty_like(weight)))
                bound, at[leaf] = high[leaf], used
                exact = open_leaf(nodes, leaf, unit, beta_norm, excluded, gamma, head, weight[used:], low, middle, high)
                used += nodes.leaf_count[leaf]
                accept = uniform(stream, 3 * tries + 1) < np.exp(exact - bound)
                high[leaf] = exact
            if accept:
                i = pick(weight[at[leaf] :], nodes.leaf_count[leaf], uniform(stream, 3 * tries + 2))
                row = nodes.leaf_start[leaf] + i
                rows[b, j], scores[b, j] = row, beta_norm * dot(unit, nodes.rows, row)
                j += 1
            tries += 1
            # The leaf's weight changed: sums anew, and the shift too once bounds have fallen far below it.
            total = reweigh(nodes, leaf, high, shift, leaf_weight, group_weight)
            if total < 1e-30:
                shift = high.max()
                total = weigh(nodes, high, shift, leaf_weight, group_weight)
        for t in range(L):
            if at[t] >= 0 and high[t] > -np.inf:
                err = score_error(beta_norm, nodes.leaf_stats[t, REACH], gamma) + 1e-14 * abs(middle[t])
                high[t] = middle[t] + err
        summed(low, middle, high, marks[b])


@jit
def reweigh(nodes, leaf, high, shift, leaf_weight, group_weight):  # type: ignore[no-untyped-def]
    """Renews one leaf's weight, its group's sum and the whole sum (each from its parts: differences would
    keep rounding errors)."""
    leaf_weight[leaf] = np.exp(high[leaf] - shift) if high[leaf] > -np.inf else 0.0
    g = nodes.leaf_group[leaf]
    part = 0.0
    for c in range(nodes.group_offsets[g], nodes.group_offsets[g + 1]):
        part += leaf_weight[nodes.group_leaves[c]]
    group_weight[g] = part
    total = 0.0
    for i in range(group_weight.shape[0]):
        total += group_weight[i]
    return total
