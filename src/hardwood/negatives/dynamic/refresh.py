"""One refresh of a tree: everybody's motion predicted and written into it, at once or a share at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.negatives.dynamic.drift_fits import DriftFits, Predict
from hardwood.negatives.dynamic.true_encodings import TrueEncodings


class Refresh:
    """What a refresh has left to do when its landmarks are encoded.

    Args:
        index: the tree.
        true: true encodings, in whose last period the landmarks were encoded.
        fits: fits the drift models.
        order: ``(n,)`` int64, every target once: leaf by leaf, as the tree was when the refresh began. A leaf whose
            vectors change is made anew from all of them, so neighbours should change together: of a million targets in
            16,000 leaves, 20,000 in the corpus's order change every leaf, in this order one in fifty.
        repair: whether the tree is repaired at the end.
        shares: in how many calls of `advance` it is done.
        done: how many of them an earlier process has done.
    """

    def __init__(
        self,
        index: Any,
        true: TrueEncodings,
        fits: DriftFits,
        *,
        order: NDArray[np.int64],
        repair: bool,
        shares: int,
        done: int = 0,
    ) -> None:
        self._index, self._true, self._fits, self._repair = index, true, fits, repair
        self.order = order
        self.shares, self.done = shares, done
        self._fitted: dict[int, Predict | None] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done == self.shares

    def advance(self) -> None:
        """Do the next share."""
        begin, end = (len(self.order) * share // self.shares for share in (self.done, self.done + 1))
        blocks = self._true.predictions(self._fit, self.order[begin:end])
        # The next block is predicted while the tree takes in this one: both are much work, and seldom for all cores.
        with ThreadPoolExecutor(1, thread_name_prefix="hardwood-predictions") as ahead:
            coming = ahead.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = ahead.submit(next, blocks, None)
                rows, vectors = block
                self._index.update(vectors, rows)
        self.done += 1
        if self.is_done and self._repair:
            self._index.repair()

    def _fit(self, period: int) -> Predict | None:
        """Each period's model is fitted once for all shares; the first period's before any other, which is given what
        was chosen for it: so a refresh that is resumed chooses the same, whatever it has left to do."""
        for each in (0, period):
            if each not in self._fitted:
                self._fitted[each] = self._fits(self._true.history, each)
        return self._fitted[period]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_fitted": {}}  # functions, which can't be pickled and can be fitted again
