"""Draws without replacement: the largest of Gumbel-perturbed log probabilities, found from the top of the tree down.

A node's Gumbel is the maximum of its targets' (Maddison, Tarlow and Minka, NeurIPS 2014), so only nodes that win are
looked into. Nodes and targets wait in one heap. Each is an *entry*, numbered in order of arrival, with its kind, what
it is, and its log probability; the heap is ordered by the perturbed one.
"""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.compiled.numeric import dot, gumbel, jit, mix, widest
from hardwood.tree.read.cut import Cut, explore
from hardwood.tree.read.heap import pop, push
from hardwood.tree.read.masses import children, largest, score_leaf
from hardwood.tree.read.question import excluded_by
from hardwood.tree.read.sample import mark
from hardwood.tree.read.sketch import decides, sketch_leaf
from hardwood.tree.read.survey import survey

ROW, GROUP, LEAF, OPENED = 0, 1, 2, 3
"""Kinds of entries: a target by its row, a group, a leaf that the cut leaves shut, a leaf that it opens."""


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
    log_weights,
):
    """For queries ``begin <= b < end``: ``k`` draws each without replacement.

    The (k+1)-th largest perturbed log probability, κ, gives the weights: ``1 / P(perturbed > κ)`` for each draw (Kool,
    van Hoof and Welling 2019, eq. 17); with nothing left after k, all are 1.

    ``log_weights`` (B, k) is written: the logarithm of each draw's weight. All other arguments: `hardwood.tree.read`.
    """
    fan = widest(nodes.group_offsets[1:] - nodes.group_offsets[:-1])
    wide = max(fan, widest(nodes.leaf_count))
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, question, low, high)
        for b in range(low, high):
            excluded = excluded_by(question, b)
            cut = explore(nodes, block, b - low, question.probes, excluded, question.gamma, certify)
            mark(cut, certify, marks[b])
            if cut.log_z == -np.inf:
                continue
            unit, beta_norm, share = block.unit[b - low], block.beta_norm[b - low], block.share[b - low, 0]
            stream = mix(seed, first + b)
            kappa = largest_perturbed(
                nodes, sketch, cut, unit, beta_norm, share, excluded, stream, fan, wide, rows[b], log_q[b]
            )
            for j in range(rows.shape[1]):
                scores[b, j] = beta_norm * dot(unit, nodes.rows, rows[b, j])
            inclusion_weights(log_q[b], kappa, log_weights[b])


@jit
def largest_perturbed(nodes, sketch, cut: Cut, unit, beta_norm, share, excluded, stream, fan, wide, rows, log_q):  # type: ignore[no-untyped-def]
    """The ``k`` targets of largest perturbed log probability for one query; returns the next largest, -inf if there is
    none.

    Args:
        nodes, sketch, cut: the tree, its sketch, and the query's cut.
        unit, beta_norm, share: (d,) ``x / ‖x‖``, ``β‖x‖``, and the share of leaves' spread along the query.
        excluded: rows that must not be drawn, ascending.
        stream: key of the query's random numbers.
        fan, wide: most leaves of a group; most leaves of a group or targets of a leaf.
        rows, log_q: (k,), written.
    """
    k, offsets, leaves = rows.shape[0], nodes.group_offsets, nodes.group_leaves
    room = cut.opened + cut.in_view + (k + 2) * (fan + wide)
    keys, items = np.empty(room), np.empty(room, np.int64)
    kind, what, log_p = np.empty(room, np.int8), np.empty(room, np.int64), np.empty(room)
    inner, noisy = np.empty(wide), np.empty(wide)
    head, weight = np.empty(wide, np.float32), np.empty(wide, np.float32)
    n = arrived = seed_heap(nodes, cut, stream, keys, items, kind, what, log_p)
    taken, kappa = 0, -np.inf
    while n > 0 and taken <= k:
        key, entry = keys[0], items[0]
        pop(keys, items, n)
        n -= 1
        node, log_node = what[entry], log_p[entry]
        if kind[entry] == ROW:
            if taken == k:
                kappa = key
            else:
                rows[taken], log_q[taken] = node, log_node
            taken += 1
            continue
        is_group = kind[entry] == GROUP
        if is_group:
            m, begin = open_group(nodes, node, unit, beta_norm, share, stream, log_node, inner, noisy), offsets[node]
        else:
            by_sketch = kind[entry] == LEAF and decides(sketch, node, beta_norm)
            m, begin = (
                open_leaf(
                    nodes,
                    sketch,
                    node,
                    by_sketch,
                    unit,
                    beta_norm,
                    excluded,
                    stream,
                    log_node,
                    head,
                    weight,
                    inner,
                    noisy,
                ),
                nodes.leaf_start[node],
            )
        truncated(noisy, m, key)
        for i in range(m):
            if noisy[i] > -np.inf:
                kind[arrived] = LEAF if is_group else ROW
                what[arrived] = leaves[begin + i] if is_group else begin + i
                log_p[arrived] = inner[i]
                push(keys, items, n, noisy[i], arrived)
                arrived += 1
                n += 1
    return kappa


@jit
def seed_heap(nodes, cut: Cut, stream, keys, items, kind, what, log_p):  # type: ignore[no-untyped-def]
    """Makes the nodes of the cut that have any mass the first entries; returns how many.

    Args:
        nodes, cut: the tree and the query's cut.
        stream: key of the query's random numbers; leaf l takes number l, group g number ``L + g``.
        keys, items: (room,) the empty heap, written.
        kind, what, log_p: (room,) the entries, written: kind, leaf or group, log probability.
    """
    n, L, opened = 0, nodes.leaf_count.shape[0], cut.opened
    for i in range(opened + cut.in_view):
        node = cut.open_leaf[i] if i < opened else cut.tail_node[i - opened]
        log_node = (cut.open_log[i] if i < opened else cut.tail_log[i - opened]) - cut.log_z
        if log_node == -np.inf:
            continue
        log_p[n] = log_node
        if node >= 0:
            kind[n], what[n] = OPENED if i < opened else LEAF, node
            push(keys, items, n, log_node + gumbel(stream, node), n)
        else:
            kind[n], what[n] = GROUP, ~node
            push(keys, items, n, log_node + gumbel(stream, L + ~node), n)
        n += 1
    return n


@jit
def open_group(nodes, group, unit, beta_norm, share, stream, log_node, inner, noisy):  # type: ignore[no-untyped-def]
    """Log probabilities of a group's leaves, and the same with Gumbels of their own; returns how many leaves.

    Args:
        nodes, group: the tree and the group.
        unit, beta_norm, share: of the query, see `largest_perturbed`.
        stream: key of the query's random numbers.
        log_node: the group's log probability.
        inner, noisy: (wide,), written.
    """
    m, log_inner = children(nodes, group, unit, beta_norm, share, inner)
    start = nodes.group_offsets[group]
    for c in range(m):
        inner[c] += log_node - log_inner
        noisy[c] = inner[c] + gumbel(stream, nodes.group_leaves[start + c])
    return m


@jit
def open_leaf(nodes, sketch, leaf, by_sketch, unit, beta_norm, excluded, stream, log_node, head, weight, inner, noisy):  # type: ignore[no-untyped-def]
    """Log probabilities of a leaf's targets, and the same with Gumbels of their own, -inf where excluded; returns how
    many targets.

    Args:
        nodes, sketch, leaf: the tree, its sketch, and the leaf.
        by_sketch: whether the sketch decides in this leaf.
        unit, beta_norm, excluded, stream: of the query, see `largest_perturbed`.
        log_node: the leaf's log probability.
        head, weight: (wide,) float32, scratch.
        inner, noisy: (wide,), written.
    """
    if by_sketch:
        log_leaf = sketch_leaf(nodes, sketch, leaf, unit, beta_norm, head, weight, -1)
    else:
        log_leaf = score_leaf(nodes, leaf, unit, beta_norm, excluded, head, weight, -1)
    m, counter = nodes.leaf_count[leaf], nodes.group_count.shape[0] + nodes.leaf_count.shape[0] + nodes.leaf_start[leaf]
    for i in range(m):
        noisy[i] = -np.inf
        if head[i] > -np.inf:
            inner[i] = log_node + beta_norm * head[i] - log_leaf
            noisy[i] = inner[i] + gumbel(stream, counter + i)
    return m


@jit
def inclusion_weights(log_q, kappa, out):  # type: ignore[no-untyped-def]
    """``-log P(φ + Gumbel > κ) = -log(1 - exp(-exp(φ - κ)))`` for each ``φ`` of ``log_q`` (k,), into ``out`` (k,)."""
    for j in range(log_q.shape[0]):
        gap = log_q[j] - kappa
        out[j] = 0.0 if gap > 30.0 else -np.log(-np.expm1(-np.exp(gap)))
