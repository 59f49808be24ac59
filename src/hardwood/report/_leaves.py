"""A map of the trees: their leaves in two dimensions, how large they are, and how much of the softmax they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows
from hardwood.encoding import query_vectors
from hardwood.negatives import DynamicNegatives
from hardwood.negatives.agreement import gathered
from hardwood.negatives.partition import Partition
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.ranks import Ranks

if TYPE_CHECKING:
    from hardwood.data import TextTable
    from hardwood.negatives import NegativeSource
    from hardwood.training import CorpusSoftmaxLoss
    from hardwood.tree import TargetIndex

MOST_LEAVES = 600
EXAMPLES = 3
_TOLERANCE = 0.05  # of log Z, which the masses are shares of


@dataclass(frozen=True)
class _Tree:
    """The tree of one shard, by whose ids its targets are called, and what the map takes from it."""

    index: TargetIndex
    shard: int

    def log_z(self, x: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
        """``(m,)``, within the tolerance."""
        partition = self.index.log_partition(x, scale=scale, tolerance=_TOLERANCE)
        return (np.asarray(partition.lower) + np.asarray(partition.upper)) / 2

    def some_leaves(self, most: int, seed: int) -> RaggedRows:
        """The ids in each leaf, of ``most`` leaves at most."""
        members = self.index.leaves()
        if len(members) <= most:
            return members
        chosen = np.random.Generator(np.random.PCG64([seed, self.shard])).choice(len(members), most, replace=False)
        return members.take(np.sort(chosen))

    def described(
        self, members: RaggedRows, x: NDArray[np.float32], log_z: NDArray[np.float64], scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Of each leaf the mean ``(L, d)``, its mean share of the softmax ``(L,)`` and the ids nearest to its mean
        ``(L, EXAMPLES)``, -1 where it has fewer."""
        kept = x if self.index.projection is None else self.index.projection(x)
        means = np.zeros((len(members), self.index.dimension))
        masses, examples = np.zeros(len(members)), np.full((len(members), EXAMPLES), -1)
        for place in range(len(members)):
            ids = members[place]
            vectors = self.index.vectors(ids)
            mean = vectors.mean(axis=0)
            scores = scale * (kept.astype(np.float64) @ vectors.T) + self.index.log_prior(ids)
            means[place] = mean
            masses[place] = np.exp(scores - log_z[:, None]).sum(axis=1).mean()
            nearest = np.argsort(((vectors - mean) ** 2).sum(axis=1), kind="stable")[:EXAMPLES]
            examples[place, : len(nearest)] = ids[nearest]
        return means, masses, examples


def map_of_leaves(
    loss: CorpusSoftmaxLoss, queries: TextTable, query_rows: NDArray[np.int64], seed: int
) -> dict[str, Any] | None:
    """The leaves of the tree that the loss draws from, or of the trees of all shards; ``None``: it draws from none.

    All processes of a run call this together, and all get the same.

    Args:
        loss: after training.
        queries: the table that ``query_rows`` are rows of.
        query_rows: ``(m,)`` the queries whose softmax is divided among the leaves.
        seed: of the leaves that are shown where there are more than `MOST_LEAVES`, as many of each tree.

    Returns:
        ``trees``, ``total`` leaves, ``explained`` (the share of the leaf means' variance in each of the two dimensions)
        and ``leaves``: ``[x, y, targets, mean share of the softmax, rows of the targets nearest to the mean]``.
    """
    trees, partition, ranks = _trees_of(loss.source, loss.targets.num_targets)
    numbers, num_shards = [tree.shard for tree in trees], partition.num_shards
    held = [torch.tensor([len(numbers)]), torch.tensor([sum(len(tree.index.leaves()) for tree in trees)])]
    everyone = ranks.gather(held)
    if sum(int(count) for count, _ in everyone) < num_shards:
        return None
    total = sum(int(leaves) for _, leaves in everyone)
    most = total if total <= MOST_LEAVES else max(MOST_LEAVES // num_shards, 1)
    x = query_vectors(loss.targets.model, queries, query_rows, similarity=loss.similarity, progress=False)
    masses = gathered([(torch.from_numpy(tree.log_z(x, loss.scale)),) for tree in trees], numbers, ranks, num_shards)
    log_z = torch.logsumexp(torch.stack([one for (one,) in masses]), dim=0).numpy()
    own = []
    for tree in trees:
        members = tree.some_leaves(most, seed)
        means, shares, nearest = tree.described(members, x, log_z, loss.scale)
        rows = partition.rows_of(tree.shard, nearest)
        own.append(tuple(torch.from_numpy(each) for each in (means, shares, members.counts, rows)))
    parts = gathered(own, numbers, ranks, num_shards)
    means, shares, counts, rows = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    places, explained = _principal_plane(means, counts)
    leaves = [
        [round(float(a), 4), round(float(b), 4), int(count), round(float(share), 6), near[near >= 0].tolist()]
        for (a, b), count, share, near in zip(places, counts, shares, rows, strict=True)
    ]
    shown = [round(float(share), 4) for share in explained]
    return {"trees": num_shards, "total": total, "explained": shown, "leaves": leaves}


def _trees_of(source: NegativeSource, num_targets: int) -> tuple[list[_Tree], Partition, Ranks]:
    """The trees that this process keeps, how the corpus is divided among all trees, and among whom."""
    if isinstance(source, ShardedNegatives) and source.partition is not None:
        shards, partition, ranks = source.shards, source.partition, source.ranks
    else:
        shards, partition, ranks = [(0, source)], Partition(num_targets, 1), Ranks.alone()
    trees = []
    for number, shard in shards:
        index = shard.tree() if isinstance(shard, DynamicNegatives) else None
        if index is not None:
            trees.append(_Tree(index, number))
    return trees, partition, ranks


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
