"""One refresh of a tree: everybody's motion predicted and written into it, at once or a share at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hardwood.negatives._fits import DriftFits
from hardwood.negatives._motion import Floats, TrueEncodings


class Refresh:
    """What a refresh has left to do when its landmarks are encoded.

    Args:
        index: the tree.
        true: true encodings, in whose last period the landmarks were encoded.
        fits: fits the drift models.
        repair: whether the tree is repaired at the end.
        shares: in how many calls of `advance` it is done.
    """

    def __init__(self, index: Any, true: TrueEncodings, fits: DriftFits, *, repair: bool, shares: int) -> None:
        self._index, self._true, self._fits, self._repair = index, true, fits, repair
        targets = true.shape[0]
        self._edges = [targets * share // shares for share in range(shares + 1)]
        self._next = 0
        self._fitted: dict[int, Callable[[Floats], Floats] | None] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._next == len(self._edges) - 1

    def advance(self) -> None:
        """Do the next share."""
        begin, end = self._edges[self._next : self._next + 2]
        blocks = self._true.predictions(self._fit, begin, end)
        # The next block is predicted while the tree takes in this one: both are much work, and seldom for all cores.
        with ThreadPoolExecutor(1, thread_name_prefix="hardwood-predictions") as ahead:
            coming = ahead.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = ahead.submit(next, blocks, None)
                self._index.update(*block)
        self._next += 1
        if self.is_done and self._repair:
            self._index.repair()

    def _fit(self, old: Floats, new: Floats) -> Callable[[Floats], Floats] | None:
        """Each period's model is fitted once for all shares; its encodings, which the history keeps, name it."""
        if id(old) not in self._fitted:
            self._fitted[id(old)] = self._fits(old, new)
        return self._fitted[id(old)]
