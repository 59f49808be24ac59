"""The best k by inner product, and the expectation under the softmax: two more uses of the head."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.arrays.products import group_products, leaf_products
from hardwood.tree.compiled.numeric import decode, dot, jit
from hardwood.tree.compiled.numeric import unit as to_unit
from hardwood.tree.compiled.select import top
from hardwood.tree.read.cut import explore
from hardwood.tree.read.masses import along
from hardwood.tree.read.survey import survey

OUTLYING = np.float32(3.0)
"""A leaf is as promising as a target this many standard deviations (of its targets' scores) above their mean. Measured
on real encodings against the mean alone: recall@10 of 0.813 for 0.797 where 0.8 % of the targets are opened."""


@jit
def promising_groups(nodes, group_dot, groups):  # type: ignore[no-untyped-def]
    """``(Q, groups)``: the groups of largest mean score of each query, and how many of them there are."""
    Q, G = group_dot.shape
    live = 0
    for g in range(G):
        if nodes.group_count[g] > 0:
            live += 1
        else:
            group_dot[:, g] = -np.inf
    order, inside = np.empty((Q, groups), np.int64), np.full(Q, min(groups, live))
    for q in range(Q):
        top(group_dot[q], G, inside[q], order[q])
    return order, inside


@jit
def spreads(nodes, order, inside):  # type: ignore[no-untyped-def]
    """`OUTLYING` standard deviations of each leaf of a group that some query looks into, but for the query's share of
    the covariance; in the order of ``group_leaves``."""
    offsets, leaves, stats = nodes.group_offsets, nodes.group_leaves, nodes.leaf_stats
    out, wanted = np.empty(leaves.shape[0], np.float32), np.zeros(offsets.shape[0] - 1, np.bool_)
    for q in range(order.shape[0]):
        for t in range(inside[q]):
            wanted[order[q, t]] = True
    for g in range(wanted.shape[0]):
        if wanted[g]:
            for c in range(offsets[g], offsets[g + 1]):
                out[c] = OUTLYING * np.float32(np.sqrt(stats[leaves[c], 2]))
    return out


@jit
def promise(offsets, leaves, order, groups, spread, root, dots, leaf_of):  # type: ignore[no-untyped-def]
    """Adds to the mean scores ``dots`` of the leaves of the groups ``order[:groups]`` what the best of their targets
    may have beyond them; writes the leaves themselves to ``leaf_of``. Returns how many there are."""
    seen = 0
    for t in range(groups):
        begin, n = offsets[order[t]], offsets[order[t] + 1] - offsets[order[t]]
        score, leaf, own, wide = dots[seen : seen + n], leaf_of[seen : seen + n], leaves[begin:], spread[begin:]
        for i in range(n):
            score[i] += root * wide[i]
            leaf[i] = own[i]
        seen += n
    return seen


@jit
def keep(row, s, best, best_row, found):  # type: ignore[no-untyped-def]
    """Puts a target among the best so far, best first, unless it is there; returns how many there are then."""
    k = best.shape[0]
    if found == k and not s > best[k - 1]:
        return found
    for at in range(found - 1, -1, -1):  # a target that two leaves show has one and the same score
        if best[at] > s:
            break
        if best_row[at] == row:
            return found
    at = min(found, k - 1)
    while at > 0 and best[at - 1] < s:
        best[at], best_row[at] = best[at - 1], best_row[at - 1]
        at -= 1
    best[at], best_row[at] = s, row
    return min(found + 1, k)


@jit
def best_targets(nodes, spill, x, leaf_of, pick, opened, best, best_row):  # type: ignore[no-untyped-def]
    """The targets of largest product with ``x`` in the leaves ``leaf_of[pick[:opened]]``, and of those that they show
    beside their own: products and rows, best first, into ``best`` and ``best_row`` (k,). Returns how many were
    found."""
    found, rows, offsets, others = 0, nodes.rows, spill.offsets, spill.rows
    for t in range(opened):
        leaf = leaf_of[pick[t]]
        start = nodes.leaf_start[leaf]
        for row in range(start, start + nodes.leaf_count[leaf]):
            found = keep(row, dot(x, rows, row), best, best_row, found)
        if others.shape[0] > 0:
            for i in range(offsets[leaf], offsets[leaf + 1]):
                found = keep(others[i], dot(x, rows, others[i]), best, best_row, found)
    return found


@jit
def search(nodes, spill, queries, probes, groups, begin, end, ids, scores):  # type: ignore[no-untyped-def]
    """For queries ``begin <= b < end``: ids and inner products of the ``k`` best targets of the ``probes`` most
    promising leaves of the best ``groups`` groups, into ``ids`` and ``scores`` (B, k); -1 and -inf where there are
    fewer."""
    k, offsets, leaves = ids.shape[1], nodes.group_offsets, nodes.group_leaves
    leaf_of, pick = np.empty(leaves.shape[0], np.int64), np.empty(leaves.shape[0], np.int64)
    best, best_row = np.empty(k, np.float32), np.empty(k, np.int64)
    for low in range(begin, end, BLOCK):
        Q = min(low + BLOCK, end) - low
        unit, norm = np.empty((Q, queries.shape[1]), np.float32), np.empty(Q)
        for q in range(Q):
            norm[q] = to_unit(queries[low + q], unit[q])
        order, inside = promising_groups(nodes, group_products(nodes, unit), groups)
        leaf_dot, spread = leaf_products(nodes, unit, order, inside), spreads(nodes, order, inside)
        for q in range(Q):
            x, dots = unit[q], leaf_dot[q]
            root = np.float32(np.sqrt(along(x, nodes.leaf_shape, nodes.evenly[0])))
            seen = promise(offsets, leaves, order[q], inside[q], spread, root, dots, leaf_of)
            opened = min(probes, seen)
            top(dots, seen, opened, pick)
            found = best_targets(nodes, spill, x, leaf_of, pick, opened, best, best_row)
            for j in range(k):
                ids[low + q, j] = nodes.row_id[best_row[j]] if j < found else -1
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
        block = survey(nodes, queries, scale, groups, probes, ex_offsets, ex_rows, gamma, low, high)
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
