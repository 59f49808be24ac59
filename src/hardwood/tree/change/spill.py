"""A second leaf for each target, for `search` alone: a target near a border is found from both sides.

SOAR (Sun, Simcha, Dopson, Guo and Kumar, NeurIPS 2023, arXiv:2404.00774): where a query scores the first leaf's mean
too low, its error lies along the target's residual ``r = y - c``; so the second leaf is not simply the next nearest,
but one whose residual ``r'`` is nearly at right angles to the first: it minimises ``‖r'‖² + λ (r'·r / ‖r‖)²``.
Only row numbers are kept, 8 bytes a target; vectors stay where they are.
"""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.bfloat16 import decoded
from hardwood.tree.arrays.nodes import Ints, Spill
from hardwood.tree.change.tree import Tree
from hardwood.tree.compiled.numeric import jit
from hardwood.tree.compiled.threads import split_work
from hardwood.tree.construct.assign import by_group, score_four

LOOKED_INTO = 16
"""Groups among whose leaves the second one is sought."""

LAMBDA = np.float32(1.0)
"""Weight of what the two residuals have in common; measured on real encodings in docs/lab/tree.md."""

ROWS = 16384


def spilled(tree: Tree, threads: int) -> Spill:
    """The second leaf of every target of the tree, listed by leaf."""
    nodes, rows = tree.nodes, tree.live_rows()
    second = np.empty(len(rows), dtype=np.int64)
    nought = np.zeros_like(tree.leaf_half)

    def find(first: int, last: int) -> None:
        for part in range(first, last):
            here = slice(part * ROWS, min((part + 1) * ROWS, len(rows)))
            points = decoded(nodes.rows[rows[here]])
            home = nodes.row_leaf[rows[here]].astype(np.int64)
            residuals = points - nodes.leaf_mean[home]
            residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), np.float32(1e-30))
            along = np.einsum("ij,ij->i", points, residuals)
            second_leaves(
                points, residuals, along, home, nodes.group_mean, tree.group_half, nodes.group_offsets,
                nodes.group_leaves, nodes.leaf_mean, tree.leaf_half, nought, LOOKED_INTO, second[here],
            )  # fmt: skip

    split_work(find, -(-len(rows) // ROWS), threads)
    return _listed(rows, second, len(nodes.leaf_count))


def _listed(rows: Ints, second: Ints, leaves: int) -> Spill:
    kept = second >= 0
    rows, second = rows[kept], second[kept]
    order = np.argsort(second, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(second, minlength=leaves))])
    return Spill(offsets.astype(np.int64), rows[order])


@jit
def second_leaves(  # type: ignore[no-untyped-def]
    points, residuals, along, home, group_centres, group_half, offsets, leaves, centres, half, nought, looked, second
):
    """For each point, whose leaf is ``home`` and whose residual from it has the direction ``residuals`` and the product
    ``along`` with it: the second leaf, among those of its ``looked`` nearest groups, into ``second``; -1 where there is
    no other. ``nought`` is a ``half`` of zeros."""
    n, G = points.shape[0], group_centres.shape[0]
    nowhere, everywhere = np.empty(0, np.int64), np.arange(G).reshape(1, G)
    order, edges, most = by_group(points, 0, n, nowhere, everywhere, group_centres, group_half, offsets, looked)
    near, common = np.empty((4, most + 1), np.float32), np.empty((4, most + 1), np.float32)
    least = np.full(n, np.inf, np.float32)
    second[:] = -1
    for g in range(G):
        first, last = offsets[g], offsets[g + 1]
        for t in range(edges[g], edges[g + 1], 4):
            # The last tile repeats its last point, and forgets it.
            end = edges[g + 1] - 1
            a, b, c, d = order[t], order[min(t + 1, end)], order[min(t + 2, end)], order[min(t + 3, end)]
            score_four(points, a, b, c, d, centres, half, leaves, first, last, near)
            score_four(residuals, a, b, c, d, centres, nought, leaves, first, last, common)
            for p in range(min(4, end + 1 - t)):
                row = order[t + p]
                for j in range(last - first):
                    shared = along[row] - common[p, j]
                    loss = LAMBDA * shared * shared - np.float32(2.0) * near[p, j]
                    if loss < least[row] and leaves[first + j] != home[row]:
                        least[row], second[row] = loss, leaves[first + j]
