"""What readers ask of an index that changes under them, and what a brute-force twin says of each answer."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.stress._soak_world import State, World
from numpy.typing import NDArray

from hardwood import TargetIndex
from hardwood.tree.arrays.bounds import rounding

EVERY = 10**6  # probes that open all leaves
PAUSE = 0.002  # seconds between two calls, in the mean: the writer must get its turn
Judge = Callable[[State], str]
"""What is wrong with an answer if it is that of this state; empty where nothing is."""


class Reader:
    """Asks at random and compares."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, np.random.default_rng(seed)
        self._ratios = np.zeros(0)
        kinds: list[tuple[Callable[[], None], float]] = [
            (self.sample, 0.3), (self.search, 0.15), (self.partition, 0.2), (self.proposal, 0.1),
            (self.vectors, 0.14), (self.expectation, 0.05), (self.members, 0.05), (self.saved, 0.01),
        ]  # fmt: skip
        self._kinds, self._weights = zip(*kinds, strict=True)

    def run(self, stop: threading.Event) -> None:
        """Until it is stopped, or until something raises, which is a difference too."""
        while not stop.is_set():
            act = self._kinds[self.rng.choice(len(self._kinds), p=self._weights)]
            try:
                act()
            except Exception as error:  # whatever is wrong is what we are here for
                self.world.record.difference(f"{act.__name__}: {error!r}")
            time.sleep(self.rng.exponential(PAUSE))

    def _compare(self, name: str, ask: Callable[[TargetIndex], Any], judge: Callable[[Any], Judge]) -> None:
        world = self.world
        low, index = world.done, world.index
        answer = ask(index)
        states = world.between(low, world.begun)
        world.record.call(name, judged=states is not None)
        if states is None:
            return
        verdict = judge(answer)
        faults = [verdict(state) for state in states]
        if all(faults):
            world.record.difference(f"{name} between changes {states[0].version} and {states[-1].version}: {faults}")

    def _queries(self, count: int) -> NDArray[np.float32]:
        state = self.world.state
        x = state.vectors[self.rng.integers(0, len(state.ids), count)]
        x = x + 0.1 * self.rng.normal(size=x.shape)
        return (x * self.rng.choice([0.1, 1.0, 2.0])).astype(np.float32)

    def _exclude(self, count: int) -> list[NDArray[np.int64]]:
        ids = self.world.state.ids
        return [self.rng.choice(ids, self.rng.integers(0, 6)) for _ in range(count)]

    def _truth(self, state: State, x: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
        queries = x.astype(np.float64)
        if self.world.setting.metric == "cosine":
            norms = np.linalg.norm(queries, axis=1, keepdims=True)
            queries = (queries / np.where(norms > 0, norms, 1)).astype(np.float32).astype(np.float64)
        return np.asarray(scale * (queries @ state.vectors.astype(np.float64).T))

    def _slack(self, state: State, x: NDArray[np.float32], scale: float) -> float:
        """What float32 products may err by."""
        longest = 1.0 if self.world.setting.metric == "cosine" else float(np.linalg.norm(x, axis=1).max())
        reach = float(np.linalg.norm(state.vectors, axis=1).max())
        return 2 * rounding(x.shape[1]) * scale * longest * reach + 1e-6

    def sample(self) -> None:
        """Draws: of targets that are there and not excluded, with their scores, within certified bounds, unbiased."""
        rng = self.rng
        x, scale = self._queries(6), float(rng.choice([0.5, 2.0, 20.0]))
        exclude, kind = self._exclude(6), rng.choice(["replace", "without", "exact"], p=[0.6, 0.3, 0.1])
        k, probes = int(rng.integers(1, 40)), int(rng.choice([1, 4, 32, EVERY]))

        def ask(index: TargetIndex) -> Any:
            options: dict[str, Any] = {"scale": scale, "exclude": exclude, "seed": int(rng.integers(2**31))}
            if kind == "exact":
                return index.sample_exact(x, k, **options)
            return index.sample(x, k, replace=kind != "without", probes=probes, **options)

        def judge(draw: Any) -> Judge:
            return lambda state: self._judge_draw(state, draw, x, scale, exclude, kind)

        self._ratios = np.zeros(0)
        self._compare(f"sample {kind}", ask, judge)
        # Beyond, tails are too heavy for a normal law, as they are with few draws without replacement; and exact's Ẑ is
        # biased.
        if scale < 1.0 and kind != "exact" and (kind == "replace" or k >= 5):
            self.world.record.ratio(f"sample {kind}", self._ratios)

    def _judge_draw(
        self, state: State, draw: Any, x: NDArray[np.float32], scale: float, exclude: list[NDArray[np.int64]], kind: str
    ) -> str:
        fault = self._fault_of_ids(state, draw.ids, exclude, kind)
        if fault:
            return fault
        at = np.searchsorted(state.ids, draw.ids)
        s = self._truth(state, x, scale)
        if (np.abs(np.take_along_axis(s, at, axis=1) - draw.scores) > self._slack(state, x, scale)).any():
            return "a score is not of the stored vector"
        log_z = log_sum(hide(state, s, exclude))
        if not ((draw.log_z_lower <= log_z) & (log_z <= draw.log_z_upper)).all():
            return "the bounds do not hold the truth"
        if not np.isfinite(draw.log_q).all() or not np.isfinite(draw.log_weights).all():
            return "log_q or weights are not finite"
        self._ratios = np.exp(draw.scores + draw.log_weights - log_z[:, None]).sum(axis=1)
        return ""

    @staticmethod
    def _fault_of_ids(state: State, ids: NDArray[np.int64], exclude: list[NDArray[np.int64]], kind: str) -> str:
        if not np.isin(ids, state.ids).all():
            return "a target that is not there"
        for row, hidden in zip(ids, exclude, strict=True):
            if np.isin(row, hidden).any():
                return "an excluded target"
            if kind == "without" and len(np.unique(row)) < len(row):
                return "a target twice"
        return ""

    def search(self) -> None:
        """All leaves opened: the best there are."""
        x, k = self._queries(4), int(self.rng.integers(1, 30))

        def judge(hits: Any) -> Judge:
            def verdict(state: State) -> str:
                s = self._truth(state, x, 1.0)
                at = np.minimum(np.searchsorted(state.ids, hits.ids), len(state.ids) - 1)
                if not np.array_equal(state.ids[at], hits.ids):
                    return "a target that is not there"
                slack = self._slack(state, x, 1.0)
                best = -np.sort(-s, axis=1)[:, :k]
                wrong = (np.abs(hits.scores - best) > slack) | (np.abs(np.take_along_axis(s, at, 1) - best) > 2 * slack)
                return "not the best" if wrong.any() or any(len(set(row)) < k for row in hits.ids.tolist()) else ""

            return verdict

        self._compare("search", lambda index: index.search(x, k, probes=EVERY), judge)

    def partition(self) -> None:
        """Bounds of log Z, and the tolerance where it says so."""
        x, scale = self._queries(4), float(self.rng.choice([0.5, 5.0, 50.0]))
        exclude, tolerance = self._exclude(4), self.rng.choice([None, 0.05])
        budget = None if tolerance else int(self.rng.integers(1, 60))

        def judge(part: Any) -> Judge:
            def verdict(state: State) -> str:
                log_z = log_sum(hide(state, self._truth(state, x, scale), exclude))
                if not ((part.lower <= log_z) & (log_z <= part.upper)).all():
                    return "the bounds do not hold the truth"
                loose = part.upper - part.lower > (tolerance or np.inf)
                return "converged, but not within the tolerance" if (loose & part.converged).any() else ""

            return verdict

        self._compare(
            "log_partition",
            lambda index: index.log_partition(x, scale=scale, exclude=exclude, tolerance=tolerance, probes=budget),
            judge,
        )

    def proposal(self) -> None:
        """`log_q` of draws is `log_proposal` of the same targets, and that sums to one."""
        x, scale, probes = self._queries(3), float(self.rng.choice([0.5, 2.0, 20.0])), int(self.rng.choice([1, 4, 32]))
        exclude, seed, world = self._exclude(3), int(self.rng.integers(2**31)), self.world
        low, index = world.done, world.index
        draw = index.sample(x, 8, scale=scale, exclude=exclude, probes=probes, seed=seed)
        ids = index.ids
        try:
            every = index.log_proposal(x, ids, scale=scale, exclude=exclude, probes=probes)
        except KeyError:
            every = None  # a target went between the calls
        still = world.begun == low  # three calls, so nothing may have changed between them
        world.record.call("log_proposal", judged=still)
        if not still:
            return
        if every is None:
            world.record.difference(f"log_proposal after change {low}: a KeyError for ids that are there")
            return
        slack = 1e-4 + self._slack(world.state, x, scale)
        if (np.abs(np.exp(every).sum(axis=1) - 1) > slack).any():
            world.record.difference(f"log_proposal after change {low}: it does not sum to one")
        at = np.searchsorted(ids, draw.ids)
        if (np.abs(np.take_along_axis(every, at, axis=1) - draw.log_q) > slack).any():
            world.record.difference(f"log_proposal after change {low}: log_q is not the proposal")

    def vectors(self) -> None:
        """Stored vectors by id, to the bit."""
        ids = self.rng.choice(self.world.state.ids, 50)

        def ask(index: TargetIndex) -> Any:
            try:
                return index.vectors(ids)
            except KeyError:
                return None

        def judge(found: Any) -> Judge:
            def verdict(state: State) -> str:
                there = np.isin(ids, state.ids)
                if found is None:
                    return "a KeyError for ids that are there" if there.all() else ""
                if not there.all():
                    return "vectors of ids that are not there"
                same = np.array_equal(found, state.vectors[np.searchsorted(state.ids, ids)])
                return "" if same else "other vectors"

            return verdict

        self._compare("vectors", ask, judge)

    def expectation(self) -> None:
        """The mean under the softmax, all leaves opened."""
        x = self._queries(3)

        def judge(mean: Any) -> Judge:
            def verdict(state: State) -> str:
                s = self._truth(state, x, 2.0)
                true = np.exp(s - log_sum(s)[:, None]) @ state.vectors.astype(np.float64)
                return "" if np.allclose(mean, true, atol=1e-4) else "another mean"

            return verdict

        self._compare("expectation", lambda index: index.expectation(x, scale=2.0, probes=EVERY), judge)

    def members(self) -> None:
        """All ids; and a spread of them, which has none twice."""

        def judge(ids: Any) -> Judge:
            return lambda state: "" if np.array_equal(ids, state.ids) else "other ids"

        self._compare("ids", lambda index: index.ids, judge)

        def judge_spread(ids: Any) -> Judge:
            return lambda state: (
                "" if np.isin(ids, state.ids).all() and len(set(ids.tolist())) == 64 else "not distinct"
            )

        self._compare("spread", lambda index: index.spread(64, seed=1), judge_spread)

    def saved(self) -> None:
        """An index saved while others read and one waits to write is whole."""

        def ask(index: TargetIndex) -> Any:
            with tempfile.TemporaryDirectory() as folder:
                index.save(Path(folder) / "index")
                loaded = TargetIndex.load(Path(folder) / "index", mmap=False, verify=True, threads=1)
            loaded.check()
            return loaded.ids, loaded.vectors(loaded.ids)

        def judge(found: Any) -> Judge:
            def verdict(state: State) -> str:
                same = np.array_equal(found[0], state.ids) and np.array_equal(found[1], state.vectors)
                return "" if same else "another index was saved"

            return verdict

        self._compare("save", ask, judge)


def hide(state: State, s: NDArray[np.float64], exclude: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Scores with each query's excluded targets at -inf."""
    s = s.copy()
    for row, ids in zip(s, exclude, strict=True):
        row[np.isin(state.ids, ids)] = -np.inf
    return s


def log_sum(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log Σ exp`` over the last axis."""
    top = s.max(axis=-1, keepdims=True)
    return np.asarray((np.log(np.exp(s - top).sum(axis=-1, keepdims=True)) + top)[..., 0])
