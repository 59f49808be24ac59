"""Negatives drawn from the corpus whatever their scores."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import NO_TARGET, Draw, Request, Targets, log_prior_of, seen_mask


class UniformNegatives(NegativeSource):
    """Every target that a query may be given, with the same probability, or in proportion to its prior if targets have
    one; with replacement.

    It knows no scores, so a margin filter can act only after the draw: the loss drops what was drawn above the ceiling,
    and the weights of the others stay right for the filtered corpus as they are.
    """

    name: ClassVar[str] = "uniform"
    knows_scores: ClassVar[bool] = False
    is_divided: ClassVar[bool] = False

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._prior = None if targets.log_prior is None else _Masses(np.exp(targets.log_prior.astype(np.float64)))

    def sample(self, request: Request) -> Draw:
        with self.cost.timed("sample"):
            return self._sample(request)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        return self._log_q(request, draw.log_z, ids)

    def _sample(self, request: Request) -> Draw:
        device, num_targets = request.queries.device, self._attached().num_targets
        count = num_targets - request.exclude.counts
        mass = count if self._prior is None else _mass_allowed(self._prior, request.exclude)
        log_z = torch.from_numpy(mass).to(device).double().log().masked_fill(torch.from_numpy(count == 0), -torch.inf)
        log_z = log_z.float()
        if request.num_negatives >= num_targets:
            everything = torch.arange(num_targets, device=device)
            return Draw.everything(self._log_q(request, log_z, everything), log_z)
        generator = np.random.Generator(np.random.PCG64(request.seed))
        shape = (len(count), request.num_negatives)
        if self._prior is None:
            ids = _skip_excluded(generator.integers(0, np.maximum(count, 1)[:, None], size=shape), request.exclude)
        else:
            ids = _draw_by_mass(self._prior, mass[:, None] * generator.random(shape), request.exclude)
        ids[count == 0] = NO_TARGET
        drawn = torch.from_numpy(ids).to(device)
        log_q = torch.where(torch.isinf(log_z), -torch.inf, -log_z)[:, None].expand(shape)
        log_prior = log_prior_of(self._attached(), drawn.clamp(min=0).flatten())
        if log_prior is not None:
            log_q = log_q + log_prior.view(shape)
        return Draw.plain(drawn, log_q, log_z)

    def _log_q(self, request: Request, log_z: Tensor, ids: Tensor) -> Tensor:
        forbidden = seen_mask(request.exclude, ids) | torch.isinf(log_z)[:, None]
        log_q = (-log_z)[:, None].expand(-1, len(ids))
        log_prior = log_prior_of(self._attached(), ids)
        return (log_q if log_prior is None else log_q + log_prior).masked_fill(forbidden, -torch.inf)


class _Masses:
    """A prior over targets, ``(n,)``, and its cumulative sums, made once."""

    def __init__(self, prior: np.ndarray) -> None:
        self.prior, self.ends = prior, prior.cumsum()


def _mass_allowed(masses: _Masses, exclude: RaggedRows) -> np.ndarray:
    """The sum of the prior over what each query may be given."""
    gone = np.bincount(exclude.row_ids(), masses.prior[exclude.values], minlength=len(exclude))
    return np.maximum(masses.ends[-1] - gone, np.finfo(np.float64).tiny)


def _draw_by_mass(known: _Masses, masses: np.ndarray, exclude: RaggedRows) -> np.ndarray:
    """The target at each of ``masses`` ``(B, k)`` of the cumulative prior over those not excluded."""
    prior, ends = known.prior, known.ends
    places = masses.copy()
    # Excluded rows are ascending within a query, so each one that begins at or below the running answer pushes it up.
    for depth in range(int(exclude.counts.max(initial=0))):
        has = exclude.counts > depth
        excluded = exclude.values[exclude.offsets[:-1][has] + depth]
        begin = (ends[excluded] - prior[excluded])[:, None]
        places[has] += np.where(places[has] >= begin, prior[excluded][:, None], 0.0)
    ids = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
    # Sums are rounded, so a place on a border may fall to its neighbour, which must not be an excluded one.
    full = exclude.counts == len(ends)
    while True:
        row_ids = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
        key, excluded_keys = row_ids * len(ends) + ids, exclude.row_ids() * len(ends) + exclude.values
        wrong = np.isin(key, excluded_keys) & ~full[:, None]
        if not wrong.any():
            return ids
        ids[wrong] = (ids[wrong] + 1) % len(ends)


def _skip_excluded(ranks: np.ndarray, exclude: RaggedRows) -> np.ndarray:
    """The targets with these ranks among those not excluded: exact, and without rejection.

    Excluded rows are ascending within a query, so each one at or below the running answer pushes it up by one.
    """
    ids = ranks.copy()
    for depth in range(int(exclude.counts.max(initial=0))):
        has = exclude.counts > depth
        excluded = exclude.values[exclude.offsets[:-1][has] + depth]
        ids[has] += ids[has] >= excluded[:, None]
    return ids
