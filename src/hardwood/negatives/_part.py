"""Softmax sampling from stale encodings of a part of the corpus, for the sources that hold no more of it."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood import _checks
from hardwood._checkpoint_tensors import FLOATS, INTEGERS, Wanted
from hardwood._ragged import RaggedRows
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Draw, Request, Targets, log_prior_of, masked_log_proposal
from hardwood.negatives.softmax_matrix import SoftmaxIndex


class PartNegatives(NegativeSource):
    """Draws from ``softmax(scale x.y)`` over the targets that it holds, each in a slot, with the current query.

    They are a random share of the corpus, so ``log_z`` scales their mass up to the whole. Which targets a source holds
    follows from its seed and from its position, a few integers that it advances as it goes.

    Args:
        start_step: the step at which it is first filled.
        seed: which targets come when.
    """

    def __init__(self, *, start_step: int, seed: int) -> None:
        super().__init__(start_step=start_step)
        _checks.at_least(0, seed, "seed")
        self.seed = seed
        self._index: SoftmaxIndex | None = None

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._slot_of_row = np.full(targets.num_targets, -1, dtype=np.int64)
        self._row_of_slot = np.full(self._size(targets.num_targets), -1, dtype=np.int64)
        self._index = None

    @abstractmethod
    def _size(self, num_targets: int) -> int:
        """How many of so many targets it holds, at least 1 and at most all."""

    @abstractmethod
    def _rows_at(self, position: tuple[int, ...]) -> NDArray[np.int64]:
        """The row that each slot holds at a position.

        Raises:
            ValueError: no run comes to such a position.
        """

    _position: tuple[int, ...]

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
            ids = self._rows(slots)
            log_share = float(np.log(len(self._row_of_slot) / len(self._slot_of_row)))
            return Draw.plain(ids, log_q, log_mass - log_share, log_share)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        with self.cost.timed("sample"):
            index = self._filled()
            slots = torch.from_numpy(self._slot_of_row[ids.cpu().numpy()]).to(ids.device)  # never all n to the device
            scores = index.scores(request.queries, slots.clamp(min=0), request.scale)
            # The mass of what it holds normalises its draws, not the estimate for the corpus.
            log_mass, log_prior = draw.log_z + draw.log_share, log_prior_of(self._attached(), ids)
            log_q = masked_log_proposal(scores, log_mass, request, ids, log_prior)
            return log_q.masked_fill(slots < 0, -torch.inf)

    def state_dict(self) -> dict[str, Tensor]:
        if self._index is None:
            return {}
        return {
            "vectors": self._index.vectors,
            "row_of_slot": torch.from_numpy(self._row_of_slot),
            "position": torch.tensor(self._position),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        targets = self._attached()
        if not state:
            return
        size = len(self._row_of_slot)
        shapes: dict[str, Wanted] = {
            "vectors": (FLOATS, (size, targets.dimension)),
            "row_of_slot": (INTEGERS, (size,)),
            "position": (INTEGERS, (len(self._position),)),
        }
        self._expect(state, shapes)
        position = tuple(int(value) for value in state["position"])
        rows = state["row_of_slot"].numpy().copy()
        if not np.array_equal(rows, self._rows_at(position)):
            raise ValueError(
                f"the checkpoint's {self.name} was filled in another order: resume with the data and seed it was made "
                "with"
            )
        vectors = state["vectors"].to(targets.device, torch.float32)
        self._index = SoftmaxIndex(vectors, log_prior_of(targets, torch.from_numpy(rows)))
        self._row_of_slot = rows
        self._slot_of_row[:] = -1
        self._slot_of_row[rows] = np.arange(size)
        self._position = position

    def _replace(self, slots: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Encode the targets ``rows`` with the current model, and let them take the place of what the ``slots`` hold:
        all of these the first time, in order."""
        targets = self._attached()
        place_of_row = {row: place for place, row in enumerate(rows.tolist())}
        fresh = torch.empty(len(rows), targets.dimension, device=targets.device)
        for block_rows, vectors in targets.encode(torch.from_numpy(rows)):
            with self.cost.timed("index"):
                places = torch.tensor([place_of_row[row] for row in block_rows.tolist()])
                fresh[places.to(fresh.device)] = vectors.to(fresh.device)
        # Only now, when nothing can fail any more: vectors and the rows they belong to change together.
        log_prior = log_prior_of(targets, torch.from_numpy(rows))
        if self._index is None:
            self._index = SoftmaxIndex(fresh, log_prior)
        else:
            with self.cost.timed("index"):
                self._index.replace(torch.from_numpy(slots), fresh, log_prior)
        evicted = self._row_of_slot[slots]
        self._slot_of_row[evicted[evicted >= 0]] = -1
        self._row_of_slot[slots] = rows
        self._slot_of_row[rows] = slots

    def _slots(self, exclude: RaggedRows) -> RaggedRows:
        """The excluded rows that it holds, as slots."""
        slots = self._slot_of_row[exclude.values]
        held = slots >= 0
        return RaggedRows.from_pairs(exclude.row_ids()[held], slots[held], len(exclude))

    def _rows(self, slots: Tensor) -> Tensor:
        """What the slots hold, as rows; `NO_TARGET` stays."""
        drawn = slots.cpu().numpy()
        return torch.from_numpy(np.where(drawn >= 0, self._row_of_slot[drawn], drawn)).to(slots.device)

    def _filled(self) -> SoftmaxIndex:
        if self._index is None:
            raise RuntimeError(f"the {self.name} is empty: begin_step(step) fills it from step {self.start_step} on")
        return self._index


def part_of(count: int, number: int, num_shards: int) -> int:
    """What falls to one shard of a count for all: the parts add up to it, and differ by 1 at most."""
    return count * (number + 1) // num_shards - count * number // num_shards


def seed_of_shard(seed: int, number: int, num_shards: int) -> int:
    """A seed of its own for each of several shards; for a single one that of the whole."""
    return seed if num_shards == 1 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
