"""How far stored encodings are from fresh ones, measured on what a step has encoded anyway, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood.negatives.records import Draw, Request, Targets, encoded_rows

Floats = NDArray[np.float32]

_NOISE_MEASURED_ON = 64
"""Targets."""


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


def staleness_sums(request: Request, draw: Draw, rows: Tensor, stored: Tensor, fresh: Tensor) -> Tensor:
    """Compare stored encodings with fresh ones.

    Args:
        request: whose queries and scale give the scores.
        draw: the draws whose scores and ranks are compared; those among the ``rows`` count.
        rows: ``(m,)`` int64; of a shard of the corpus there may be none.
        stored: ``(m, d)``, the encodings that the draw was made with.
        fresh: ``(m, d)``, those of the current model.

    Returns:
        ``(5,)`` float64: how many targets and the sum of their cosine errors; how many draws, the sum of their errors
        of score, and how many changed their rank. `Staleness.of_sums` makes means of them.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    if not len(rows):
        return sums
    cosine = torch.nn.functional.cosine_similarity(stored, fresh, dim=1)
    sums[0], sums[1] = len(rows), float((1 - cosine).double().sum())
    if not draw.ids.shape[1]:
        return sums
    order = torch.argsort(rows)
    columns = order[torch.searchsorted(rows[order], draw.ids).clamp(max=len(rows) - 1)]
    known = rows[columns] == draw.ids
    old, new = (_scores_of_draws(request, y[columns]) for y in (stored, fresh))
    changed = _ranks(old.masked_fill(~known, -torch.inf)) != _ranks(new.masked_fill(~known, -torch.inf))
    sums[2] = int(known.sum())
    sums[3] = float((old - new).abs()[known].double().sum())
    sums[4] = int((changed & known).sum())
    return sums


def measure_staleness(request: Request, draw: Draw, rows: Tensor, stored: Tensor, fresh: Tensor) -> Staleness:
    """The means of what `staleness_sums` adds up, with the same arguments."""
    return Staleness.of_sums(staleness_sums(request, draw, rows, stored, fresh))


def noise_sums(targets: Targets, ids: Tensor, fresh: Tensor) -> Tensor:
    """Compare a training step's encodings with those that the same weights give without dropout.

    Encodes some of them once more: their errors deviate by a third of the mean, so it is known to a twentieth.

    Args:
        targets: the corpus.
        ids: ``(m,)`` int64, each once; of a shard of the corpus there may be none.
        fresh: ``(m, d)`` float32, the step's encodings of ``ids``, on the CPU.

    Returns:
        ``(2,)`` float64: how many were compared, and the sum of 1 - cosine.
    """
    if not len(ids):
        return torch.zeros(2, dtype=torch.float64)
    some = np.unique(np.linspace(0, len(ids) - 1, min(_NOISE_MEASURED_ON, len(ids))).astype(np.int64))
    exact = torch.from_numpy(encoded_rows(targets, ids.numpy()[some]))
    error = (1 - torch.nn.functional.cosine_similarity(exact, fresh[some], dim=1)).double()
    return torch.stack([torch.tensor(float(len(some)), dtype=torch.float64), error.sum()])


def settled(stored: Floats, fresh: Floats, noise: float) -> Floats:
    """What a training step's encodings say of where their targets are, beside what is known already.

    A fresh encoding of an encoder with dropout is off by its noise; a stored one that has been averaged over several is
    not, but may be out of date. By the positive-part James-Stein rule (1961) the stored one moves towards the fresh one
    by the share of their difference that noise does not explain, ``max(0, 1 - noise / e)`` with ``e`` the cosine error
    between the two: all the way where it has moved far, not at all where there is nothing but noise.

    Args:
        stored: ``(m, d)`` float32.
        fresh: ``(m, d)`` float32.
        noise: mean cosine error of fresh encodings of the same weights; 0 leaves ``fresh`` as it is.

    Returns:
        ``(m, d)`` float32, of lengths between theirs.
    """
    if noise <= 0:
        return fresh
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in (stored, fresh)]
    both = np.maximum(lengths[0] * lengths[1], np.finfo(np.float32).tiny)
    error = np.maximum(1 - np.einsum("md,md->m", stored, fresh) / both, np.finfo(np.float32).tiny)
    share = np.maximum(0, 1 - noise / error)
    moved = stored + share[:, None] * (fresh - stored)
    wanted = lengths[0] + share * (lengths[1] - lengths[0])
    now = np.maximum(np.linalg.norm(moved, axis=1), np.finfo(np.float32).tiny)
    return np.asarray(moved * (wanted / now)[:, None], dtype=np.float32)


def _scores_of_draws(request: Request, drawn: Tensor) -> Tensor:
    """``(B, k)`` from the draws' encodings ``(B, k, d)``; of a product with all rows the rest would be thrown away."""
    with torch.autocast(drawn.device.type, enabled=False):
        return request.scale * torch.bmm(drawn.float(), request.queries.float()[:, :, None])[:, :, 0]


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each entry in its row; equal ones (a target drawn twice) stand in the order of their places."""
    return torch.argsort(torch.argsort(scores, dim=1, descending=True, stable=True), dim=1)
