"""The cross entropy over the whole corpus, estimated from draws: pure functions of tensors.

Notation (of the design and of Monath et al., AISTATS 2023): ``s = scale * x.y`` a score, ``Z(x) = sum_i exp(s_i)``
over the corpus, ``q`` the probability of a draw. For a query with positive ``p`` the loss is ``-s_p + log Z``; here
``Z`` is replaced by

    Z_hat = sum over candidates c of  w_c exp(s_c)

in which the positives of the batch are summed as they are (``w = 1``) and every other candidate stands for the share
of the corpus that its draw represents. All scores are float32, whatever the encodings are.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "corpus_cross_entropy",
    "own_log_weights",
    "scores",
    "shared_log_weights",
    "tempering",
]


def scores(queries: Tensor, candidates: Tensor, scale: float) -> Tensor:
    """``scale * queries @ candidates.T`` in float32.

    Args:
        queries: ``(B, d)``, any floating dtype.
        candidates: ``(C, d)``.
        scale: inverse temperature, positive.

    Returns:
        ``(B, C)`` float32: under autocast too, since a half-precision score times a scale of 20 is off by whole units.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return scale * (queries.float() @ candidates.float().T)


def own_log_weights(columns: Tensor, log_weights: Tensor, num_candidates: int) -> Tensor:
    """Weigh each query's own draws alone: the importance sampling estimate of Z.

    Args:
        columns: ``(B, k)`` int64, the candidate of each draw; any column where the log-weight is minus infinity.
        log_weights: ``(B, k)``, as in `hardwood.negatives.Draw`: ``-log k - log q``.
        num_candidates: C.

    Returns:
        ``(B, C)`` float32; minus infinity for what a query did not draw. A target drawn m times counts m times.
    """
    # float64: weights within a query may be e^100 apart, and the small ones belong to the likeliest targets.
    peak = log_weights.double().amax(dim=1, keepdim=True) if columns.shape[1] else log_weights.double().sum(1, True)
    peak = peak.nan_to_num(neginf=0.0)
    total = torch.zeros(len(columns), num_candidates, dtype=torch.float64, device=columns.device)
    total.scatter_add_(1, columns, (log_weights.double() - peak).exp())
    return (total.log() + peak).float()


def shared_log_weights(
    columns: Tensor, log_weights: Tensor, log_proposals: Tensor, others: Tensor | None = None
) -> Tensor:
    """Weigh candidates that all queries of the batch share: multiple importance sampling by the balance heuristic.

    The draws of each query are one strategy (Veach and Guibas, SIGGRAPH 1995). A draw ``c`` of query b counts as its
    own weight ``1 / (k q_b(c))`` times the share ``w_b(c) = q~_b(c) / sum_b' q~_b'(c)`` of that query in the candidate;
    a candidate's weight is the sum over all its draws. The shares sum to 1 over b, whatever the positive ``q~`` are, so
    the estimate of each query's Z is unbiased with any of them; with ``q~ = q`` a candidate drawn m times gets
    ``m / sum_b k q_b(c)``, the balance heuristic itself. Every query profits from all candidates, which are encoded
    anyway.

    Args:
        columns: ``(B, k)`` int64, the candidate of each draw; any column where the log-weight is minus infinity.
        log_weights: ``(B, k)``, as in `hardwood.negatives.Draw`: ``-log k - log q`` with the true q of the draw.
        log_proposals: ``(B, C)``, ``log q~_b(c)``: independent of what was drawn, minus infinity where (and, for the
            estimate to be unbiased, only where) query b can't draw candidate c. A factor common to all is immaterial.
        others: ``(B', C)``, the same of further strategies that the candidates are shared with and whose draws are not
            among these; each times its number of draws, as ``log_proposals`` then too.

    Returns:
        ``(C,)`` float32; minus infinity for a candidate that was not drawn.
    """
    log_proposals = log_proposals.double()
    total = torch.logsumexp(log_proposals if others is None else torch.cat([log_proposals, others.double()]), dim=0)
    shares = (log_proposals - total.nan_to_num(neginf=0.0)).gather(1, columns)
    columns, parts = columns.flatten(), (shares + log_weights.double()).flatten()
    # A peak for each candidate: weights of different candidates may be e^1000 apart.
    peaks = torch.full_like(total, -torch.inf).scatter_reduce_(0, columns, parts, "amax").nan_to_num(neginf=0.0)
    sums = torch.zeros_like(total).scatter_add_(0, columns, (parts - peaks[columns]).exp())
    return (sums.log() + peaks).float()


def tempering(
    scores: Tensor,
    log_weights: Tensor,
    times_drawn: Tensor,
    num_draws: int,
    power: float = 0.5,
    log_part: Tensor | None = None,
) -> Tensor:
    """How far to pull `shared_log_weights` towards those of draws that were made with the encodings at hand.

    Draws come from a softmax of stored encodings, which are older than the scores. Had they come from the softmax of
    these scores, a candidate drawn ``m_c`` times by all queries together would hold ``m_c / k`` of their probability:
    ``sum_b w_c exp(s_bc) / Z_hat_b``. What it holds, by that, is its importance ratio ``r_c``: above 1 where the tree
    does not know yet how near it is. Importance sampling counts a candidate in proportion to ``r_c``; counted by
    ``r_c ** power``, the estimate of the gradient has a bias and less variance, the better bargain for few draws
    (docs/lab/sources.md). It is the idea of truncated importance sampling (Ionides, JCGS 2008) without a threshold. For
    draws with replacement from a softmax; of others (``uniform``) the ratio says something else.

    Args:
        scores: ``(B, C)`` float32, without gradient.
        log_weights: ``(B, C)``, those of `corpus_cross_entropy`: minus infinity leaves a candidate out, the query's own
            positive among them, here from ``Z_hat_b`` too. (What a false-negative margin leaves out for a query counts
            as if its ratio were small.)
        times_drawn: ``(C,)``, ``m_c``; 0 for candidates that stand for themselves alone (the batch's positives).
        num_draws: k.
        power: 1 changes nothing, 0 takes every draw for a draw from the softmax of ``scores``.
        log_part: ``(C,)``, what a candidate must hold is this part of what it does hold: where draws of another kind
            share in its weight, the share that these have in the weight over the share they were expected to have.

    Returns:
        ``(C,)`` float32, to be added to the log-weights; 0 for what was not drawn or counts for no query.
    """
    weighted = scores + log_weights
    log_z = torch.logsumexp(weighted, dim=1, keepdim=True).nan_to_num(neginf=0.0)
    log_share = torch.logsumexp(weighted - log_z, dim=0)
    if log_part is not None:
        log_share = log_share + log_part
    log_ratio = log_share - (times_drawn.to(scores.dtype) / num_draws).log()
    return torch.where(torch.isfinite(log_ratio), (power - 1.0) * log_ratio, 0.0)


def corpus_cross_entropy(
    candidate_scores: Tensor, positive_columns: Tensor, log_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``-s_p + log Z_hat``, query by query.

    Args:
        candidate_scores: ``(B, C)`` float32 with gradient.
        positive_columns: ``(B,)`` int64, the column of each query's positive.
        log_weights: ``(B, C)`` or ``(C,)``; minus infinity leaves a candidate out. A query's own positive is always
            in, with weight 1, whatever stands here.

    Returns:
        ``(positive_scores, log_z)``, both ``(B,)`` with gradient; the loss is ``log_z - positive_scores``, never
        negative.
    """
    own = torch.nn.functional.one_hot(positive_columns, candidate_scores.shape[1]).bool()
    weights = log_weights.to(candidate_scores.dtype).expand_as(candidate_scores).masked_fill(own, 0.0)
    # Not scores + weights alone: where a weight is minus infinity the gradient must be 0, not 0 * a huge score.
    weighted = torch.where(torch.isinf(weights), -torch.inf, candidate_scores + weights)
    return candidate_scores.gather(1, positive_columns[:, None])[:, 0], torch.logsumexp(weighted, dim=1)
