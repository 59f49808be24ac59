"""What is truly known of a moving encoder: each target's last true encoding, and the landmarks' at those times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from hardwood._checkpoint_tensors import FLOATS, INTEGERS, Wanted
from hardwood.negatives.records import Floats, Ints

Predict = Callable[[Floats], Floats]
"""Encodings now, ``(m, d)``, from those of the same targets in an earlier period."""

TRUE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TrueEncodings:
    """Every target's last true encoding, with the period in which it was made.

    A period begins with each refresh. The landmarks, always the same targets, are encoded at the beginning of every
    period, and these encodings are kept: so the motion of any target since its own last true encoding can be read off
    the landmarks' motion since the same time, and predictions never build on predictions.

    Memory: ``n * d`` float32 or bfloat16 (that is all of the corpus's encodings, on the host), 2 bytes a target for the
    period, and ``landmarks * d`` float32 a period, of which at most ``max_periods`` are kept.

    Where these are the targets of one shard of a corpus, the landmarks of all shards are kept, so that all fit the same
    models of motion (`share_landmarks`).

    Args:
        encodings: ``(n, d)``, all targets' encodings now. Kept, and written to, where they have the dtype already.
        landmarks: ``(m,)`` int64 rows, ascending.
        max_periods: when there are more, one joins a neighbour, whose landmarks then stand for its targets too: the one
            whose targets this puts off by the least, all together.
        dtype: ``"float32"`` or ``"bfloat16"``, which rounds to 8 bits: a cosine error below 1e-5 for unit vectors.
    """

    def __init__(
        self, encodings: Floats | torch.Tensor, landmarks: Ints, max_periods: int = 12, dtype: str = "float32"
    ) -> None:
        self._stored = torch.as_tensor(encodings).to(TRUE_DTYPES[dtype])
        self.landmarks = landmarks
        self.max_periods = max_periods
        self.period = np.zeros(len(encodings), dtype=np.int16)
        self.history = [self.read(landmarks)]

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, d)``."""
        return self._stored.shape[0], self._stored.shape[1]

    def read(self, rows: Ints) -> Floats:
        """The last true encodings of ``rows``: ``(len(rows), d)`` float32, a copy."""
        # Advanced indexing copies, and .float() leaves float32 as it is.
        return self._stored[torch.from_numpy(rows)].float().numpy()

    def write(self, rows: Ints, vectors: Floats) -> None:
        """True encodings made in the current period."""
        self._stored[torch.from_numpy(rows)] = torch.from_numpy(vectors).to(self._stored.dtype)
        self.period[rows] = len(self.history) - 1

    def share_landmarks(self, of_all_shards: Floats) -> None:
        """Right at the start: keep the landmarks of all shards, of whom these targets are one.

        Args:
            of_all_shards: ``(M, d)`` their encodings now, shard by shard.
        """
        self.history = [of_all_shards]

    def begin_period(
        self, landmark_encodings: Floats, of_all_shards: Floats | None = None, sizes: Ints | None = None
    ) -> None:
        """The landmarks' encodings now; they begin a new period and are themselves true encodings in it.

        Args:
            landmark_encodings: ``(m, d)``, of these targets' own landmarks.
            of_all_shards: ``(M, d)``, of all shards' landmarks; ``None``: there is one shard.
            sizes: how many targets of all shards have their true encoding from each period, the new one included.
        """
        self.history.append(landmark_encodings if of_all_shards is None else of_all_shards)
        self.write(self.landmarks, landmark_encodings)
        if len(self.history) > self.max_periods:
            own = np.bincount(self.period, minlength=len(self.history))
            self._join_nearest(own if sizes is None else sizes)

    def predictions(
        self,
        predictors: Mapping[int, Predict | None],
        rows: Ints,
        block: int = 16_384,
    ) -> Iterator[tuple[Ints, Floats]]:
        """Where targets are now: ``(rows (b,), encodings (b, d))`` in blocks that cover ``rows`` once and in their
        order, without those whose period has no predictor; within a block period by period.

        Args:
            predictors: for each period but the current one, what predicts encodings now from those of that period;
                ``None`` where nothing can.
            rows: ``(m,)``, each once.
            block: targets at a time.
        """
        now = len(self.history) - 1
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            periods, found = self.period[part], []
            for period in np.unique(periods).tolist():
                predict = _as_known if period == now else predictors[period]
                if predict is not None:
                    members = part[periods == period]
                    found.append((members, predict(self.read(members))))
            if found:
                members, vectors = zip(*found, strict=True)
                yield np.concatenate(members), np.concatenate(vectors)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, as tensors for a checkpoint."""
        return {
            "encodings": self._stored,
            "period": torch.from_numpy(self.period),
            "landmarks": torch.from_numpy(self.landmarks),
            "history": torch.from_numpy(np.stack(self.history)),
        }

    @staticmethod
    def layout(num_targets: int, dimension: int) -> dict[str, Wanted]:
        """What `state_dict` gives, for `hardwood._checkpoint_tensors.expect`."""
        return {
            "encodings": (FLOATS, (num_targets, dimension)),
            "period": ((torch.int16,), (num_targets,)),
            "landmarks": (INTEGERS, ("landmarks",)),
            "history": ((torch.float32,), ("periods", "landmarks of all shards", dimension)),
        }

    @staticmethod
    def check_state(state: dict[str, torch.Tensor]) -> None:
        """Whether the tensors of a state fit each other.

        Raises:
            ValueError: naming what does not.
        """
        landmarks, period, history = (state[name] for name in ("landmarks", "period", "history"))
        inside = len(landmarks) > 0 and int(landmarks[0]) >= 0 and int(landmarks[-1]) < len(period)
        if not inside or not bool((landmarks[1:] > landmarks[:-1]).all()):
            raise ValueError("the checkpoint's landmarks are not targets of this corpus, each once, ascending")
        # A shard of several keeps the landmarks of all of them.
        if history.shape[1] < len(landmarks) or not 0 <= int(period.min()) <= int(period.max()) < len(history):
            raise ValueError("the checkpoint's periods and its history of the landmarks do not belong together")

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> TrueEncodings:
        """What `state_dict` gave (further names are passed over).

        The encodings are kept, and written to: with a copy of them the host's memory would be at its peak.
        """
        stored, landmarks = state["encodings"], state["landmarks"].numpy().copy()
        made = cls(np.zeros((0, stored.shape[1]), dtype=np.float32), landmarks[:0])
        made._stored, made.landmarks = stored, landmarks
        made.period = state["period"].numpy().copy()
        made.history = list(state["history"].numpy().copy())
        return made

    def _join_nearest(self, sizes: Ints) -> None:
        # Never the first (most targets have been encoded once, then) and never the current one.
        apart = [_cosine_error(one, other) for one, other in itertools.pairwise(self.history)]
        leaving = min(range(1, len(self.history) - 1), key=lambda p: sizes[p] * min(apart[p - 1], apart[p]))
        joins_next = apart[leaving] < apart[leaving - 1]
        self.period[self.period >= leaving + joins_next] -= 1  # its own targets, and those of later periods
        del self.history[leaving]


def _cosine_error(one: Floats, other: Floats) -> float:
    """Mean of 1 - cosine of two sets of vectors, row by row."""
    return float(1 - torch.nn.functional.cosine_similarity(torch.from_numpy(one), torch.from_numpy(other)).mean())


def _as_known(encodings: Floats) -> Floats:
    return encodings
