"""Motion as a linear map of where a target is."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hardwood.drift.base import Doubles, DriftModel, held_out

PENALTIES = 10.0 ** np.arange(-8, 3)
"""Ridge penalties tried, in units of the mean squared singular value of the centred landmarks."""


class LinearDrift(DriftModel):
    """``y' - y = b + (y - mean) W``, by ridge regression; the penalty is chosen on held-out landmarks.

    All penalties come from one singular value decomposition of the landmarks.
    """

    name: ClassVar[str] = "linear"

    def _fit(self, old: Doubles, motion: Doubles) -> None:
        out = held_out(len(old))
        penalty = PENALTIES[len(PENALTIES) // 2]
        if out.any():
            parts = _Decomposition(old[~out], motion[~out])
            errors = [((parts.predict(old[out], p) - motion[out]) ** 2).sum() for p in PENALTIES]
            penalty = PENALTIES[int(np.argmin(errors))]
        self.penalty = float(penalty)
        everything = _Decomposition(old, motion)
        self._mean, self._shift = everything.mean, everything.shift.astype(np.float32)
        self._map = everything.map(self.penalty)

    def _motion(self, old: NDArray[np.float32]) -> NDArray[Any]:
        motion: NDArray[Any] = (old - self._mean.astype(np.float32)) @ self._map.astype(np.float32) + self._shift
        return motion


class _Decomposition:
    """``old - mean = U S V'`` and what the ridge needs of it."""

    def __init__(self, old: Doubles, motion: Doubles) -> None:
        self.mean, self.shift = old.mean(axis=0), motion.mean(axis=0)
        left, self.values, self.right = np.linalg.svd(old - self.mean, full_matrices=False)
        self.rotated = left.T @ (motion - self.shift)
        self.unit = max(float((self.values**2).mean()), 1e-30)

    def map(self, penalty: float) -> Doubles:
        """``W = V S (S² + λ)^-1 U' M``, ``(d, d)``."""
        shrunk = self.values / (self.values**2 + penalty * self.unit)
        mapped: Doubles = self.right.T @ (shrunk[:, None] * self.rotated)
        return mapped

    def predict(self, old: Doubles, penalty: float) -> Doubles:
        """Motion of others under a penalty."""
        predicted: Doubles = (old - self.mean) @ self.map(penalty) + self.shift
        return predicted
