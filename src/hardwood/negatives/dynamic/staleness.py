"""How far stored encodings are from fresh ones, measured on what a step has encoded anyway."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardwood.negatives.records import Draw, Request


@dataclass(frozen=True)
class Staleness:
    """Of the targets of one step.

    Attributes:
        cosine: mean of 1 - cosine between stored and fresh encoding; 0 is not stale at all.
        score: mean absolute difference of the scores of draws, in units of the softmax's exponent.
        rank: share of draws whose rank among the query's draws changed.
    """

    cosine: float = 0.0
    score: float = 0.0
    rank: float = 0.0

    def blended(self, newer: Staleness, share: float) -> Staleness:
        """A running mean: this one with ``share`` of the ``newer``."""
        return Staleness(*(old + share * (new - old) for old, new in zip(self.astuple(), newer.astuple(), strict=True)))

    def astuple(self) -> tuple[float, float, float]:
        """``(cosine, score, rank)``."""
        return self.cosine, self.score, self.rank


def measure_staleness(request: Request, draw: Draw, rows: Tensor, stored: Tensor, fresh: Tensor) -> Staleness:
    """Compare stored encodings with fresh ones.

    Args:
        request: whose queries and scale give the scores.
        draw: the draws whose scores and ranks are compared; those among the ``rows`` count.
        rows: ``(m,)`` int64.
        stored: ``(m, d)``, the encodings that the draw was made with.
        fresh: ``(m, d)``, those of the current model.
    """
    cosine = torch.nn.functional.cosine_similarity(stored, fresh, dim=1)
    order = torch.argsort(rows)
    if not draw.ids.shape[1]:
        return Staleness(cosine=float(1 - cosine.mean()))
    columns = order[torch.searchsorted(rows[order], draw.ids).clamp(max=len(rows) - 1)]
    known = rows[columns] == draw.ids
    old, new = (_scores_of_draws(request, y[columns]) for y in (stored, fresh))
    changed = _ranks(old.masked_fill(~known, -torch.inf)) != _ranks(new.masked_fill(~known, -torch.inf))
    count = max(int(known.sum()), 1)
    return Staleness(
        cosine=float(1 - cosine.mean()),
        score=float((old - new).abs()[known].sum()) / count,
        rank=float((changed & known).sum()) / count,
    )


def _scores_of_draws(request: Request, drawn: Tensor) -> Tensor:
    """``(B, k)`` from the draws' encodings ``(B, k, d)``; of a product with all rows the rest would be thrown away."""
    with torch.autocast(drawn.device.type, enabled=False):
        return request.scale * torch.bmm(drawn.float(), request.queries.float()[:, :, None])[:, :, 0]


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each entry in its row; equal ones (a target drawn twice) stand in the order of their places."""
    return torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)
