"""The drift models of a run: one for each period of a refresh, and one that may learn between refreshes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hardwood.negatives.dynamic.true_encodings import Predict
from hardwood.negatives.records import Floats

if TYPE_CHECKING:
    from hardwood.drift import CorrectorDrift, DriftModel

_ROWS = 8192
"""Encodings on the accelerator at a time: 24 MiB of 768-d vectors."""

_UNKNOWN = -1
"""Not yet fitted in this refresh."""


class DriftFits:
    """Fits a drift model for each period, refresh after refresh.

    The corrector (Monath et al., 2024) learns online: from each step's pairs of an encoding of the *first* period (the
    corpus as it was encoded at the start, which most targets still have) and the fresh one, and from the landmarks at
    each refresh, where it goes on from what it knows. The few targets encoded since get a corrector of their own
    period, fitted on landmarks alone, as with all other models.

    Args:
        name: of the drift model (`hardwood.drift.DRIFT_MODELS`).
        predict_below: predictions whose cosine error on landmarks that were left out is above this are not made;
            ``None``: all are.
        device: where to predict: with CUDA all encodings pass through it, a block at a time; else on the CPU, where
            fits are made.
    """

    def __init__(self, name: str, predict_below: float | None = None, device: torch.device | None = None) -> None:
        from hardwood.drift import CorrectorDrift

        self._name = name
        self._predict_below = predict_below
        self._device = device or torch.device("cpu")
        self._online: CorrectorDrift | None = CorrectorDrift() if name == CorrectorDrift.name else None
        self._online_is_trusted = _UNKNOWN

    @property
    def learns_online(self) -> bool:
        """Whether `observe` is of use."""
        return self._online is not None

    @property
    def predict_nothing(self) -> bool:
        """Whether all are taken to stay where they were."""
        return self._name == "stale"

    def begin_refresh(self) -> None:
        """The landmarks have been encoded anew: a model that learns online may learn from them once more."""
        self._online_is_trusted = _UNKNOWN

    def for_periods(self, history: Sequence[Floats]) -> Predictors:
        """What predicts encodings now from those of each period.

        Args:
            history: landmarks' encodings ``(m, d)`` at the beginning of each period, the last ones now.
        """
        return Predictors(self, history)

    def fit(
        self, old: Floats, new: Floats, *, is_first: bool, chosen: dict[str, float]
    ) -> tuple[Predict | None, dict[str, float]]:
        """What predicts encodings now from those of one period.

        Args:
            old: ``(m, d)``, the landmarks' encodings then.
            new: ``(m, d)``, now.
            is_first: whether it is the first period, which the online model knows.
            chosen: settings of the drift model that were chosen for another period; others are chosen.

        Returns:
            The prediction, ``None`` if it would be too far off, and the settings now chosen.
        """
        from hardwood.drift import NystromDrift, make_drift

        if self._online is not None and is_first:
            return (self._predicting(self._online) if self._online_learns(self._online, old, new) else None), chosen
        model = make_drift(self._name, **chosen)
        trusted = self._can_be_trusted
        if not isinstance(model, NystromDrift):
            return (self._predicting(model.fit(old, new)) if trusted(model, old, new) else None), chosen
        chosen = model.fit(old, new).chosen
        return (self._predicting(model) if trusted(make_drift(self._name, **chosen), old, new) else None), chosen

    def _online_learns(self, online: CorrectorDrift, old: Floats, new: Floats) -> bool:
        """Once a refresh it learns from the landmarks; whether it can be trusted then. A resumed refresh, whose first
        shares were predicted by what it is now, must not teach it again."""
        if self._online_is_trusted == _UNKNOWN:
            self._online_is_trusted = int(self._can_be_trusted(online, old, new))
            online.fit(old, new)
        return bool(self._online_is_trusted)

    def _can_be_trusted(self, model: DriftModel, old: Floats, new: Floats) -> bool:
        """Whether a copy of ``model`` that half of the landmarks teach says well enough where the others are."""
        if self._predict_below is None or len(old) < 2:
            return True
        half = copy.copy(model).fit(old[::2], new[::2])
        return half.error(old[1::2], new[1::2]).cosine <= self._predict_below

    def _predicting(self, model: DriftModel) -> Predict:
        if self._device.type != "cuda":
            return model.predict
        # Products of TensorFloat32, where the user has allowed them, would round distances to three digits.
        dtype = torch.float64 if torch.backends.cuda.matmul.allow_tf32 else torch.float32

        def predict(known: Floats) -> Floats:
            predicted = np.empty_like(known)
            with torch.cuda.stream(_stream(self._device)):
                for begin in range(0, len(known), _ROWS):
                    part = torch.from_numpy(known[begin : begin + _ROWS]).to(self._device, dtype)
                    predicted[begin : begin + _ROWS] = model.predict(part).cpu().numpy()
            return predicted

        return predict

    def observe(self, old: Floats, new: Floats) -> None:
        """Learn from encodings of the first period and fresh ones of the same targets, both ``(m, d)``."""
        if self._online is not None:
            self._online.observe(old, new)

    def state_dict(self) -> dict[str, Tensor]:
        """What is learnt between refreshes."""
        if self._online is None:
            return {}
        return self._online.state_dict() | {"trusted": torch.tensor(self._online_is_trusted)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is not of this drift model.
        """
        if self._online is None:
            if state:
                raise ValueError(f"{self._name!r} drift keeps no state, but the checkpoint holds {sorted(state)}")
            return
        trusted = state.get("trusted", torch.tensor([]))
        if trusted.numel() != 1 or trusted.dtype != torch.int64 or int(trusted) not in (_UNKNOWN, 0, 1):
            raise ValueError(f"'trusted' of the corrector's state is -1, 0 or 1, got {trusted.tolist()}")
        self._online.load_state_dict({name: tensor for name, tensor in state.items() if name != "trusted"})
        self._online_is_trusted = int(trusted)


class Predictors(Mapping[int, "Predict | None"]):
    """By the number of a period, what predicts encodings now from its own; each is fitted when it is first read.

    What a model chooses on held-out landmarks costs several times the fit itself. The landmarks are the same in each
    period, and so is where they ended: the choice made for the first period, the longest motion, serves all. So the
    first period's is fitted before any other, and a refresh that is resumed chooses the same whatever it has left.

    Args:
        fits: makes the fits.
        history: landmarks' encodings ``(m, d)`` at the beginning of each period, the last ones now.
    """

    def __init__(self, fits: DriftFits, history: Sequence[Floats]) -> None:
        self._fits, self._history = fits, history
        self._fitted: dict[int, Predict | None] = {}
        self._chosen: dict[str, float] = {}

    def __getitem__(self, period: int) -> Predict | None:
        for each in (0, period):
            if each not in self._fitted:
                old, new = self._history[each], self._history[-1]
                fitted = self._fits.fit(old, new, is_first=each == 0, chosen=self._chosen)
                self._fitted[each], self._chosen = fitted
        return self._fitted[period]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._history) - 1


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Predictions need not wait for a step's kernels. One for all fits, since each that ever multiplied matrices keeps
    cuBLAS's workspace, 32 MiB on a Hopper."""
    return torch.cuda.Stream(device)
