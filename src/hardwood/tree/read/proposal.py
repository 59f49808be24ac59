"""The probability that a draw would give a target, for any query and any target: what weighting candidates
shared by a batch needs."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.compiled.numeric import dot, jit, widest
from hardwood.tree.compiled.numeric import unit as to_unit
from hardwood.tree.read.cut import explore
from hardwood.tree.read.masses import children, leaf_estimate, score_leaf
from hardwood.tree.read.question import excluded_by
from hardwood.tree.read.sketch import decides, sketch_leaf, sketch_score
from hardwood.tree.read.survey import survey


@jit
def proposal(  # type: ignore[no-untyped-def]
    nodes,
    sketch,
    question,
    rows,
    home,
    leaves,
    mass,
    begin,
    end,
    out,
):
    """``log q`` of targets by their ``rows`` for queries ``begin <= b < end`` into ``out`` (B, m). ``home[j]`` is
    the place of target j's leaf in ``leaves``, and ``mass`` (B, len(leaves)) each leaf's log mass
    (`leaf_masses`)."""
    L, G = nodes.leaf_count.shape[0], nodes.group_count.shape[0]
    # What each leaf and group is to the query at hand; the query's number tells stale entries.
    leaf_at, leaf_of = np.empty(L, np.int64), np.full(L, -1, np.int64)
    group_at, group_of = np.empty(G, np.int64), np.full(G, -1, np.int64)
    children_of, children_log = np.full(G, -1, np.int64), np.empty(G)
    inner = np.empty(L)
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, question, low, high)
        for b in range(low, high):
            unit, beta_norm, share = block.unit[b - low], block.beta_norm[b - low], block.share[b - low, 0]
            excluded = excluded_by(question, b)
            cut = explore(nodes, block, b - low, question.probes, excluded, question.gamma, False)
            opened, n_tail = cut.opened, cut.in_view
            log_z = cut.log_z
            for t in range(n_tail):
                node = cut.tail_node[t]
                if node >= 0:
                    leaf_of[node], leaf_at[node] = b, t
                else:
                    group_of[~node], group_at[~node] = b, t
            for t in range(opened):
                leaf_of[cut.open_leaf[t]], leaf_at[cut.open_leaf[t]] = b, -1
            for j in range(rows.shape[0]):
                row, leaf = rows[j], leaves[home[j]]
                out[b, j] = -np.inf
                hidden = False
                for e in range(excluded.shape[0]):
                    hidden = hidden or excluded[e] == row
                if hidden:
                    continue
                s = within = beta_norm * dot(unit, nodes.rows, row)
                if decides(sketch, leaf, beta_norm):
                    within = beta_norm * sketch_score(sketch, leaf, row, unit)
                if leaf_of[leaf] == b:
                    if leaf_at[leaf] < 0:
                        out[b, j] = s - log_z
                    else:
                        out[b, j] = cut.tail_log[leaf_at[leaf]] - log_z + within - mass[b, home[j]]
                    continue
                g = nodes.leaf_group[leaf]
                if children_of[g] != b:
                    _, children_log[g] = children(nodes, g, unit, beta_norm, share, inner)
                    children_of[g] = b
                child = leaf_estimate(nodes, leaf, unit, beta_norm, share) - children_log[g]
                out[b, j] = cut.tail_log[group_at[g]] - log_z + child + within - mass[b, home[j]]


@jit
def leaf_masses(nodes, sketch, queries, scale, leaves, begin, end, out):  # type: ignore[no-untyped-def]
    """The log mass of ``leaves[begin:end]`` for all queries, exact or, where it decides, the sketch's, into ``out``
    (B, len(leaves)): leaf by leaf, so that one stays in cache."""
    B, d = queries.shape
    units, beta_norm = np.empty((B, d), np.float32), np.empty(B)
    for b in range(B):
        beta_norm[b] = scale * to_unit(queries[b], units[b])
    wide = widest(nodes.leaf_count)
    head, weight = np.empty(wide, np.float32), np.empty(wide, np.float32)
    none = np.empty(0, np.int64)
    for t in range(begin, end):
        for b in range(B):
            if decides(sketch, leaves[t], beta_norm[b]):
                out[b, t] = sketch_leaf(nodes, sketch, leaves[t], units[b], beta_norm[b], head, weight, -1)
            else:
                out[b, t] = score_leaf(nodes, leaves[t], units[b], beta_norm[b], none, head, weight, -1)
