"""One refresh of an index: the motion of all targets predicted and written into it, at once or a share at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hardwood.negatives.dynamic.drift_fits import DriftFits, Predictors
from hardwood.negatives.dynamic.index_form import VectorIndex
from hardwood.negatives.dynamic.true_encodings import TrueEncodings
from hardwood.negatives.records import Ints


class Refresh:
    """What a refresh has left to do when its landmarks are encoded.

    Args:
        index: the tree, or the flat index.
        true: true encodings, in whose last period the landmarks were encoded.
        fits: fits the drift models.
        order: ``(n,)`` int64, every target once: leaf by leaf, as the tree was when the refresh began. A leaf whose
            vectors change is made anew from all of them, so neighbours should change together: of a million targets in
            16,000 leaves, 20,000 in the corpus's order change every leaf, in this order one in fifty.
        shares: in how many calls of `advance` it is done.
        done: how many of them an earlier process has done.
    """

    def __init__(
        self,
        index: VectorIndex,
        true: TrueEncodings,
        fits: DriftFits,
        *,
        order: Ints,
        shares: int,
        done: int = 0,
    ) -> None:
        self._index, self._true, self._fits = index, true, fits
        self.order = order
        self.shares, self.done = shares, done
        self._predictors: Predictors | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done == self.shares

    def advance(self) -> None:
        """Do the next share."""
        if self._predictors is None:
            self._predictors = self._fits.for_periods(self._true.history)
        begin, end = (len(self.order) * share // self.shares for share in (self.done, self.done + 1))
        blocks = self._true.predictions(self._predictors, self.order[begin:end])
        # The next block is predicted while the index takes in this one: both are much work, and seldom for all cores.
        with ThreadPoolExecutor(1, thread_name_prefix="hardwood-predictions") as ahead:
            coming = ahead.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = ahead.submit(next, blocks, None)
                rows, vectors = block
                self._index.update(vectors, rows)
        self.done += 1
        if self.is_done:
            self._index.repair()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_predictors": None}  # functions, which can't be pickled and can be fitted again
