"""The tree's threads against `concurrent.futures`: one batch shared by two threads, in the same run.

    python -m benchmarks.tree.threads
    python -m benchmarks.tree.threads --pause 0.05 --repeats 100    # as between training steps

The peer is `split_work` as it was before: one future for each further thread. Ours and the peer's take turns, on an
empty task of a known length, on searches and on draws of a tree. With a pause before each call processors have slept
when the second thread is woken: a virtual machine's kernel puts the peer's beside the caller then, ours step aside.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import patch

import numba
import numpy as np

from hardwood import TargetIndex
from hardwood.tree import _reading
from hardwood.tree.compiled.threads import split_work

POOL = ThreadPoolExecutor(2)


@numba.njit(nogil=True)
def busy(rounds: int) -> float:  # type: ignore[no-untyped-def]
    """Work without memory."""
    total = 0.0
    for i in range(rounds):
        total += i * 0.5
    return total


def by_futures(task: Callable[[int, int], object], size: int, threads: int, least: int = 1) -> None:
    """The peer: the caller and ``threads - 1`` futures take pieces of ``range(size)``."""
    pieces = min(threads * 4, size // max(1, least))
    if threads <= 1 or pieces <= 1:
        task(0, size)
        return
    edges, next_piece = [size * i // pieces for i in range(pieces + 1)], itertools.count()

    def work() -> None:
        while (i := next(next_piece)) < pieces:
            task(edges[i], edges[i + 1])

    futures = [POOL.submit(work) for _ in range(min(threads, pieces) - 1)]
    work()
    for future in futures:
        if not future.cancel():
            future.result()


def medians(calls: dict[str, Callable[[], Any]], repeats: int, pause: float) -> dict[str, float]:
    """Median microseconds of each, taking turns, each after a ``pause`` of seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(spent[repeats // 10 :]) * 1e6 for name, spent in seconds.items()}


def asking(index: TargetIndex, ask: Callable[[], Any], threads: int, split: Callable[..., None]) -> Callable[[], Any]:
    """One call of ``ask``."""

    def asked() -> None:
        index._threads = threads
        with patch.object(_reading, "split_work", split):
            ask()

    return asked


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each call")
    parser.add_argument("--targets", type=int, default=100_000)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((1000, 128), dtype=np.float32)
    member = centres[generator.integers(1000, size=arguments.targets)]
    vectors = member + generator.standard_normal(member.shape, dtype=np.float32)
    index = TargetIndex.build(vectors, leaf_size=32, progress=False)
    busy(1)

    def halves(split: Callable[..., None], threads: int) -> Callable[[], None]:
        return lambda: split(lambda a, b: busy(400_000 * (b - a)), 2, threads)

    print("| µs | one thread | two, by futures | two, ours |\n|---|---|---|---|")
    rows = {"two tasks without memory": {"one": halves(split_work, 1), "peer": halves(by_futures, 2)}}
    rows["two tasks without memory"]["ours"] = halves(split_work, 2)
    for batch in (16, 64, 256):
        queries = vectors[:batch]
        asks: dict[str, Callable[[], Any]] = {
            f"search, {batch} queries": partial(index.search, queries, 10, probes=4),
            f"two draws, {batch} queries": partial(index.sample, queries, 2, probes=32, seed=1),
        }
        for name, ask in asks.items():
            rows[name] = {
                "one": asking(index, ask, 1, split_work),
                "peer": asking(index, ask, 2, by_futures),
                "ours": asking(index, ask, 2, split_work),
            }
    for name, calls in rows.items():
        spent = medians(calls, arguments.repeats, arguments.pause)
        print(f"| {name} | {spent['one']:.0f} | {spent['peer']:.0f} | {spent['ours']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
