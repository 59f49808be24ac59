"""Motion as a smooth function of where a target is: kernel ridge regression on the landmarks (Nyström)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood import _checks
from hardwood.drift import _state
from hardwood.drift._arrays import agreement, are_unit, evenly
from hardwood.drift.base import DriftModel, IllConditionedWarning, Parameters
from hardwood.drift.linear import FEWEST_TO_CHOOSE

WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Values of γ tried."""

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 3))
"""Values of λ tried: 1e-5 to 10; the kernel's diagonal is 1."""

CHOOSE_ON = 256
"""Settings are chosen on at most so many landmarks, since each γ costs a decomposition, cubic in their number."""

CAUTIOUS = (1.0, 0.1)

_SAFE = 1e-8
_ROUNDING = 6e-8


class NystromDrift(DriftModel):
    """``ŷ = y + b + k(y, L) c`` with ``c = (K + λ I)^-1 (Y'_L - Y_L - mean)``, ``k(a, b) = exp(-γ |a - b|² / 2s²)``.

    For unit vectors ``s = 1``, that is ``k = exp(γ (cos - 1))``; else ``s²`` is the mean squared distance of the
    landmarks to their mean. ``K`` is the centred kernel of the landmarks and the constant ``b`` free, so that far from
    all landmarks a target moves as they do on average, and for a small γ the model becomes the linear one.

    γ and λ are chosen by leaving each landmark out in turn, exactly and without refitting: all λ from one
    eigendecomposition for each γ, on at most 256 landmarks (no two alike). The largest mean cosine decides for unit
    vectors, else the least mean square. One landmark gives its motion to all; fewer than five are fitted with γ = 1,
    λ = 0.1. (Monath, Zaheer, Allen and McCallum, AISTATS 2023, arXiv:2303.15311: Nyström approximation of the drift.)

    Args:
        width: γ, positive. ``None``: chosen among `WIDTHS`.
        penalty: λ, 0 or more; with 0 predictions pass through the landmarks. ``None``: chosen among `PENALTIES`.
        normalize: bring predictions to length 1. ``None``: if the landmarks are of length 1 before and after.
    """

    name: ClassVar[str] = "nystrom"
    layout: ClassVar[_state.Layout] = {
        "landmarks": ("L", "d"),
        "coefficients": ("L", "d"),
        "mean": ("d",),
        "shift": ("d",),
        "chosen": (3,),
    }

    def __init__(
        self, *, width: float | None = None, penalty: float | None = None, normalize: bool | None = None
    ) -> None:
        super().__init__(normalize=normalize)
        if width is not None:
            _checks.positive(width, "width", ", or None to choose it")
        if penalty is not None:
            _checks.not_negative(penalty, "penalty", ", or None to choose it")
        self.width = width
        self.penalty = penalty

    @property
    def chosen(self) -> dict[str, float]:
        """Width and penalty of the last fit; empty before there was motion to fit."""
        chosen = self._parameters.get("chosen")
        return {} if chosen is None else {"width": float(chosen[0]), "penalty": float(chosen[1])}

    def _fit(self, old: Tensor, motion: Tensor) -> Parameters:
        mean = old.mean(dim=0)
        points = old - mean  # the kernel knows distances only; without the mean they cancel less
        # An exponent of -γ |a - b|² / 2s² is γ (cos - 1) where s = 1 and lengths are 1.
        square = 1.0 if are_unit(old) else float(points.square().sum(dim=1).mean()) or 1.0
        points = points / square**0.5  # of length about 1: squares of 1e-30 or 1e30 would be lost in float32
        width, penalty = self._choose(old, points, motion)
        kernel = _kernel(points, points, width / 2)
        average = kernel.mean(dim=0)
        centred = kernel - average - average[:, None] + average.mean()
        rest = motion - motion.mean(dim=0)
        coefficients = _solve(centred, rest, penalty)
        coefficients -= coefficients.mean(dim=0)  # 0 but for rounding, which a small penalty blows up
        # Large coefficients cancel: where float32 would round more than a ten-thousandth of the motion, keep float64.
        rounding = _ROUNDING * float(coefficients.abs().sum(dim=0).max())
        dtype = torch.float32 if rounding <= 1e-4 * float(motion.abs().max()) else torch.float64
        return {
            "landmarks": points.to(dtype),
            "coefficients": coefficients.to(dtype).contiguous(),
            "mean": mean.to(dtype),
            "shift": (motion.mean(dim=0) - average @ coefficients).to(dtype),
            "chosen": torch.tensor([width, penalty, square], dtype=torch.float64),
        }

    def _motion(self, old: Tensor, parameters: Parameters) -> Tensor:
        width, _, square = parameters["chosen"].tolist()
        dtype = torch.promote_types(old.dtype, parameters["mean"].dtype)
        mean, landmarks, coefficients, shift = (
            parameters[key].to(dtype) for key in ("mean", "landmarks", "coefficients", "shift")
        )
        kernel = _kernel((old.to(dtype) - mean) / square**0.5, landmarks, width / 2)
        return torch.addmm(shift, kernel, coefficients).to(old.dtype)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        chosen = _state.checked(self.name, dict(state), self._layout())[1].get("chosen")
        if chosen is not None and not (chosen[0] > 0 and chosen[1] >= 0 and chosen[2] > 0):
            raise ValueError(f"'chosen' is {chosen.tolist()}; width and square must be positive, the penalty 0 or more")
        super().load_state_dict(state)

    def _row_bytes(self) -> int:
        landmarks = self._parameters.get("landmarks")
        return super()._row_bytes() + (0 if landmarks is None else len(landmarks) * landmarks.element_size())

    def _choose(self, old: Tensor, points: Tensor, motion: Tensor) -> tuple[float, float]:
        if self.width is not None and self.penalty is not None:
            return self.width, self.penalty
        # Keep one of each set of coinciding landmarks: otherwise its duplicate predicts it in leave-one-out.
        different = np.sort(np.unique(points.numpy(), axis=0, return_index=True)[1])
        rows = torch.from_numpy(different)[evenly(len(different), CHOOSE_ON)]
        widths = WIDTHS if self.width is None else (self.width,)
        penalties = PENALTIES if self.penalty is None else (self.penalty,)
        best = (
            CAUTIOUS[0] if self.width is None else self.width,
            CAUTIOUS[1] if self.penalty is None else self.penalty,
        )
        if len(rows) < FEWEST_TO_CHOOSE:
            return best
        points, motion, new = points[rows], motion[rows], old[rows] + motion[rows]
        unit, most = are_unit(old) and are_unit(new), -float("inf")
        for width in widths:
            for penalty, residual in _left_out(points, motion, width, penalties):
                found = agreement(new - residual, new, unit=unit)
                if found > most:
                    best, most = (width, penalty), found
        return best


def _left_out(points: Tensor, motion: Tensor, width: float, penalties: tuple[float, ...]) -> list[tuple[float, Tensor]]:
    """For each λ, ``(m, d)``: what each landmark's motion is beyond its prediction from all others.

    With ``G = K + λ`` on centred data, the hat matrix is ``1 - λ G^-1 + 1/m``, the residual ``λ G^-1 M``, and the
    residual of a landmark left out is its residual over ``1 - h``.
    """
    kernel = _kernel(points, points, width / 2)
    average = kernel.mean(dim=0)
    values, vectors = torch.linalg.eigh(kernel - average - average[:, None] + average.mean())
    values = values.clamp(min=0.0)  # rounding can make those of a singular kernel slightly negative
    rotated = vectors.T @ (motion - motion.mean(dim=0))
    squares = vectors.square()
    residuals = []
    for penalty in penalties:
        inverse = penalty / (values + penalty).clamp(min=1e-300)
        spared = squares @ inverse - 1 / len(points)
        if float(spared.min()) < 1e-10:
            continue  # interpolation of coinciding landmarks, or rounding: no estimate
        residuals.append((penalty, (vectors @ (inverse[:, None] * rotated)) / spared[:, None]))
    return residuals


def _solve(kernel: Tensor, rest: Tensor, penalty: float) -> Tensor:
    """``(K + λ I)^-1 M``; directions that rounding has drowned are left out, with a warning."""
    count = len(kernel)
    if penalty >= _SAFE * count:
        factor, failed = torch.linalg.cholesky_ex(kernel + penalty * torch.eye(count, dtype=kernel.dtype))
        if not int(failed):
            return torch.cholesky_solve(rest, factor)
    values, vectors = torch.linalg.eigh(kernel)
    kept = values + penalty > count * 1e-15 * max(float(values[-1]), 1.0)
    lost = count - 1 - int(kept.sum())  # one direction, the constant, is 0 by construction
    if lost > 0:
        warnings.warn(
            f"{lost} of {count} landmarks say nothing that the others don't (some coincide, or the kernel is too wide) "
            f"and the penalty {penalty:g} is too small to weigh them: predictions don't pass through all landmarks. "
            "Give a larger penalty, or None to choose it",
            IllConditionedWarning,
            stacklevel=4,
        )
    inverse = torch.where(kept, 1 / (values + penalty).clamp(min=1e-300), 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ rest))


def _kernel(a: Tensor, b: Tensor, strength: float) -> Tensor:
    """``exp(-strength |a - b|²)``, ``(len(a), len(b))``: the exponents ``2s a·b - s|a|² - s|b|²`` by one product of
    rows that carry their squares, since each further pass over so large an array takes a tenth of that product's time.
    """
    left = torch.cat([a, a.square().sum(dim=1, keepdim=True), a.new_ones(len(a), 1)], dim=1)
    square = b.square().sum(dim=1, keepdim=True)
    right = torch.cat([2 * b, torch.full_like(square, -1.0), -square], dim=1).mul_(strength)
    return torch.mm(left, right.T).clamp_(max=0.0).exp_()
