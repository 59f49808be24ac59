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
        for replace in (True, False):
            index.sample(y[:2], 2, probes=1, exclude=[[1], []], seed=0, replace=replace)
        index.sample_exact(y[:2], 2, exclude=[[1], []], seed=0)
        index.enable_spill()
        index.search(y[:2], 2, probes=1)
        index.log_partition(y[:2], scale=1.0)
        index.expectation(y[:2], scale=1.0, probes=1)
        index.log_proposal(y[:2], [3, 4], probes=1)
        index.enable_sketch()
        index.update(y[20:], np.arange(20))
        index.add(y[:1], [50])
        index.add(np.repeat(y[:1], 60, axis=0), np.arange(100, 160))
        index.remove([50])
        index.spread(3)
        index.repair()
    many = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
    index = TargetIndex.build(many, ids=np.arange(400) * 10**9, leaf_size=16, threads=1, progress=False)
    index.update(many[::-1], np.arange(400) * 10**9)  # so many that they look around their groups
    index.remove(np.arange(150) * 10**9)
    index.add(np.repeat(many[:1], 8, axis=0), [1, 2, 3, 4, 5, 6, 7, 8])
    index.repair()
    return time.perf_counter() - start
