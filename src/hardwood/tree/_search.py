"""The best k by inner product, and the expectation under the softmax: two more uses of the head."""

from __future__ import annotations

import numpy as np

from hardwood.tree._explore import along, explore, survey
from hardwood.tree._nodes import BLOCK
from hardwood.tree._numeric import decode, dot, jit, select_largest
from hardwood.tree._numeric import unit as to_unit
from hardwood.tree._tiles import group_products, leaf_products

OUTLYING = np.float32(3.0)
"""A leaf is as promising as a target this many standard deviations (of its targets' scores) above their mean. Measured
on real encodings against the mean alone: recall@10 of 0.813 for 0.797 where 0.8 % of the targets are opened."""


@jit
def search(nodes, queries, probes, groups, begin, end, rows, scores):  # type: ignore[no-untyped-def]
    """For queries ``begin <= b < end``: rows and inner products of the ``k`` best targets of the ``probes`` most
    promising leaves of the best ``groups`` groups, into ``rows`` and ``scores`` (B, k)."""
    k, G, L = rows.shape[1], nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    data, offsets, leaves, leaf_stats = nodes.rows, nodes.group_offsets, nodes.group_leaves, nodes.leaf_stats
    leaf_of, pick = np.empty(L, np.int64), np.empty(L, np.int64)
    best, best_row = np.empty(k, np.float32), np.empty(k, np.int64)
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        Q = high - low
        unit, norm = np.empty((Q, queries.shape[1]), np.float32), np.empty(Q)
        for q in range(Q):
            norm[q] = to_unit(queries[low + q], unit[q])
        group_dot, order, inside = group_products(nodes, unit), np.empty((Q, G), np.int64), np.empty(Q, np.int64)
        for q in range(Q):
            live = 0
            for g in range(G):
                if nodes.group_count[g] > 0:
                    order[q, live] = g
                    live += 1
            inside[q] = min(groups, live)
            select_largest(group_dot[q], order[q], live, inside[q])
        leaf_dot = leaf_products(nodes, unit, order, inside)
        for q in range(Q):
            x, dots, share = unit[q], leaf_dot[q], along(unit[q], nodes.leaf_shape, nodes.evenly[0])
            seen = 0
            for t in range(inside[q]):
                for c in range(offsets[order[q, t]], offsets[order[q, t] + 1]):
                    leaf_of[seen], pick[seen] = leaves[c], seen
                    dots[seen] += OUTLYING * np.float32(np.sqrt(leaf_stats[leaves[c], 2] * share))
                    seen += 1
            opened = min(probes, seen)
            select_largest(dots, pick, seen, opened)
            found = 0
            for t in range(opened):
                leaf = leaf_of[pick[t]]
                for row in range(nodes.leaf_start[leaf], nodes.leaf_start[leaf] + nodes.leaf_count[leaf]):
                    s = dot(x, data, row)
                    if found < k or s > best[found - 1]:
                        at = min(found, k - 1)
                        while at > 0 and best[at - 1] < s:
                            best[at], best_row[at] = best[at - 1], best_row[at - 1]
                            at -= 1
                        best[at], best_row[at] = s, row
                        found = min(found + 1, k)
            for j in range(k):
                rows[low + q, j] = best_row[j] if j < found else -1
                scores[low + q, j] = norm[q] * best[j] if j < found else -np.inf


@jit
def expect(nodes, queries, scale, probes, groups, ex_offsets, ex_rows, gamma, begin, end, out):  # type: ignore[no-untyped-def]
    """``E_P[y]`` for queries ``begin <= b < end`` into ``out`` (B, d): opened targets exactly, an unopened
    node by the mean of its targets tilted by the query, ``μ + β Σ x``: together the gradient of ``log Ẑ`` by
    ``βx``."""
    d = queries.shape[1]
    total, push = np.empty(d), np.empty(d)
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, queries, scale, groups, ex_offsets, ex_rows, low, high)
        for b in range(low, high):
            unit, bx, near, far = (
                block.unit[b - low],
                block.bx[b - low],
                block.share[b - low, 0],
                block.share[b - low, 1],
            )
            cut = explore(nodes, block, b - low, probes, ex_rows[ex_offsets[b] : ex_offsets[b + 1]], gamma, False)
            opened, n_tail = cut.sizes[0], cut.sizes[1]
            total[:] = 0.0
            for t in range(opened):
                leaf, at = cut.open_leaf[t], cut.open_at[t]
                inside = 0.0
                for i in range(nodes.leaf_count[leaf]):
                    inside += cut.weight[at + i]
                # Not exp(s - log Ẑ): of scores of 1e15 and more, differences say nothing.
                share = cut.mass[t] / cut.total / inside if inside > 0.0 else 0.0
                for i in range(nodes.leaf_count[leaf]):
                    p = share * cut.weight[at + i]
                    if p > 0.0:
                        row = nodes.leaf_start[leaf] + i
                        for c in range(d):
                            total[c] += p * decode(nodes.rows[row, c])
            leaf_tilt = group_tilt = straight = 0.0
            for t in range(n_tail):
                p = cut.mass[opened + t] / cut.total
                node = cut.tail_node[t]
                if p == 0.0:
                    continue
                if node >= 0:
                    along_mean, turned, ahead = pull(nodes.leaf_stats[node], nodes.leaf_mean, node, unit, bx, near)
                    leaf_tilt += p * turned
                    for c in range(d):
                        total[c] += p * along_mean * nodes.leaf_mean[node, c]
                else:
                    along_mean, turned, ahead = pull(nodes.group_stats[~node], nodes.group_mean, ~node, unit, bx, far)
                    group_tilt += p * turned
                    for c in range(d):
                        total[c] += p * along_mean * nodes.group_mean[~node, c]
                straight += p * ahead
            for c in range(d):
                total[c] += straight * unit[c]
            tilt(unit, nodes.leaf_shape, nodes.evenly[0], leaf_tilt, push, total)
            tilt(unit, nodes.group_shape, nodes.evenly[1], group_tilt, push, total)
            for c in range(d):
                out[b, c] = total[c]


@jit
def pull(stats, means, row, unit, bx, share):  # type: ignore[no-untyped-def]
    """The gradient of a node's `mass_estimate` by ``βx``, as ``a μ + b Σ̄ x̂ + c x̂``: returns ``a, b, c``.

    Where what the ball or the longest vector allow is the smaller, the estimate is linear in ``βx``, and so bounded.
    """
    score, radius, reach, spread = bx * dot(unit, means, row), stats[0], stats[1], stats[2]
    ball, longest, second = score + bx * radius, bx * reach, score + 0.5 * bx * bx * spread * share
    if second <= ball and second <= longest:
        return 1.0, bx * spread, 0.0
    if ball <= longest:
        return 1.0, 0.0, radius
    return (0.0, 0.0, reach) if longest > score else (1.0, 0.0, 0.0)


@jit
def tilt(unit, shape, even, amount, push, total):  # type: ignore[no-untyped-def]
    """Adds ``amount · W x̂`` to ``total``, with ``W = even I + shape' shape`` the pooled covariance; ``push``
    is scratch."""
    if amount == 0.0:
        return
    for c in range(push.shape[0]):
        push[c] = even * unit[c]
    for r in range(shape.shape[0]):
        part = np.float64(dot(unit, shape, r))
        for c in range(push.shape[0]):
            push[c] += part * shape[r, c]
    for c in range(push.shape[0]):
        total[c] += amount * push[c]
