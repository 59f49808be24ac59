"""What the queries of a request must not be given by a tree, and which queries it can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives.records import Request

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex

_SEARCHED = 64
"""Best targets of a query among which the margin filter looks for false negatives before the draw."""


def exclusions(index: TargetIndex, request: Request, probes: int) -> tuple[RaggedRows, Tensor]:
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
