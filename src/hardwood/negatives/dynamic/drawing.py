"""A request put to the index: for a tree, what its queries must not be given, and the draw for all others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives._matrix_draw import matrix_draw
from hardwood.negatives.dynamic.flat_index import FlatIndex
from hardwood.negatives.dynamic.index_form import VectorIndex
from hardwood.negatives.dynamic.reduced import reduced
from hardwood.negatives.records import NO_TARGET, Draw, Request

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex

_SEARCHED = 64
"""Best targets of a query among which the margin filter looks for false negatives before the draw."""


def drawn(index: VectorIndex, request: Request, probes: int) -> Draw:
    """Negatives from the index: as many as are asked for, or everything where that is no more.

    Args:
        index: a `FlatIndex`, whose draws are exact, or a tree; ids are rows of the corpus.
        request: the step's request.
        probes: leaves of a tree opened for each query.

    Returns:
        The draw, on the device of the queries.
    """
    if isinstance(index, FlatIndex):
        return matrix_draw(index.matrix, replace(request, queries=reduced(request.queries, index.projection)))
    return _drawn_from_tree(cast("TargetIndex", index), request, probes)


def _drawn_from_tree(index: TargetIndex, request: Request, probes: int) -> Draw:
    queries, device = request.queries.cpu(), request.queries.device
    exclude, has_targets = _exclusions(index, request, probes)
    nothing = ~has_targets.to(device)[:, None]
    found = index.sample(
        queries,
        request.num_negatives,
        scale=request.scale,
        exclude=exclude,
        probes=probes,
        bounds=False,
        seed=request.seed,
    )
    log_z = found.log_z.float().to(device).masked_fill(nothing[:, 0], -torch.inf)
    if request.num_negatives < len(index):
        ids = found.ids.to(device).masked_fill(nothing, NO_TARGET)
        log_q, log_weights = (
            part.float().to(device).masked_fill(nothing, -torch.inf) for part in (found.log_q, found.log_weights)
        )
        return Draw(ids, log_q, log_z, log_weights, exclude=exclude)
    true_log_q = index.log_proposal(queries, np.arange(len(index)), scale=request.scale, exclude=exclude, probes=probes)
    everything = Draw.everything(true_log_q.float().to(device).masked_fill(nothing, -torch.inf), log_z)
    return replace(everything, exclude=exclude)


def _exclusions(index: TargetIndex, request: Request, probes: int) -> tuple[RaggedRows, Tensor]:
    """What each query must not be given, and which queries ``(B,)`` may be given anything at all.

    Beside the request's own exclusions these are the targets above the ceiling: found by search and excluded, so that
    ``q`` is renormalised for them. What the search misses can still be drawn; the loss drops it by its fresh score.

    Args:
        index: the tree, whose ids are rows of the corpus.
        request: the step's request.
        probes: leaves that the search opens.
    """
    exclude = request.exclude
    if request.ceiling is not None:
        hits = index.search(request.queries.cpu(), _SEARCHED, probes=probes)
        above = (hits.ids >= 0) & (hits.scores > request.ceiling.cpu()[:, None])
        queries, places = above.nonzero(as_tuple=True)
        rows = np.concatenate([exclude.row_ids(), queries.numpy()])
        values = np.concatenate([exclude.values, hits.ids[queries, places].numpy()])
        exclude = RaggedRows.from_pairs(rows, values, len(exclude))
    has_targets = exclude.counts < len(index)
    if not has_targets.all():  # the tree refuses to draw for these: let it draw anything, and drop it
        kept = has_targets[exclude.row_ids()]
        exclude = RaggedRows.from_pairs(exclude.row_ids()[kept], exclude.values[kept], len(exclude))
    return exclude, torch.from_numpy(has_targets)
