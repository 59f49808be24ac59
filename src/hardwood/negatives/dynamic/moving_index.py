"""The index of the corpus while the encoder moves: its vectors follow what is known and what is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood._checkpoint_tensors import INTEGERS, Wanted
from hardwood.negatives.cost import Cost
from hardwood.negatives.dynamic.background import Beside
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.negatives.dynamic.index_form import VectorIndex
from hardwood.negatives.dynamic.landmarks import leaf_order
from hardwood.negatives.dynamic.noise import settled
from hardwood.negatives.dynamic.refresh import Refresh
from hardwood.negatives.dynamic.true_encodings import TrueEncodings
from hardwood.negatives.records import Floats, Ints

_SMALLEST_SHARE = 4096
"""Targets of a refresh that a step takes over at least: what each share costs beside them must not add up."""


class MovingIndex:
    """The index, and what is truly known of its vectors; both change together.

    Args:
        index: the tree, or the flat index; its ids are the rows of ``true``.
        true: true encodings.
        fits: fits the drift models.
        cost: books the time that is waited for.
        overlap: whether `learn` works in a thread; then `wait` before anything else is asked of this object.

    Attributes:
        is_whole: False after a change that failed half-way: what is there must not be kept.
    """

    layout: ClassVar[dict[str, Wanted]] = {"refresh": (INTEGERS, (2,)), "refresh_order": (INTEGERS, ("order",))}
    """What `state_dict` gives, for `hardwood._checkpoint_tensors.expect`."""

    def __init__(self, index: VectorIndex, true: TrueEncodings, fits: DriftFits, cost: Cost, *, overlap: bool) -> None:
        self.index, self.true, self.fits = index, true, fits
        self.is_whole = True
        self.overlap = overlap
        self._cost = cost
        self._beside = Beside()
        self._refresh: Refresh | None = None
        self._share_is_due = False

    @property
    def is_refreshing(self) -> bool:
        """Whether a refresh is under way, some of whose shares are still to come."""
        return self._refresh is not None

    def begin_step(self) -> None:
        """A training step begins: with what it encodes first the next share of a refresh is done."""
        self._share_is_due = True

    def learn(self, ids: Ints, fresh: Floats, *, write_back: bool, noise: float = 0.0) -> None:
        """What a step has encoded, ``fresh`` ``(m, d)`` of the targets ``ids`` ``(m,)``, goes into the drift model and,
        if ``write_back``, into the index, less what the encoder's ``noise`` explains (`settled`); a refresh under way
        goes on, by a share in each step."""
        share, self._share_is_due = self._share_is_due, False
        if self.overlap:  # with copies: the caller may write these arrays over meanwhile
            self._beside.start(partial(self._learn, ids.copy(), fresh.copy(), write_back, noise, share))
            return
        with self._cost.timed("index"):
            self._learn(ids, fresh, write_back, noise, share)

    def most_shares(self, shares: int) -> int:
        """In how many steps a refresh is done that may take ``shares``; in fewer where each would be small."""
        return max(1, min(shares, self.true.shape[0] // _SMALLEST_SHARE))

    def refresh(
        self,
        ids: Ints,
        fresh: Floats,
        *,
        shares: int = 1,
        of_all_shards: Floats | None = None,
        sizes: Ints | None = None,
    ) -> None:
        """Predict all targets, write them into the index, repair it: now, or a share in each step.

        Args:
            ids: ``(m,)``, targets just encoded, first of all the landmarks.
            fresh: ``(m, d)``, their encodings.
            shares: in how many steps, of `most_shares`.
            of_all_shards: as for `TrueEncodings.begin_period`.
            sizes: likewise.
        """
        landmarks = len(self.true.landmarks)
        with self._cost.timed("index"), self._changing():
            self.true.begin_period(fresh[:landmarks], of_all_shards, sizes)
            self.true.write(ids[landmarks:], fresh[landmarks:])
            if self.fits.predict_nothing or shares > 1:
                self.index.update(fresh, ids)
            if not self.fits.predict_nothing:
                self.fits.begin_refresh()
                self._refresh = self._refresh_in(shares, leaf_order(self.index))
            else:
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
        if not self._beside.is_busy:
            return
        with self._cost.timed("index"):
            try:
                self._beside.wait()
            except Exception:  # what was to be learnt is lost, and the rest of a refresh no use
                self.is_whole, self._refresh = False, None
                raise

    def give_up(self) -> None:
        """Before it is let go of: nothing goes on in the thread, whatever becomes of it."""
        with suppress(Exception):
            self._beside.wait()

    def state_dict(self) -> dict[str, Tensor]:
        """How far a refresh under way has come; after `wait`, beside index, true encodings and fits."""
        if self._refresh is None:
            return {"refresh": torch.tensor([0, 0]), "refresh_order": torch.zeros(0, dtype=torch.int64)}
        found = torch.tensor([self._refresh.done, self._refresh.shares])
        return {"refresh": found, "refresh_order": torch.from_numpy(self._refresh.order)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; other names are passed over.

        Raises:
            ValueError: no refresh can have come so far, or does not reach each target once.
        """
        done, shares = state["refresh"].tolist()
        if not (done == shares == 0 or 0 <= done < shares <= self.true.shape[0]):
            raise ValueError(f"the checkpoint's refresh has done {done} of {shares} shares: it is damaged")
        order = state["refresh_order"].numpy().astype(np.int64)  # a copy
        if not np.array_equal(np.sort(order), np.arange(self.true.shape[0] if shares else 0)):
            raise ValueError(f"the checkpoint's refresh has {len(order)} targets, not each of this corpus once")
        self._refresh = self._refresh_in(shares, order, done) if shares else None

    def __getstate__(self) -> dict[str, Any]:
        self.wait()
        return self.__dict__

    def _refresh_in(self, shares: int, order: Ints, done: int = 0) -> Refresh:
        return Refresh(self.index, self.true, self.fits, order=order, shares=shares, done=done)

    def _learn(self, ids: Ints, fresh: Floats, write_back: bool, noise: float, share: bool) -> None:
        if self.fits.learns_online:
            old = self.true.period[ids] == 0
            self.fits.observe(self.true.read(ids[old]), fresh[old])
        with self._changing():
            if write_back:
                known = settled(self.index.vectors(ids), fresh, noise) if noise > 0 else fresh
                self.index.update(known, ids)
                self.true.write(ids, known)
            if share and self._refresh is not None:
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
