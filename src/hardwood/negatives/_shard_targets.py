"""A shard of the corpus, as a source sees a whole one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood.negatives.partition import Partition
from hardwood.negatives.records import Targets


class ShardTargets:
    """The targets of one shard, whose ids are their places in it. (`hardwood.negatives.Targets`)

    Args:
        targets: the whole corpus.
        partition: how it is divided.
        shard: which one this is.
    """

    def __init__(self, targets: Targets, partition: Partition, shard: int) -> None:
        self._targets, self._partition, self._shard = targets, partition, shard
        self.num_targets = partition.size(shard)
        everyone = targets.log_prior
        own = None if everyone is None else np.ascontiguousarray(everyone[shard :: partition.num_shards])
        self.log_prior: NDArray[np.float32] | None = own

    @property
    def has_dropout(self) -> bool:
        """See `hardwood.negatives.Targets.has_dropout`."""
        return self._targets.has_dropout

    @property
    def dimension(self) -> int:
        """Length of an encoding."""
        return self._targets.dimension

    @property
    def device(self) -> torch.device:
        """Where encodings are made."""
        return self._targets.device

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `hardwood.negatives.Targets.encode`; ``rows`` and what comes back are places in the shard."""
        slots = np.arange(self.num_targets) if rows is None else rows.cpu().numpy()
        wanted = torch.from_numpy(self._partition.rows_of(self._shard, slots))
        for found, vectors in self._targets.encode(wanted):
            yield found // self._partition.num_shards, vectors
