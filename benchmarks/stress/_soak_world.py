"""A `TargetIndex` that one thread changes and others read, beside a twin of plain arrays that knows what must come out.

Every change makes a new *state* of the twin, which is kept for a while under its number. A reader notes the last change
that was complete before its call and the last that had begun when it returned: its answer must be that of one state
between the two, whole. So readers need no lock of their own, and a change seen half-made is found.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hardwood import TargetIndex

KEPT = 64
FEWEST, MOST = 500, 4000


class Setting(NamedTuple):
    """How an index is built."""

    dtype: str = "float32"
    metric: str = "dot"
    leaf_size: int = 32
    dimension: int = 24


class State(NamedTuple):
    """What the index must hold after change number ``version``: ids ascending, and their stored vectors."""

    version: int
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


class Record:
    """What was done and what was found, by all threads together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.judged: Counter[str] = Counter()
        self.differences: list[str] = []
        self.ratios: dict[str, NDArray[np.float64]] = {}  # number, sum, sum of squares of Ẑ/Z

    def call(self, name: str, judged: bool = True) -> None:
        """One more call; ``judged`` when it was compared with the twin."""
        with self._lock:
            self.calls[name] += 1
            self.judged[name] += judged

    def difference(self, text: str) -> None:
        """Something that is not as the twin has it."""
        with self._lock:
            self.differences.append(text)

    def ratio(self, name: str, values: NDArray[np.float64]) -> None:
        """Estimates of Z over the true Z, each of mean 1 if the weights are unbiased."""
        with self._lock:
            sums = self.ratios.setdefault(name, np.zeros(3))
            sums += (len(values), values.sum(), (values**2).sum())

    def bias(self) -> dict[str, dict[str, float]]:
        """The mean of each kind's ratios, and its distance from 1 in standard errors."""
        found = {}
        for name, (count, total, squares) in self.ratios.items():
            mean = total / max(count, 1)
            error = np.sqrt(max(squares / max(count, 1) - mean**2, 1e-30) / max(count, 1))
            found[name] = {"estimates": int(count), "mean": float(mean), "z": float((mean - 1) / error)}
        return found


class World:
    """The index, its states, and the changes that its one writer makes."""

    def __init__(self, setting: Setting, seed: int, record: Record, folder: Path, targets: int = 1500) -> None:
        self.setting, self.record, self.folder = setting, record, folder
        self.rng = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._states: deque[State] = deque(maxlen=KEPT)
        self.done = self.begun = 0
        self._centres = self.rng.normal(size=(40, setting.dimension))
        vectors = self.fresh(targets)
        ids = np.arange(targets, dtype=np.int64)
        self.index = TargetIndex.build(
            vectors, ids, dtype=setting.dtype, metric=setting.metric, leaf_size=setting.leaf_size,
            seed=seed, threads=1, progress=False,
        )  # fmt: skip
        self._states.append(State(0, ids, self.stored(vectors)))

    def fresh(self, count: int) -> NDArray[np.float32]:
        """New vectors: clustered, of lengths from 0 to 3, some of them equal."""
        centres = self._centres[self.rng.integers(0, len(self._centres), count)]
        y = centres + 0.5 * self.rng.normal(size=centres.shape)
        y *= self.rng.uniform(0.1, 3.0, size=(count, 1)) / np.linalg.norm(y, axis=1, keepdims=True)
        if self.rng.random() < 0.2:
            y[:] = y[0]
        y[self.rng.random(count) < 0.01] = 0.0
        return y.astype(np.float32)

    def stored(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the index keeps them: unit length for cosine, rounded for bfloat16 (by torch)."""
        if self.setting.metric == "cosine":
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
            vectors = (vectors / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
        if self.setting.dtype == "bfloat16":
            vectors = torch.from_numpy(vectors).bfloat16().float().numpy()
        return vectors

    @property
    def state(self) -> State:
        """The newest state."""
        with self._lock:
            return self._states[-1]

    def between(self, low: int, high: int) -> list[State] | None:
        """The states of these numbers, or None when the first is forgotten."""
        with self._lock:
            if self._states[0].version > low:
                return None
            return [state for state in self._states if low <= state.version <= high]

    def _change(self, name: str, ids: Any, vectors: Any, act: Callable[[TargetIndex], object]) -> None:
        with self._lock:
            self.begun += 1
            self._states.append(State(self.begun, ids, vectors))
        act(self.index)
        self.done = self.begun
        self.record.call(name)

    def update(self, share: float | None = None) -> None:
        """New vectors for some targets: a small motion of each, or anything at all."""
        state = self.state
        size = max(1, int(len(state.ids) * (self.rng.uniform(0.01, 0.3) if share is None else share)))
        at = self.rng.choice(len(state.ids), size, replace=False)
        if self.rng.random() < 0.7:
            new = state.vectors[at] + np.float32(0.1) * self.rng.normal(size=(size, state.vectors.shape[1]))
        else:
            new = self.fresh(size)
        new = new.astype(np.float32)
        vectors = state.vectors.copy()
        vectors[at] = self.stored(new)
        self._change("update", state.ids, vectors, lambda index: index.update(new, state.ids[at]))

    def full_pass(self) -> None:
        """Every target a little further along one turn, block by block, as a refresh does; then a repair."""
        state, d = self.state, self.setting.dimension
        turn, _ = np.linalg.qr(np.eye(d) + 0.05 * self.rng.normal(size=(d, d)))
        order = self.rng.permutation(len(state.ids))
        for part in np.array_split(order, 6):
            state = self.state
            new = (state.vectors[part] @ turn).astype(np.float32)
            vectors = state.vectors.copy()
            vectors[part] = self.stored(new)
            ids = state.ids[part]
            self._change("full pass", state.ids, vectors, lambda index, ids=ids, new=new: index.update(new, ids))
        self.repair()

    def add(self) -> None:
        """New ids: low ones that are free, or any int64."""
        state = self.state
        size = int(self.rng.integers(1, 200))
        if len(state.ids) + size > MOST:
            return self.remove()
        if self.rng.random() < 0.9:
            free = np.setdiff1d(np.arange(2 * MOST), state.ids)
            ids = self.rng.choice(free, size, replace=False)
        else:
            ids = np.setdiff1d(self.rng.integers(-(2**62), 2**62, size), state.ids)
        new = self.fresh(len(ids))
        both = np.concatenate([state.ids, ids])
        order = np.argsort(both)
        vectors = np.concatenate([state.vectors, self.stored(new)])[order]
        return self._change("add", both[order], vectors, lambda index: index.add(new, ids))

    def remove(self) -> None:
        """Some targets go; now and then most of them."""
        state = self.state
        share = 0.7 if self.rng.random() < 0.05 else self.rng.uniform(0.0, 0.08)
        size = min(int(share * len(state.ids)) + 1, len(state.ids) - FEWEST)
        if size < 1:
            return
        at = self.rng.choice(len(state.ids), size, replace=False)
        ids, vectors = np.delete(state.ids, at), np.delete(state.vectors, at, axis=0)
        self._change("remove", ids, vectors, lambda index: index.remove(state.ids[at]))

    def repair(self) -> None:
        """The same targets in a better tree."""
        state = self.state
        factor = float(self.rng.choice([1.01, 1.15, 2.0]))
        self._change("repair", state.ids, state.vectors, lambda index: index.repair(factor=factor))

    def save_and_load(self) -> None:
        """The index goes on as what was read back, mapped or not."""
        self.index.save(self.folder)
        mapped, verified = self.rng.random(2) < 0.5
        self.index = TargetIndex.load(self.folder, mmap=bool(mapped), verify=bool(verified), threads=1)
        self.record.call("save and load")

    def random_change(self) -> None:
        """One of the above."""
        kinds: list[tuple[Callable[[], object], float]] = [
            (self.update, 0.34), (self.add, 0.25), (self.remove, 0.2), (self.repair, 0.1),
            (self.full_pass, 0.04), (self.save_and_load, 0.07),
        ]  # fmt: skip
        acts, weights = zip(*kinds, strict=True)
        acts[self.rng.choice(len(acts), p=weights)]()

    def verify(self) -> None:
        """Everything at rest: every invariant, every id, every vector."""
        state, index = self.state, self.index
        try:
            index.check()
        except Exception as error:  # whatever is wrong is what we are here for
            self.record.difference(f"check() after change {state.version}: {error!r}")
        if not np.array_equal(index.ids, state.ids):
            self.record.difference(f"ids after change {state.version}")
        elif not np.array_equal(index.vectors(state.ids), state.vectors):
            self.record.difference(f"vectors after change {state.version}")
        self.record.call("check")
