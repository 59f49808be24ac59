"""What the benchmarks ask of `TargetIndex`, through its public face only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from _data import Array
    from numpy.typing import NDArray

    from hardwood import TargetIndex


def build(
    vectors: Any, threads: int, seed: int = 0, spill: bool = False, sketch: bool = False, **options: Any
) -> TargetIndex:
    """An index with the benchmark's threads and no progress bar; spilled or sketched if asked."""
    from hardwood import TargetIndex

    index = TargetIndex.build(vectors, threads=threads, seed=seed, progress=False, **options)
    if spill:
        index.enable_spill()
    if sketch:
        index.enable_sketch()
    return index


def warm_up(dtype: str = "float32") -> None:
    """Compile every kernel (or load it from the cache) before anything is timed."""
    rows = np.random.default_rng(0).standard_normal((512, 8)).astype(np.float32)
    index = build(rows, threads=1, dtype=dtype, leaf_size=16)
    index.sample(rows[:2], 2, seed=0)
    index.search(rows[:2], 2)
    index.expectation(rows[:2], scale=1.0)
    index.log_partition(rows[:2], scale=1.0)
    index.log_proposal(rows[:2], np.arange(8))
    index.update(rows[:300] + 0.1, np.arange(300))
    index.repair()


def sample_opened(index: TargetIndex, queries: Array, scale: float, probes: int, some: int = 20_000) -> float:
    """Mean share of the targets that `sample` scored exactly, measured on ``some`` random targets.

    The proposal of an opened target is ``exp(s) / Ẑ`` exactly; of any other, its node's estimate times its
    share within.
    """
    rng = np.random.default_rng(0)
    ids = rng.choice(index.ids, min(some, len(index)), replace=False)
    queries = queries[:16]
    log_q = index.log_proposal(queries, ids, scale=scale, probes=probes)
    log_z = index.sample(queries, 1, scale=scale, probes=probes, seed=0).log_z
    scores = scale * (queries @ index.vectors(ids).T).astype(np.float64)
    return float(np.mean(np.abs(log_q - scores + log_z[:, None]) < 1e-4))


def search_opened(index: TargetIndex, queries: Array, probes: int) -> float:
    """Mean share of the targets that `search` looked at, each counted once: asked for more, it returns them all."""
    stats = index.stats()
    most = int(min(len(index), probes * stats["largest_leaf"] * (4 if stats["spilled"] else 1)))
    found = index.search(queries[:64], most, probes=probes).ids
    return float(np.mean(found >= 0) * most / len(index))


def proposal(index: TargetIndex, queries: Array, scale: float, probes: int) -> NDArray[np.float64]:
    """``(B, n)``: the probability of drawing each target."""
    return np.exp(index.log_proposal(queries, np.arange(len(index)), scale=scale, probes=probes))
