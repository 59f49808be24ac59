"""What each drawn candidate counts in the estimate of Z: one or two ways of drawing, weighed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardwood import losses
from hardwood.negatives import Draw
from hardwood.training.batch.candidates import Candidates, columns_of, times_drawn


@dataclass(frozen=True)
class Strategy:
    """One way of drawing.

    Attributes:
        draw: what every query has drawn, ``(B, k)``.
        log_proposal: gives the log-probability ``(B, m)`` that one draw of each query is each of ids ``(m,)``; as
            `hardwood.negatives.NegativeSource.log_proposal`.
    """

    draw: Draw
    log_proposal: Callable[[Tensor], Tensor]

    @property
    def num_draws(self) -> int:
        """Draws a query, k."""
        return self.draw.ids.shape[1]

    def asks_proposals(self, weighting: str, num_strategies: int) -> bool:
        """Whether `weigh_draws` needs the proposals of this strategy's source, as one of so many."""
        if weighting == "uncorrected" or self.draw.exhaustive:
            return False
        return weighting != "own" or num_strategies > 1


@dataclass(frozen=True)
class DrawnWeights:
    """Log-weights of drawn candidates.

    Attributes:
        log_weights: ``(m,)``, or ``(B, m)`` where queries weigh their own draws alone.
        log_parts: ``(S, m)``: the share of each of several strategies in it; ``None`` where there is one, or with
            weights that differ by query.
        log_expected: ``(S, m)``: the share that each strategy has in all draws that are to be expected of a candidate.
    """

    log_weights: Tensor
    log_parts: Tensor | None = None
    log_expected: Tensor | None = None


def weigh_draws(strategies: Sequence[Strategy], ids: Tensor, weighting: str) -> DrawnWeights:
    """The weights of drawn candidates, such that ``sum_c w_c exp(s_c)`` estimates what they stand for without bias.

    Several strategies are a defensive mixture (Hesterberg, Technometrics 1995), weighed by the balance heuristic: each
    is a strategy of its own for every query, and a candidate's draws are divided among all in proportion to how often
    each was to be expected to draw it. So no candidate weighs more than its uniform draws alone would give it.

    Args:
        strategies: at least one.
        ids: ``(m,)`` ascending candidates; draws of other targets (which stand for themselves) are dropped.
        weighting: see `CorpusSoftmaxLoss`; ``"tempered"`` gives the weights of ``"shared"``, to be tempered.
    """
    if weighting == "uncorrected" or any(strategy.draw.exhaustive for strategy in strategies):
        return DrawnWeights(torch.zeros(len(ids), device=ids.device))
    drawn = [_drawn(strategy.draw, ids, is_alone=len(strategies) == 1) for strategy in strategies]
    if len(strategies) == 1:
        columns, log_weights = drawn[0]
        if weighting == "own":
            return DrawnWeights(losses.own_log_weights(columns, log_weights, len(ids)))
        return DrawnWeights(losses.shared_log_weights(columns, log_weights, strategies[0].log_proposal(ids)))
    # How many draws of each candidate are to be expected, by strategy and query: (S, B, m).
    expected = torch.stack([one.log_proposal(ids).double() + math.log(one.num_draws) for one in strategies])
    if weighting == "own":
        shares = expected - torch.logsumexp(expected, dim=0).nan_to_num(neginf=0.0)
        parts = [
            losses.own_log_weights(columns, log_weights + share.gather(1, columns), len(ids))
            for (columns, log_weights), share in zip(drawn, shares, strict=True)
        ]
        return DrawnWeights(torch.logsumexp(torch.stack(parts), dim=0))
    parts = [
        losses.shared_log_weights(columns, log_weights, own, others=torch.cat([*expected[:i], *expected[i + 1 :]]))
        for i, ((columns, log_weights), own) in enumerate(zip(drawn, expected, strict=True))
    ]
    total = torch.logsumexp(torch.stack(parts), dim=0)
    by_strategy = torch.logsumexp(expected, dim=1)
    log_expected = by_strategy - torch.logsumexp(by_strategy, dim=0).nan_to_num(neginf=0.0)
    return DrawnWeights(total, torch.stack(parts) - total.nan_to_num(neginf=0.0), log_expected.float())


def tempering_of(
    weights: DrawnWeights, strategies: Sequence[Strategy], candidates: Candidates, scores: Tensor, log_weights: Tensor
) -> Tensor:
    """`losses.tempering` of the first strategy's draws, ``(C,)``, to be added to the log-weights of all candidates.

    Uniform draws beside them say nothing of how far encodings are out of date: what these hold of a candidate's weight
    stays as it is.

    Args:
        weights: of `weigh_draws`.
        strategies: what these were made of.
        candidates: all candidates of the step.
        scores: ``(B, C)`` without gradient.
        log_weights: ``(B, C)``, minus infinity for what does not count for a query.
    """
    if any(strategy.draw.exhaustive for strategy in strategies):
        return torch.zeros_like(scores[0])
    times, num_drawn, part = times_drawn(strategies[0].draw, candidates), len(candidates.drawn), None
    if weights.log_parts is not None and weights.log_expected is not None:
        part = torch.zeros_like(times)
        part[-num_drawn:] = weights.log_parts[0] - weights.log_expected[0].nan_to_num(neginf=0.0)
    factor = losses.tempering(scores, log_weights, times, strategies[0].num_draws, log_part=part)
    if weights.log_parts is not None:
        own, other = weights.log_parts
        factor[-num_drawn:] = torch.logaddexp(own + factor[-num_drawn:], other).nan_to_num(neginf=0.0)
    return factor


def _drawn(draw: Draw, ids: Tensor, *, is_alone: bool) -> tuple[Tensor, Tensor]:
    """Columns and log-weights ``(B, k)`` of a strategy's draws; minus infinity for draws of no candidate."""
    columns, is_candidate = columns_of(draw, ids)
    # A source of a part of the corpus stands for the whole where it is alone; beside one that draws from the whole it
    # stands for its part, and what is beyond has the other's draws.
    log_weights = draw.log_weights if is_alone else draw.log_weights + draw.log_share
    return columns, log_weights.masked_fill(~is_candidate, -torch.inf)
