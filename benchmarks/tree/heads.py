"""Leaves scored for a block of queries at once, against query by query: time of a draw, by targets and leaves opened.

    python -m benchmarks.tree.heads

What the tree does where a block's queries open many of the same leaves (`hardwood.tree.read.survey.SHARED`). Kernels
know that number when they are compiled, so two processes with caches of their own take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks._report import table

BATCH, DRAWS = 160, 2


def child(targets: int, shared: float) -> None:
    """Answers each line of the input, a number of leaves to open, with the seconds that a draw took."""
    from _data import Clusters

    from hardwood import TargetIndex
    from hardwood.tree.read import survey

    survey.SHARED = shared
    corpus = Clusters(targets, 128)
    index = TargetIndex.build(corpus.all(), leaf_size=64, threads=1, progress=False)
    queries = corpus.queries(BATCH)
    print("built", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        index.sample(queries, DRAWS, probes=int(line), seed=1)
        print(time.perf_counter() - began, flush=True)


def main() -> None:
    """Print the table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--targets", type=int, nargs="+", default=[20_000, 200_000])
    made.add_argument("--probes", type=int, nargs="+", default=[32, 64, 128])
    made.add_argument("--repeats", type=int, default=15)
    made.add_argument("--child", type=float, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.child is not None:
        child(arguments.targets[0], arguments.child)
        return
    rows = [row for targets in arguments.targets for row in compared(targets, arguments.probes, arguments.repeats)]
    print(table(rows))


def compared(targets: int, probes: list[int], repeats: int) -> list[dict[str, object]]:
    """A row for each number of leaves opened."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {"query by query": "inf", "at once": "0"}
        processes = {
            way: subprocess.Popen(
                [sys.executable, "-m", "benchmarks.tree.heads", "--targets", str(targets), "--child", shared],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**os.environ, "NUMBA_CACHE_DIR": str(Path(folder) / shared)},
            )
            for way, shared in ways.items()
        }  # fmt: skip
        try:
            for process in processes.values():
                assert process.stdout is not None
                process.stdout.readline()
            return [row(targets, opened, repeats, processes) for opened in probes]
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


def row(targets: int, opened: int, repeats: int, processes: dict[str, subprocess.Popen[str]]) -> dict[str, object]:
    """Medians of calls that take turns; the first, which compiles, is left out."""
    seconds: dict[str, list[float]] = {way: [] for way in processes}
    for _ in range(repeats + 1):
        for way, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{opened}\n")
            seconds[way].append(float(process.stdout.readline()))
    spent = {way: float(np.median(times[1:])) / BATCH * 1e6 for way, times in seconds.items()}
    by_query, at_once = spent.values()
    shown = {f"µs a query, {way}": round(each) for way, each in spent.items()}
    return {"targets": f"{targets:,}", "leaves opened": opened, **shown, "times faster": round(by_query / at_once, 2)}


if __name__ == "__main__":
    main()
