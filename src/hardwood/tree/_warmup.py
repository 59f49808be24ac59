"""All kernels compiled ahead, so that no training step waits for the compiler."""

from __future__ import annotations

import time

import numpy as np


def warmup() -> float:
    """Compile every kernel of the tree, for both dtypes, and return the seconds it took.

    The machine code is kept on disk (beside the package, in the user's cache folder, or in ``NUMBA_CACHE_DIR``), so
    that later processes only load it; where none can be written, call this once in each process, and in a
    DataLoader before its workers are forked.
    """
    from hardwood.tree.compiled.threads import watch
    from hardwood.tree.index import TargetIndex

    start = time.perf_counter()
    watch(np.zeros(1, dtype=np.int64), 0, 1)
    y = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    for dtype in ("float32", "bfloat16"):
        index = TargetIndex.build(y, dtype=dtype, leaf_size=2, threads=1, progress=False)
        for options in ({}, {"replace": False}, {"exact": True}):
            index.sample(y[:2], 2, probes=1, exclude=[[1], []], seed=0, **options)
        index.spill()
        index.search(y[:2], 2, probes=1)
        index.log_partition(y[:2], 1.0)
        index.expectation(y[:2], 1.0, probes=1)
        index.log_proposal(y[:2], [3, 4], probes=1)
        index.sketch()
        index.update(np.arange(20), y[20:])
        index.add([50], y[:1])
        index.add(np.arange(100, 160), np.repeat(y[:1], 60, axis=0))
        index.remove([50])
        index.spread(3)
        index.repair()
    many = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
    index = TargetIndex.build(many, ids=np.arange(400) * 10**9, leaf_size=16, threads=1, progress=False)
    index.update(np.arange(400) * 10**9, many[::-1])  # so many that they look around their groups
    index.remove(np.arange(150) * 10**9)
    index.add([1, 2, 3, 4, 5, 6, 7, 8], np.repeat(many[:1], 8, axis=0))
    index.repair()
    return time.perf_counter() - start
