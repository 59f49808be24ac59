"""Softmax sampling from an exact index of the whole corpus, re-encoded never, sometimes, or often."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hardwood import _checks
from hardwood._checkpoint_tensors import FLOATS
from hardwood.negatives._matrix_draw import matrix_draw, matrix_log_proposal
from hardwood.negatives._top import refuse_top_of_shards, top_draw, top_log_proposal
from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Draw, Request, Targets, log_prior_of
from hardwood.negatives.softmax_matrix import SoftmaxIndex

INDEX_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class IndexedNegatives(NegativeSource):
    """Draws from ``softmax(scale x.y)`` over all targets' encodings as of the last refresh, with the current query.

    Args:
        refresh_every: optimiser steps between two encodings of the whole corpus; ``None``: it is encoded once.
        start_step: the step of the first encoding, and of the first draw.
        index_device: where the encodings are kept; ``None``: where the model is. ``n * d`` numbers are kept.
        index_dtype: ``"float32"`` or ``"bfloat16"``.
        top: give each query the targets of the highest scores instead of draws from the softmax. They weigh 1 each, so
            that the estimate of Z is too small by all others: biased, the usual practice. Uniform draws beside them
            (``uniform_negatives``) stand for the others, without bias but for the weighting ``"uncorrected"``.
    """

    def __init__(
        self,
        *,
        refresh_every: int | None,
        start_step: int,
        index_device: str | None = None,
        index_dtype: str = "float32",
        top: bool = False,
    ) -> None:
        super().__init__(start_step=start_step)
        if refresh_every is not None:
            _checks.at_least(1, refresh_every, "refresh_every")
        _checks.one_of(INDEX_DTYPES, index_dtype, "index_dtype")
        self.refresh_every = refresh_every
        self.index_device = index_device
        self.index_dtype = index_dtype
        self.top = top
        self._index: SoftmaxIndex | None = None

    def attach(self, targets: Targets, cost: Cost) -> None:
        super().attach(targets, cost)
        self._index = None

    def for_shard(self, number: int, num_shards: int) -> NegativeSource:
        refuse_top_of_shards(self.top, num_shards)
        return super().for_shard(number, num_shards)

    def begin_step(self, step: int) -> None:
        since_start = step - self.start_step
        if since_start < 0:
            return
        # A run that is resumed with its index finds the schedule where it was: the schedule is a function of the step.
        due = self.refresh_every is not None and since_start % self.refresh_every == 0
        if self._index is None or due:
            self.refresh()

    def is_ready(self, step: int) -> bool:
        return super().is_ready(step) and self._index is not None

    def refresh(self) -> None:
        """Encode every target with the current model, in place of what was there."""
        targets, index = self._attached(), self._index
        if index is None:
            with self.cost.timed("index"):
                device = self.index_device or targets.device
                shape = (targets.num_targets, targets.dimension)
                vectors = torch.empty(shape, dtype=INDEX_DTYPES[self.index_dtype], device=device)
                index = SoftmaxIndex(vectors, log_prior_of(targets))
        # Consumed block by block, so that encodings never exist twice.
        for rows, vectors in targets.encode():
            with self.cost.timed("index"):
                index.vectors[rows.to(index.vectors.device)] = vectors.to(index.vectors.device, index.vectors.dtype)
        self._index = index  # not before: if encoding fails, there is none rather than one of uninitialised memory

    def sample(self, request: Request) -> Draw:
        with self.cost.timed("sample"):
            index = self._built()
            if self.top and request.num_negatives < len(index):
                return top_draw(index, request, request.exclude)
            return matrix_draw(index, request)

    def log_proposal(self, request: Request, draw: Draw, ids: Tensor) -> Tensor:
        with self.cost.timed("sample"):
            index = self._built()
            if self.top and not draw.exhaustive:
                return top_log_proposal(draw, ids)
            return matrix_log_proposal(index, request, draw, ids)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._index is None else {"vectors": self._index.vectors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        targets = self._attached()
        if not state:
            self._index = None
            return
        self._expect(state, {"vectors": (FLOATS, (targets.num_targets, targets.dimension))})
        vectors = state["vectors"]
        device = self.index_device or targets.device
        self._index = SoftmaxIndex(vectors.to(device, INDEX_DTYPES[self.index_dtype]), log_prior_of(targets))

    def settings(self) -> dict[str, Any]:
        return {
            "refresh_every": self.refresh_every,
            "start_step": self.start_step,
            "index_device": self.index_device,
            "index_dtype": self.index_dtype,
            "top": self.top,
        }

    def _built(self) -> SoftmaxIndex:
        if self._index is None:
            raise RuntimeError(
                f"{self.name!r} negatives have no index yet: begin_step(step) builds it from step {self.start_step} on"
            )
        return self._index


class StaticNegatives(IndexedNegatives):
    """An exact index encoded once, after a warm-up, and never again: mining "offline" with a frozen model.

    Args:
        start_step: the step before which the corpus is encoded.
        index_device: as in `IndexedNegatives`.
        index_dtype: as in `IndexedNegatives`.
        top: as in `IndexedNegatives`.
    """

    name: ClassVar[str] = "static"

    def __init__(
        self,
        *,
        start_step: int = 100,
        index_device: str | None = None,
        index_dtype: str = "float32",
        top: bool = False,
    ) -> None:
        super().__init__(
            refresh_every=None, start_step=start_step, index_device=index_device, index_dtype=index_dtype, top=top
        )

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings().items() if key != "refresh_every"}


class PeriodicNegatives(IndexedNegatives):
    """The whole corpus re-encoded every so many steps (ANCE; Xiong et al., ICLR 2021, arXiv:2007.00808).

    Draws are softmax samples with the current query, as for every source here, so that sources differ only in how
    fresh their encodings are (``top`` takes the highest scores); ANCE itself takes uniform draws from the top 200.

    Args:
        refresh_every: optimiser steps between two encodings of the corpus.
        start_step: the first of them.
        index_device: as in `IndexedNegatives`.
        index_dtype: as in `IndexedNegatives`.
        top: as in `IndexedNegatives`.
    """

    name: ClassVar[str] = "periodic"

    def __init__(
        self,
        *,
        refresh_every: int = 200,
        start_step: int = 20,
        index_device: str | None = None,
        index_dtype: str = "float32",
        top: bool = False,
    ) -> None:
        super().__init__(
            refresh_every=refresh_every,
            start_step=start_step,
            index_device=index_device,
            index_dtype=index_dtype,
            top=top,
        )


class ExactNegatives(IndexedNegatives):
    """The oracle: softmax sampling over the whole corpus, re-encoded so often that it is (nearly) never stale.

    With ``top`` it is the exhaustive oracle of Monath et al. (AISTATS 2023): the exact top k.

    Args:
        refresh_every: optimiser steps between two encodings of the corpus; 1 is the exact softmax of every step.
        start_step: the first of them.
        index_device: as in `IndexedNegatives`.
        index_dtype: as in `IndexedNegatives`.
        top: as in `IndexedNegatives`.
    """

    name: ClassVar[str] = "exact"

    def __init__(
        self,
        *,
        refresh_every: int = 20,
        start_step: int = 20,
        index_device: str | None = None,
        index_dtype: str = "float32",
        top: bool = False,
    ) -> None:
        super().__init__(
            refresh_every=refresh_every,
            start_step=start_step,
            index_device=index_device,
            index_dtype=index_dtype,
            top=top,
        )
