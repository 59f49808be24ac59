"""The negatives that some fixed queries get in one step of a training, and what they count there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood import losses
from hardwood._ragged import RaggedRows
from hardwood.encoding import query_vectors
from hardwood.negatives import Cost, Draw, Request, log_prior_of
from hardwood.negatives.records import NO_TARGET

if TYPE_CHECKING:
    from hardwood.data import TextTable
    from hardwood.training import CorpusSoftmaxLoss

Rows = NDArray[np.int64]


@contextmanager
def unnoticed(cost: Cost) -> Iterator[None]:
    """What is done inside leaves no trace in the training: neither in the costs that it reports, nor in the streams of
    random numbers that it draws from."""
    before = cost.state_dict()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            cost.load_state_dict(before)


def take_snapshot(
    loss: CorpusSoftmaxLoss,
    queries: TextTable,
    query_rows: Rows,
    positive_rows: Rows,
    exclude: RaggedRows,
    most: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Draw for the queries as a step's batch of them would, and encode what was drawn with the weights of now.

    Args:
        loss: the one that trains; its source must be ready. Nothing of it changes.
        queries: the table that ``query_rows`` are rows of.
        query_rows: ``(m,)``.
        positive_rows: ``(m,)`` a positive of each.
        exclude: ``m`` rows, what each query must not be given.
        most: negatives noted of each query: those that count most.
        seed: of the draws.

    Returns:
        For each query ``positive`` (its similarity), ``mass`` (the share of the estimated softmax that is the
        positive's) and ``negatives``, each ``[target row, log q, log weight, stale similarity or None, fresh
        similarity, share of the softmax]``.
    """
    targets = loss.targets
    similarity = {"similarity": loss.similarity, "progress": False}
    x = torch.from_numpy(query_vectors(targets.model, queries, query_rows, **similarity)).float()
    positives = _encoded(targets, positive_rows)
    x, positives = x.to(targets.device), positives.to(targets.device)
    own = (x * positives).sum(dim=1)
    request = Request(
        queries=x,
        positives=torch.from_numpy(positive_rows).to(x.device),
        num_negatives=loss.num_negatives,
        scale=loss.scale,
        exclude=exclude,
        ceiling=loss.margin.ceiling(own),
        seed=seed,
    )
    draw = loss.source.sample(request)
    ids = torch.unique(draw.ids[draw.ids != NO_TARGET])
    if not len(ids):
        return [{"positive": value, "mass": 1.0, "negatives": []} for value in own.tolist()]
    log_proposal = loss.source.log_proposal(request, draw, ids)
    log_prior = log_prior_of(targets, ids)
    prior = torch.zeros(len(ids), device=ids.device) if log_prior is None else log_prior
    fresh = x @ _encoded(targets, ids.cpu().numpy()).to(x.device).T
    in_batch = torch.isin(ids, request.positives)  # these count once, drawn or not
    log_weights = (_weights(loss.weighting, draw, ids, log_proposal) + prior).masked_fill(in_batch, 0.0)
    # What it drew with: log q = s + log π - log mass, and the mass of a part is its share of what log Z says.
    # (Shards of a divided corpus differ in what they hold by a target or so.)
    held = draw.log_share.mean(dim=1) if isinstance(draw.log_share, Tensor) else draw.log_share
    stale = (log_proposal + (draw.log_z + held)[:, None] - prior) / loss.scale
    knows = loss.source.knows_scores
    was_drawn = _was_drawn(draw, ids)
    excluded = torch.isinf(log_proposal)
    counts = (loss.scale * fresh + log_weights).masked_fill(excluded | torch.isinf(log_weights), -torch.inf)
    log_z = torch.logsumexp(torch.cat([loss.scale * own[:, None], counts], dim=1), dim=1)
    shares = (counts - log_z[:, None]).exp()
    found = []
    for i in range(len(query_rows)):
        columns = was_drawn[i].nonzero()[:, 0]
        columns = columns[torch.argsort(shares[i, columns], descending=True, stable=True)][:most]
        parts = (log_proposal[i], log_weights.expand_as(shares)[i], stale[i], fresh[i], shares[i])
        values = torch.stack([part[columns].float() for part in parts], dim=1).cpu().tolist()
        negatives = [
            [int(row), *_rounded([log_q, weight]), _rounded([old])[0] if knows else None, *_rounded([now, share])]
            for row, (log_q, weight, old, now, share) in zip(ids[columns].tolist(), values, strict=True)
        ]
        mass = float((loss.scale * own[i] - log_z[i]).exp())
        found.append({"positive": round(float(own[i]), 5), "mass": round(mass, 5), "negatives": negatives})
    return found


def _encoded(targets: Any, rows: Rows) -> Tensor:
    """``(m, d)``, in the order of ``rows``, repeats allowed."""
    distinct, places = np.unique(rows, return_inverse=True)
    blocks = [vectors.float().cpu() for _, vectors in targets.encode(torch.from_numpy(distinct))]
    return torch.cat(blocks)[torch.from_numpy(places)]


def _was_drawn(draw: Draw, ids: Tensor) -> Tensor:
    """``(m, len(ids))`` whether each query drew each target."""
    columns = torch.searchsorted(ids, draw.ids).clamp(max=len(ids) - 1)
    drawn = torch.zeros(len(draw.ids), len(ids), dtype=torch.int64, device=ids.device)
    drawn.scatter_add_(1, columns, (ids[columns] == draw.ids).long())
    return drawn > 0


def _weights(weighting: str, draw: Draw, ids: Tensor, log_proposal: Tensor) -> Tensor:
    """``(m, C)`` or ``(C,)``: what each candidate counts in Z beside its prior, were these queries the batch."""
    if draw.exhaustive or weighting == "uncorrected":
        return torch.zeros(len(ids), device=ids.device)
    columns = torch.searchsorted(ids, draw.ids).clamp(max=len(ids) - 1)
    log_weights = draw.log_weights.masked_fill(ids[columns] != draw.ids, -torch.inf)
    if weighting == "own":
        return losses.own_log_weights(columns, log_weights, len(ids))
    return losses.shared_log_weights(columns, log_weights, log_proposal)


def _rounded(values: list[float]) -> list[float | None]:
    """To five places; ``None`` for what is infinite, which JSON lacks."""
    return [round(value, 5) if np.isfinite(value) else None for value in values]
