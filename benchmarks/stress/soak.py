"""A long random run of a `TargetIndex` and of the dynamic source beside brute-force twins: any difference is an error.

One thread changes the index (add, remove, update, full passes, repair, save and load), others read it, all at once;
after each epoch every invariant and every stored vector is verified, and the memory noted. Ends with status 1 where
anything differed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks._report import COLOURS, Row, figure, finish, parser, set_threads
from benchmarks.stress._soak_readers import Reader
from benchmarks.stress._soak_source import SourceSoak
from benchmarks.stress._soak_world import Record, Setting, World

SETTINGS = (
    Setting(),
    Setting(dtype="bfloat16"),
    Setting(metric="cosine", leaf_size=8),
    Setting(dtype="bfloat16", metric="cosine", leaf_size=64),
)
MIB = 2.0**20


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.set_defaults(threads=2, repeats=0)
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--changes", type=int, default=50, help="of the index in an epoch")
    made.add_argument("--steps", type=int, default=20, help="of the source in an epoch")
    made.add_argument("--epochs-an-index", type=int, default=40, help="then one of another kind is built")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.minutes = min(arguments.minutes, 0.5)
    return arguments


def main() -> None:
    """Run, report, and fail if anything differed."""
    arguments = options()
    set_threads(1)
    record = Record()
    rows = soak(arguments, record)
    seconds = rows[-1]["seconds"] if rows else 0.0
    growth = slope(rows)
    finish(
        arguments, "soak", rows[:: max(1, len(rows) // 60)], minutes=round(seconds / 60, 2), epochs=len(rows),
        calls=dict(record.calls), compared=dict(record.judged), differences=len(record.differences),
        first_differences=record.differences[:20], unbiased=record.bias(), memory_mib_an_hour=round(growth, 2),
        memory_mib={"after a tenth": rows[len(rows) // 10]["rss_mib"], "at the end": rows[-1]["rss_mib"]},
    )  # fmt: skip
    draw_figure(arguments, rows, calls=sum(record.calls.values()), differences=len(record.differences))
    sys.exit(1 if record.differences else 0)


def soak(arguments: argparse.Namespace, record: Record) -> list[Row]:
    """Epochs until the time is up; a row each."""
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="hardwood-soak-") as folder:
        source = SourceSoak(arguments.seed, record, Path(folder) / "source")
        number = 0
        while not rows or time.perf_counter() - began < 60 * arguments.minutes:
            setting = SETTINGS[number % len(SETTINGS)]
            world = World(setting, arguments.seed + number, record, Path(folder) / "index")
            number += 1
            for _ in range(arguments.epochs_an_index):
                epoch(arguments, world, source, seed=arguments.seed + 1000 * len(rows))
                rows.append(row(began, len(rows), world, record))
                if time.perf_counter() - began > 60 * arguments.minutes:
                    break
    return rows


def epoch(arguments: argparse.Namespace, world: World, source: SourceSoak, seed: int) -> None:
    """Changes and readers at once; then everything verified at rest."""
    stop = threading.Event()
    readers = [
        threading.Thread(target=Reader(world, seed + t).run, args=(stop,), name=f"reader {t}")
        for t in range(arguments.threads)
    ]
    for thread in readers:
        thread.start()
    try:
        for _ in range(arguments.changes):
            world.random_change()
        source.run(arguments.steps)
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    world.verify()


def row(began: float, number: int, world: World, record: Record) -> Row:
    """Where the run stands."""
    gc.collect()
    stats = world.index.stats()
    return {
        "epoch": number, "seconds": round(time.perf_counter() - began, 1), "rss_mib": round(resident() / MIB, 1),
        "targets": stats["targets"], "rows_idle": stats["rows_idle"], "wear": round(stats["wear_mean"], 3),
        "changes": world.done, "calls": sum(record.calls.values()), "differences": len(record.differences),
    }  # fmt: skip


def resident() -> int:
    """This process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(rows: list[Row]) -> float:
    """MiB an hour, by least squares over all but the first fifth of the run."""
    late = rows[len(rows) // 5 :]
    if len(late) < 3:
        return float("nan")
    hours, memory = np.array([[r["seconds"] / 3600, r["rss_mib"]] for r in late]).T
    return float(np.polyfit(hours, memory, 1)[0])


def draw_figure(arguments: argparse.Namespace, rows: list[Row], calls: int, differences: int) -> None:
    """Memory over time; ``rows`` may be a part of the epochs, ``calls`` and ``differences`` are of the whole run."""
    with figure(arguments, "soak-rss") as axes:
        axis: Any = axes[0]
        minutes, memory = [row["seconds"] / 60 for row in rows], [row["rss_mib"] for row in rows]
        axis.plot(minutes, memory, color=COLOURS["Hardwood"], linewidth=1.4)
        axis.set_ylim(0, 1.25 * max(r["rss_mib"] for r in rows))
        axis.set_xlabel("minutes")
        axis.set_ylabel("resident memory, MiB")
        axis.set_title(f"{calls:,} calls, {differences} differences", fontsize=9)


if __name__ == "__main__":
    main()
