"""The head and the tail: which leaves a query opens, and what is estimated and proved about the nodes it
leaves shut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardwood.tree.arrays.bounds import REACH, SUM_ERROR, score_error
from hardwood.tree.arrays.nodes import Nodes
from hardwood.tree.arrays.products import row_products
from hardwood.tree.compiled.numeric import jit
from hardwood.tree.read.masses import largest, log_sums, log_sums_by, masses, weigh_leaf
from hardwood.tree.read.survey import Block, most_massive, view


class Cut(NamedTuple):
    """One query's partition of all targets: ``opened`` leaves, and ``in_view`` nodes that are estimated.

    The first arrays are about opened leaves: ``open_log`` is the exact log mass (of what is not excluded),
    ``head`` the dot products of its targets with the unit query (-inf where excluded) from ``open_at`` on, ``weight``
    their masses up to a factor of the leaf's own.
    The ``tail`` arrays are about all nodes in view: a leaf by its number, a group by ``~number``, with its estimated
    log mass, -inf for leaves that are opened. ``mass`` are the masses of opened leaves, then of the nodes in view, up
    to a common factor, and ``total`` their sum; ``log_z`` its logarithm with that factor. ``lower`` and ``upper``
    certify the log mass of all of it.
    """

    opened: int
    in_view: int
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
def explore(nodes: Nodes, block: Block, q, probes, excluded, gamma, certify):  # type: ignore[no-untyped-def]
    """Opens ``probes`` leaves, or more where more hold an excluded row: these first, then those with the largest
    estimated mass among what query ``q`` of the block looks at. Returns the `Cut`. ``certify=False`` skips the bounds.
    """
    beta_norm, leaf_stats, leaf_count, leaf_start = (
        block.beta_norm[q],
        nodes.leaf_stats,
        nodes.leaf_count,
        nodes.leaf_start,
    )
    node, middle, low, high, seen = view(nodes, block, q, gamma, certify)
    n_tail = node.shape[0]

    # Open the head: these leaves leave the tail.
    heads = block.heads
    shared = heads.dot_at.shape[0] > 0
    if shared:
        pick = heads.pick[heads.pick_at[q] : heads.pick_at[q + 1]]
    else:
        pick = most_massive(nodes, node, middle, seen, probes, excluded)
    opened, total_rows = pick.shape[0], 0
    for i in range(opened):
        total_rows += leaf_count[node[pick[i]]]
    first = heads.dot_at[q] if shared else 0
    head = heads.dots[first : first + total_rows] if shared else np.empty(total_rows, np.float32)
    weight = np.empty(total_rows, np.float32)
    open_leaf, open_at, open_log = np.empty(opened, np.int64), np.empty(opened, np.int64), np.empty(opened)
    asked, into, at = np.full(1, q), np.zeros(1, np.int64), 0
    for i in range(opened):
        leaf = node[pick[i]]
        open_leaf[i], open_at[i] = leaf, at
        if not shared:
            into[0], ahead = at, leaf_start[node[pick[i + 1]]] if i + 1 < opened else -1
            row_products(block.unit, asked, into, 1, nodes.rows, leaf_start[leaf], leaf_count[leaf], head, ahead)
        open_log[i] = weigh_leaf(nodes, leaf, beta_norm, excluded, head[at:], weight[at:])
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
            err = score_error(beta_norm, leaf_stats[open_leaf[i], REACH], gamma) + 1e-14 * abs(open_log[i])
            if open_log[i] == -np.inf:
                err = 0.0
            open_low[i], open_high[i] = open_log[i] - err, open_log[i] + err
        # Every exponential errs by a part in 10^5 at most; the shift itself by its own rounding.
        lower = log_sums_by(open_low, opened, low, n_tail, shift)
        upper = log_sums(open_high, opened, high, n_tail)
        lower -= SUM_ERROR + 1e-14 * abs(lower)
        upper += SUM_ERROR + 1e-14 * abs(upper)
    return Cut(
        opened, n_tail, open_leaf, open_at, open_log, head, weight, node, middle, mass, total, log_z, lower, upper
    )
