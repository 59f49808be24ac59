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

    @classmethod
    def of_sums(cls, sums: Tensor) -> Staleness:
        """From `staleness_sums`, of one shard or added up over several."""
        targets, cosine, draws, score, rank = sums.tolist()
        return cls(cosine / max(targets, 1), score / max(draws, 1), rank / max(draws, 1))

    def blended(self, newer: Staleness, share: float) -> Staleness:
        """A running mean: this one with ``share`` of the ``newer``."""
        return Staleness(*(old + share * (new - old) for old, new in zip(self.astuple(), newer.astuple(), strict=True)))

    def astuple(self) -> tuple[float, float, float]:
        """``(cosine, score, rank)``."""
        return self.cosine, self.score, self.rank


def staleness_sums(stored: Tensor, fresh: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Compare stored encodings with fresh ones.

    Args:
        stored: ``(m, d)``, the encodings that the draw was made with; of a shard of the corpus there may be none.
        fresh: ``(m, d)``, those of the current model.
        old: ``(B, k)`` scores of the draws by stored encodings; NaN where they are unknown.
        new: ``(B, k)``, by fresh ones (`scores_of_draws`).

    Returns:
        ``(5,)`` float64: how many targets and the sum of their cosine errors; how many draws, the sum of their errors
        of score, and how many changed their rank. `Staleness.of_sums` makes means of them.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    if not len(stored):
        return sums
    sums[:2] = cosine_sums(stored, fresh)
    known = torch.isfinite(old)
    changed = _ranks(old.masked_fill(~known, -torch.inf)) != _ranks(new.masked_fill(~known, -torch.inf))
    sums[2] = int(known.sum())
    sums[3] = float((old - new).abs()[known].sum())
    sums[4] = int((changed & known).sum())
    return sums


def cosine_sums(some: Tensor, others: Tensor) -> Tensor:
    """``(2,)`` float64: how many pairs of rows ``(m, d)`` there are, and the sum of their 1 - cosine."""
    if not len(some):
        return torch.zeros(2, dtype=torch.float64)
    error = float(1 - torch.nn.functional.cosine_similarity(some, others, dim=1).mean())
    return torch.tensor([len(some), len(some) * error], dtype=torch.float64)  # divided again, it is the same number


def measure_staleness(stored: Tensor, fresh: Tensor, old: Tensor, new: Tensor) -> Staleness:
    """The means of what `staleness_sums` adds up, with the same arguments."""
    return Staleness.of_sums(staleness_sums(stored, fresh, old, new))


def scores_of_draws(request: Request, draw: Draw, rows: Tensor, vectors: Tensor) -> Tensor:
    """The scores of what each query has drawn, by some encodings of it.

    Args:
        request: whose queries and scale give the scores.
        draw: what was drawn.
        rows: ``(m,)`` int64, whose encodings are given; of a shard of the corpus there may be none.
        vectors: ``(m, d)``.

    Returns:
        ``(B, k)`` float32, times the scale; NaN for draws that are not among ``rows``.
    """
    if not len(rows):
        return torch.full(draw.ids.shape, torch.nan, device=vectors.device)
    order = torch.argsort(rows)
    columns = order[torch.searchsorted(rows[order], draw.ids).clamp(max=len(rows) - 1)]
    with torch.autocast(vectors.device.type, enabled=False):
        # Of a product with all rows most would be thrown away.
        scores = torch.bmm(vectors[columns].float(), request.queries.float()[:, :, None])[:, :, 0]
    return (request.scale * scores).masked_fill(rows[columns] != draw.ids, torch.nan)


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each entry in its row; equal ones (a target drawn twice) stand in the order of their places."""
    return torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)
