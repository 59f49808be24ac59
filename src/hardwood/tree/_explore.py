"""The head and the tail: which leaves a query opens, and what is estimated and proved about the nodes it
leaves shut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardwood.tree._bounds import LOG_COUNT, RADIUS, REACH, SPREAD, mass_estimate, mass_lower, mass_upper, score_error
from hardwood.tree._nodes import BLOCK, Nodes
from hardwood.tree._numeric import dot, exp32, jit, widest
from hardwood.tree._numeric import unit as to_unit
from hardwood.tree._select import top
from hardwood.tree._tiles import group_products, leaf_products, target_products

SHARED = 1.0
"""From so many openings a leaf on, over a block of queries, heads are made together (`shared_heads`)."""

MOST_SHARED = 4 * 2**20
"""Unless they are more numbers than this: what a block keeps must stay small, however many leaves are opened."""


class Cut(NamedTuple):
    """One query's partition of all targets. ``sizes`` is (opened leaves, nodes in view, head rows).

    The first arrays are about opened leaves: ``open_log`` is the exact log mass (of what is not excluded),
    ``head`` the dot products of its targets with the unit query (-inf where excluded) from ``open_at`` on, ``weight``
    their masses up to a factor of the leaf's own.
    The ``tail`` arrays are about all nodes in view: a leaf by its number, a group by ``~number``, with its estimated
    log mass, -inf for leaves that are opened. ``mass`` are the masses of opened leaves, then of the nodes in view, up
    to a common factor, and ``total`` their sum; ``log_z`` its logarithm with that factor. ``lower`` and ``upper``
    certify the log mass of all of it.
    """

    sizes: np.ndarray
    open_leaf: np.ndarray
    open_at: np.ndarray
    open_log: np.ndarray
    head: np.ndarray
    weight: np.ndarray
    tail_node: np.ndarray
    tail_log: np.ndarray
    mass: np.ndarray
    total: float
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
def leaf_dots(rows, start, count, unit, head):  # type: ignore[no-untyped-def]
    """Writes the products of ``unit`` with ``count`` rows from ``start`` on to ``head``. Compiled once, for whoever
    opens a leaf: elsewhere the compiler may add up in another order."""
    for i in range(count):
        head[i] = dot(unit, rows, start + i)


@jit
def score_leaf(nodes, leaf, unit, bx, excluded, head, weight):  # type: ignore[no-untyped-def]
    """Writes the leaf's dot products to ``head``, -inf for excluded rows, and their masses, up to a common factor, to
    ``weight``; returns the exact log mass of the leaf."""
    leaf_dots(nodes.rows, nodes.leaf_start[leaf], nodes.leaf_count[leaf], unit, head)
    return weigh_leaf(nodes, leaf, bx, excluded, head, weight)


@jit
def weigh_leaf(nodes, leaf, bx, excluded, head, weight):  # type: ignore[no-untyped-def]
    """`score_leaf` where the dot products are in ``head`` already."""
    start, count = nodes.leaf_start[leaf], nodes.leaf_count[leaf]
    best = np.float32(-np.inf)
    for e in range(excluded.shape[0]):
        if start <= excluded[e] < start + count:
            head[excluded[e] - start] = -np.inf
    for i in range(count):
        best = head[i] if head[i] > best else best
    if best == -np.inf:
        weight[:count] = 0.0
        return -np.inf
    total = 0.0
    for i in range(count):
        weight[i] = exp32((head[i] - best) * bx)
        total += weight[i]
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


class Block(NamedTuple):
    """Queries that are looked at together, ``Q`` of them: their products with the means of groups and leaves.

    ``unit`` (Q, d) and ``bx`` (Q,) are ``x / ‖x‖`` and ``β‖x‖``; ``share`` (Q, 2) of the pooled covariances along the
    query, leaves' and groups'. ``order`` (Q, G) has the ``inside[q]`` groups that query q looks into first, then the
    others, ``live`` in all; ``group_log``, ``group_low`` and ``group_high`` (Q, G) their estimated log masses and
    bounds.
    ``leaf_dot`` (Q, S): the products of the leaves of the groups looked into, in that order. ``heads``: the products of
    query q with the targets in the leaves that it will open, from ``head_at[q]`` on, if they were made together; else
    both are empty.
    """

    unit: np.ndarray
    bx: np.ndarray
    share: np.ndarray
    group_log: np.ndarray
    group_low: np.ndarray
    group_high: np.ndarray
    order: np.ndarray
    inside: np.ndarray
    live: int
    leaf_dot: np.ndarray
    heads: np.ndarray
    head_at: np.ndarray


@jit
def forced_leaves(nodes, excluded, out):  # type: ignore[no-untyped-def]
    """The leaves that hold excluded rows, each once, into ``out``; returns how many."""
    n = 0
    for e in range(excluded.shape[0]):
        leaf = np.int64(nodes.row_leaf[excluded[e]])
        known = False
        for f in range(n):
            known = known or out[f] == leaf
        if not known:
            out[n] = leaf
            n += 1
    return n


@jit
def columns_of(stats, index, begin, n, out, at):  # type: ignore[no-untyped-def]
    """Copies the statistics of nodes ``index[begin : begin + n]`` to ``out[:, at : at + n]``: column by column, so that
    loops over them vectorise."""
    for i in range(n):
        node = index[begin + i]
        for c in range(4):
            out[c, at + i] = stats[node, c]


@jit
def span(stats, dots, n, bx, share, gamma, middle, low, high, certify):  # type: ignore[no-untyped-def]
    """Estimates and bounds of the log masses of ``n`` nodes with ``stats`` (4, n), whose means have the products
    ``dots`` with the unit query, into ``middle``, ``low`` and ``high``."""
    radius, reach, spread, log_count = stats[RADIUS], stats[REACH], stats[SPREAD], stats[LOG_COUNT]
    for i in range(n):
        middle[i] = mass_estimate(log_count[i], bx * dots[i], bx, radius[i], reach[i], spread[i], share)
    if certify:
        for i in range(n):
            low[i] = mass_lower(log_count[i], bx * dots[i], score_error(bx, reach[i], gamma))
        for i in range(n):
            err = score_error(bx, reach[i], gamma)
            high[i] = mass_upper(log_count[i], bx * dots[i], err, bx, radius[i], reach[i])


@jit
def survey(nodes: Nodes, queries, scale, groups, probes, ex_offsets, ex_rows, gamma, begin, end):  # type: ignore[no-untyped-def]
    """The `Block` of queries ``begin <= b < end``: each looks into the ``groups`` groups of largest estimated mass
    and those that hold an excluded row, and will open ``probes`` leaves."""
    Q, G = end - begin, nodes.group_count.shape[0]
    unit, bx, share = np.empty((Q, queries.shape[1]), np.float32), np.empty(Q), np.empty((Q, 2))
    for q in range(Q):
        bx[q] = scale * to_unit(queries[begin + q], unit[q])
        share[q, 0] = along(unit[q], nodes.leaf_shape, nodes.evenly[0])
        share[q, 1] = along(unit[q], nodes.group_shape, nodes.evenly[1])
    group_dot = group_products(nodes, unit)
    group_log, group_low, group_high = np.empty((Q, G)), np.empty((Q, G)), np.empty((Q, G))
    order, inside = np.empty((Q, G), np.int64), np.empty(Q, np.int64)
    living, chosen, logs, live = np.empty(G, np.int64), np.empty(G, np.int64), np.empty(G), 0
    for g in range(G):
        if nodes.group_count[g] > 0:
            living[live] = g
            live += 1
    stats = np.empty((4, G))
    columns_of(nodes.group_stats, np.arange(G), 0, G, stats, 0)
    forced = np.empty(widest(ex_offsets[begin + 1 : end + 1] - ex_offsets[begin:end]), np.int64)
    for q in range(Q):
        span(
            stats, group_dot[q], G, bx[q], share[q, 1], gamma, group_log[q], group_low[q], group_high[q], True
        )  # fmt: skip
        mine, n = order[q], min(groups, live)
        for i in range(live):
            logs[i] = group_log[q, living[i]]
        top(logs, live, n, chosen)
        first, rest = 0, n  # the chosen come first; both they and the others ascend
        for i in range(live):
            if first < n and chosen[first] == i:
                mine[first] = living[i]
                first += 1
            else:
                mine[rest] = living[i]
                rest += 1
        hidden = forced_leaves(nodes, ex_rows[ex_offsets[begin + q] : ex_offsets[begin + q + 1]], forced)
        for f in range(hidden):
            for t in range(n, live):
                if mine[t] == nodes.leaf_group[forced[f]]:
                    mine[t], mine[n] = mine[n], mine[t]
                    n += 1
                    break
        inside[q] = n
    leaf_dot = leaf_products(nodes, unit, order, inside)
    heads, head_at = np.empty(0, np.float32), np.empty(0, np.int64)
    block = Block(
        unit, bx, share, group_log, group_low, group_high, order, inside, live, leaf_dot, heads, head_at
    )  # fmt: skip
    if not shares_leaves(nodes, probes):
        return block
    heads, head_at = shared_heads(nodes, block, probes, ex_offsets[begin : end + 1], ex_rows)
    return Block(unit, bx, share, group_log, group_low, group_high, order, inside, live, leaf_dot, heads, head_at)


@jit
def shares_leaves(nodes, probes):  # type: ignore[no-untyped-def]
    """Whether a whole block of queries that open ``probes`` leaves each makes its heads together. Not a matter of the
    queries at hand: the same code must run however they are chunked."""
    L = nodes.leaf_count.shape[0]
    opened = BLOCK * min(probes, L)
    return opened >= SHARED * L and opened * (nodes.group_count.sum() / L) <= MOST_SHARED


@jit
def shared_heads(nodes, block, probes, ex_offsets, ex_rows):  # type: ignore[no-untyped-def]
    """``heads`` and ``head_at`` of the block. Leaf by leaf over all its queries, so that a leaf that several of them
    open comes from memory once."""
    Q, leaf_count, L = block.bx.shape[0], nodes.leaf_count, nodes.leaf_count.shape[0]
    room = 0
    for q in range(Q):
        room += min(max(probes, ex_offsets[q + 1] - ex_offsets[q]), L)
    # Every opening: of which leaf, by which query, and where its products go.
    leaf_of, who, at = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    head_at, begins, openings, total = np.empty(Q, np.int64), np.zeros(L + 1, np.int64), 0, 0
    for q in range(Q):
        head_at[q] = total
        node, middle, _, _, seen = view(nodes, block, q, 0.0, False)
        pick = most_massive(nodes, node, middle, seen, probes, ex_rows[ex_offsets[q] : ex_offsets[q + 1]])
        for i in range(pick.shape[0]):
            leaf = node[pick[i]]
            leaf_of[openings], who[openings], at[openings] = leaf, q, total
            openings += 1
            total += leaf_count[leaf]
            begins[leaf + 1] += 1
    for leaf in range(L):
        begins[leaf + 1] += begins[leaf]
    by_leaf = np.empty(openings, np.int64)
    for i in range(openings):
        by_leaf[begins[leaf_of[i]]] = i
        begins[leaf_of[i]] += 1
    heads = np.empty(total, np.float32)
    first = 0
    for leaf in range(L):  # by now each one's `begins` is where the next one's openings begin
        opened = by_leaf[first : begins[leaf]]
        target_products(nodes.rows, nodes.leaf_start[leaf], leaf_count[leaf], block.unit, opened, who, at, heads)
        first = begins[leaf]
    return heads, head_at


@jit
def view(nodes: Nodes, block: Block, q, gamma, certify):  # type: ignore[no-untyped-def]
    """The nodes in view of query ``q``: all leaves of the groups that it looks into, ``seen`` of them, then the other
    groups. Returns ``node``, their estimated log masses and bounds (not filled in without ``certify``), and ``seen``.
    """
    # Arrays by name once: a view or a field taken inside a loop counts references, atomically, beside other
    # threads.
    order, leaf_stats = block.order[q], nodes.leaf_stats
    offsets, leaves = nodes.group_offsets, nodes.group_leaves
    groups, live = block.inside[q], block.live
    seen = 0
    for t in range(groups):
        seen += offsets[order[t] + 1] - offsets[order[t]]
    n_tail = seen + live - groups
    node, middle, low, high = np.empty(n_tail, np.int64), np.empty(n_tail), np.empty(n_tail), np.empty(n_tail)
    stats, at = np.empty((4, seen)), 0
    for t in range(groups):
        begin = offsets[order[t]]
        n = offsets[order[t] + 1] - begin
        node[at : at + n] = leaves[begin : begin + n]
        columns_of(leaf_stats, leaves, begin, n, stats, at)
        at += n
    span(stats, block.leaf_dot[q], seen, block.bx[q], block.share[q, 0], gamma, middle, low, high, certify)
    group_log, group_low, group_high = block.group_log[q], block.group_low[q], block.group_high[q]
    for t in range(groups, live):
        g = order[t]
        node[at], middle[at], low[at], high[at] = ~g, group_log[g], group_low[g], group_high[g]
        at += 1
    return node, middle, low, high, seen


@jit
def most_massive(nodes, node, middle, seen, probes, excluded):  # type: ignore[no-untyped-def]
    """The places, ascending, of the ``probes`` leaves with the largest estimated mass among ``node[:seen]``; those that
    hold an excluded row come first, and their ``middle`` is infinite then."""
    forced = np.empty(excluded.shape[0], np.int64)
    n_forced = forced_leaves(nodes, excluded, forced)
    for f in range(n_forced):
        for i in range(seen):
            if node[i] == forced[f]:
                middle[i] = np.inf
                break
    pick = np.empty(min(max(probes, n_forced), seen), np.int64)
    top(middle, seen, pick.shape[0], pick)
    return pick


@jit
def explore(nodes: Nodes, block: Block, q, probes, excluded, gamma, certify):  # type: ignore[no-untyped-def]
    """Opens the ``probes`` leaves with the largest estimated mass among those that query ``q`` of the block looks
    at, and every leaf that holds an excluded row; returns the `Cut`. ``certify=False`` skips the bounds."""
    unit, bx, leaf_stats, leaf_count = block.unit[q], block.bx[q], nodes.leaf_stats, nodes.leaf_count
    node, middle, low, high, seen = view(nodes, block, q, gamma, certify)
    n_tail = node.shape[0]

    # Open the head: these leaves leave the tail.
    pick = most_massive(nodes, node, middle, seen, probes, excluded)
    opened, total_rows = pick.shape[0], 0
    for i in range(opened):
        total_rows += leaf_count[node[pick[i]]]
    shared = block.head_at.shape[0] > 0
    first = block.head_at[q] if shared else 0
    head = block.heads[first : first + total_rows] if shared else np.empty(total_rows, np.float32)
    weight = np.empty(total_rows, np.float32)
    open_leaf, open_at, open_log = np.empty(opened, np.int64), np.empty(opened, np.int64), np.empty(opened)
    at = 0
    for i in range(opened):
        leaf = node[pick[i]]
        open_leaf[i], open_at[i] = leaf, at
        if not shared:
            leaf_dots(nodes.rows, nodes.leaf_start[leaf], leaf_count[leaf], unit, head[at:])
        open_log[i] = weigh_leaf(nodes, leaf, bx, excluded, head[at:], weight[at:])
        at += leaf_count[leaf]
        middle[pick[i]] = low[pick[i]] = high[pick[i]] = -np.inf

    mass = np.empty(opened + n_tail)
    shift = largest(middle, n_tail, largest(open_log, opened, -np.inf))
    total = masses(open_log, opened, shift, mass) + masses(middle, n_tail, shift, mass[opened:])
    log_z = np.log(total) + shift if total > 0.0 else -np.inf
    lower = upper = log_z
    if certify and total > 0.0:
        open_low, open_high = np.empty(opened), np.empty(opened)
        for i in range(opened):
            err = score_error(bx, leaf_stats[open_leaf[i], 1], gamma) + 1e-14 * abs(open_log[i])
            if open_log[i] == -np.inf:
                err = 0.0
            open_low[i], open_high[i] = open_log[i] - err, open_log[i] + err
        # Every exponential errs by a part in 10^5 at most; the shift itself by its own rounding.
        lower = log_sums_by(open_low, opened, low, n_tail, shift)
        upper = log_sums(open_high, opened, high, n_tail)
        lower -= 1e-5 + 1e-14 * abs(lower)
        upper += 1e-5 + 1e-14 * abs(upper)
    sizes = np.array([opened, n_tail, at])
    return Cut(sizes, open_leaf, open_at, open_log, head, weight, node, middle, mass, total, log_z, lower, upper)
