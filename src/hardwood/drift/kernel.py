"""Motion as a smooth function of where a target is: kernel ridge regression on the landmarks (Nyström)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hardwood.drift.base import Doubles, DriftModel, held_out

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
PENALTIES = 10.0 ** np.arange(-5.0, 2.0, 0.5)

_MIDDLE = (1.0, 0.1)


class NystromDrift(DriftModel):
    """``y' = y + m + k(y, L) (K_LL + λ I)^-1 (Y'_L - Y_L - m)`` with ``k(a, b) = exp(-γ |a - b|² / 2s²)``.

    ``m`` is the landmarks' mean motion and ``s²`` their mean squared length: for unit vectors the kernel is
    ``exp(γ (cos - 1))``. γ and λ are chosen on held-out landmarks, all λ from one eigendecomposition for each γ; the
    penalty keeps it well-posed for landmarks that coincide. (Monath et al., AISTATS 2023, section on Nyström.)
    """

    name: ClassVar[str] = "nystrom"

    def _fit(self, old: Doubles, motion: Doubles) -> None:
        self._mean_motion = motion.mean(axis=0)
        self._square = max(float((old**2).sum(axis=1).mean()), 1e-30)
        rest = motion - self._mean_motion
        out = held_out(len(old))
        self.width, self.penalty = self._best(old[~out], rest[~out], old[out], rest[out]) if out.any() else _MIDDLE
        kernel = self._kernel(old, old, self.width)
        values, vectors = np.linalg.eigh(kernel)
        # Rounding can make eigenvalues of a singular kernel slightly negative.
        coefficients = vectors @ ((vectors.T @ rest) / (np.maximum(values, 0.0) + self.penalty)[:, None])
        self._landmarks, self._coefficients = old.astype(np.float32), coefficients.astype(np.float32)

    def _motion(self, old: NDArray[np.float32]) -> NDArray[Any]:
        kernel = self._kernel(old, self._landmarks, self.width)
        motion: NDArray[Any] = kernel @ self._coefficients + self._mean_motion.astype(np.float32)
        return motion

    def _best(self, old: Doubles, motion: Doubles, test: Doubles, wanted: Doubles) -> tuple[float, float]:
        best, least = _MIDDLE, np.inf
        for width in WIDTHS:
            values, vectors = np.linalg.eigh(self._kernel(old, old, width))
            rotated = vectors.T @ motion
            across = self._kernel(test, old, width) @ vectors
            for penalty in PENALTIES:
                predicted = across @ (rotated / (np.maximum(values, 0.0) + penalty)[:, None])
                error = float(((predicted - wanted) ** 2).sum())
                if error < least:
                    best, least = (width, float(penalty)), error
        return best

    def _kernel(self, a: NDArray[Any], b: NDArray[Any], width: float) -> NDArray[Any]:
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * (a @ b.T)
        kernel: NDArray[Any] = np.exp(np.maximum(squares, 0.0) * np.asarray(-width / (2 * self._square), dtype=a.dtype))
        return kernel
