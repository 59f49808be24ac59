"""Draws with known probabilities, with and without replacement, from a query's `Cut`."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardwood.tree.arrays.bounds import mass_estimate
from hardwood.tree.arrays.nodes import BLOCK, Nodes
from hardwood.tree.arrays.products import products
from hardwood.tree.compiled.numeric import dot, gumbel, jit, mix, uniform, widest
from hardwood.tree.read.cut import Cut, explore
from hardwood.tree.read.masses import columns_of, largest, log_sums, masses, score_leaf, span
from hardwood.tree.read.sketch import decides, sketch_leaf
from hardwood.tree.read.survey import Block, survey

NOTHING = np.iinfo(np.int64).max
"""No node: the draw is made."""

STRETCH = 64


@jit
def leaf_estimate(nodes, leaf, unit, bx, share):  # type: ignore[no-untyped-def]
    """The estimated log mass of one leaf; ``share`` is the part of its spread along the query."""
    s = nodes.leaf_stats
    score = bx * dot(unit, nodes.leaf_mean, leaf)
    return mass_estimate(s[leaf, 3], score, bx, s[leaf, 0], s[leaf, 1], s[leaf, 2], share)


@jit
def children(nodes, group, unit, bx, share, out):  # type: ignore[no-untyped-def]
    """Writes the estimated log masses of a group's leaves to ``out`` and returns how many and their log
    sum."""
    start = nodes.group_offsets[group]
    n = nodes.group_offsets[group + 1] - start
    for i in range(n):
        out[i] = leaf_estimate(nodes, nodes.group_leaves[start + i], unit, bx, share)
    return n, log_sums(out, n, out, 0)


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
    queries,
    scale,
    probes,
    groups,
    ex_offsets,
    ex_rows,
    seed,
    first,
    gamma,
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
        block = survey(nodes, queries, scale, groups, probes, ex_offsets, ex_rows, gamma, low, high)
        node, base = np.empty((high - low, k), np.int64), np.empty((high - low, k))
        for b in range(low, high):
            q, excluded = b - low, ex_rows[ex_offsets[b] : ex_offsets[b + 1]]
            cut = explore(nodes, block, q, probes, excluded, gamma, certify)
            mark(cut, certify, marks[b])
            node[q] = NOTHING
            if cut.log_z == -np.inf:
                continue
            stream, bx, opened, log_z = mix(seed, first + b), block.bx[q], cut.sizes[0], cut.log_z
            pick_nodes(cut, stream, node[q])
            for j in range(k):
                won = node[q, j]
                if won < opened:
                    leaf, at = cut.open_leaf[won], cut.open_at[won]
                    i = pick(cut.weight[at:], nodes.leaf_count[leaf], uniform(stream, 3 * j + 2))
                    rows[b, j], scores[b, j] = nodes.leaf_start[leaf] + i, bx * cut.head[at + i]
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
    mass, n = cut.mass, cut.sizes[0] + cut.sizes[1]
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
    kids, weight = np.empty(fan), np.empty(fan)
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
        last, log_kids = np.int64(-1), 0.0
        for key in keys[begin:end]:
            q, j = key // k % Q, key % k
            if q != last:
                span(stats, dots[q], n, block.bx[q], block.share[q, 0], 0.0, kids, kids, kids, False)
                last, shift = q, largest(kids, n, -np.inf)
                log_kids = np.log(masses(kids, n, shift, weight)) + shift
            c = pick(weight, n, uniform(mix(seed, first + q), 3 * j + 1))
            node[q, j] = leaves[at + c]
            base[q, j] += kids[c] - log_kids
        begin = end


@jit
def descend_leaves(nodes: Nodes, sketch, block: Block, node, base, seed, first, rows, log_q, scores):  # type: ignore[no-untyped-def]
    """Every draw of the block that won an unopened leaf gets one of its targets, by exact scores or by the sketch's."""
    Q, k = node.shape
    wide, nobody = widest(nodes.leaf_count), np.empty(0, np.int64)
    head, weight = np.empty(wide, np.float32), np.empty(wide, np.float32)
    last, log_leaf, by_sketch = np.int64(-1), 0.0, False
    keys = picked(node, False)
    after = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        leaf, q, j = key // (Q * k), key // k % Q, key % k
        unit, bx = block.unit[q], block.bx[q]
        if key // k != last:
            while after < keys.shape[0] and keys[after] // (Q * k) <= leaf:
                after += 1
            ahead = nodes.leaf_start[keys[after] // (Q * k)] if after < keys.shape[0] else -1
            by_sketch = decides(sketch, leaf, bx)
            if by_sketch:
                log_leaf = sketch_leaf(nodes, sketch, leaf, unit, bx, head, weight, ahead)
            else:
                log_leaf = score_leaf(nodes, leaf, unit, bx, nobody, head, weight, ahead)
            last = key // k
        c = pick(weight, nodes.leaf_count[leaf], uniform(mix(seed, first + q), 3 * j + 2))
        row = nodes.leaf_start[leaf] + c
        rows[q, j], log_q[q, j] = row, base[q, j] + bx * head[c] - log_leaf
        scores[q, j] = bx * (dot(unit, nodes.rows, row) if by_sketch else head[c])


@jit
def push(keys, items, n, key, item):  # type: ignore[no-untyped-def]
    """Adds to a binary heap whose root is the largest key."""
    i = n
    while i > 0 and keys[(i - 1) // 2] < key:
        keys[i], items[i] = keys[(i - 1) // 2], items[(i - 1) // 2]
        i = (i - 1) // 2
    keys[i], items[i] = key, item


@jit
def pop(keys, items, n):  # type: ignore[no-untyped-def]
    """Takes the root off a heap of ``n``; the caller has read it."""
    key, item = keys[n - 1], items[n - 1]
    i = 0
    while 2 * i + 1 < n - 1:
        c = 2 * i + 1
        if c + 1 < n - 1 and keys[c + 1] > keys[c]:
            c += 1
        if keys[c] <= key:
            break
        keys[i], items[i] = keys[c], items[c]
        i = c
    keys[i], items[i] = key, item


@jit
def truncated(values, n, roof):  # type: ignore[no-untyped-def]
    """Gumbels ``values[:n]`` conditioned on their maximum being ``roof``, in place (Kool et al. 2019,
    appendix B.3)."""
    top = largest(values, n, -np.inf)
    for i in range(n):
        if values[i] == top:
            values[i] = roof
        elif values[i] == -np.inf:
            continue
        else:
            gap = values[i] - top
            v = roof - values[i] + np.log1p(-np.exp(gap))
            values[i] = roof - max(0.0, v) - np.log1p(np.exp(-abs(v)))


@jit
def draw_without(  # type: ignore[no-untyped-def]
    nodes,
    sketch,
    queries,
    scale,
    probes,
    groups,
    ex_offsets,
    ex_rows,
    seed,
    first,
    gamma,
    certify,
    begin,
    end,
    rows,
    log_q,
    scores,
    marks,
    log_weights,
):
    """The same without replacement: the ``k`` largest of Gumbel-perturbed log probabilities, found from the
    top of the tree down.

    A node's Gumbel is the maximum of its targets' (Maddison et al. 2014), so only nodes that win are looked
    into. The (k+1)-th largest, κ, gives the weights: ``1 / P(perturbed > κ)`` for each draw (Kool et al.
    2019, eq. 17); with nothing left after k, all are 1.
    """
    k = rows.shape[1]
    fan = widest(nodes.group_offsets[1:] - nodes.group_offsets[:-1])
    wide = max(fan, widest(nodes.leaf_count))
    noisy, kids, leaf_head = np.empty(wide), np.empty(fan), np.empty(wide, np.float32)
    weight = np.empty(wide, np.float32)
    G, L = nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, queries, scale, groups, probes, ex_offsets, ex_rows, gamma, low, high)
        for b in range(low, high):
            excluded = ex_rows[ex_offsets[b] : ex_offsets[b + 1]]
            cut = explore(nodes, block, b - low, probes, excluded, gamma, certify)
            mark(cut, certify, marks[b])
            if cut.log_z == -np.inf:
                continue
            unit, bx, share = block.unit[b - low], block.bx[b - low], block.share[b - low, 0]
            opened, n_tail = cut.sizes[0], cut.sizes[1]
            log_z = cut.log_z
            stream = mix(seed, first + b)
            # An item is a row, or -1 - (a place in the list of nodes below, which grows as groups are looked
            # into).
            room = opened + n_tail + (k + 2) * (fan + wide)
            keys, items = np.empty(room), np.empty(room, np.int64)
            size = opened + n_tail + (k + 2) * fan
            place_leaf, place_log, place_open = np.empty(size, np.int64), np.empty(size), np.empty(size, np.int64)
            row_q = np.empty(
                room
            )  # log q of a pushed row, by its order of arrival, which the item carries in its upper half
            n = places = arrived = 0
            for i in range(opened + n_tail):
                node = cut.open_leaf[i] if i < opened else cut.tail_node[i - opened]
                log_node = (cut.open_log[i] if i < opened else cut.tail_log[i - opened]) - log_z
                if log_node == -np.inf:
                    continue
                place_leaf[places], place_log[places], place_open[places] = (
                    node,
                    log_node,
                    i if i < opened else -1,
                )
                counter = node if node >= 0 else L + ~node
                push(keys, items, n, log_node + gumbel(stream, counter), -1 - places)
                places += 1
                n += 1
            taken, kappa = 0, -np.inf
            while n > 0 and taken <= k:
                key, item = keys[0], items[0]
                pop(keys, items, n)
                n -= 1
                if item >= 0:
                    if taken == k:
                        kappa = key
                    else:
                        rows[b, taken] = item & 0xFFFFFFFF
                        log_q[b, taken] = row_q[item >> 32]
                    taken += 1
                    continue
                place = -1 - item
                leaf, log_node = place_leaf[place], place_log[place]
                if leaf < 0:
                    m, log_kids = children(nodes, ~leaf, unit, bx, share, kids)
                    start = nodes.group_offsets[~leaf]
                    for c in range(m):
                        kids[c] += log_node - log_kids
                        noisy[c] = kids[c] + gumbel(stream, nodes.group_leaves[start + c])
                    truncated(noisy, m, key)
                    for c in range(m):
                        place_leaf[places], place_log[places], place_open[places] = (
                            nodes.group_leaves[start + c],
                            kids[c],
                            -1,
                        )
                        push(keys, items, n, noisy[c], -1 - places)
                        places += 1
                        n += 1
                    continue
                if place_open[place] < 0 and decides(sketch, leaf, bx):
                    log_leaf = sketch_leaf(nodes, sketch, leaf, unit, bx, leaf_head, weight, -1)
                else:
                    log_leaf = score_leaf(nodes, leaf, unit, bx, excluded, leaf_head, weight, -1)
                start = nodes.leaf_start[leaf]
                m = nodes.leaf_count[leaf]
                for i in range(m):
                    noisy[i] = -np.inf
                    if leaf_head[i] > -np.inf:
                        noisy[i] = log_node + bx * leaf_head[i] - log_leaf + gumbel(stream, G + L + start + i)
                truncated(noisy, m, key)
                for i in range(m):
                    if noisy[i] > -np.inf:
                        row_q[arrived] = log_node + bx * leaf_head[i] - log_leaf
                        push(keys, items, n, noisy[i], (arrived << 32) | (start + i))
                        arrived += 1
                        n += 1
            for j in range(k):
                scores[b, j] = bx * dot(unit, nodes.rows, rows[b, j])
                # log P(φ + Gumbel > κ) = log(1 - exp(-exp(φ - κ)))
                gap = log_q[b, j] - kappa
                log_weights[b, j] = 0.0 if gap > 30.0 else -np.log(-np.expm1(-np.exp(gap)))
