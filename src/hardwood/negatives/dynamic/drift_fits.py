"""The drift models of a run: one for each period of a refresh, and one that may learn between refreshes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from hardwood.drift import CorrectorDrift, DriftModel

Floats = NDArray[np.float32]
Predict = Callable[[Floats], Floats]

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
        self._options: dict[str, float] = {}
        self._online: CorrectorDrift | None = CorrectorDrift() if name == CorrectorDrift.name else None
        self._online_is_trusted = _UNKNOWN

    @property
    def learns_online(self) -> bool:
        """Whether `observe` wants to be told."""
        return self._online is not None

    @property
    def predict_nothing(self) -> bool:
        """Whether all are taken to stay where they were."""
        return self._name == "stale"

    def begin_refresh(self) -> None:
        """What was chosen for the last refresh is chosen anew."""
        self._options, self._online_is_trusted = {}, _UNKNOWN

    def __call__(self, history: Sequence[Floats], period: int) -> Predict | None:
        """A function that predicts others' encodings now from those of ``period``; ``None`` where what it would predict
        is too far off.

        What a model chooses on held-out landmarks costs several times the fit itself. The landmarks are the same in
        each period, and so is where they ended: the choice made for the first one fitted, the longest motion, serves
        all.

        Args:
            history: landmarks' encodings ``(m, d)`` at the beginning of each period, the last ones now.
            period: one before the last.
        """
        from hardwood.drift import NystromDrift, make_drift

        old, new = history[period], history[-1]
        if self._online is not None and period == 0:
            return self._predicting(self._online) if self._online_learns(self._online, old, new) else None
        model = make_drift(self._name, **self._options)
        trusted = self._can_be_trusted
        if not isinstance(model, NystromDrift):
            return self._predicting(model.fit(old, new)) if trusted(model, old, new) else None
        self._options = model.fit(old, new).chosen
        return self._predicting(model) if trusted(make_drift(self._name, **self._options), old, new) else None

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
        """Take up what `state_dict` gave.

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


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Predictions need not wait for a step's kernels. One for all fits, since each that ever multiplied matrices keeps
    cuBLAS's workspace, 32 MiB on a Hopper."""
    return torch.cuda.Stream(device)
