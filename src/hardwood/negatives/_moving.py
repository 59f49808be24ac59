"""A tree over the corpus while the encoder moves: its vectors follow what is known and what is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.negatives._beside import Beside
from hardwood.negatives._fits import DriftFits
from hardwood.negatives._motion import Floats, TrueEncodings
from hardwood.negatives._refresh import Refresh
from hardwood.negatives.cost import Cost

Ints = NDArray[np.int64]


class MovingIndex:
    """The tree, and what is truly known of its vectors; both change together.

    Args:
        index: the tree; its ids are the rows of ``true``.
        true: true encodings.
        fits: fits the drift models.
        cost: books the time that is waited for.
        repair: whether a refresh repairs the tree.
        overlap: whether `learn` works in a thread; then `wait` before anything else is asked of this object.

    Attributes:
        is_whole: False after a change that failed half-way: what is there must not be kept.
    """

    def __init__(
        self, index: Any, true: TrueEncodings, fits: DriftFits, cost: Cost, *, repair: bool, overlap: bool
    ) -> None:
        self.index, self.true, self.fits = index, true, fits
        self.is_whole = True
        self.overlap = overlap
        self._repair = repair
        self._cost = cost
        self._beside = Beside()
        self._refresh: Refresh | None = None

    def learn(self, ids: Ints, fresh: Floats, *, write_back: bool) -> None:
        """What a step has encoded, ``fresh`` ``(m, d)`` of the targets ``ids`` ``(m,)``, goes into the drift model and,
        if ``write_back``, into the tree; a refresh under way goes on."""
        work = partial(self._learn, ids, fresh, write_back)
        if self.overlap:
            self._beside.start(work)
            return
        with self._cost.timed("index"):
            work()

    def refresh(self, ids: Ints, fresh: Floats, *, shares: int = 1) -> None:
        """Predict everybody, write them into the tree, repair it: now, or a share with each `learn`.

        Args:
            ids: ``(m,)``, targets just encoded, first of all the landmarks.
            fresh: ``(m, d)``, their encodings.
            shares: in how many steps.
        """
        landmarks = len(self.true.landmarks)
        with self._cost.timed("index"), self._changing():
            self.true.begin_period(fresh[:landmarks])
            self.true.write(ids[landmarks:], fresh[landmarks:])
            if self.fits.predict_nothing or shares > 1:
                self.index.update(ids, fresh)
            if not self.fits.predict_nothing:
                self.fits.begin_refresh(self.true.history[0])
                self._refresh = Refresh(self.index, self.true, self.fits, repair=self._repair, shares=shares)
            elif self._repair:
                self.index.repair()
        if shares == 1:
            self.complete()

    def complete(self) -> None:
        """A refresh under way is done to its end."""
        self.wait()
        if self._refresh is not None:
            with self._cost.timed("index"), self._changing():
                while self._refresh is not None:
                    self._advance(self._refresh)

    def wait(self) -> None:
        """Until nothing is under way in the thread.

        Raises:
            Exception: what the work in the thread raised.
        """
        if self._beside.is_busy:
            with self._cost.timed("index"):
                self._beside.wait()

    def give_up(self) -> None:
        """Before it is let go of: nothing goes on in the thread, whatever becomes of it."""
        with suppress(Exception):
            self._beside.wait()

    def _learn(self, ids: Ints, fresh: Floats, write_back: bool) -> None:
        if self.fits.learns_online:
            old = self.true.period[ids] == 0
            self.fits.observe(self.true.read(ids[old]), fresh[old])
        with self._changing():
            if write_back:
                self.index.update(ids, fresh)
                self.true.write(ids, fresh)
            if self._refresh is not None:
                self._advance(self._refresh)

    def _advance(self, refresh: Refresh) -> None:
        self._refresh = None  # should it fail: what is there is lost then, and its rest no use
        refresh.advance()
        if not refresh.is_done:
            self._refresh = refresh

    @contextmanager
    def _changing(self) -> Iterator[None]:
        was_whole, self.is_whole = self.is_whole, False
        yield
        self.is_whole = was_whole
