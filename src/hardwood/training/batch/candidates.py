"""What a step's queries are scored against: the batch's positives, given negatives, and what was drawn beyond these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardwood.negatives import Draw
from hardwood.negatives.records import NO_TARGET


@dataclass(frozen=True)
class Candidates:
    """The candidates of a step, encoded.

    ``ids`` ``(C,)``: the batch's positives and given negatives ascending, then ``drawn`` ascending;
    ``positive_columns`` ``(B,)``: where each query's positive stands among them; ``encodings`` ``(C, d)`` with
    gradient.
    """

    ids: Tensor
    drawn: Tensor
    positive_columns: Tensor
    encodings: Tensor


def candidates_of(
    given: Tensor, given_rows: Tensor, draws: Sequence[Draw], batch_size: int, embed: Callable[[Tensor], Tensor]
) -> Candidates:
    """The batch's positives and given negatives, each target once, then what was drawn beyond them.

    Args:
        given: ``(B * (1 + m), d)`` encodings with gradient: all positives, then all first given negatives, ...
        given_rows: ``(B * (1 + m),)`` int64, their targets.
        draws: of the step.
        batch_size: B.
        embed: encodes targets ``(n,)`` with gradient, ``(n, d)``.
    """
    ids, first, columns = unique(given_rows)
    drawn = drawn_beyond(draws, ids)
    encodings = torch.cat([given[first], embed(drawn)])
    return Candidates(torch.cat([ids, drawn]), drawn, columns[:batch_size], encodings)


def unique(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted distinct ids, where each first stands, and the place of every id among them."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    first = torch.full_like(distinct, len(ids))
    first.scatter_reduce_(0, inverse, torch.arange(len(ids), device=ids.device), "amin")
    return distinct, first, inverse


def drawn_beyond(draws: Sequence[Draw], given_ids: Tensor) -> Tensor:
    """Sorted distinct targets of draws that the batch does not hold anyway."""
    drawn = torch.unique(torch.cat([draw.ids.flatten() for draw in draws]))
    return drawn[(drawn != NO_TARGET) & ~torch.isin(drawn, given_ids)]


def columns_of(draw: Draw, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Where each draw stands among the ascending ``drawn``, and whether it does: both ``(B, k)``."""
    columns = torch.searchsorted(drawn, draw.ids).clamp(max=len(drawn) - 1)
    return columns, drawn[columns] == draw.ids


def times_drawn(draw: Draw, candidates: Candidates) -> Tensor:
    """How often each candidate was drawn, by all queries together, ``(C,)``; what the batch holds anyway never."""
    times = torch.zeros(len(candidates.ids), device=candidates.ids.device)
    if len(candidates.drawn):
        columns, is_candidate = columns_of(draw, candidates.drawn)
        columns += len(candidates.ids) - len(candidates.drawn)
        times.scatter_add_(0, columns.flatten(), is_candidate.flatten().to(times.dtype))
    return times
