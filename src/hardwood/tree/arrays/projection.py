"""Vectors in fewer dimensions: what an index keeps of them where memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood.tree.arrays.nodes import Floats

SAMPLE = 16_384
"""Vectors that a fit looks at, spread over all."""

_BLOCK = 16_384
_TOLERANCE = 1e-3
"""How far the products of a projection's directions may be from 0 and 1."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Orthonormal directions that vectors are described by: the best ``m`` for inner products with vectors like them.

    These are the leading right singular vectors (principal components about the origin), so the mean squared length
    that is lost is the least possible (Eckart and Young, 1936), and ``P x · P y`` stands for ``x·y``.

    Attributes:
        matrix: ``(m, d)`` float32, orthonormal rows.
    """

    matrix: Floats

    def __post_init__(self) -> None:
        m, d = self.matrix.shape
        product = self.matrix.astype(np.float64) @ self.matrix.astype(np.float64).T
        if not 1 <= m < d or not np.abs(product - np.eye(m)).max() < _TOLERANCE:
            raise ValueError(f"a projection has fewer orthonormal rows than columns, got a matrix of {m} x {d}")

    @classmethod
    def fit(cls, vectors: Any, dimension: int) -> Projection:
        """The directions for vectors ``(n, d)``; more than `SAMPLE` of them are more than is needed.

        Raises:
            ValueError: ``dimension`` is not from 1 to ``d - 1``.
        """
        return cls.of_moments(moments(vectors), dimension)

    @classmethod
    def of_moments(cls, found: NDArray[np.float64], dimension: int) -> Projection:
        """The directions for vectors of which `moments` are known, added up where they lie in several places.

        Args:
            found: ``(d, d)``.
            dimension: m.

        Raises:
            ValueError: ``dimension`` is not from 1 to ``d - 1``.
        """
        check_dimension(dimension, len(found))
        directions = np.linalg.eigh(found)[1][:, ::-1][:, :dimension].T
        # An eigenvector's sign is anyone's guess: the largest number of each is positive.
        largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
        return cls(np.ascontiguousarray(directions * np.sign(largest), dtype=np.float32))

    @property
    def dimension(self) -> int:
        """``m``, what is left."""
        return int(self.matrix.shape[0])

    @property
    def full_dimension(self) -> int:
        """``d``, what there was."""
        return int(self.matrix.shape[1])

    def __call__(self, vectors: Floats) -> Floats:
        """``(n, d)`` float32 as ``(n, m)``, in blocks."""
        out = np.empty((len(vectors), self.dimension), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            np.matmul(vectors[start : start + _BLOCK], self.matrix.T, out=out[start : start + _BLOCK])
        return out

    def kept(self, vectors: Floats) -> float:
        """The share of the mean squared length of vectors ``(n, d)`` that is left of it; 1 where there is none."""
        whole = float(np.square(vectors, dtype=np.float64).sum())
        return float(np.square(self(vectors), dtype=np.float64).sum()) / whole if whole > 0 else 1.0


def check_dimension(dimension: int, full: int, name: str = "dimension") -> None:
    """``ValueError`` unless ``dimension`` is from 1 to ``full - 1``."""
    if not 1 <= _checks.count(dimension, name) < full:
        raise ValueError(
            f"{name} must be less than the {full} that the vectors have, got {dimension}: leave it out to keep all"
        )


def moments(vectors: Any) -> NDArray[np.float64]:
    """``sum_i y_i y_i^T`` of vectors ``(n, d)``: ``(d, d)`` float64."""
    block = np.asarray(vectors, dtype=np.float64)
    return np.asarray(block.T @ block)
