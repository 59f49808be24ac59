"""Arrays in: NumPy or torch, any float type, checked; and the few things all drift models do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Vectors = ArrayLike | Tensor

UNIT_TOLERANCE = 0.01
"""How far a length may be from 1 for vectors to count as unit: bfloat16 is off by about one part in 250."""


def landmarks_of(name: str, vectors: Vectors) -> Tensor:
    """A float64 copy on the CPU, ``(m, d)``, checked.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    checked = block_of(name, _matrix(name, vectors), 0, None)
    return checked.to(device="cpu", dtype=torch.float64)


def pair_of(old: Vectors, new: Vectors) -> tuple[Tensor, Tensor]:
    """Both of a pair as `landmarks_of`, of one shape.

    Raises:
        ValueError: bad input; names which.
    """
    start, end = landmarks_of("old", old), landmarks_of("new", new)
    if start.shape != end.shape:
        raise ValueError(
            f"old and new must have the same shape, a row a target, got {tuple(start.shape)} and {tuple(end.shape)}"
        )
    return start, end


def _matrix(name: str, vectors: Vectors) -> NDArray[Any] | Tensor:
    matrix = vectors if isinstance(vectors, Tensor) else np.asarray(vectors)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise ValueError(f"{name} must be encodings (m, d), got an array of shape {tuple(matrix.shape)}")
    floating = matrix.is_floating_point() if isinstance(matrix, Tensor) else np.issubdtype(matrix.dtype, np.floating)
    if not floating:
        raise ValueError(f"{name} must be floating-point encodings, got {matrix.dtype}: decode them first")
    return matrix


def stored_of(old: Vectors, dimension: int) -> NDArray[Any] | Tensor:
    """Stored encodings ``(n, dimension)`` as they are: neither copied nor read yet (a memory map stays one).

    Raises:
        ValueError: another shape, or no floats.
    """
    matrix = _matrix("old", old)
    if matrix.shape[1] != dimension:
        raise ValueError(f"the model was fitted in {dimension} dimensions, but old is {tuple(matrix.shape)}")
    return matrix


def block_of(name: str, stored: NDArray[Any] | Tensor, begin: int, end: int | None) -> Tensor:
    """Rows ``begin:end`` as a fresh tensor, float32 or, if they were, float64.

    Raises:
        ValueError: numbers that are not finite; names the row.
    """
    rows = stored[begin:end]
    if isinstance(rows, Tensor):
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        part = rows.detach().to(dtype, copy=True)
    else:
        part = torch.from_numpy(np.array(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32))
    finite = torch.isfinite(part).all(dim=1)
    if not bool(finite.all()):
        row = begin + int((~finite).nonzero()[0])
        raise ValueError(
            f"{name} has NaN or infinite numbers in row {row}: the encoder has diverged, or the row was never filled"
        )
    return part


def are_unit(vectors: Tensor) -> bool:
    """Whether there are rows, and all have length 1 up to storage rounding."""
    return bool(len(vectors)) and bool(((vectors.norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all())


def on_the_sphere(predicted: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of ``predicted`` at length 1; where one has no direction, the row of ``otherwise``."""
    lengths = predicted.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1e-30, predicted / lengths.clamp(min=1e-30), otherwise)


def agreement(predicted: Tensor, true: Tensor, *, unit: bool) -> float:
    """What settings are chosen by, the larger the better: mean cosine of unit vectors, else minus the mean square."""
    if unit:
        return float(torch.nn.functional.cosine_similarity(predicted, true, dim=1, eps=1e-30).mean())
    return -float((predicted - true).square().sum(dim=1).mean())


def evenly(count: int, most: int) -> Tensor:
    """At most ``most`` of ``count`` rows, spread evenly: landmarks may come in an order that means something."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
