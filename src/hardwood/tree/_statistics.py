"""Statistics of nodes: exact for leaves, composed for groups, and the covariance shape that a level
shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardwood.tree._bounds import LOG_COUNT, OUTWARD, RADIUS, REACH, SPREAD
from hardwood.tree._nodes import Nodes
from hardwood.tree._numeric import decode, jit

SHAPE_RANK = 64


@jit
def leaf_statistics(nodes, leaves, begin, end, outward):  # type: ignore[no-untyped-def]
    """Recomputes mean, radius, reach and spread of ``leaves[begin:end]`` from their rows, in float64, radii
    rounded outward."""
    d = nodes.rows.shape[1]
    total = np.empty(d)
    for t in range(begin, end):
        leaf = leaves[t]
        start, count = nodes.leaf_start[leaf], nodes.leaf_count[leaf]
        if count == 0:
            continue
        total[:] = 0.0
        for i in range(start, start + count):
            for c in range(d):
                total[c] += np.float64(decode(nodes.rows[i, c]))
        for c in range(d):
            nodes.leaf_mean[leaf, c] = np.float32(total[c] / count)
        radius = reach = spread = 0.0
        for i in range(start, start + count):
            far = norm = 0.0
            for c in range(d):
                y = np.float64(decode(nodes.rows[i, c]))
                gap = y - np.float64(nodes.leaf_mean[leaf, c])
                far += gap * gap
                norm += y * y
            radius, reach, spread = max(radius, far), max(reach, norm), spread + far
        nodes.leaf_stats[leaf, 0] = np.sqrt(radius) * outward
        nodes.leaf_stats[leaf, 1] = np.sqrt(reach) * outward
        nodes.leaf_stats[leaf, 2] = spread / count
        nodes.leaf_stats[leaf, 3] = np.log(np.float64(count))


def group_statistics(nodes: Nodes, groups: NDArray[np.int64]) -> None:
    """Recomputes the given groups from their leaves: ``m = Σ m_l``, ``μ = Σ m_l μ_l / m``, ``r = max(‖μ_l -
    μ‖ + r_l)`` (a bound of the radius, and what an update can afford), spread by the parallel axis
    theorem."""
    for g in groups:
        leaves = nodes.group_leaves[nodes.group_offsets[g] : nodes.group_offsets[g + 1]]
        counts = nodes.leaf_count[leaves].astype(np.float64)
        nodes.group_count[g] = int(counts.sum())
        if nodes.group_count[g] == 0:
            nodes.group_stats[g] = 0.0
            continue
        leaf_means = nodes.leaf_mean[leaves].astype(np.float64)
        nodes.group_mean[g] = counts @ leaf_means / counts.sum()
        gaps = leaf_means - nodes.group_mean[g].astype(np.float64)
        squares = np.einsum("ij,ij->i", gaps, gaps)
        stats = nodes.leaf_stats[leaves]
        nodes.group_stats[g, RADIUS] = (np.sqrt(squares) + stats[:, RADIUS]).max() * OUTWARD
        nodes.group_stats[g, REACH] = stats[:, REACH].max()
        nodes.group_stats[g, LOG_COUNT] = np.log(counts.sum())
        nodes.group_stats[g, SPREAD] = counts @ (squares + stats[:, SPREAD]) / counts.sum()


def pooled_shape(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """The covariance of ``residuals`` over its own trace, as ``even · I + Σ_r s_r s_r'``: the rows ``s_r``
    ``(R, d)`` and ``even``.

    Its ``SHAPE_RANK`` widest directions are kept apart, the rest averaged, so that its trace is 1.
    """
    n, d = residuals.shape
    scale = np.abs(residuals).max(initial=0.0)
    if n < 2 or scale == 0.0:
        return np.zeros((1, d), dtype=np.float32), 1.0 / d
    residuals = residuals / scale
    values, vectors = _eigen(residuals)
    values = np.maximum(values, 0.0) / max(values.sum(), 1e-300)
    rank = min(SHAPE_RANK, d - 1, len(values))
    # Eigenvalues of a sample spread wider than the truth; shrink as far as the sample is small (Ledoit and
    # Wolf's form).
    kept = values[:rank] * (n / (n + d)) + (d / (n + d)) / d
    even = max(0.0, 1.0 - kept.sum()) / max(1, d - rank)
    extra = np.maximum(kept - even, 0.0)
    shape = np.sqrt(extra)[:, None] * vectors[:, :rank].T
    return np.ascontiguousarray(shape if rank else np.zeros((1, d)), dtype=np.float32), float(even)


def _eigen(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, largest first, and eigenvectors (columns) of ``residuals' residuals``, by the smaller of
    the two Gram matrices."""
    n, d = residuals.shape
    if d <= n:
        values, vectors = np.linalg.eigh(residuals.T @ residuals)
        return values[::-1], vectors[:, ::-1]
    values, left = np.linalg.eigh(residuals @ residuals.T)
    values, left = values[::-1], left[:, ::-1]
    keep = values > 1e-12 * values[0]
    return values[keep], residuals.T @ left[:, keep] / np.sqrt(values[keep])
