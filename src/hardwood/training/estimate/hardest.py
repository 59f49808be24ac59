"""Of what was drawn for a query, only the hardest: the highest scores of the encoder as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardwood.negatives import Draw
from hardwood.training.batch.candidates import Candidates, columns_of, times_drawn


def softer_draws(draws: Sequence[Draw], candidates: Candidates, scores: Tensor, usable: Tensor, hardest: int) -> Tensor:
    """The candidates that were drawn, and are for no query among the ``hardest`` of its own draws.

    They count for no query. One that a query keeps is a candidate of all, as draws are: "hard" is what is hard for
    some query. What is kept keeps its weight, so the estimate of Z is too small by what was dropped: a bias that grows
    the more is dropped, as in Monath et al. (AISTATS 2023), which keep the top scores of all their chains.

    Args:
        draws: of the source, ``(B, k)``, in which a target that was drawn twice is one; and of others beside it, such
            as uniform ones, all of which stay.
        candidates: of the step.
        scores: ``(B, C)`` without gradient.
        usable: ``(B, C)`` bool, what counts against each query: others can't be its hardest.
        hardest: m, kept for each query.

    Returns:
        ``(C,)`` bool.
    """
    num_drawn, draw = len(candidates.drawn), draws[0]
    softer = torch.zeros(len(candidates.ids), dtype=torch.bool, device=scores.device)
    if not num_drawn or not draw.ids.shape[1]:
        return softer
    columns, is_candidate = columns_of(draw, candidates.drawn)
    own = torch.zeros(len(scores), num_drawn, dtype=torch.bool, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)[:, None].expand_as(columns)
    own[rows[is_candidate], columns[is_candidate]] = True
    open_scores = scores[:, -num_drawn:].masked_fill(~(own & usable[:, -num_drawn:]), -torch.inf)
    values, places = torch.topk(open_scores, min(hardest, num_drawn), dim=1)
    kept = torch.zeros(num_drawn, dtype=torch.bool, device=scores.device)
    kept[places[torch.isfinite(values)]] = True
    softer[-num_drawn:] = own.any(dim=0) & ~kept
    for other in draws[1:]:
        softer &= times_drawn(other, candidates) == 0
    return softer
