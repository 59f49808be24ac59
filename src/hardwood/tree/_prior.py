"""A prior over targets, ``Z = sum_i π_i exp(s_i)``, as one more dimension: all else of the tree needs no word of it.

A target's vector ends with ``c log π_i`` and a query with ``1 / (c β)``, so that ``β x'·y' = β x·y + log π_i`` for any
scale ``β`` (inner products are reduced to other searches the same way: Bachrach et al., RecSys 2014). Bounds, draws
and their probabilities follow. The larger ``c`` is, the more leaves hold targets of like prior.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree import _inputs

SPREAD = 0.1
"""``c``, for vectors of about unit length."""

LARGEST, SMALLEST_SCALE = 100.0, 1e-6
"""``|log π|`` at most, and ``β`` at least: so both last coordinates are ordinary float32 numbers."""

Floats = NDArray[np.float32]


def checked(log_prior: Any, count: int) -> Floats:
    """Log-priors as float32 ``(count,)``.

    Raises:
        ValueError: another shape, or one that is not finite or beyond `LARGEST`.
        TypeError: for what is not numbers.
    """
    array = _inputs.to_numpy(log_prior)
    if array.dtype == object or array.dtype.kind not in "fiu":
        raise TypeError(f"log_prior must be numbers; got dtype {array.dtype}.")
    if array.shape != (count,):
        raise ValueError(f"log_prior must have shape ({count},), one a target; got {array.shape}.")
    bad = np.flatnonzero(~(np.abs(array) <= LARGEST))
    if len(bad):
        raise ValueError(f"log_prior[{int(bad[0])}] is {array[bad[0]]}; it must lie between ±{LARGEST:.0f}.")
    return np.asarray(array, dtype=np.float32)


def with_prior(vectors: Floats, log_prior: Floats) -> Floats:
    """``(n, d + 1)``: the vectors ``(n, d)`` as the tree keeps them beside ``log_prior`` ``(n,)``."""
    return with_column(vectors, SPREAD * log_prior)


def with_column(vectors: Floats, column: Any) -> Floats:
    """``(n, d + 1)`` float32, contiguous."""
    out = np.empty((vectors.shape[0], vectors.shape[1] + 1), dtype=np.float32)
    out[:, :-1], out[:, -1] = vectors, column
    return out


def asking(queries: Floats, scale: float | None) -> Floats:
    """Queries ``(B, d)`` as ``(B, d + 1)``; ``scale`` ``None`` leaves the prior out.

    Raises:
        ValueError: a scale below `SMALLEST_SCALE`.
    """
    if scale is not None and scale < SMALLEST_SCALE:
        raise ValueError(f"scale must be at least {SMALLEST_SCALE} for an index with a prior; got {scale}.")
    return with_column(queries, 0.0 if scale is None else 1.0 / (SPREAD * scale))
