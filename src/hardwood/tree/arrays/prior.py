"""A prior over targets, ``Z = sum_i π_i exp(s_i)``, as one more dimension: all else of the tree needs no word of it.

A target's vector ends with ``c log π_i`` and a query with ``1 / (c β)``, so that ``β x'·y' = β x·y + log π_i`` for any
scale ``β`` (inner products are reduced to other searches the same way: Bachrach et al., RecSys 2014). Bounds, draws
and their probabilities follow. The larger ``c`` is, the more leaves hold targets of like prior.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hardwood.tree.arrays.nodes import Floats

SPREAD = 0.1
"""``c``, for vectors of about unit length."""

LARGEST, SMALLEST_SCALE = 100.0, 1e-6
"""``|log π|`` at most, and ``β`` at least: so both last coordinates are ordinary float32 numbers."""


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
        raise ValueError(f"scale must be at least {SMALLEST_SCALE} for an index with a prior, got {scale}.")
    return with_column(queries, 0.0 if scale is None else 1.0 / (SPREAD * scale))
