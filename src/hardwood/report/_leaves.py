"""A map of a tree: its leaves in two dimensions, how large they are, and how much of the softmax they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood.encoding import query_vectors
from hardwood.negatives import DynamicNegatives

if TYPE_CHECKING:
    from hardwood.data import TextTable
    from hardwood.training import CorpusSoftmaxLoss

MOST_LEAVES = 600
EXAMPLES = 3
_TOLERANCE = 0.05  # of log Z, which the masses are shares of


def map_of_leaves(
    loss: CorpusSoftmaxLoss, queries: TextTable, query_rows: NDArray[np.int64], seed: int
) -> dict[str, Any] | None:
    """The leaves of the tree that the loss draws from; ``None`` where it draws from none.

    Args:
        loss: after training.
        queries: the table that ``query_rows`` are rows of.
        query_rows: ``(m,)`` the queries whose softmax is divided among the leaves.
        seed: of the leaves that are shown where there are more than `MOST_LEAVES`.

    Returns:
        ``total`` leaves, ``explained`` (the share of the leaf means' variance in each of the two dimensions) and
        ``leaves``: ``[x, y, targets, mean share of the softmax, rows of the targets nearest to the mean]``.
    """
    source = loss.source
    index = source.tree() if isinstance(source, DynamicNegatives) else None
    if index is None:
        return None
    members = index.leaves()
    total = len(members)
    if total > MOST_LEAVES:
        chosen = np.random.Generator(np.random.PCG64(seed)).choice(total, MOST_LEAVES, replace=False)
        members = members.take(np.sort(chosen))
    x = query_vectors(loss.targets.model, queries, query_rows, similarity=loss.similarity, progress=False)
    partition = index.log_partition(x, scale=loss.scale, tolerance=_TOLERANCE)
    log_z = (np.asarray(partition.lower) + np.asarray(partition.upper)) / 2
    kept = x if index.projection is None else index.projection(x)
    means, masses, examples = [], [], []
    for place in range(len(members)):
        ids = members[place]
        vectors = index.vectors(ids)
        mean = vectors.mean(axis=0)
        scores = loss.scale * (kept.astype(np.float64) @ vectors.T) + index.log_prior(ids)
        means.append(mean)
        masses.append(float(np.exp(scores - log_z[:, None]).sum(axis=1).mean()))
        nearest = np.argsort(((vectors - mean) ** 2).sum(axis=1), kind="stable")[:EXAMPLES]
        examples.append(ids[nearest].tolist())
    places, explained = _principal_plane(np.asarray(means, dtype=np.float64), members.counts)
    leaves = [
        [round(float(a), 4), round(float(b), 4), int(count), round(mass, 6), rows]
        for (a, b), count, mass, rows in zip(places, members.counts, masses, examples, strict=True)
    ]
    return {"total": total, "explained": [round(float(share), 4) for share in explained], "leaves": leaves}


def _principal_plane(
    means: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two directions in which the means, each as heavy as its leaf, vary most: places ``(L, 2)`` and shares."""
    weights = sizes / sizes.sum()
    centred = means - weights @ means
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)  # one of two signs
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros_like(axes)], axis=1)
    shares = np.maximum(values[::-1], 0) / max(float(np.maximum(values, 0).sum()), 1e-12)
    return centred @ axes, np.resize(np.append(shares[:2], 0.0), 2)
