"""The negative cache: a first-in, first-out store of stale encodings, renewed a little every step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives._draws import Draw, Request, Targets
from hardwood.negatives._softmax_index import SoftmaxIndex
from hardwood.negatives._state import FLOATS, INTEGERS, Wanted, expect
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.indexed import masked_log_proposal


class CacheNegatives(NegativeSource):
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
        super().__init__(start_step=start_step)
        if cache_size < 1:
            raise ValueError(f"cache_size must be at least 1, got {cache_size}")
        if refresh_size is not None and not 0 <= refresh_size <= cache_size:
            raise ValueError(f"refresh_size must lie between 0 and cache_size ({cache_size}), got {refresh_size}")
        self.cache_size = cache_size
        self.refresh_size = refresh_size
        self.seed = seed
        self._index: SoftmaxIndex | None = None

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._order = np.random.Generator(np.random.PCG64(self.seed)).permutation(targets.num_targets)
        self._slot_of_row = np.full(targets.num_targets, -1, dtype=np.int64)
        self._row_of_slot = np.full(min(self.cache_size, targets.num_targets), -1, dtype=np.int64)
        self._next = 0  # position in the order; slot ``_next % cache size`` is the oldest
        self._last_step = -1
        self._index = None

    def begin_step(self, step: int) -> None:
        if step < self.start_step or step == self._last_step:
            return
        size = len(self._row_of_slot)
        if self._index is None:
            self._enter(size)
        else:
            per_step = max(1, size // 64) if self.refresh_size is None else self.refresh_size
            self._enter(min(per_step, size))
        self._last_step = step

    def is_ready(self, step: int) -> bool:
        return super().is_ready(step) and self._index is not None

    def sample(self, request: Request) -> Draw:
        with self.cost.timed("sample"):
            index = self._filled()
            slots, log_q, log_mass = index.sample(
                request.queries,
                request.num_negatives,
                scale=request.scale,
                exclude=self._slots(request.exclude),
                ceiling=request.ceiling,
                generator=torch.Generator(device=index.vectors.device).manual_seed(request.seed),
            )
            drawn = slots.cpu().numpy()
            ids = torch.from_numpy(np.where(drawn >= 0, self._row_of_slot[drawn], drawn)).to(slots.device)
            log_share = float(np.log(len(self._row_of_slot) / len(self._slot_of_row)))
            return Draw.plain(ids, log_q, log_mass - log_share, log_share)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        with self.cost.timed("sample"):
            index = self._filled()
            slots = torch.from_numpy(self._slot_of_row[ids.cpu().numpy()]).to(ids.device)  # never all n to the device
            scores = index.scores(request.queries, slots.clamp(min=0), request.scale)
            # The mass in the cache normalises its draws, not the estimate for the corpus.
            log_q = masked_log_proposal(scores, draw.log_z + draw.log_share, request, ids)
            return log_q.masked_fill(slots < 0, -torch.inf)

    def state_dict(self) -> dict[str, Tensor]:
        if self._index is None:
            return {}
        return {
            "vectors": self._index.vectors,
            "row_of_slot": torch.from_numpy(self._row_of_slot),
            "position": torch.tensor([self._next, self._last_step]),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        targets = self._attached()
        if not state:
            return
        size = len(self._row_of_slot)
        shapes: dict[str, Wanted] = {
            "vectors": (FLOATS, (size, targets.dimension)),
            "row_of_slot": (INTEGERS, (size,)),
            "position": (INTEGERS, (2,)),
        }
        expect(state, shapes, self.name)
        following, last_step = (int(value) for value in state["position"])
        rows = state["row_of_slot"].numpy().copy()
        if not size <= following < 2**62:
            raise ValueError(f"the checkpoint's cache says that {following} targets have entered it, which can't be")
        # Each slot holds the last that came its way in this order.
        latest = following - 1 - (following - 1 - np.arange(size)) % size
        if not np.array_equal(rows, self._order[latest % targets.num_targets]):
            raise ValueError(
                "the checkpoint's cache was filled in another order: resume with the data and seed it was made with"
            )
        self._index = SoftmaxIndex(state["vectors"].to(targets.device, torch.float32))
        self._row_of_slot = rows
        self._slot_of_row[:] = -1
        self._slot_of_row[rows] = np.arange(size)
        self._next, self._last_step = following, last_step

    def settings(self) -> dict[str, Any]:
        return {
            "cache_size": self.cache_size,
            "refresh_size": self.refresh_size,
            "start_step": self.start_step,
            "seed": self.seed,
        }

    def _enter(self, count: int) -> None:
        """Replace the oldest ``count`` encodings by fresh ones of the next targets in line."""
        size, num_targets = len(self._row_of_slot), len(self._slot_of_row)
        slots = np.arange(self._next, self._next + count) % size
        rows = self._order[np.arange(self._next, self._next + count) % num_targets]
        targets = self._attached()
        place_of_row = {row: place for place, row in enumerate(rows.tolist())}
        fresh = torch.empty(count, targets.dimension, device=targets.device)
        for block_rows, vectors in targets.encode(torch.from_numpy(rows)):
            with self.cost.timed("index"):
                places = torch.tensor([place_of_row[row] for row in block_rows.tolist()])
                fresh[places.to(fresh.device)] = vectors.to(fresh.device)
        # Only now, when nothing can fail any more: vectors and the rows they belong to change together.
        if self._index is None:  # the first time all slots are filled, in order
            self._index = SoftmaxIndex(fresh)
        else:
            with self.cost.timed("index"):
                self._index.vectors[torch.from_numpy(slots).to(fresh.device)] = fresh
        self._next += count
        evicted = self._row_of_slot[slots]
        self._slot_of_row[evicted[evicted >= 0]] = -1
        self._row_of_slot[slots] = rows
        self._slot_of_row[rows] = slots

    def _slots(self, exclude: RaggedRows) -> RaggedRows:
        """The excluded rows that the cache holds, as slots."""
        slots = self._slot_of_row[exclude.values]
        held = slots >= 0
        return RaggedRows.from_pairs(exclude.row_ids()[held], slots[held], len(exclude))

    def _filled(self) -> SoftmaxIndex:
        if self._index is None:
            raise RuntimeError(f"the cache is empty: begin_step(step) fills it from step {self.start_step} on")
        return self._index
