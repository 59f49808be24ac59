"""Stochastic negative mining: a uniform pool of targets, drawn and encoded anew every so many steps."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardwood import _checks
from hardwood.negatives._part import PartNegatives, seed_of_shard
from hardwood.negatives._top import refuse_top_of_shards, top_draw, top_log_proposal
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Draw, Request, Targets


class PoolNegatives(PartNegatives):
    """Stochastic negative mining (Reddi, Kale, Yu, Holtmann-Rice, Chen and Kumar, AISTATS 2019, arXiv:1810.07076).

    Every ``refresh_every`` steps a pool of targets is drawn uniformly from the corpus, without replacement, and encoded
    with the current model. Negatives are softmax samples from the pool with the current query, as for every source
    here; ``top`` takes the highest scores, as the paper does. As the pool is a random share of the corpus, ``log_z``
    scales its mass up to the whole.

    Args:
        share: of the corpus that the pool holds, above 0 and at most 1; at least one target.
        refresh_every: optimiser steps between two pools.
        start_step: the step of the first pool.
        seed: which targets are drawn.
        top: the highest scores instead of draws; they weigh 1 each, so that ``log_z`` is of these alone (biased, see
            `IndexedNegatives`).
    """

    name: ClassVar[str] = "pool"

    def __init__(
        self,
        *,
        share: float = 0.03,
        refresh_every: int = 100,
        start_step: int = 20,
        seed: int = 0,
        top: bool = False,
    ) -> None:
        super().__init__(start_step=start_step, seed=seed)
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        _checks.at_least(1, refresh_every, "refresh_every")
        self.share = share
        self.refresh_every = refresh_every
        self.top = top

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._position = (-1,)  # the number of the pool

    def for_shard(self, number: int, num_shards: int) -> PoolNegatives:
        refuse_top_of_shards(self.top, num_shards)
        return PoolNegatives(**{**self.settings(), "seed": seed_of_shard(self.seed, number, num_shards)})

    def begin_step(self, step: int) -> None:
        # A run that is resumed with its pool finds the schedule where it was: the schedule is a function of the step.
        position = ((step - self.start_step) // self.refresh_every,)
        if step < self.start_step or position == self._position:
            return
        self._replace(np.arange(len(self._row_of_slot)), self._rows_at(position))
        self._position = position

    def sample(self, request: Request) -> Draw:
        if not self.top:
            return super().sample(request)
        with self.cost.timed("sample"):
            draw = top_draw(self._filled(), request, self._slots(request.exclude))
            return dataclasses.replace(draw, ids=self._rows(draw.ids))

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        return top_log_proposal(draw, ids) if self.top else super().log_proposal(request, draw, ids)

    def settings(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "refresh_every": self.refresh_every,
            "start_step": self.start_step,
            "seed": self.seed,
            "top": self.top,
        }

    def _size(self, num_targets: int) -> int:
        return max(1, round(self.share * num_targets))

    def _rows_at(self, position: tuple[int, ...]) -> NDArray[np.int64]:
        (number,) = position
        if number < 0:
            raise ValueError(f"the checkpoint's pool has an impossible number, {number}")
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        size = len(self._row_of_slot)
        return np.sort(generator.choice(len(self._slot_of_row), size, replace=False, shuffle=False))
