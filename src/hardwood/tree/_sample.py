"""Draws with known probabilities, with and without replacement, from a query's `Cut`."""

from __future__ import annotations

import numpy as np

from hardwood.tree._bounds import mass_estimate
from hardwood.tree._explore import along, explore, largest, log_sums, score_leaf
from hardwood.tree._numeric import dot, exp32, gumbel, jit, mix, uniform
from hardwood.tree._numeric import unit as to_unit


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
def pick_log(values, n, u):  # type: ignore[no-untyped-def]
    """The index that the inverse CDF of ``exp(values[:n])`` gives for ``u``; one whose weight is not
    nought."""
    shift = largest(values, n, -np.inf)
    total = 0.0
    for i in range(n):
        total += exp32(values[i] - shift)
    goal, seen, last = u * total, 0.0, 0
    for i in range(n):
        w = exp32(values[i] - shift)
        if w > 0.0:
            last = i
            seen += w
            if seen > goal:
                break
    return last


@jit
def pick_head(head, at, n, bx, u):  # type: ignore[no-untyped-def]
    """The same over ``exp(bx · head[at:at + n])``."""
    shift = np.float32(-np.inf)
    for i in range(n):
        shift = max(shift, head[at + i])
    total = 0.0
    for i in range(n):
        total += exp32((head[at + i] - shift) * bx)
    goal, seen, last = u * total, 0.0, 0
    for i in range(n):
        w = exp32((head[at + i] - shift) * bx)
        if w > 0.0:
            last = i
            seen += w
            if seen > goal:
                break
    return last


@jit
def widest(counts):  # type: ignore[no-untyped-def]
    """The largest count, at least 1."""
    n = 1
    for i in range(counts.shape[0]):
        n = max(n, counts[i])
    return n


@jit
def draw_replace(  # type: ignore[no-untyped-def]
    nodes,
    queries,
    scale,
    probes,
    groups,
    ex_offsets,
    ex_rows,
    seed,
    first,
    gamma,
    begin,
    end,
    rows,
    log_q,
    scores,
    marks,
):
    """For queries ``begin <= b < end``: ``k`` independent draws each, into ``rows``, ``log_q``, ``scores``
    (B, k) and ``marks`` (B, 3): log Ẑ and its bounds. Draw ``j`` of query ``b`` reads the random numbers of
    (seed, first + b, j) and nothing else."""
    d, k = queries.shape[1], rows.shape[1]
    unit = np.empty(d, np.float32)
    fan = widest(nodes.group_offsets[1:] - nodes.group_offsets[:-1])
    kids, leaf_head = np.empty(fan), np.empty(widest(nodes.leaf_count), np.float32)
    for b in range(begin, end):
        bx = scale * to_unit(queries[b], unit)
        excluded = ex_rows[ex_offsets[b] : ex_offsets[b + 1]]
        cut = explore(nodes, unit, bx, probes, groups, excluded, gamma, True)
        marks[b, 0], marks[b, 1], marks[b, 2] = cut.log_z, cut.lower, cut.upper
        if cut.log_z == -np.inf:
            continue
        share = along(unit, nodes.leaf_shape, nodes.evenly[0])
        opened, n_tail = cut.sizes[0], cut.sizes[1]
        log_z = log_sums(cut.open_log, opened, cut.tail_log, n_tail)
        total = 0.0
        cdf = np.empty(opened + n_tail)
        for i in range(opened):
            total += exp32(cut.open_log[i] - log_z)
            cdf[i] = total
        for i in range(n_tail):
            total += exp32(cut.tail_log[i] - log_z)
            cdf[opened + i] = total
        stream = mix(seed, first + b)
        for j in range(k):
            node = np.searchsorted(cdf, uniform(stream, 3 * j) * total, side="right")
            node = min(node, opened + n_tail - 1)
            while node > 0 and cdf[node] == cdf[node - 1]:  # rounding at the very end of the CDF
                node -= 1
            if node < opened:
                leaf, at = cut.open_leaf[node], cut.open_at[node]
                i = pick_head(cut.head, at, nodes.leaf_count[leaf], bx, uniform(stream, 3 * j + 2))
                s = bx * cut.head[at + i]
                q = s - log_z
            else:
                leaf = cut.tail_node[node - opened]
                q = cut.tail_log[node - opened] - log_z
                if leaf < 0:
                    group = ~leaf
                    n, log_kids = children(nodes, group, unit, bx, share, kids)
                    c = pick_log(kids, n, uniform(stream, 3 * j + 1))
                    q += kids[c] - log_kids
                    leaf = nodes.group_leaves[nodes.group_offsets[group] + c]
                log_leaf = score_leaf(nodes, leaf, unit, bx, excluded[:0], leaf_head, 0)
                i = pick_head(leaf_head, 0, nodes.leaf_count[leaf], bx, uniform(stream, 3 * j + 2))
                s = bx * leaf_head[i]
                q += s - log_leaf
            rows[b, j] = nodes.leaf_start[leaf] + i
            log_q[b, j], scores[b, j] = q, s


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
    queries,
    scale,
    probes,
    groups,
    ex_offsets,
    ex_rows,
    seed,
    first,
    gamma,
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
    d, k = queries.shape[1], rows.shape[1]
    unit = np.empty(d, np.float32)
    fan = widest(nodes.group_offsets[1:] - nodes.group_offsets[:-1])
    wide = max(fan, widest(nodes.leaf_count))
    noisy, kids, leaf_head = np.empty(wide), np.empty(fan), np.empty(wide, np.float32)
    G, L = nodes.group_count.shape[0], nodes.leaf_count.shape[0]
    for b in range(begin, end):
        bx = scale * to_unit(queries[b], unit)
        excluded = ex_rows[ex_offsets[b] : ex_offsets[b + 1]]
        cut = explore(nodes, unit, bx, probes, groups, excluded, gamma, True)
        marks[b, 0], marks[b, 1], marks[b, 2] = cut.log_z, cut.lower, cut.upper
        if cut.log_z == -np.inf:
            continue
        share = along(unit, nodes.leaf_shape, nodes.evenly[0])
        opened, n_tail = cut.sizes[0], cut.sizes[1]
        log_z = log_sums(cut.open_log, opened, cut.tail_log, n_tail)
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
            log_leaf = score_leaf(nodes, leaf, unit, bx, excluded, leaf_head, 0)
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
