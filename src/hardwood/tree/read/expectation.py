"""The expectation of the targets under the softmax, estimated from a query's `Cut`."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.bounds import RADIUS, REACH, SPREAD
from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.compiled.numeric import decode, dot, jit
from hardwood.tree.read.cut import explore
from hardwood.tree.read.question import excluded_by
from hardwood.tree.read.survey import survey


@jit
def expect(nodes, question, begin, end, out):  # type: ignore[no-untyped-def]
    """``E_P[y]`` for queries ``begin <= b < end`` into ``out`` (B, d): opened targets exactly, an unopened
    node by the mean of its targets tilted by the query, ``μ + β Σ x``: together the gradient of ``log Ẑ`` by
    ``βx``."""
    d = question.queries.shape[1]
    total, push = np.empty(d), np.empty(d)
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        block = survey(nodes, question, low, high)
        for b in range(low, high):
            unit, beta_norm, near, far = (
                block.unit[b - low],
                block.beta_norm[b - low],
                block.share[b - low, 0],
                block.share[b - low, 1],
            )
            excluded = excluded_by(question, b)
            cut = explore(nodes, block, b - low, question.probes, excluded, question.gamma, False)
            opened, n_tail = cut.opened, cut.in_view
            total[:] = 0.0
            for t in range(opened):
                leaf, at = cut.open_leaf[t], cut.open_at[t]
                inside = 0.0
                for i in range(nodes.leaf_count[leaf]):
                    inside += cut.weight[at + i]
                # Not exp(s - log Ẑ): of scores of 1e15 and more, differences say nothing.
                share = cut.mass[t] / cut.total / inside if inside > 0.0 else 0.0
                for i in range(nodes.leaf_count[leaf]):
                    p = share * cut.weight[at + i]
                    if p > 0.0:
                        row = nodes.leaf_start[leaf] + i
                        for c in range(d):
                            total[c] += p * decode(nodes.rows[row, c])
            leaf_tilt = group_tilt = straight = 0.0
            for t in range(n_tail):
                p = cut.mass[opened + t] / cut.total
                node = cut.tail_node[t]
                if p == 0.0:
                    continue
                if node >= 0:
                    along_mean, turned, ahead = pull(
                        nodes.leaf_stats[node], nodes.leaf_mean, node, unit, beta_norm, near
                    )
                    leaf_tilt += p * turned
                    for c in range(d):
                        total[c] += p * along_mean * nodes.leaf_mean[node, c]
                else:
                    along_mean, turned, ahead = pull(
                        nodes.group_stats[~node], nodes.group_mean, ~node, unit, beta_norm, far
                    )
                    group_tilt += p * turned
                    for c in range(d):
                        total[c] += p * along_mean * nodes.group_mean[~node, c]
                straight += p * ahead
            for c in range(d):
                total[c] += straight * unit[c]
            tilt(unit, nodes.leaf_covariance, nodes.even_variance[0], leaf_tilt, push, total)
            tilt(unit, nodes.group_covariance, nodes.even_variance[1], group_tilt, push, total)
            for c in range(d):
                out[b, c] = total[c]


@jit
def pull(stats, means, row, unit, beta_norm, share):  # type: ignore[no-untyped-def]
    """The gradient of a node's `mass_estimate` by ``βx``, as ``a μ + b Σ̄ x̂ + c x̂``: returns ``a, b, c``.

    Where what the ball or the longest vector allow is the smaller, the estimate is linear in ``βx``, and so bounded.
    """
    score, radius, reach, spread = beta_norm * dot(unit, means, row), stats[RADIUS], stats[REACH], stats[SPREAD]
    ball, longest, second = (
        score + beta_norm * radius,
        beta_norm * reach,
        score + 0.5 * beta_norm * beta_norm * spread * share,
    )
    if second <= ball and second <= longest:
        return 1.0, beta_norm * spread, 0.0
    if ball <= longest:
        return 1.0, 0.0, radius
    return (0.0, 0.0, reach) if longest > score else (1.0, 0.0, 0.0)


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
