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


def measure_staleness(stored: Tensor, fresh: Tensor, old: Tensor, new: Tensor) -> Staleness:
    """Compare stored encodings with fresh ones.

    Args:
        stored: ``(m, d)``, the encodings that the draw was made with.
        fresh: ``(m, d)``, those of the current model.
        old: ``(B, k)`` scores of the draws by stored encodings; NaN where they are unknown.
        new: ``(B, k)``, by fresh ones (`scores_of_draws`).
    """
    cosine = float(1 - torch.nn.functional.cosine_similarity(stored, fresh, dim=1).mean())
    known = torch.isfinite(old)
    changed = _ranks(old.masked_fill(~known, -torch.inf)) != _ranks(new.masked_fill(~known, -torch.inf))
    count = max(int(known.sum()), 1)
    return Staleness(
        cosine=cosine,
        score=float((old - new).abs()[known].sum()) / count,
        rank=float((changed & known).sum()) / count,
    )


def scores_of_draws(request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Tensor:
    """The scores of what each query has drawn, by some encodings of it.

    Args:
        request: whose queries and scale give the scores.
        draw: what was drawn.
        rows: ``(m,)`` int64, whose encodings are given.
        vectors: ``(m, d)``.

    Returns:
        ``(B, k)`` float32, times the scale; NaN for draws that are not among ``rows``.
    """
    order = torch.argsort(rows)
    columns = order[torch.searchsorted(rows[order], draw.ids).clamp(max=len(rows) - 1)]
    with torch.autocast(vectors.device.type, enabled=False):
        # Of a product with all rows most would be thrown away.
        scores = torch.bmm(vectors[columns].float(), request.queries.float()[:, :, None])[:, :, 0]
    return (request.scale * scores).masked_fill(rows[columns] != draw.ids, torch.nan)


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each entry in its row; equal ones (a target drawn twice) stand in the order of their places."""
    return torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)
