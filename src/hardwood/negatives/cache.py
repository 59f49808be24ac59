"""The negative cache: a first-in, first-out store of stale encodings, renewed a little every step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood.negatives._part import PartNegatives, part_of, seed_of_shard
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Targets


class CacheNegatives(PartNegatives):
    """Streaming negative cache (Lindgren, Reddi, Guo and Kumar, NeurIPS 2021).

    The cache holds encodings of ``cache_size`` targets. Before every step the oldest ``refresh_size`` leave and as many
    others of the corpus, in a shuffled order that goes round and round, are encoded with the current model and enter.
    Negatives are softmax samples from the cache (the paper draws them by Gumbel-max; inverting the cumulative mass
    draws from the same law). As the cache is a random share of the corpus, ``log_z`` scales its mass up to the whole.

    Args:
        cache_size: targets kept, at most the whole corpus.
        refresh_size: targets renewed a step; 0 never renews. ``None``: a 64th of the cache.
        start_step: the step at which the cache is first filled.
        seed: the shuffled order.
    """

    name: ClassVar[str] = "cache"

    def __init__(
        self,
        *,
        cache_size: int = 8192,
        refresh_size: int | None = None,
        start_step: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(start_step=start_step, seed=seed)
        _checks.at_least(1, cache_size, "cache_size")
        if refresh_size is not None and not 0 <= refresh_size <= cache_size:
            raise ValueError(f"refresh_size must lie between 0 and cache_size ({cache_size}), got {refresh_size}")
        self.cache_size = cache_size
        self.refresh_size = refresh_size

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._order = np.random.Generator(np.random.PCG64(self.seed)).permutation(targets.num_targets)
        # How many have entered (their place in the order; slot ``that % cache size`` is the oldest), and the last step.
        self._position = 0, -1

    def for_shard(self, number: int, num_shards: int) -> CacheNegatives:
        size = max(1, part_of(self.cache_size, number, num_shards))
        renewed = None if self.refresh_size is None else min(part_of(self.refresh_size, number, num_shards), size)
        return CacheNegatives(
            cache_size=size,
            refresh_size=renewed,
            start_step=self.start_step,
            seed=seed_of_shard(self.seed, number, num_shards),
        )

    def begin_step(self, step: int) -> None:
        entered, last_step = self._position
        if step < self.start_step or step == last_step:
            return
        count = size = len(self._row_of_slot)
        if self._index is not None:
            count = min(max(1, size // 64) if self.refresh_size is None else self.refresh_size, size)
        places = np.arange(entered, entered + count)
        self._replace(places % size, self._order[places % len(self._order)])
        self._position = entered + count, step

    def settings(self) -> dict[str, Any]:
        return {
            "cache_size": self.cache_size,
            "refresh_size": self.refresh_size,
            "start_step": self.start_step,
            "seed": self.seed,
        }

    def _size(self, num_targets: int) -> int:
        return min(self.cache_size, num_targets)

    def _rows_at(self, position: tuple[int, ...]) -> NDArray[np.int64]:
        size, entered = len(self._row_of_slot), position[0]
        if not size <= entered < 2**62:
            raise ValueError(f"the checkpoint's cache has an impossible count of targets that entered it, {entered}")
        # Each slot holds the last that came its way in this order.
        latest = entered - 1 - (entered - 1 - np.arange(size)) % size
        return self._order[latest % len(self._order)]
