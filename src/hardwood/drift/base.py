"""The interface of drift models, and the model that predicts no drift."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

Doubles = NDArray[np.float64]

FEWEST_TO_HOLD_OUT = 10
"""With fewer landmarks none is held out, and a model takes its middle settings."""


class DriftModel(ABC):
    """Predicts the motion ``y' - y`` of encodings from landmarks whose motion is known.

    A model implements `_fit` and `_motion`. Settings of a fit (the strength of a penalty, the width of a kernel) are
    chosen on every fifth landmark, held out; then all landmarks are fitted. Fits are in float64, predictions in blocks
    of float32.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._is_unit = False
        self._has_moved = False
        self._dimension: int | None = None

    def fit(self, old: ArrayLike, new: ArrayLike) -> Self:
        """Learn from landmarks.

        Args:
            old: ``(m, d)``, their stored encodings; ``m`` may be 0, then nothing moves.
            new: ``(m, d)``, their encodings by the current model. If both are of unit length, so are predictions.

        Raises:
            ValueError: shapes that don't fit or numbers that are not finite; the model is as it was.
        """
        start, end = _checked("old", old), _checked("new", new)
        if start.shape != end.shape:
            raise ValueError(f"old and new must have the same shape, got {start.shape} and {end.shape}")
        self._dimension = start.shape[1]
        self._is_unit = bool(len(start)) and bool(_are_unit(start) and _are_unit(end))
        self._has_moved = bool(len(start)) and not np.array_equal(start, end)
        if self._has_moved:
            self._fit(start, end - start)
        return self

    def predict(self, old: ArrayLike, block: int = 65_536) -> NDArray[np.float32]:
        """Where encodings are now.

        Args:
            old: ``(n, d)``, stored encodings.
            block: rows at a time; temporaries are of this size, whatever n.

        Returns:
            ``(n, d)`` float32.

        Raises:
            ValueError: before `fit`, or for shapes that don't fit.
        """
        if self._dimension is None:
            raise ValueError(f"the {self.name!r} drift model is not fitted yet: call fit(old, new) first")
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        stored = np.asarray(old)
        if stored.ndim != 2 or stored.shape[1] != self._dimension:
            raise ValueError(f"the model was fitted in {self._dimension} dimensions, but old is {stored.shape}")
        predicted = np.array(stored, dtype=np.float32)
        if not self._has_moved:
            return predicted
        for begin in range(0, len(stored), block):
            part = predicted[begin : begin + block]
            part += self._motion(part.copy())
            if self._is_unit:
                part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30)
        return predicted

    def error(self, old: ArrayLike, new: ArrayLike) -> float:
        """Mean ``1 - cosine`` between predicted and true encodings of targets that were not fitted.

        Args:
            old: ``(m, d)``, stored encodings.
            new: ``(m, d)``, their true encodings now.
        """
        return cosine_error(self.predict(old), _checked("new", new))

    @abstractmethod
    def _fit(self, old: Doubles, motion: Doubles) -> None:
        """Learn ``motion`` ``(m, d)``, not all of it zero, of landmarks that were at ``old``."""

    @abstractmethod
    def _motion(self, old: NDArray[np.float32]) -> NDArray[Any]:
        """The predicted motion ``(b, d)`` of a block."""


class StaleDrift(DriftModel):
    """Nothing moves: what is stored is taken for true."""

    name: ClassVar[str] = "stale"

    def _fit(self, old: Doubles, motion: Doubles) -> None:
        self._has_moved = False

    def _motion(self, old: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros_like(old)


def cosine_error(predicted: NDArray[Any], true: NDArray[Any]) -> float:
    """Mean ``1 - cosine`` of rows, ``(m, d)`` each; 0 for no rows."""
    if not len(predicted):
        return 0.0
    a, b = (np.asarray(y, dtype=np.float64) for y in (predicted, true))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())


def held_out(num_landmarks: int) -> NDArray[np.bool_]:
    """Which landmarks settings are chosen on, ``(m,)``: every fifth, or none of a few."""
    return (np.arange(num_landmarks) % 5 == 2) & (num_landmarks >= FEWEST_TO_HOLD_OUT)


def _checked(name: str, vectors: ArrayLike) -> Doubles:
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(f"{name} must be encodings (m, d), got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name} has NaN or infinite numbers in row {row}: the encoder has diverged")
    return array


def _are_unit(vectors: Doubles) -> bool:
    # bfloat16 encodings are unit to about one part in 250.
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01).all())
