"""All kernels compiled ahead, so that no training step waits for the compiler."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hardwood._waiting import waiting

if TYPE_CHECKING:
    from hardwood.tree.index import TargetIndex

DTYPES = ("float32", "bfloat16")
_SECONDS_WITHOUT_BAR = 2.0
"""Kernels that lie on disk are loaded in less."""


_done: set[tuple[bool, str | None]] = set()


def warmup(*, training: bool = False, dtype: str | None = None, progress: bool | None = None) -> float:
    """Compile the tree's kernels, or load them, and return the seconds it took: 0 where this process has done so.

    The machine code is kept on disk (beside the package, in the user's cache folder, or in ``NUMBA_CACHE_DIR``), so
    that later processes only load it; where none can be written, call this once in each process, and in a
    DataLoader before its workers are forked. A bar says that kernels are compiled if it takes longer than loading does.

    Args:
        training: only what a dynamic source of negatives runs: build, sample, move, repair.
        dtype: only kernels for trees of this dtype, ``"float32"`` or ``"bfloat16"``; ``None``: both.
        progress: whether to show a bar; ``None``: where errors are written to a terminal, and elsewhere a line.

    Raises:
        ValueError: another dtype.
    """
    from tqdm import tqdm

    from hardwood.tree.compiled.threads import watch

    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if (training, dtype) in _done:
        return 0.0
    start = time.perf_counter()
    steps = [lambda: watch(np.zeros(1, dtype=np.int64), 0, 1)]
    for one in DTYPES if dtype is None else (dtype,):
        steps += _training(one) if training else _everything(one)
    if not training:
        steps += _other_ids()
    disable = None if progress is None else not progress
    name = "compiling the tree's kernels, once per machine"
    in_a_log = progress is not False and not sys.stderr.isatty()  # a bar is for a terminal, a line for a log
    with waiting("Compiling the tree's kernels, once per machine, or loading them", show=in_a_log):
        for step in tqdm(steps, desc=name, disable=disable, delay=_SECONDS_WITHOUT_BAR, leave=False, unit="part"):
            step()
    _done.add((training, dtype))
    return time.perf_counter() - start


Step = Callable[[], object]


def _tiny(dtype: str) -> Callable[[], TargetIndex]:
    """Makes a tree when first called, and gives the same from then on."""
    from hardwood.tree.index import TargetIndex

    return functools.cache(lambda: TargetIndex.build(_vectors(), dtype=dtype, leaf_size=2, threads=1, progress=False))


def _vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def _training(dtype: str) -> list[Step]:
    index, y = _tiny(dtype), _vectors()
    return [
        index,
        lambda: index().sample(y[:2], 2, probes=1, exclude=[[1], []], bounds=False, seed=0),
        lambda: index().search(y[:2], 2, probes=1),
        lambda: index().log_proposal(y[:2], [3, 4], probes=1),
        lambda: index().update(y[20:], np.arange(20)),
        lambda: index().spread(3),
        lambda: index().repair(),
        *_many_moved(dtype),
    ]


def _many_moved(dtype: str) -> list[Step]:
    """So many at once that they look around their groups."""
    from hardwood.tree.index import TargetIndex

    many = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
    index = functools.cache(lambda: TargetIndex.build(many, dtype=dtype, leaf_size=16, threads=1, progress=False))
    return [lambda: index().update(many[::-1], np.arange(400)), lambda: index().repair()]


def _everything(dtype: str) -> list[Step]:
    index, y = _tiny(dtype), _vectors()
    return [
        index,
        *(
            lambda options=options: index().sample(y[:2], 2, probes=1, exclude=[[1], []], seed=0, **options)
            for options in ({}, {"replace": False})
        ),
        lambda: index().sample_exact(y[:2], 2, exclude=[[1], []], seed=0),
        lambda: index().enable_spill(),
        lambda: index().search(y[:2], 2, probes=1),
        lambda: index().log_partition(y[:2], scale=1.0),
        lambda: index().expectation(y[:2], scale=1.0, probes=1),
        lambda: index().log_proposal(y[:2], [3, 4], probes=1),
        lambda: index().enable_sketch(),
        lambda: index().update(y[20:], np.arange(20)),
        lambda: index().add(y[:1], [50]),
        lambda: index().add(np.repeat(y[:1], 60, axis=0), np.arange(100, 160)),
        lambda: index().remove([50]),
        lambda: index().spread(3),
        lambda: index().repair(),
    ]


def _other_ids() -> list[Step]:
    """Ids that are too far apart for a table."""
    from hardwood.tree.index import TargetIndex

    many, ids = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32), np.arange(400) * 10**9
    index = functools.cache(lambda: TargetIndex.build(many, ids=ids, leaf_size=16, threads=1, progress=False))
    return [
        index,
        lambda: index().update(many[::-1], ids),
        lambda: index().remove(ids[:150]),
        lambda: index().add(np.repeat(many[:1], 8, axis=0), [1, 2, 3, 4, 5, 6, 7, 8]),
        lambda: index().repair(),
    ]
