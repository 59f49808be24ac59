"""Kernels of change: the nearest leaf for a vector, rows taken out of leaves."""

from __future__ import annotations

import numpy as np

from hardwood.tree._numeric import dot, jit


@jit
def nearest_leaf(nodes, vectors, leaf_half, group_half, current, beam, gain, begin, end, out):  # type: ignore[no-untyped-def]
    """For vectors ``begin <= i < end``: the closest leaf among those of the ``beam`` closest groups, into
    ``out``.

    ``leaf_half`` and ``group_half`` are ``½‖μ‖²``. With ``current[i] >= 0`` the present leaf stays unless the
    new one's squared distance is below ``gain`` times the present one's.
    """
    d, G = vectors.shape[1], nodes.group_count.shape[0]
    near, score = np.empty(beam, np.int64), np.empty(beam)
    for i in range(begin, end):
        y = vectors[i]
        found = 0
        for g in range(G):
            if nodes.group_count[g] == 0:
                continue
            s = dot(y, nodes.group_mean, g) - group_half[g]
            if found < beam or s > score[found - 1]:
                at = min(found, beam - 1)
                while at > 0 and score[at - 1] < s:
                    score[at], near[at] = score[at - 1], near[at - 1]
                    at -= 1
                score[at], near[at] = s, g
                found = min(found + 1, beam)
        best, leaf_best = -np.inf, np.int64(-1)
        for f in range(found):
            for c in range(nodes.group_offsets[near[f]], nodes.group_offsets[near[f] + 1]):
                leaf = nodes.group_leaves[c]
                s = dot(y, nodes.leaf_mean, leaf) - leaf_half[leaf]
                if s > best:
                    best, leaf_best = s, leaf
        if current[i] >= 0 and current[i] != leaf_best:
            norm = 0.0
            for c in range(d):
                norm += np.float64(y[c]) * np.float64(y[c])
            here = norm - 2.0 * (dot(y, nodes.leaf_mean, current[i]) - leaf_half[current[i]])
            if norm - 2.0 * best > gain * here:
                leaf_best = current[i]
        out[i] = leaf_best


@jit
def drop_rows(nodes, rows, moved):  # type: ignore[no-untyped-def]
    """Takes ``rows`` (descending) out of their leaves; the leaf's last target fills each gap.
    ``moved[:returned]`` are the rows filled."""
    n = 0
    for t in range(rows.shape[0]):
        row = rows[t]
        leaf = nodes.row_leaf[row]
        last = nodes.leaf_start[leaf] + nodes.leaf_count[leaf] - 1
        if row != last:
            for c in range(nodes.rows.shape[1]):
                nodes.rows[row, c] = nodes.rows[last, c]
            nodes.row_id[row] = nodes.row_id[last]
            moved[n] = row
            n += 1
        nodes.leaf_count[leaf] -= 1
    return n
