"""The interface of drift models, and the model that predicts no drift."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from hardwood import _checks
from hardwood.drift import _state
from hardwood.drift._arrays import Vectors, are_unit, block_of, landmarks_of, on_the_sphere, pair_of, stored_of

TEMPORARIES = 8 * 2**20
"""Bytes that a block's temporaries take unless a block size is given: more leave the cache between passes."""

MOST_QUERIES = 256

Parameters = dict[str, Tensor]


class IllConditionedWarning(UserWarning):
    """A fit was not determined by its landmarks (some coincide, or the penalty is too small); it left the undetermined
    directions out, so predictions are finite but do not pass through every landmark.
    """


class DriftError(NamedTuple):
    """How far predictions are off on targets that were not fitted.

    Attributes:
        cosine: mean ``1 - cos(ŷ, y')``.
        score: mean ``|x·ŷ - x·y'|`` over queries and targets, in units of the similarity (before any scale).
    """

    cosine: float
    score: float


class DriftModel(ABC):
    """Predicts the motion ``y' - y`` of encodings from landmarks whose motion is known.

    A new model implements `_fit` and `_motion` and names its parameters in ``layout``. Fits are in float64 on the CPU;
    predictions run in blocks, where the stored encodings are. With no landmark at all, or when no landmark has moved,
    predictions are the stored encodings, bit by bit.

    Args:
        normalize: bring predictions to length 1. ``None``: if the landmarks are of length 1 before and after.
    """

    name: ClassVar[str]
    layout: ClassVar[_state.Layout] = {}

    def __init__(self, *, normalize: bool | None = None) -> None:
        if normalize is not None and not isinstance(normalize, bool):
            raise ValueError(f"normalize must be True, False, or None to decide by the landmarks, got {normalize!r}")
        self.normalize = normalize
        self._dimension: int | None = None
        self._is_unit = False
        self._has_moved = False
        self._parameters: Parameters = {}

    def fit(self, old: Vectors, new: Vectors) -> Self:
        """Learn from landmarks.

        Args:
            old: ``(m, d)`` floats, their stored encodings; ``m`` may be 0, then nothing moves.
            new: ``(m, d)`` floats, their encodings by the current model.

        Raises:
            ValueError: shapes that don't fit or numbers that are not finite; the model is as it was.
        """
        start, end = pair_of(old, new)
        has_moved = not torch.equal(start, end)
        is_unit = are_unit(start) and are_unit(end)
        parameters = self._fit(start, end - start) if has_moved else self._parameters
        self._parameters, self._dimension = parameters, start.shape[1]
        self._is_unit, self._has_moved = is_unit, has_moved
        return self

    def predict(self, old: Vectors, block: int | None = None, out: Any = None) -> Any:
        """Where encodings are now.

        Args:
            old: ``(n, d)`` floats, stored encodings: NumPy (a memory map is read block by block) or torch, any device.
            block: rows at a time. ``None``: as many as need 8 MiB of temporaries.
            out: ``(n, d)`` float32 of the same kind and on the same device to write to; may be ``old`` itself.

        Returns:
            ``(n, d)`` float32 of the kind and on the device of ``old``; ``out`` if given. Beyond that and ``old``,
            memory is a block's temporaries, whatever ``n``.

        Raises:
            ValueError: before `fit`, for shapes that don't fit, or for numbers that are not finite (rows of ``out``
                before them are then written).
        """
        stored = stored_of(old, self._fitted_dimension())
        blocks = self._blocks(stored, self._rows_in(block))
        if out is None:
            if isinstance(stored, Tensor):
                out = torch.empty(stored.shape, dtype=torch.float32, device=stored.device)
            else:
                out = np.empty(stored.shape, dtype=np.float32)
        _check_out(out, stored)
        for begin, part in blocks:
            out[begin : begin + len(part)] = part if isinstance(stored, Tensor) else part.numpy()
        return out

    def predict_blocks(self, old: Vectors, block: int | None = None) -> Iterator[tuple[int, Any]]:
        """As `predict`, block by block: a million predictions need not be held at once.

        Args:
            old: as in `predict`.
            block: as in `predict`.

        Yields:
            ``(begin, (b, d) float32)``: predictions of rows ``begin .. begin + b - 1``, in order.

        Raises:
            ValueError: as `predict`, shapes at once and not when the first block is asked for.
        """
        stored = stored_of(old, self._fitted_dimension())
        blocks = self._blocks(stored, self._rows_in(block))
        if isinstance(stored, Tensor):
            return blocks
        return ((begin, part.numpy()) for begin, part in blocks)

    def error(self, old: Vectors, new: Vectors, queries: Vectors | None = None) -> DriftError:
        """How far predictions are off, on targets that were not fitted.

        Args:
            old: ``(m, d)``, stored encodings.
            new: ``(m, d)``, their true encodings now.
            queries: ``(B, d)`` that scores are taken with. ``None``: up to 256 of ``new`` stand in for them.

        Returns:
            Mean cosine error and mean score error; zeros for no rows.

        Raises:
            ValueError: as `predict`, or for shapes that don't fit each other.
        """
        start, true = pair_of(old, new)
        predicted = self.predict(start).double()
        if queries is None:
            x = true[:: max(1, len(true) // MOST_QUERIES)][:MOST_QUERIES]
        else:
            x = landmarks_of("queries", queries)
            if x.shape[1] != true.shape[1]:
                raise ValueError(f"queries must be (B, {true.shape[1]}) as the encodings, got {tuple(x.shape)}")
        if not len(true):
            return DriftError(0.0, 0.0)
        score = float((x @ (predicted - true).T).abs().mean()) if len(x) else 0.0
        return DriftError(cosine_error(predicted, true), score)

    def state_dict(self) -> Parameters:
        """Tensors that a checkpoint must hold so that a resumed run predicts (and goes on learning) the same."""
        if self._dimension is None:
            return {}
        fitted = torch.tensor([self._dimension, self._is_unit, self._has_moved], dtype=torch.int64)
        return {"fitted": fitted} | {key: value.clone() for key, value in self._parameters.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state of a checkpoint, made by a model of this name and these options.

        Args:
            state: what `state_dict` gave; an empty one makes the model unfitted.

        Raises:
            ValueError: the state of another model; this one is as it was.
        """
        fitted, parameters = _state.checked(self.name, dict(state), self._layout())
        self._dimension = None if fitted is None else fitted[0]
        self._is_unit, self._has_moved = (False, False) if fitted is None else (bool(fitted[1]), bool(fitted[2]))
        self._parameters = parameters

    def settings(self) -> dict[str, Any]:
        """The options that made this model, for run files."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.settings().items())
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def _fit(self, old: Tensor, motion: Tensor) -> Parameters:
        """The parameters, learnt from ``motion`` ``(m, d)`` float64, not all zero, of landmarks that were at ``old``.

        Changes nothing of the model: that makes a failed fit harmless.
        """

    @abstractmethod
    def _motion(self, old: Tensor, parameters: Parameters) -> Tensor:
        """The predicted motion ``(b, d)`` of a block ``(b, d)``, both of any float type; ``parameters`` are there."""

    def _row_bytes(self) -> int:
        """Bytes of temporaries that `_motion` needs a row."""
        return 16 * (self._dimension or 1)

    def _layout(self) -> _state.Layout:
        return self.layout

    def _fitted_dimension(self) -> int:
        if self._dimension is None:
            raise ValueError(f"the {self.name!r} drift model is not fitted yet: call fit(old, new) first")
        return self._dimension

    def _rows_in(self, block: int | None) -> int:
        if block is None:
            return max(256, TEMPORARIES // self._row_bytes())
        _checks.at_least(1, block, "block")
        return block

    def _blocks(self, stored: NDArray[Any] | Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        device = stored.device if isinstance(stored, Tensor) else torch.device("cpu")
        # The generator's tensors record nothing: what is stored is no part of any gradient.
        parameters = {key: value.to(device) for key, value in self._parameters.items()}
        normalize = self._is_unit if self.normalize is None else self.normalize
        for begin in range(0, len(stored), rows):
            part = block_of("old", stored, begin, begin + rows)
            if self._has_moved:
                with torch.no_grad():
                    predicted = part + self._motion(part, parameters)
                    part = on_the_sphere(predicted, part) if normalize else predicted
            yield begin, part.float()


class StaleDrift(DriftModel):
    """Nothing moves: what is stored is taken for true. The baseline of all others.

    Args:
        normalize: has no effect: predictions are what is stored.
    """

    name: ClassVar[str] = "stale"

    def __init__(self, *, normalize: bool | None = None) -> None:
        super().__init__(normalize=normalize)

    def _fit(self, old: Tensor, motion: Tensor) -> Parameters:
        return {}

    def _motion(self, old: Tensor, parameters: Parameters) -> Tensor:
        return torch.zeros_like(old)

    def _blocks(self, stored: NDArray[Any] | Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(stored), rows):
            yield begin, block_of("old", stored, begin, begin + rows).float()


def cosine_error(predicted: Vectors, true: Vectors) -> float:
    """Mean ``1 - cosine`` of rows.

    Args:
        predicted: ``(m, d)`` floats.
        true: ``(m, d)`` floats.

    Returns:
        0 for no rows; a row of zeros counts as 1.
    """
    a, b = landmarks_of("predicted", predicted), landmarks_of("true", true)
    if not len(a):
        return 0.0
    return float(1 - torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30).mean())


def _check_out(out: Any, stored: NDArray[Any] | Tensor) -> None:
    same_kind = isinstance(out, Tensor) == isinstance(stored, Tensor) and hasattr(out, "dtype")
    if not same_kind or tuple(out.shape) != tuple(stored.shape) or out.dtype not in (np.float32, torch.float32):
        raise ValueError(
            f"out must be float32 of shape {tuple(stored.shape)} and of the same kind as old "
            f"({type(stored).__name__}), got {type(out).__name__} {getattr(out, 'dtype', '')} "
            f"of shape {tuple(getattr(out, 'shape', ()))}"
        )
