"""The drift models of a run: one for each period of a refresh, and one that may learn between refreshes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from hardwood.drift import CorrectorDrift, DriftModel

Floats = NDArray[np.float32]

_ROWS = 8192
"""Encodings on the accelerator at a time: 24 MiB of 768-d vectors."""


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
        device: where to predict: on an accelerator all encodings pass through it, a block at a time. Fits are made on
            the CPU.
    """

    def __init__(self, name: str, predict_below: float | None = None, device: torch.device | None = None) -> None:
        from hardwood.drift import CorrectorDrift

        self._name = name
        self._predict_below = predict_below
        self._device = device or torch.device("cpu")
        self._stream: torch.cuda.Stream | None = None
        self._options: dict[str, float] = {}
        self._first: Floats | None = None
        self._online: CorrectorDrift | None = CorrectorDrift() if name == CorrectorDrift.name else None

    @property
    def learns_online(self) -> bool:
        """Whether `observe` wants to be told."""
        return self._online is not None

    @property
    def predict_nothing(self) -> bool:
        """Whether all are taken to stay where they were."""
        return self._name == "stale"

    def begin_refresh(self, first: Floats) -> None:
        """A refresh begins; ``first`` ``(m, d)`` are the landmarks' encodings of the first period."""
        self._first, self._options = first, {}

    def __call__(self, old: Floats, new: Floats) -> Callable[[Floats], Floats] | None:
        """A function that predicts others, from landmarks' encodings at a period's beginning and now; ``None`` where
        what it would predict is too far off.

        What a model chooses on held-out landmarks costs several times the fit itself. The landmarks are the same in
        each period, and so is where they ended: the choice made for the first one fitted, the longest motion, serves
        all.
        """
        from hardwood.drift import NystromDrift, make_drift

        if self._online is not None and old is self._first:
            return self._predicting(self._online.fit(old, new))
        model = make_drift(self._name, **self._options).fit(old, new)
        if isinstance(model, NystromDrift):
            self._options = model.chosen
        return self._predicting(model) if self._can_be_trusted(old, new) else None

    def _can_be_trusted(self, old: Floats, new: Floats) -> bool:
        """Whether half of the landmarks say well enough where the others are."""
        from hardwood.drift import make_drift

        if self._predict_below is None or len(old) < 2:
            return True
        half = make_drift(self._name, **self._options).fit(old[::2], new[::2])
        return half.error(old[1::2], new[1::2]).cosine <= self._predict_below

    def _predicting(self, model: DriftModel) -> Callable[[Floats], Floats]:
        if self._device.type != "cuda":
            return model.predict
        # A stream of its own: predictions need not wait for a step's kernels. One for all fits, since each that ever
        # multiplied matrices keeps cuBLAS's workspace, 32 MiB on a Hopper.
        self._stream = self._stream or torch.cuda.Stream(self._device)

        def predict(known: Floats) -> Floats:
            predicted = np.empty_like(known)
            with torch.cuda.stream(self._stream):
                for begin in range(0, len(known), _ROWS):
                    part = torch.from_numpy(known[begin : begin + _ROWS]).to(self._device)
                    predicted[begin : begin + _ROWS] = model.predict(part).cpu().numpy()
            return predicted

        return predict

    def observe(self, old: Floats, new: Floats) -> None:
        """Learn from encodings of the first period and fresh ones of the same targets, both ``(m, d)``."""
        if self._online is not None:
            self._online.observe(old, new)

    def state_dict(self) -> dict[str, Tensor]:
        """What is learnt between refreshes."""
        return {} if self._online is None else self._online.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        if self._online is not None:
            self._online.load_state_dict(state)
