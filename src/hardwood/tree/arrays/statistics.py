"""Statistics of nodes: exact for leaves, composed for groups, and the covariance shape that a level
shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.bfloat16 import decoded
from hardwood.tree.arrays.bounds import LOG_COUNT, OUTWARD, RADIUS, REACH, SPREAD, rounding
from hardwood.tree.arrays.nodes import Nodes
from hardwood.tree.compiled.numeric import decode, jit
from hardwood.tree.compiled.threads import split_work

COVARIANCE_RANK = 64
COVARIANCE_SAMPLE = 16384
GRAM_BLOCK = 2048


@jit
def leaf_statistics(nodes, leaves, begin, end, outward, loose):  # type: ignore[no-untyped-def]
    """Recomputes mean, radius, reach and spread of ``leaves[begin:end]`` from their rows; radii rounded outward.

    Means come from sums in float64. Squared distances are summed in float32, eight numbers an instruction: rounding
    errs by less than ``d + 4`` parts in 2^24, which ``loose`` (`sum_slack`) covers. Where numbers are so small that
    float32 squares vanish, they are summed in float64.
    """
    d = nodes.rows.shape[1]
    total, mean = np.empty(d), np.empty(d, np.float32)
    for t in range(begin, end):
        leaf = leaves[t]
        start, count = nodes.leaf_start[leaf], nodes.leaf_count[leaf]
        if count == 0:
            continue
        total[:] = 0.0
        stop = start + count
        for i in range(start, stop - 1, 2):
            for c in range(d):
                total[c] += np.float64(decode(nodes.rows[i, c])) + np.float64(decode(nodes.rows[i + 1, c]))
        if count % 2:
            for c in range(d):
                total[c] += np.float64(decode(nodes.rows[stop - 1, c]))
        for c in range(d):
            mean[c] = np.float32(total[c] / count)
            nodes.leaf_mean[leaf, c] = mean[c]
        radius = reach = spread = 0.0
        for i in range(start, stop):
            near = short = np.float32(0.0)
            for c in range(d):
                y = decode(nodes.rows[i, c])
                near += (y - mean[c]) * (y - mean[c])
                short += y * y
            radius, reach = max(radius, np.float64(near)), max(reach, np.float64(short))
            spread += np.float64(near)
        slack = loose
        if not (radius > 1e-24 and reach > 1e-24):
            radius, reach, spread = exact_distances(nodes, mean, start, stop)
            slack = 1.0
        nodes.leaf_stats[leaf, RADIUS] = np.sqrt(radius * slack) * outward
        nodes.leaf_stats[leaf, REACH] = np.sqrt(reach * slack) * outward
        nodes.leaf_stats[leaf, SPREAD] = spread / count
        nodes.leaf_stats[leaf, LOG_COUNT] = np.log(np.float64(count))


@jit
def exact_distances(nodes, mean, start, stop):  # type: ignore[no-untyped-def]
    """The largest squared distance from ``mean``, the largest squared norm, and the sum of the squared distances of
    rows ``start <= i < stop``, in float64."""
    radius = reach = spread = 0.0
    for i in range(start, stop):
        far = norm = 0.0
        for c in range(mean.shape[0]):
            y = np.float64(decode(nodes.rows[i, c]))
            gap = y - np.float64(mean[c])
            far += gap * gap
            norm += y * y
        radius, reach, spread = max(radius, far), max(reach, norm), spread + far
    return radius, reach, spread


def sum_slack(dimension: int) -> float:
    """By how much, as a factor, a float32 sum of ``dimension`` squared differences may fall short of the truth
    (Higham 2002, §3.1)."""
    return 1.0 + rounding(dimension)


@jit
def group_statistics(nodes, groups, begin, end, outward):  # type: ignore[no-untyped-def]
    """Recomputes ``groups[begin:end]`` from their leaves: ``m = Σ m_l``, ``μ = Σ m_l μ_l / m``, ``r = max(‖μ_l - μ‖ +
    r_l)`` (a bound of the radius, and what an update can afford), spread by the parallel axis theorem; in float64."""
    d = nodes.group_mean.shape[1]
    total = np.empty(d)
    for t in range(begin, end):
        g = groups[t]
        first, last = nodes.group_offsets[g], nodes.group_offsets[g + 1]
        total[:] = 0.0
        count = 0
        for j in range(first, last):
            leaf = nodes.group_leaves[j]
            weight = np.float64(nodes.leaf_count[leaf])
            count += nodes.leaf_count[leaf]
            for c in range(d):
                total[c] += weight * np.float64(nodes.leaf_mean[leaf, c])
        nodes.group_count[g] = count
        if count == 0:
            nodes.group_stats[g, :] = 0.0
            continue
        for c in range(d):
            nodes.group_mean[g, c] = np.float32(total[c] / count)
        radius = reach = spread = 0.0
        for j in range(first, last):
            leaf = nodes.group_leaves[j]
            far = 0.0
            for c in range(d):
                gap = np.float64(nodes.leaf_mean[leaf, c]) - np.float64(nodes.group_mean[g, c])
                far += gap * gap
            radius = max(radius, np.sqrt(far) + nodes.leaf_stats[leaf, RADIUS])
            reach = max(reach, nodes.leaf_stats[leaf, REACH])
            spread += nodes.leaf_count[leaf] * (far + nodes.leaf_stats[leaf, SPREAD])
        nodes.group_stats[g, RADIUS] = radius * outward
        nodes.group_stats[g, REACH] = reach
        nodes.group_stats[g, SPREAD] = spread / count
        nodes.group_stats[g, LOG_COUNT] = np.log(np.float64(count))


def pooled_covariance(residuals: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """The covariance of ``residuals`` over its own trace, as ``even · I + Σ_r s_r s_r'``: the rows ``s_r``
    ``(R, d)`` and ``even``.

    Its ``COVARIANCE_RANK`` widest directions are kept apart, the rest averaged, so that its trace is 1.
    """
    n, d = residuals.shape
    scale = float(np.abs(residuals).max(initial=0.0))
    if n < 2 or scale == 0.0:
        return np.zeros((1, d), dtype=np.float32), 1.0 / d
    values, vectors = _eigen(residuals, scale)
    values = np.maximum(values, 0.0) / max(values.sum(), 1e-300)
    rank = min(COVARIANCE_RANK, d - 1, len(values))
    # Eigenvalues of a sample spread wider than the truth; shrink as far as the sample is small (Ledoit and
    # Wolf's form).
    kept = values[:rank] * (n / (n + d)) + (d / (n + d)) / d
    even = max(0.0, 1.0 - kept.sum()) / max(1, d - rank)
    extra = np.maximum(kept - even, 0.0)
    shape = np.sqrt(extra)[:, None] * vectors[:, :rank].T
    return np.ascontiguousarray(shape if rank else np.zeros((1, d)), dtype=np.float32), float(even)


def _eigen(residuals: NDArray[Any], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, largest first, and eigenvectors (columns) of ``r' r`` with ``r = residuals / scale``, by the
    smaller of the two Gram matrices, in float64 a block at a time."""
    n, d = residuals.shape
    if d <= n:
        gram = np.zeros((d, d))
        for start in range(0, n, GRAM_BLOCK):
            block = residuals[start : start + GRAM_BLOCK] / np.float64(scale)
            gram += block.T @ block
        values, vectors = np.linalg.eigh(gram)
        return values[::-1], vectors[:, ::-1]
    residuals = residuals / np.float64(scale)
    values, left = np.linalg.eigh(residuals @ residuals.T)
    values, left = values[::-1], left[:, ::-1]
    keep = values > 1e-12 * values[0]
    return values[keep], residuals.T @ left[:, keep] / np.sqrt(values[keep])


def recompute(nodes: Nodes, leaves: NDArray[np.int64], threads: int, groups: NDArray[np.int64] | None = None) -> None:
    """Recomputes the statistics of the given leaves and of the groups above them, or of the given groups."""
    slack = sum_slack(nodes.rows.shape[1])
    split_work(lambda a, b: leaf_statistics(nodes, leaves, a, b, OUTWARD, slack), len(leaves), threads, least=16)
    above = np.unique(nodes.leaf_group[leaves] if groups is None else groups)
    above = above[above >= 0]
    split_work(lambda a, b: group_statistics(nodes, above, a, b, OUTWARD), len(above), threads, least=4)


def with_covariances(nodes: Nodes, rng: np.random.Generator) -> Nodes:
    """The tree with covariances measured on a sample of its targets, about their leaves and about their
    groups."""
    d = nodes.rows.shape[1]
    live = np.flatnonzero(nodes.leaf_count > 1)
    if len(live) == 0:
        return nodes
    size = min(int(nodes.leaf_count[live].sum()), COVARIANCE_SAMPLE if d <= 512 else 1024)
    picked = rng.choice(live, size=size, p=nodes.leaf_count[live] / nodes.leaf_count[live].sum())
    at = nodes.leaf_start[picked] + (rng.random(size) * nodes.leaf_count[picked]).astype(np.int64)
    points = decoded(nodes.rows[at])
    leaf_covariance, leaf_even = pooled_covariance(points - nodes.leaf_mean[picked])
    group_covariance, group_even = pooled_covariance(points - nodes.group_mean[nodes.leaf_group[picked]])
    return nodes._replace(
        leaf_covariance=leaf_covariance,
        group_covariance=group_covariance,
        even_variance=np.array([leaf_even, group_even]),
    )
