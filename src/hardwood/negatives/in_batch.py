"""The other queries' positives: no draws of its own, and no cost."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hardwood.negatives.base import NegativeSource
from hardwood.negatives.records import NO_TARGET, Draw, Request, seen_mask


class InBatchNegatives(NegativeSource):
    """For each query, the positives of the other queries in the batch.

    The loss has them as candidates anyway, so nothing is encoded for them. Their proposal is the distribution of
    positives in the training data, which is not known exactly; ``log_q`` is the batch's own estimate of it: a positive
    that stands m times among the B of the batch has probability m/B, renormalised over what the query may be given.
    ``k`` of the draw is B, whatever ``num_negatives`` asked for, with ``NO_TARGET`` in the places of excluded targets.
    """

    name: ClassVar[str] = "in-batch"
    knows_scores: ClassVar[bool] = False
    is_divided: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()  # no start_step: there is nothing that could begin

    def sample(self, request: Request) -> Draw:
        positives = request.positives
        excluded = seen_mask(request.exclude, positives)
        ids = positives[None, :].expand(len(positives), -1).masked_fill(excluded, NO_TARGET)
        log_z = (~excluded).sum(dim=1).float().log()
        log_q = self._log_counts(positives, positives)[None, :] - log_z[:, None]
        return Draw.plain(ids, log_q.masked_fill(excluded, -torch.inf), log_z)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        log_q = self._log_counts(request.positives, ids)[None, :] - draw.log_z[:, None]
        return log_q.masked_fill(seen_mask(request.exclude, ids), -torch.inf)

    def settings(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def _log_counts(positives: Tensor, ids: Tensor) -> Tensor:
        return (ids[:, None] == positives[None, :]).sum(dim=1).float().log()
