"""Targets whose encodings are kept in fewer dimensions than the model gives."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hardwood.negatives.agreement import Found
from hardwood.negatives.records import Floats, Targets, encoded_rows

if TYPE_CHECKING:
    from hardwood.tree.arrays.projection import Projection

_SAMPLE = 8192
"""Targets that are encoded, of all shards together, to find the dimensions that are kept; more where a model has a
quarter as many dimensions."""


class ReducedTargets:
    """Targets whose encodings come reduced by a projection. (`hardwood.negatives.Targets`)

    Args:
        targets: the corpus.
        projection: from the model's dimensions to those that are kept.
    """

    def __init__(self, targets: Targets, projection: Projection) -> None:
        self._targets, self.projection = targets, projection
        self.num_targets = targets.num_targets
        self.log_prior: Floats | None = targets.log_prior

    @property
    def has_dropout(self) -> bool:
        """See `hardwood.negatives.Targets.has_dropout`."""
        return self._targets.has_dropout

    @property
    def dimension(self) -> int:
        """Length of a reduced encoding."""
        return self.projection.dimension

    @property
    def device(self) -> torch.device:
        """Where encodings are made."""
        return self._targets.device

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `hardwood.negatives.Targets.encode`; vectors are ``(b, m)``."""
        for found, vectors in self._targets.encode(rows):
            yield found, reduced(vectors, self.projection)


def reduced(vectors: Tensor, projection: Projection | None) -> Tensor:
    """Vectors ``(n, d)`` as ``(n, m)`` float32 on their device; as they are where all dimensions are kept."""
    if projection is None:
        return vectors
    return torch.from_numpy(projection(vectors.detach().float().cpu().numpy())).to(vectors.device)


def fitted_projection(targets: Targets, dimension: int, seed: int) -> Generator[Found, list[Found], Projection]:
    """Find the dimensions to keep from a sample of the encodings of all shards.

    Args:
        targets: of one shard, or the whole corpus.
        dimension: how many to keep.
        seed: of the sample.
    """
    from hardwood.tree.arrays.projection import Projection, moments

    wanted = min(targets.num_targets, max(_SAMPLE, 4 * targets.dimension))
    rows = np.sort(np.random.default_rng([seed, 1]).choice(targets.num_targets, wanted, replace=False))
    everyone = yield (torch.from_numpy(moments(encoded_rows(targets, rows))),)
    return Projection.of_moments(np.sum([found.numpy() for (found,) in everyone], axis=0), dimension)
