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


def measure_noise(targets: Targets, ids: Tensor, fresh: Tensor) -> float:
    """Mean of 1 - cosine between a training step's encodings and those that the same weights give without dropout.

    Encodes some of them once more: their errors deviate by a third of the mean, so it is known to a twentieth.

    Args:
        targets: the corpus.
        ids: ``(m,)`` int64, each once.
        fresh: ``(m, d)`` float32, the step's encodings of ``ids``, on the CPU.
    """
    some = np.unique(np.linspace(0, len(ids) - 1, min(_NOISE_MEASURED_ON, len(ids))).astype(np.int64))
    exact = torch.from_numpy(encoded_rows(targets, ids.numpy()[some]))
    return float(1 - torch.nn.functional.cosine_similarity(exact, fresh[some], dim=1).mean())


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
