"""Which target belongs to which shard, and which shard to which process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Row i of the corpus is in shard ``i % num_shards``, at the place ``i // num_shards``.

    Rows that stand together in a corpus are often alike (one source after another), so shards by ranges would be busy
    one at a time; these are all a fair sample of the corpus. Process r holds the shards v with ``v % num_ranks == r``:
    with another number of processes whole shards move, and draws stay the same.

    Args:
        num_targets: n.
        num_shards: V, from the number of processes to n.
        num_ranks: processes, W.

    Raises:
        ValueError: there would be a process without a shard, or a shard without a target.
    """

    num_targets: int
    num_shards: int
    num_ranks: int = 1

    def __post_init__(self) -> None:
        if self.num_shards < self.num_ranks:
            raise ValueError(
                f"{self.num_shards} shards of the corpus can't be divided among {self.num_ranks} processes: start with "
                f"at most {self.num_shards}, or start the run anew, with at least as many shards as processes"
            )
        if self.num_targets < self.num_shards:
            raise ValueError(
                f"a corpus of {self.num_targets:,} targets can't be divided into {self.num_shards} shards: give each "
                "process a copy of all (shards='replicated', --shards replicated), or start fewer processes"
            )

    def shards_of(self, rank: int) -> list[int]:
        """The shards of a process, ascending."""
        return list(range(rank, self.num_shards, self.num_ranks))

    def size(self, shard: int) -> int:
        """How many targets a shard has."""
        return len(range(shard, self.num_targets, self.num_shards))

    def rank_of(self, rows: Ints) -> Ints:
        """The process that holds each of ``rows``."""
        return rows % self.num_shards % self.num_ranks

    def rows_of(self, shard: int, slots: Ints) -> Ints:
        """The rows of places in a shard; what is below 0 stays as it is."""
        return np.where(slots >= 0, slots * self.num_shards + shard, slots)

    def slots_of(self, shard: int, rows: Ints) -> Ints:
        """The places of rows in their shard; -1 for those of other shards."""
        return np.where((rows >= 0) & (rows % self.num_shards == shard), rows // self.num_shards, -1)

    def of_shard(self, shard: int, rows: RaggedRows) -> RaggedRows:
        """Lists of rows, as lists of places in one shard: what is in others is left out."""
        here = rows.values % self.num_shards == shard
        return RaggedRows.from_pairs(rows.row_ids()[here], rows.values[here] // self.num_shards, len(rows))
