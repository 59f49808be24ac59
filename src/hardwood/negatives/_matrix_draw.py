"""A request put to a matrix of all targets' vectors: exact draws, and their probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from hardwood.negatives.records import Draw, Request, masked_log_proposal
from hardwood.negatives.softmax_matrix import SoftmaxIndex


def matrix_draw(index: SoftmaxIndex, request: Request) -> Draw:
    """Draws with replacement from the softmax over ``index``; everything, where no fewer are asked for.

    Args:
        index: the vectors of all targets; slots are rows of the corpus.
        request: the step's request.

    Returns:
        The draw, on the device of the queries.
    """
    samples = request.num_negatives < len(index)
    ids, log_q, log_z = index.sample(
        request.queries,
        request.num_negatives if samples else 1,  # all: log Z is what counts
        scale=request.scale,
        exclude=request.exclude,
        ceiling=request.ceiling,
        generator=torch.Generator(device=index.vectors.device).manual_seed(request.seed),
    )
    device = request.queries.device
    draw = Draw.plain(ids.to(device), log_q.to(device), log_z.to(device))
    if samples:
        return draw
    everything = torch.arange(len(index), device=device)
    return Draw.everything(matrix_log_proposal(index, request, draw, everything), draw.log_z)


def matrix_log_proposal(index: SoftmaxIndex, request: Request, draw: Draw, ids: Tensor) -> Tensor:
    """``(B, m)``: the log-probability of a draw of each of ``ids`` ``(m,)``, exactly; on their device."""
    slots = ids.to(index.vectors.device)
    scores = index.scores(request.queries, slots, request.scale).to(ids.device)
    log_prior = None if index.log_prior is None else index.log_prior[slots].to(ids.device)
    return masked_log_proposal(scores, draw.log_z, request, ids, log_prior)
