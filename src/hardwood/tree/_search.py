"""The best k by inner product, and the expectation under the softmax: two more uses of the head."""

from __future__ import annotations

import numpy as np

from hardwood.tree._explore import explore, log_sums
from hardwood.tree._numeric import decode, dot, exp32, jit, select_largest
from hardwood.tree._numeric import unit as to_unit


@jit
def search(nodes, queries, probes, groups, begin, end, rows, scores):  # type: ignore[no-untyped-def]
    """For queries ``begin <= b < end``: rows and inner products of the ``k`` best targets of the ``probes``
    leaves whose centroids score best among those of the best ``groups`` groups, into ``rows`` and ``scores``
    (B, k)."""
    d, k = queries.shape[1], rows.shape[1]
    G, L = nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    unit = np.empty(d, np.float32)
    leaf_mean, data = nodes.leaf_mean, nodes.rows
    group_score, order = np.empty(G, np.float32), np.empty(G, np.int64)
    leaf_score, leaf_of, pick = np.empty(L, np.float32), np.empty(L, np.int64), np.empty(L, np.int64)
    best, best_row = np.empty(k, np.float32), np.empty(k, np.int64)
    for b in range(begin, end):
        norm = to_unit(queries[b], unit)
        live = 0
        for g in range(G):
            if nodes.group_count[g] > 0:
                group_score[g] = dot(unit, nodes.group_mean, g)
                order[live] = g
                live += 1
        inside = min(groups, live)
        select_largest(group_score, order, live, inside)
        seen = 0
        for t in range(inside):
            for c in range(nodes.group_offsets[order[t]], nodes.group_offsets[order[t] + 1]):
                leaf_of[seen], pick[seen] = nodes.group_leaves[c], seen
                leaf_score[seen] = dot(unit, leaf_mean, nodes.group_leaves[c])
                seen += 1
        opened = min(probes, seen)
        select_largest(leaf_score, pick, seen, opened)
        found = 0
        for t in range(opened):
            leaf = leaf_of[pick[t]]
            for row in range(nodes.leaf_start[leaf], nodes.leaf_start[leaf] + nodes.leaf_count[leaf]):
                s = dot(unit, data, row)
                if found < k or s > best[found - 1]:
                    at = min(found, k - 1)
                    while at > 0 and best[at - 1] < s:
                        best[at], best_row[at] = best[at - 1], best_row[at - 1]
                        at -= 1
                    best[at], best_row[at] = s, row
                    found = min(found + 1, k)
        for j in range(k):
            rows[b, j] = best_row[j] if j < found else -1
            scores[b, j] = norm * best[j] if j < found else -np.inf


@jit
def expect(nodes, queries, scale, probes, groups, ex_offsets, ex_rows, gamma, begin, end, out):  # type: ignore[no-untyped-def]
    """``E_P[y]`` for queries ``begin <= b < end`` into ``out`` (B, d): opened targets exactly, an unopened
    node by the mean of its targets tilted by the query, ``μ + β Σ x``: together the gradient of ``log Ẑ`` by
    ``βx``."""
    d = queries.shape[1]
    unit, total, push = np.empty(d, np.float32), np.empty(d), np.empty(d)
    for b in range(begin, end):
        bx = scale * to_unit(queries[b], unit)
        cut = explore(nodes, unit, bx, probes, groups, ex_rows[ex_offsets[b] : ex_offsets[b + 1]], gamma, False)
        opened, n_tail = cut.sizes[0], cut.sizes[1]
        log_z = log_sums(cut.open_log, opened, cut.tail_log, n_tail)
        total[:] = 0.0
        for t in range(opened):
            leaf, at = cut.open_leaf[t], cut.open_at[t]
            for i in range(nodes.leaf_count[leaf]):
                p = np.float64(exp32(bx * cut.head[at + i] - log_z))
                if p > 0.0:
                    row = nodes.leaf_start[leaf] + i
                    for c in range(d):
                        total[c] += p * decode(nodes.rows[row, c])
        leaf_tilt = group_tilt = 0.0
        for t in range(n_tail):
            p = np.float64(exp32(cut.tail_log[t] - log_z))
            node = cut.tail_node[t]
            if p == 0.0:
                continue
            if node >= 0:
                leaf_tilt += p * bx * min(nodes.leaf_stats[node, 2], nodes.leaf_stats[node, 0] ** 2)
                for c in range(d):
                    total[c] += p * nodes.leaf_mean[node, c]
            else:
                group_tilt += p * bx * nodes.group_stats[~node, 2]
                for c in range(d):
                    total[c] += p * nodes.group_mean[~node, c]
        tilt(unit, nodes.leaf_shape, nodes.evenly[0], leaf_tilt, push, total)
        tilt(unit, nodes.group_shape, nodes.evenly[1], group_tilt, push, total)
        for c in range(d):
            out[b, c] = total[c]


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
