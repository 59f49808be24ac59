"""What a run costs as the corpus grows: ``hardwood data scale`` and ``hardwood train``, from 100,000 targets on.

    python -m benchmarks.training.growth                                      # to a million: half an hour on two cores
    python -m benchmarks.training.growth --sizes 20000000                     # 25 GB of disk, 11 GB of memory, an hour
    python -m benchmarks.training.growth --sizes 100000 1000000 20000000 --report   # table and figure of what is there

The names of `hardwood data scale`, pretrained static embeddings, the dynamic source with 64 of the model's dimensions
in bfloat16, 128 pairs a step and 8 draws: the same queries and the same settings at every size. Each run is the command
line's, in a process of its own; what is done is not repeated. Seconds are those of the wall, so nothing else should
run. ``index`` holds the build and all refreshes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._models import folder_of
from benchmarks._report import ROOT, Row, curve, figure, finish, log_ticks

from hardwood.training.job.run_folder import METRICS

GIB = 2**30
FACTS = "growth.json"
"""What a run's own files do not say."""
OPTIONS = ("index_dtype=bfloat16", "true_dtype=bfloat16")


def made(folder: Path, size: int) -> float | None:
    """Make the corpus; the seconds that it took, ``None`` where it was there."""
    if folder.exists():
        return None
    begin = time.perf_counter()
    command = [sys.executable, "-m", "hardwood", "data", "scale", str(folder), "--targets", str(size)]
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


def trained(arguments: argparse.Namespace, folder: Path, data: Path) -> None:
    """Train on ``data`` into ``folder``, if no finished run is there, and note what its files do not say."""
    if (folder / METRICS).exists():
        return
    encoder, steps, threads = folder_of(arguments.encoder), arguments.steps, arguments.threads
    options = (f"index_dimension={arguments.index_dimension}", *OPTIONS)
    command = [sys.executable, "-m", "hardwood", "train", str(data), "--encoder", encoder, "--negatives", "dynamic"]
    command += ["--steps", str(steps), "--batch-size", "128", "--num-negatives", "8", "--learning-rate", "0.05"]
    command += ["--threads", str(threads), "--save-every", str(steps // 2), "--no-report-base", "--overwrite"]
    command += [word for option in options for word in ("--source-option", option)]
    begin = time.perf_counter()
    subprocess.run([*command, "--output", str(folder)], check=True)
    (folder / FACTS).write_text(json.dumps({"wall_seconds": time.perf_counter() - begin}))


def row_of(folder: Path, size: int) -> Row:
    """A finished run's row."""
    metrics, facts = json.loads((folder / METRICS).read_text()), json.loads((folder / FACTS).read_text())
    cost, steps = metrics["cost"], metrics["training"]["steps"]
    seconds: dict[str, float] = cost["seconds"]
    return {
        "n": size,
        "steps": steps,
        "whole run s": facts["wall_seconds"],
        "encode s": seconds["encode"],
        "index s": seconds["index"],
        "draw ms a step": 1e3 * seconds["sample"] / steps,
        "forward and backward ms a step": 1e3 * seconds["forward_backward"] / steps,
        "peak GiB": cost["peak_host_bytes"] / GIB,
        "MRR@10 dev": metrics["dev"]["mrr@10"],
    }


def draw_figure(arguments: argparse.Namespace, rows: list[Row]) -> None:
    """Seconds of a run, milliseconds of a step and memory, by number of targets."""
    of_run = {"whole run s": ("whole run", "-"), "index s": ("build, refreshes", "--"), "encode s": ("encoding", ":")}
    of_step = {
        "forward and backward ms a step": ("forward and backward", "-"),
        "draw ms a step": ("draws", "--"),
    }
    with figure(arguments, "training_growth", panels=3) as axes:
        for axis, lines, unit in ((axes[0], of_run, "seconds of a run"), (axes[1], of_step, "milliseconds of a step")):
            for name, (label, line) in lines.items():
                curve(axis, rows, "n", name, label, linestyle=line)
            axis.set(ylabel=unit)
        curve(axes[2], rows, "n", "peak GiB", "peak of resident memory")
        axes[2].set(ylabel="GiB")
        for axis in axes:
            log_ticks(axis, "x")
            axis.set(xlabel="targets")
        log_ticks(axes[0], "y")
        for axis in axes[1:]:
            axis.set_ylim(bottom=0)


def main() -> None:
    """Do what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--index-dimension", type=int, default=64)
    parser.add_argument("--encoder", default="wordllama", help="wordllama, or a folder")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "growth", help="where corpora and runs are kept")
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--output", type=Path, help="folder for table and figure, else benchmarks/results, docs/images")
    arguments = parser.parse_args()
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    for size in arguments.sizes:
        data, run = arguments.work / f"{size}", arguments.work / f"run-{size}"
        if not arguments.report:
            seconds = made(data, size)
            facts |= {} if seconds is None else {f"seconds to make {size:,} targets": round(seconds, 1)}
            trained(arguments, run, data)
        if (run / METRICS).exists():
            rows.append(row_of(run, size))
    finish(arguments, "training_growth", rows, **facts)
    if len(rows) > 1:
        draw_figure(arguments, rows)


if __name__ == "__main__":
    main()
