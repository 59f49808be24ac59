"""Motion as a linear map of where a target is."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hardwood import _checks
from hardwood.drift import _state
from hardwood.drift._arrays import agreement, are_unit
from hardwood.drift.base import DriftModel, Parameters

PENALTIES = tuple(10.0**exponent for exponent in range(-8, 3))
"""Ridge penalties tried, in units of the mean squared singular value of the centred landmarks."""

FEWEST_TO_CHOOSE = 5
"""With fewer landmarks there is nothing to choose settings on, and a model takes its cautious ones."""

CAUTIOUS_PENALTY = 1.0


class LinearDrift(DriftModel):
    """``y' - y = b + (y - mean) W``, by ridge regression; every penalty from one singular value decomposition.

    The penalty is chosen by leaving each landmark out in turn, exactly and without refitting (``residual / (1 - h)``,
    Allen's PRESS): the largest mean cosine for unit vectors, else the least mean square. One landmark gives its motion
    to all; fewer than five are fitted with a large penalty.

    Args:
        penalty: λ in units of the mean squared singular value of the centred landmarks, 0 or more. ``None``: chosen
            among `PENALTIES`.
        normalize: bring predictions to length 1. ``None``: if the landmarks are of length 1 before and after.
    """

    name: ClassVar[str] = "linear"
    layout: ClassVar[_state.Layout] = {"matrix": ("d", "d"), "mean": ("d",), "shift": ("d",), "chosen": (1,)}

    def __init__(self, *, penalty: float | None = None, normalize: bool | None = None) -> None:
        super().__init__(normalize=normalize)
        if penalty is not None:
            _checks.not_negative(penalty, "penalty", ", or None to choose it")
        self.penalty = penalty

    @property
    def chosen(self) -> dict[str, float]:
        """The penalty of the last fit; empty before there was motion to fit."""
        chosen = self._parameters.get("chosen")
        return {} if chosen is None else {"penalty": float(chosen[0])}

    def _fit(self, old: Tensor, motion: Tensor) -> Parameters:
        mean, shift = old.mean(dim=0), motion.mean(dim=0)
        left, values, right = torch.linalg.svd(old - mean, full_matrices=False)  # old - mean = U S V'
        unit = max(float(values.square().mean()), 1e-300)
        rest = motion - shift
        rotated = left.T @ rest
        if self.penalty is not None:
            penalty = self.penalty
        elif len(old) < FEWEST_TO_CHOOSE:
            penalty = CAUTIOUS_PENALTY
        else:
            penalty = _best(old, motion, left, values.square() / unit)
        # W = V S (S² + λ)^-1 U' M; directions in which no landmark lies say nothing and are left out.
        known = values > float(values.max()) * max(old.shape) * 1e-15
        shrunk = torch.where(known, values / (values.square() + penalty * unit).clamp(min=1e-300), 0.0)
        return {
            "matrix": (right.T @ (shrunk[:, None] * rotated)).contiguous(),
            "mean": mean,
            "shift": shift,
            "chosen": torch.tensor([penalty], dtype=torch.float64),
        }

    def _motion(self, old: Tensor, parameters: Parameters) -> Tensor:
        matrix, mean, shift = (parameters[key].to(old.dtype) for key in ("matrix", "mean", "shift"))
        return torch.addmm(shift, old - mean, matrix)


def _best(old: Tensor, motion: Tensor, left: Tensor, squares: Tensor) -> float:
    """The penalty under which landmarks left out are predicted best."""
    new, best, most = old + motion, CAUTIOUS_PENALTY, -float("inf")
    unit = are_unit(old) and are_unit(new)
    for penalty in PENALTIES:
        residual = _left_out(motion, left, squares, penalty)
        found = most if residual is None else agreement(new - residual, new, unit=unit)
        if found > most:
            best, most = penalty, found
    return best


def _left_out(motion: Tensor, left: Tensor, squares: Tensor, penalty: float) -> Tensor | None:
    """``(m, d)``: what each landmark's motion is beyond its prediction from all others.

    That is its residual over ``1 - h``, with the hat matrix ``H = 1/m + U S² (S² + λ)^-1 U'``. ``None`` where there are
    as many unknowns as landmarks: left out, one would be anything.
    """
    kept = squares / (squares + penalty)
    spared = 1 - 1 / len(motion) - left.square() @ kept
    if float(spared.min()) < 1e-8:
        return None
    rest = motion - motion.mean(dim=0)
    return (rest - left @ (kept[:, None] * (left.T @ rest))) / spared[:, None]
