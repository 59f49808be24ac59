"""What a step asks its source for: what each query must not be given, and the seed of its draws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives import MarginFilter, Request


def request_of(
    queries: Tensor,
    positives: Tensor,
    positive_rows: np.ndarray,
    known: RaggedRows,
    *,
    num_negatives: int,
    scale: float,
    margin: MarginFilter,
    seed: int,
) -> Request:
    """What the source is asked for.

    Args:
        queries: ``(B, d)`` float32, without gradient.
        positives: ``(B, d)`` float32, of the positives, without gradient.
        positive_rows: ``(B,)`` int64.
        known: B rows of targets that each query must not be given.
        num_negatives: draws a query.
        scale: inverse temperature.
        margin: its ceiling follows from the positives' scores.
        seed: of the draws.
    """
    return Request(
        queries=queries,
        positives=torch.from_numpy(positive_rows).to(queries.device),
        num_negatives=num_negatives,
        scale=scale,
        exclude=with_own(known, positive_rows),
        ceiling=margin.ceiling((queries * positives).sum(dim=1)),
        seed=seed,
    )


def with_own(known: RaggedRows, own: np.ndarray) -> RaggedRows:
    """Each query's known positives and the positive at hand, which may be from another split."""
    rows = np.concatenate([known.row_ids(), np.arange(len(own))])
    return RaggedRows.from_pairs(rows, np.concatenate([known.values, own]), len(own))


def mix(*numbers: int) -> int:
    """One seed of many numbers."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0]) >> 1
