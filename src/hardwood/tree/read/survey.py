"""What a block of queries sees of the tree before it opens anything: groups, leaves, and which of them to open."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardwood.tree.arrays.nodes import Nodes
from hardwood.tree.arrays.products import group_products, leaf_products, next_used, row_products
from hardwood.tree.compiled.numeric import first_from, jit, widest
from hardwood.tree.compiled.numeric import unit as to_unit
from hardwood.tree.compiled.select import top
from hardwood.tree.read.masses import along, columns_of, span
from hardwood.tree.read.question import Question, excluded_by

SHARED = 1.0
"""Score leaves once for the whole block when its queries open at least this many leaves per live leaf
(`shared_heads`)."""

MOST_SHARED = 4 * 2**20
"""Upper limit, about, on the scores kept for a block, however many leaves its queries open."""


class Heads(NamedTuple):
    """The leaves that the queries of a block open, and their targets' products, where they are made together; else all
    of it is empty.

    ``pick``: query q's leaves, by their places in its `view`, from ``pick_at[q]`` to ``pick_at[q + 1]``. ``dots``: its
    products with their targets, leaf by leaf, from ``dot_at[q]`` on.
    """

    pick: np.ndarray
    pick_at: np.ndarray
    dots: np.ndarray
    dot_at: np.ndarray


class Block(NamedTuple):
    """Queries that are handled together, ``Q`` of them: their products with the means of groups and leaves.

    ``unit`` (Q, d) and ``beta_norm`` (Q,) are ``x / ‖x‖`` and ``β‖x‖``; ``share`` (Q, 2) is that of the pooled
    covariances along the query, leaves' and groups'. ``order`` (Q, G) has the ``inside[q]`` groups that query q looks
    into first, then the others, ``live`` in all; ``group_log``, ``group_low`` and ``group_high`` (Q, G) their estimated
    log masses and bounds. ``leaf_dot`` (Q, S): the products of the leaves of the groups looked into, in that order.
    """

    unit: np.ndarray
    beta_norm: np.ndarray
    share: np.ndarray
    group_log: np.ndarray
    group_low: np.ndarray
    group_high: np.ndarray
    order: np.ndarray
    inside: np.ndarray
    live: int
    leaf_dot: np.ndarray
    heads: Heads


@jit
def survey(nodes: Nodes, question: Question, begin, end):  # type: ignore[no-untyped-def]
    """The `Block` of queries ``begin <= b < end``: each looks into the ``groups`` groups of largest estimated mass
    and those that hold an excluded row, and will open ``probes`` leaves."""
    Q, G, gamma = end - begin, nodes.group_count.shape[0], question.gamma
    queries, excluded_offsets = question.queries, question.excluded_offsets
    unit, beta_norm, share = np.empty((Q, queries.shape[1]), np.float32), np.empty(Q), np.empty((Q, 2))
    for q in range(Q):
        beta_norm[q] = question.scale * to_unit(queries[begin + q], unit[q])
        share[q, 0] = along(unit[q], nodes.leaf_covariance, nodes.even_variance[0])
        share[q, 1] = along(unit[q], nodes.group_covariance, nodes.even_variance[1])
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
    forced = np.empty(widest(excluded_offsets[begin + 1 : end + 1] - excluded_offsets[begin:end]), np.int64)
    opened, needed = 0, np.empty(G, np.bool_)
    for q in range(Q):
        span(
            stats, group_dot[q], G, beta_norm[q], share[q, 1], gamma, group_log[q], group_low[q], group_high[q], True
        )  # fmt: skip
        mine, n = order[q], min(question.groups, live)
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
        hidden = forced_leaves(nodes, excluded_by(question, begin + q), forced)
        opened += min(max(question.probes, hidden), nodes.group_leaves.shape[0])
        if hidden > 0:
            needed[:] = False
            for f in range(hidden):
                needed[nodes.leaf_group[forced[f]]] = True
            for t in range(n, live):
                if needed[mine[t]]:
                    mine[t], mine[n] = mine[n], mine[t]
                    n += 1
        inside[q] = n
    leaf_dot = leaf_products(nodes, unit, order, inside)
    nothing = np.empty(0, np.int64)
    heads = Heads(nothing, nothing, np.empty(0, np.float32), nothing)
    block = Block(unit, beta_norm, share, group_log, group_low, group_high, order, inside, live, leaf_dot, heads)
    if not shares_leaves(nodes, opened):
        return block
    heads = shared_heads(nodes, block, question, begin, opened)
    return Block(unit, beta_norm, share, group_log, group_low, group_high, order, inside, live, leaf_dot, heads)


@jit
def shares_leaves(nodes, opened):  # type: ignore[no-untyped-def]
    """Whether to score opened leaves once for the whole block, whose queries open ``opened`` leaves together. Results
    are bit-identical either way."""
    live = nodes.group_leaves.shape[0]
    return opened >= SHARED * live and opened * (nodes.group_count.sum() / live) <= MOST_SHARED


@jit
def shared_heads(nodes, block, question, begin, opened):  # type: ignore[no-untyped-def]
    """The `Heads` of the block of the queries from ``begin`` on, which open ``opened`` leaves together at most. Leaf by
    leaf over all of them, so that a leaf that several open comes from memory once."""
    Q, leaf_count, L = block.beta_norm.shape[0], nodes.leaf_count, nodes.leaf_count.shape[0]
    # Every opening: where in the view, of which leaf, by which query, and where its products go.
    pick, leaf_of = np.empty(opened, np.int64), np.empty(opened, np.int64)
    who, at = np.empty(opened, np.int64), np.empty(opened, np.int64)
    pick_at, dot_at, begins = np.empty(Q + 1, np.int64), np.empty(Q, np.int64), np.zeros(L + 1, np.int64)
    openings = total = 0
    for q in range(Q):
        pick_at[q], dot_at[q] = openings, total
        node, middle, _, _, seen = view(nodes, block, q, 0.0, False)
        excluded = excluded_by(question, begin + q)
        for place in most_massive(nodes, node, middle, seen, question.probes, excluded):
            leaf = node[place]
            pick[openings], leaf_of[openings], who[openings], at[openings] = place, leaf, q, total
            openings += 1
            total += leaf_count[leaf]
            begins[leaf + 1] += 1
    pick_at[Q] = openings
    for leaf in range(L):
        begins[leaf + 1] += begins[leaf]
    asked, into, filled = np.empty(openings, np.int64), np.empty(openings, np.int64), begins.copy()
    for i in range(openings):
        place = filled[leaf_of[i]]
        asked[place], into[place] = who[i], at[i]
        filled[leaf_of[i]] += 1
    dots, leaf_start, rows = np.empty(total, np.float32), nodes.leaf_start, nodes.rows
    leaf = next_used(begins, -1)
    while leaf < L:
        first, m, after = begins[leaf], begins[leaf + 1] - begins[leaf], next_used(begins, leaf)
        start, count, ahead = leaf_start[leaf], leaf_count[leaf], leaf_start[after] if after < L else -1
        row_products(block.unit, asked[first:], into[first:], m, rows, start, count, dots, ahead)
        leaf = after
    return Heads(pick, pick_at, dots, dot_at)


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
    span(stats, block.leaf_dot[q], seen, block.beta_norm[q], block.share[q, 0], gamma, middle, low, high, certify)
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
    if n_forced > 0:
        ordered = np.sort(forced[:n_forced])
        for i in range(seen):
            at = first_from(ordered, n_forced, node[i])
            if at < n_forced and ordered[at] == node[i]:
                middle[i] = np.inf
    pick = np.empty(min(max(probes, n_forced), seen), np.int64)
    top(middle, seen, pick.shape[0], pick)
    return pick


@jit
def forced_leaves(nodes, excluded, out):  # type: ignore[no-untyped-def]
    """The leaves that hold the rows ``excluded``, each once, into ``out``; returns how many. The rows ascend, so those
    of a leaf, which lie together, follow one another."""
    n = 0
    for e in range(excluded.shape[0]):
        leaf = np.int64(nodes.row_leaf[excluded[e]])
        if n == 0 or out[n - 1] != leaf:
            out[n] = leaf
            n += 1
    return n
