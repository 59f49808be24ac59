"""The peers and the truth: exact softmax by BLAS, FAISS indexes, and a flat index of isotropic clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]


class ExactSampler:
    """Exact draws from the softmax over all targets, as fast as torch allows on the CPU.

    ``plain`` is matrix product, exp, cumulative sum and binary search over all ``n``. ``blocked`` keeps to
    the cache: per block of targets a product, an exp in place and a sum; then the same draw in two stages,
    block and target, so that only winning blocks need a cumulative sum. Blocks are kept if ``(B, n)`` scores
    fit in ``memory`` bytes, and scored again where they won if not. Both shift by the Cauchy-Schwarz bound.
    """

    def __init__(self, targets: Array, block: int = 32_768, memory: float = 1e9) -> None:
        self.targets = torch.as_tensor(targets)
        self.block = block
        self.memory = memory
        norms = [float(part.float().norm(dim=1).max()) for part in self.targets.split(1 << 16)]
        self.longest = max(norms)
        self._scores = torch.empty(0)

    def _room(self, rows: int, columns: int) -> torch.Tensor:
        if self._scores.shape != (rows, columns):
            self._scores = torch.empty(rows, columns)
        return self._scores

    def plain(self, queries: Array, k: int, scale: float, generator: torch.Generator) -> torch.Tensor:
        """``(B, k)`` indices drawn with replacement."""
        x = torch.as_tensor(queries) * scale
        scores = torch.mm(x, self.targets.T, out=self._room(len(x), len(self.targets)))
        scores.sub_(x.norm(dim=1, keepdim=True) * self.longest).exp_()
        torch.cumsum(scores, 1, out=scores)
        points = torch.rand(len(x), k, generator=generator) * scores[:, -1:]
        return torch.searchsorted(scores, points).clamp_(max=len(self.targets) - 1)

    def blocked(self, queries: Array, k: int, scale: float, generator: torch.Generator) -> torch.Tensor:
        """``(B, k)`` indices drawn with replacement."""
        x = torch.as_tensor(queries) * scale
        shift = -x.norm(dim=1, keepdim=True) * self.longest
        n, size = len(self.targets), self.block
        keep = 4 * len(x) * n <= self.memory
        room = self._room(-(-n // size), len(x) * size) if keep else self._room(1, len(x) * size)
        masses = torch.empty(len(x), -(-n // size))
        for number, start in enumerate(range(0, n, size)):
            weights = self._weights(x, shift, start, room[number if keep else 0])
            torch.sum(weights, 1, out=masses[:, number])
        totals = masses.double().cumsum(1)
        points = torch.rand(len(x), k, dtype=torch.float64, generator=generator) * totals[:, -1:]
        won = torch.searchsorted(totals, points).clamp_(max=masses.shape[1] - 1)
        points = points - totals.gather(1, won) + masses.double().gather(1, won)
        return won * size + self._within(x, shift, won, points.float(), room if keep else None)

    def _weights(self, x: torch.Tensor, shift: torch.Tensor, start: int, room: torch.Tensor) -> torch.Tensor:
        block = self.targets[start : start + self.block].float()
        out = room[: len(x) * len(block)].view(len(x), len(block))
        return torch.addmm(shift, x, block.T, out=out).exp_()

    def _within(
        self,
        x: torch.Tensor,
        shift: torch.Tensor,
        won: torch.Tensor,
        points: torch.Tensor,
        room: torch.Tensor | None,
    ) -> torch.Tensor:
        """The place of each point inside the block that it fell in."""
        places = torch.empty_like(won)
        for number in won.unique().tolist():
            start = number * self.block
            columns = min(self.block, len(self.targets) - start)
            here = won == number
            asked = here.any(1).nonzero()[:, 0]
            if room is None:
                weights = self._weights(x[asked], shift[asked], start, torch.empty(len(asked) * columns))
            else:
                weights = room[number][: len(x) * columns].view(len(x), columns)[asked]
            found = torch.searchsorted(weights.cumsum_(1), points[asked]).clamp_(max=columns - 1)
            places[asked] = torch.where(here[asked], found, places[asked])
        return places


class Truth(NamedTuple):
    """The softmax by brute force, sums in float64."""

    log_z: NDArray[np.float64]
    """``(B,)``."""
    expectation: NDArray[np.float64]
    """``(B, d)``: ``E_P[y]``."""


def truth(targets: Array, queries: Array, scale: float, block: int = 16_384) -> Truth:
    """Log partition function and mean target of every query."""
    x = torch.as_tensor(queries) * scale
    largest = torch.full((len(x), 1), -torch.inf, dtype=torch.float64)
    mass = torch.zeros(len(x), 1, dtype=torch.float64)
    mean = torch.zeros(len(x), queries.shape[1], dtype=torch.float64)
    for start in range(0, len(targets), block):
        part = targets[start : start + block]
        rows = part.float() if isinstance(part, torch.Tensor) else torch.as_tensor(np.array(part))
        scores = x @ rows.T
        top = torch.maximum(largest, scores.amax(1, keepdim=True).double())
        rescale = (largest - top).exp_()
        weights = scores.sub_(top.float()).exp_()
        mass = mass * rescale + weights.sum(1, keepdim=True, dtype=torch.float64)
        mean = mean * rescale + (weights @ rows).double()
        largest = top
    return Truth((largest + mass.log())[:, 0].numpy(), (mean / mass).numpy())


def relative_error(estimate: NDArray, exact: NDArray) -> float:
    """Mean over queries of ``||estimate - exact|| / ||exact||``."""
    gap = np.linalg.norm(np.asarray(estimate, dtype=np.float64) - exact, axis=1)
    return float(np.mean(gap / np.linalg.norm(exact, axis=1)))


def nearest(targets: Array, queries: Array, k: int) -> NDArray[np.int64]:
    """The true ``k`` best by inner product, ``(B, k)``."""
    import faiss

    return faiss.knn(queries, np.ascontiguousarray(targets), k, metric=faiss.METRIC_INNER_PRODUCT)[1]


def recall(found: NDArray, best: NDArray[np.int64]) -> float:
    """Mean share of the true best that was found."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(np.asarray(found), best, strict=True)]
    return float(np.mean(hits) / best.shape[1])


class Ivf:
    """FAISS IndexIVFFlat by inner product, cells by k-means (FAISS's own defaults)."""

    def __init__(self, targets: Array, cells: int) -> None:
        self.index = empty_ivf(targets.shape[1], cells)
        self.index.train(targets)
        self.index.add(targets)

    def search(self, queries: Array, k: int, nprobe: int) -> NDArray[np.int64]:
        """``(B, k)`` ids."""
        self.index.nprobe = nprobe
        return self.index.search(queries, k)[1]

    def visited(self, queries: Array, k: int, nprobe: int) -> float:
        """Mean share of the targets scored for a query."""
        import faiss

        faiss.cvar.indexIVF_stats.reset()
        self.search(queries, k, nprobe)
        return faiss.cvar.indexIVF_stats.ndis / len(queries) / self.index.ntotal


def empty_ivf(d: int, cells: int) -> Any:
    """An untrained IndexIVFFlat by inner product."""
    import faiss

    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    return index


class Hnsw:
    """FAISS HNSW over the full vectors, by inner product."""

    def __init__(self, targets: Array, links: int = 32, effort: int = 100) -> None:
        import faiss

        self.index = faiss.IndexHNSWFlat(targets.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = effort
        self.index.add(targets)

    def search(self, queries: Array, k: int, effort: int) -> NDArray[np.int64]:
        """``(B, k)`` ids."""
        self.index.hnsw.efSearch = effort
        return self.index.search(queries, k)[1]

    def visited(self, queries: Array, k: int, effort: int) -> float:
        """Mean share of the targets scored for a query."""
        import faiss

        faiss.cvar.hnsw_stats.reset()
        self.search(queries, k, effort)
        return faiss.cvar.hnsw_stats.ndis / len(queries) / self.index.ntotal


@dataclass
class FlatEstimate:
    """What a flat index says, per query, with some of its clusters opened."""

    log_z: NDArray[np.float64]
    expectation: NDArray[np.float64]
    total_variation: NDArray[np.float64]
    opened: NDArray[np.float64]


class FlatClusters:
    """The plain alternative to a tree: one level of k-means cells, the unopened ones isotropic Gaussians."""

    def __init__(self, targets: Array, cells: int = 1_024, rounds: int = 10, seed: int = 0) -> None:
        import faiss

        kmeans = faiss.Kmeans(targets.shape[1], cells, niter=rounds, seed=seed)
        kmeans.train(targets)
        cell = kmeans.index.search(targets, 1)[1][:, 0]
        filled, self.cell, self.sizes = np.unique(cell, return_inverse=True, return_counts=True)
        order = np.argsort(self.cell, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.targets, self.order, self.starts = targets, order, starts
        self.means = np.add.reduceat(targets[order].astype(np.float64), starts) / self.sizes[:, None]
        gap = np.add.reduceat((targets[order].astype(np.float64) ** 2).sum(1), starts) / self.sizes
        self.variance = np.maximum(gap - (self.means**2).sum(1), 0) / targets.shape[1]
        assert len(filled) == len(self.sizes)

    def estimates(self, queries: Array, scale: float, probes: list[int]) -> dict[int, FlatEstimate]:
        """For each number of probes: the clusters of largest estimated mass opened, the rest estimated.

        An unopened cluster's log mass is ``log m + β x·μ + ½ β² ||x||² σ²``; its mean is ``μ``.
        """
        scores = scale * (queries @ self.targets.T).astype(np.float64)[:, self.order]
        shift = scores.max(1, keepdims=True)
        weights = np.exp(scores - shift)
        exact = np.add.reduceat(weights, self.starts, axis=1)
        spread = 0.5 * scale**2 * (queries**2).sum(1, keepdims=True) * self.variance
        guess = np.exp(np.log(self.sizes) + scale * queries @ self.means.T + spread - shift)
        ranked = np.argsort(-guess, axis=1)
        rank = np.argsort(ranked, axis=1)
        return {p: self._estimate(weights, exact, guess, rank < p, shift[:, 0]) for p in probes}

    def _estimate(
        self, weights: NDArray, exact: NDArray, guess: NDArray, opened: NDArray[np.bool_], shift: NDArray
    ) -> FlatEstimate:
        masses = np.where(opened, exact, guess)
        total = masses.sum(1, keepdims=True)
        head = np.repeat(opened, self.sizes, axis=1) * weights
        sums = head @ self.targets[self.order] + np.where(opened, 0, guess) @ self.means
        difference = np.abs(masses / total - exact / exact.sum(1, keepdims=True)).sum(1)
        return FlatEstimate(
            log_z=shift + np.log(total[:, 0]),
            expectation=sums / total,
            total_variation=0.5 * difference,
            opened=(opened * self.sizes).sum(1) / len(self.targets),
        )
