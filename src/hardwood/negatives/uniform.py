"""Negatives drawn uniformly from the corpus."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives._draws import NO_TARGET, Draw, Request, seen_mask
from hardwood.negatives.base import NegativeSource


class UniformNegatives(NegativeSource):
    """Every target that a query may be given, with the same probability; with replacement.

    It knows no scores, so a margin filter can act only after the draw: the loss drops what was drawn above the ceiling,
    and the weights of the others stay right for the filtered corpus as they are.
    """

    name: ClassVar[str] = "uniform"

    def sample(self, request: Request) -> Draw:
        with self.cost.timed("sample"):
            return self._sample(request)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        return self._log_q(request, draw.log_z, ids)

    def _sample(self, request: Request) -> Draw:
        device = request.queries.device
        allowed = self._attached().num_targets - request.exclude.counts
        log_z = torch.from_numpy(allowed).to(device).double().log().float()
        if request.num_negatives >= self._attached().num_targets:
            everything = torch.arange(self._attached().num_targets, device=device)
            return Draw.everything(self._log_q(request, log_z, everything), log_z)
        generator = np.random.Generator(np.random.PCG64(request.seed))
        highest = np.maximum(allowed, 1)[:, None]
        ranks = generator.integers(0, highest, size=(len(allowed), request.num_negatives))
        ids = _skip_excluded(ranks, request.exclude)
        ids[allowed == 0] = NO_TARGET
        log_q = torch.where(torch.isinf(log_z), -torch.inf, -log_z)[:, None].expand(-1, request.num_negatives)
        return Draw.plain(torch.from_numpy(ids).to(device), log_q, log_z)

    @staticmethod
    def _log_q(request: Request, log_z: Tensor, ids: Tensor) -> Tensor:
        forbidden = seen_mask(request.exclude, ids) | torch.isinf(log_z)[:, None]
        return (-log_z)[:, None].expand(-1, len(ids)).masked_fill(forbidden, -torch.inf)


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
