"""k-means for building and mending the tree. Products by BLAS, a few Lloyd iterations on a sample: clusters
need be good, not optimal. All points against all centres; `construct.assign` has the search through groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.nodes import Floats
from hardwood.tree.construct.assign import add_up


def nearest(points: Floats, centres: Floats, block: int = 4096) -> NDArray[np.int64]:
    """The centre closest to each point, ``(n,)``: the largest of ``p·c - ½‖c‖²``."""
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)
    out = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), block):
        score = points[start : start + block] @ centres.T
        score -= half
        out[start : start + block] = score.argmax(axis=1)
    return out


def means(points: Floats, labels: NDArray[np.int64], k: int) -> tuple[Floats, NDArray[np.int64]]:
    """Mean and count of each label's points; an empty label's mean is zero."""
    sums, counts = np.zeros((k, points.shape[1]), dtype=np.float32), np.zeros(k, dtype=np.int64)
    add_up(points, labels, sums, counts)
    sums /= np.maximum(counts, 1)[:, None]
    return sums, counts


def kmeans(points: Floats, k: int, iterations: int, rng: np.random.Generator) -> Floats:
    """``k`` centres by Lloyd's iterations from random points; an empty one restarts beside the most
    crowded."""
    k = min(k, len(points))
    centres = points[rng.choice(len(points), size=k, replace=False)]
    for _ in range(iterations):
        centres, counts = means(points, nearest(points, centres), k)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            crowded = np.argsort(-counts, kind="stable")[: len(empty)]
            centres[empty] = centres[crowded] * np.float32(1.001)
            centres[crowded] *= np.float32(0.999)
    return centres


def split_large(
    points: Floats, labels: NDArray[np.int64], k: int, limit: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels in which no cluster holds more than ``limit`` points: larger ones are cut by 2-means, equal
    points anyhow."""
    labels = labels.copy()
    counts = np.bincount(labels, minlength=k)
    waiting = [np.flatnonzero(labels == c) for c in np.flatnonzero(counts > limit)]
    while waiting:
        members = waiting.pop()
        if (points[members] == points[members[0]]).all():  # by the hundred thousand, no search finds a cut
            pieces = np.arange(len(members)) * -(-2 * len(members) // limit) // len(members)
            labels[members[pieces > 0]] = k + pieces[pieces > 0] - 1
            k += int(pieces[-1])
            continue
        side = nearest(points[members], kmeans(points[members], 2, 4, rng)).astype(bool)
        if min(side.sum(), len(side) - side.sum()) < limit // 8 + 1:  # hardly a cut: along the widest direction instead
            part = points[members] - points[members].mean(axis=0)
            axis = part[np.argmax(np.einsum("ij,ij->i", part, part))]
            side = np.zeros(len(members), dtype=bool)
            side[np.argsort(part @ axis, kind="stable")[len(members) // 2 :]] = True
        labels[members[side]] = k
        k += 1
        waiting += [half for half in (members[side], members[~side]) if len(half) > limit]
    return labels


def subtree(points: Floats, leaf_size: int, iterations: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Leaf labels ``0..`` for the points of one group, none larger than twice ``leaf_size``, none empty."""
    k = max(1, round(len(points) / leaf_size))
    if k > 1:
        # Sixteen points a centre train it well enough while clusters are many; the last pass assigns
        # everything.
        sample = points
        if len(points) > max(16 * k, 20_000):
            sample = points[rng.choice(len(points), size=max(16 * k, 20_000), replace=False)]
        labels = nearest(points, kmeans(sample, k, iterations, rng))
    else:
        labels = np.zeros(len(points), dtype=np.int64)
    labels = split_large(points, labels, k, 2 * leaf_size, rng)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)
