"""What a step draws, and what each of its candidates counts in each query's Z."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hardwood.negatives import Draw, NegativeSource, Request, UniformNegatives
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.training.batch.candidates import Candidates
from hardwood.training.estimate.one_batch import weighed_together
from hardwood.training.estimate.requests import mix
from hardwood.training.estimate.weights import DrawnWeights, Strategy, weigh_draws


def strategies_of(
    source: NegativeSource, uniform: UniformNegatives, request: Request, *, is_ready: bool, uniform_negatives: int
) -> list[Strategy]:
    """What the source draws, and uniform draws beside it if there are any.

    Args:
        source: of the loss.
        uniform: the source of uniform draws.
        request: of the step.
        is_ready: whether ``source`` draws yet; if not, its part is empty.
        uniform_negatives: uniform draws a query; 0: none.
    """
    draw = source.sample(request) if is_ready else Draw.nothing(len(request.queries), request.queries.device)
    # Of a divided corpus, this process is asked for what it holds alone.
    propose = source.own_log_proposal if isinstance(source, ShardedNegatives) else source.log_proposal
    strategies = [Strategy(draw, lambda ids: propose(request, draw, ids))]
    if uniform_negatives and not draw.exhaustive:
        seed = mix(request.seed, request.seed >> 32, 1)
        further = dataclasses.replace(request, num_negatives=uniform_negatives, seed=seed)
        beside = uniform.sample(further)
        strategies.append(Strategy(beside, lambda ids: uniform.log_proposal(further, beside, ids)))
    return strategies


def candidate_weights(
    candidates: Candidates,
    drawing: list[Strategy],
    scores: Tensor,
    *,
    weighting: str,
    source: NegativeSource,
    log_prior: Tensor | None,
) -> tuple[Tensor, DrawnWeights | None]:
    """Log-weights of all candidates, before what is excluded.

    Args:
        candidates: of the step.
        drawing: the strategies that have drawn.
        scores: ``(B, C)``, for their shape, dtype and device.
        weighting: see `hardwood.losses.Weighting`.
        source: of the loss; a divided one weighs together with the other processes.
        log_prior: ``(m,)`` of the drawn candidates; ``None``: 0.

    Returns:
        ``(B, C)``: 0 for what the batch brings along, log-prior plus log-weight of its draws for what was drawn; and
        that weight by itself, ``None`` where nothing was drawn.
    """
    log_weights = torch.zeros_like(scores)
    num_drawn = len(candidates.drawn)
    if not num_drawn:
        return log_weights, None
    if isinstance(source, ShardedNegatives) and drawing[0].asks_proposals(weighting, len(drawing)):
        weights = weighed_together(drawing, candidates.drawn, weighting, source, len(scores))
    else:
        weights = weigh_draws(drawing, candidates.drawn, weighting)
    log_weights[:, -num_drawn:] = weights.log_weights
    all_once = weighting == "uncorrected" and not any(strategy.draw.exhaustive for strategy in drawing)
    if log_prior is not None and not all_once:  # else the prior acts by how often they are drawn
        log_weights[:, -num_drawn:] += log_prior
    return log_weights, weights
