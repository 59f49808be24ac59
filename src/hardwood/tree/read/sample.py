"""Draws with known probabilities, with replacement, from a query's `Cut`."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardwood.tree.arrays.nodes import BLOCK, Nodes
from hardwood.tree.arrays.products import products
from hardwood.tree.compiled.numeric import dot, jit, mix, uniform, widest
from hardwood.tree.read.cut import Cut, explore
from hardwood.tree.read.masses import columns_of, largest, masses, score_leaf, span
from hardwood.tree.read.question import excluded_by
from hardwood.tree.read.sketch import decides, sketch_leaf
from hardwood.tree.read.survey import Block, survey

NOTHING = np.iinfo(np.int64).max
"""No node: the draw is made."""

STRETCH = 64


@jit
def pick(weight, n, u):  # type: ignore[no-untyped-def]
    """The index that the inverse CDF of ``weight[:n]`` gives for ``u``; one whose weight is not nought."""
    total = 0.0
    for i in range(n):
        total += weight[i]
    goal, seen, last = u * total, 0.0, 0
    for i in range(n):
        if weight[i] > 0.0:
            last = i
            seen += weight[i]
            if seen > goal:
                break
    return last


@jit
def draw_replace(  # type: ignore[no-untyped-def]
    nodes,
    sketch,
    question,
    seed,
    first,
    certify,
    begin,
    end,
    rows,
    log_q,
    scores,
    marks,
):
    """For queries ``begin <= b < end``: ``k`` independent draws each, into ``rows``, ``log_q``, ``scores``
    (B, k) and ``marks`` (B, 3): log Ẑ and, if ``certify``, its bounds. Draw ``j`` of query ``b`` reads the random
    numbers of (seed, first + b, j) and nothing else."""
    k = rows.shape[1]
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, question, low, high)
        node, base = np.empty((high - low, k), np.int64), np.empty((high - low, k))
        for b in range(low, high):
            q, excluded = b - low, excluded_by(question, b)
            cut = explore(nodes, block, q, question.probes, excluded, question.gamma, certify)
            mark(cut, certify, marks[b])
            node[q] = NOTHING
            if cut.log_z == -np.inf:
                continue
            stream, beta_norm, opened, log_z = mix(seed, first + b), block.beta_norm[q], cut.opened, cut.log_z
            pick_nodes(cut, stream, node[q])
            for j in range(k):
                won = node[q, j]
                if won < opened:
                    leaf, at = cut.open_leaf[won], cut.open_at[won]
                    i = pick(cut.weight[at:], nodes.leaf_count[leaf], uniform(stream, 3 * j + 2))
                    rows[b, j], scores[b, j] = nodes.leaf_start[leaf] + i, beta_norm * cut.head[at + i]
                    log_q[b, j], node[q, j] = scores[b, j] - log_z, NOTHING
                else:
                    node[q, j], base[q, j] = cut.tail_node[won - opened], cut.tail_log[won - opened] - log_z
        descend_groups(nodes, block, node, base, seed, first + low)
        descend_leaves(nodes, sketch, block, node, base, seed, first + low, rows[low:], log_q[low:], scores[low:])


@jit
def mark(cut: Cut, certify, out):  # type: ignore[no-untyped-def]
    """Writes log Ẑ, kept within its bounds, and the bounds; infinite ones where there are none."""
    out[0], out[1], out[2] = min(max(cut.log_z, cut.lower), cut.upper), cut.lower, cut.upper
    if not certify and cut.total > 0.0:
        out[1], out[2] = -np.inf, np.inf


@jit
def pick_nodes(cut: Cut, stream, node):  # type: ignore[no-untyped-def]
    """For each draw the opened leaf, or ``opened`` + the tail node, that the inverse CDF of the cut's masses gives,
    into ``node`` (k,)."""
    mass, n = cut.mass, cut.opened + cut.in_view
    # Sums by stretches: a running sum over everything waits for each addition.
    stretches = -(-n // STRETCH)
    cdf, total = np.empty(stretches), 0.0
    for t in range(stretches):
        part = 0.0
        for i in range(t * STRETCH, min((t + 1) * STRETCH, n)):
            part += mass[i]
        total += part
        cdf[t] = total
    for j in range(node.shape[0]):
        goal, t = uniform(stream, 3 * j) * total, 0
        while t < stretches - 1 and cdf[t] <= goal:
            t += 1
        seen = cdf[t - 1] if t > 0 else 0.0
        last: Any = np.int64(-1)
        for i in range(t * STRETCH, min((t + 1) * STRETCH, n)):
            if mass[i] > 0.0:
                last = i
                seen += mass[i]
                if seen > goal:
                    break
        while last < 0 or mass[last] == 0.0:  # rounding: the stretch has no mass after all
            last = last - 1 if last > 0 else n - 1
        node[j] = last


@jit
def picked(node, groups):  # type: ignore[no-untyped-def]
    """The draws whose node is a group (or a leaf), sorted by node: sorted keys, ``(node * Q + query) * k + draw``, in
    which a group counts by its number."""
    Q, k = node.shape
    keys, n = np.empty(Q * k, np.int64), 0
    for q in range(Q):
        for j in range(k):
            won = node[q, j]
            if won != NOTHING and (won < 0) == groups:
                keys[n] = ((~won if groups else won) * Q + q) * k + j
                n += 1
    keys = keys[:n]
    keys.sort()
    return keys


@jit
def descend_groups(nodes: Nodes, block: Block, node, base, seed, first):  # type: ignore[no-untyped-def]
    """Every draw of the block that won a group gets one of its leaves, by their estimated masses; its log probability
    goes to ``base``. Group by group, so that the leaves' means are read once."""
    Q, k = node.shape
    offsets, leaves, leaf_stats = nodes.group_offsets, nodes.group_leaves, nodes.leaf_stats
    fan = widest(offsets[1:] - offsets[:-1])
    dots, stats = np.empty((Q, fan), np.float32), np.empty((4, fan))
    inner, weight = np.empty(fan), np.empty(fan)
    who, start = np.empty(Q, np.int64), np.zeros(Q, np.int64)
    keys = picked(node, True)
    begin = 0
    while begin < keys.shape[0]:
        group, m, end = keys[begin] // (Q * k), 0, begin
        while end < keys.shape[0] and keys[end] // (Q * k) == group:
            q = keys[end] // k % Q
            if m == 0 or who[m - 1] != q:
                who[m] = q
                m += 1
            end += 1
        at, n = offsets[group], offsets[group + 1] - offsets[group]
        after = keys[end] // (Q * k) if end < keys.shape[0] else group
        ahead, beyond = offsets[after], offsets[after + 1]
        products(block.unit, who, start, m, nodes.leaf_mean, leaves, at, n, dots, ahead, beyond)
        columns_of(leaf_stats, leaves, at, n, stats, 0)
        last, log_inner = np.int64(-1), 0.0
        for key in keys[begin:end]:
            q, j = key // k % Q, key % k
            if q != last:
                span(stats, dots[q], n, block.beta_norm[q], block.share[q, 0], 0.0, inner, inner, inner, False)
                last, shift = q, largest(inner, n, -np.inf)
                log_inner = np.log(masses(inner, n, shift, weight)) + shift
            c = pick(weight, n, uniform(mix(seed, first + q), 3 * j + 1))
            node[q, j] = leaves[at + c]
            base[q, j] += inner[c] - log_inner
        begin = end


@jit
def descend_leaves(nodes: Nodes, sketch, block: Block, node, base, seed, first, rows, log_q, scores):  # type: ignore[no-untyped-def]
    """Every draw of the block that won an unopened leaf gets one of its targets, by exact scores or by the sketch's."""
    Q, k = node.shape
    wide, no_rows = widest(nodes.leaf_count), np.empty(0, np.int64)
    head, weight = np.empty(wide, np.float32), np.empty(wide, np.float32)
    last, log_leaf, by_sketch = np.int64(-1), 0.0, False
    keys = picked(node, False)
    after = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        leaf, q, j = key // (Q * k), key // k % Q, key % k
        unit, beta_norm = block.unit[q], block.beta_norm[q]
        if key // k != last:
            while after < keys.shape[0] and keys[after] // (Q * k) <= leaf:
                after += 1
            ahead = nodes.leaf_start[keys[after] // (Q * k)] if after < keys.shape[0] else -1
            by_sketch = decides(sketch, leaf, beta_norm)
            if by_sketch:
                log_leaf = sketch_leaf(nodes, sketch, leaf, unit, beta_norm, head, weight, ahead)
            else:
                log_leaf = score_leaf(nodes, leaf, unit, beta_norm, no_rows, head, weight, ahead)
            last = key // k
        c = pick(weight, nodes.leaf_count[leaf], uniform(mix(seed, first + q), 3 * j + 2))
        row = nodes.leaf_start[leaf] + c
        rows[q, j], log_q[q, j] = row, base[q, j] + beta_norm * head[c] - log_leaf
        scores[q, j] = beta_norm * (dot(unit, nodes.rows, row) if by_sketch else head[c])
