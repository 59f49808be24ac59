"""Vectors as they are stored: float32, or the upper half of each number, which is a bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.nodes import Floats


def encode(vectors: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """float32 as stored: itself, or bfloat16's bits, rounded to nearest even."""
    if dtype == np.float32:
        return vectors
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def decoded(rows: NDArray[Any]) -> Floats:
    """Stored rows as float32."""
    if rows.dtype == np.float32:
        return rows
    return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
