"""The highest scores instead of draws, for sources that hold vectors."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives.records import NO_TARGET, Draw, Request, seen_mask
from hardwood.negatives.softmax_matrix import SoftmaxIndex


def top_draw(index: SoftmaxIndex, request: Request, exclude: RaggedRows) -> Draw:
    """The ``num_negatives`` highest scores of each query, as a draw that takes each of them once.

    So each weighs 1, and the loss sums what it was given: Z over these targets alone, which is too small by all others.
    Uniform draws beside them, weighed together with them, make up for the others without bias.

    Args:
        index: the vectors.
        request: what is asked; its ``seed`` is of no use here.
        exclude: slots that each query must not be given.

    Returns:
        a draw whose ``ids`` are slots of the index.
    """
    count = min(request.num_negatives, len(index))
    slots, scores = index.top(request.queries, count, scale=request.scale, exclude=exclude, ceiling=request.ceiling)
    device = request.queries.device
    ids, log_z = slots.to(device), torch.logsumexp(scores.double(), dim=1).float().to(device)
    missing = ids == NO_TARGET
    log_q = -(~missing).sum(dim=1, keepdim=True).float().log().expand(ids.shape).masked_fill(missing, -torch.inf)
    log_weights = torch.zeros_like(log_q).masked_fill(missing, -torch.inf)
    return Draw(ids, log_q, log_z, log_weights)


def refuse_top_of_shards(top: bool, num_shards: int) -> None:
    """``ValueError`` for the highest scores of one of several shards: whether they are those of the whole corpus, no
    shard knows."""
    if top and num_shards > 1:
        raise ValueError(
            f"top=True takes the highest scores of the whole corpus, which is divided into {num_shards} shards: leave "
            "it out, or give each process a copy of the corpus (shards='replicated', --shards replicated)"
        )


def top_log_proposal(draw: Draw, ids: Tensor) -> Tensor:
    """``(B, m)``: the log-probability that one of each query's is each of ``ids``, all of its draw being alike."""
    held = draw.ids != NO_TARGET
    rows = torch.arange(len(held), device=held.device)[:, None].expand_as(held)
    own = RaggedRows.from_pairs(rows[held].cpu().numpy(), draw.ids[held].cpu().numpy(), len(held))
    log_q = -torch.from_numpy(np.maximum(own.counts, 1)).to(ids.device).float().log()[:, None]
    return log_q.expand(-1, len(ids)).masked_fill(~seen_mask(own, ids), -math.inf)
