"""What every benchmark shares: arguments, threads, interleaved timings, memory, tables, JSON and figures."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hardwood._palette import colour_of

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {
    "Hardwood": colour_of("dynamic"),
    "exact (torch)": colour_of("exact"),
    "IVF-Flat": colour_of("pool"),
    "HNSW": colour_of("cache"),
    "flat clusters": colour_of("pool"),
}
"""Of what is compared; a search by another library has the colour of a source that is in none of these figures."""
Row = dict[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small sizes: a look in well under a minute")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for us and for every peer")
    made.add_argument("--repeats", type=int, default=7, help="timings of each, interleaved; the median counts")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--output",
        type=Path,
        default=None,
        help="folder for JSON and figure (else benchmarks/results, docs/images)",
    )
    return made


SHORT = 0.2
"""Seconds."""


def set_threads(threads: int) -> None:
    """The same number of threads for BLAS, torch and FAISS; numba and Hardwood get it as an argument."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(threads)


def interleave(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, run in turn (A, B, A, B, ...) after one warm-up: drifts hit all alike.

    A pause before each: OpenMP's threads (torch, FAISS) spin for some milliseconds after their work and would
    take a processor from whoever comes next. What is short is run once more after it, untimed: processors that
    slept, and caches that others filled, cost some milliseconds.
    """
    is_short = {name: timed(call)[0] < SHORT for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(0.05)
            if is_short[name]:
                call()
            seconds[name].append(timed(call)[0])
    return {name: float(np.median(values)) for name, values in seconds.items()}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds taken, and the answer."""
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def machine(threads: int) -> Row:
    """Processor, threads in use, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else [platform.processor()]
    packages = ("hardwood", "numpy", "torch", "numba", "faiss-cpu")
    return {
        "processor": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "threads": threads,
        "load when it ended": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (run from source?)"


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def finish(arguments: argparse.Namespace, name: str, rows: Sequence[Row], **facts: object) -> None:
    """Print the table with its machine, and write both, with the arguments, to ``<name>.json``."""
    about = machine(arguments.threads)
    print("\n" + table(rows) + "\n")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for key, value in facts.items():
        print(f"{key}: {value}")
    path = (arguments.output or ROOT / "benchmarks" / "results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {key: value for key, value in vars(arguments).items() if key != "output"}
    content = {"benchmark": name, "arguments": options, "machine": about, "rows": list(rows), **facts}
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    print(f"written: {path}")


@contextmanager
def figure(arguments: argparse.Namespace, name: str, panels: int = 1, *, at_ends: bool = False) -> Iterator[Any]:
    """A row of ``panels`` axes; written to ``<name>.png`` when the block ends.

    ``at_ends``: all panels have the same lines, and each is named at its end in the last one, instead of in a legend.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    width = 3.6 * panels + 1.8 if at_ends else 4.6 * panels + 0.4
    drawn, axes = plt.subplots(1, panels, figsize=(width, 3.7), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    yield axes[0]
    if at_ends:
        _label_ends(axes[0][-1])
    for axis in axes[0]:
        if not at_ends and axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    path = (arguments.output or ROOT / "docs" / "images") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)
    plt.close(drawn)
    print(f"written: {path}")


def curve(axis: Any, rows: Sequence[Row], across: str, up: str, label: str, **style: Any) -> None:
    """One line of ``rows``, coloured by the label's first words."""
    points = sorted((row[across], row[up]) for row in rows if row.get(across) is not None and row.get(up) is not None)
    if not points:
        return
    colour = next((value for name, value in COLOURS.items() if label.startswith(name)), "#762a83")
    style = {"marker": "o", "markersize": 3.5, "linewidth": 1.4, "color": colour, **style}
    axis.plot(*zip(*points, strict=True), label=label, **style)


def _label_ends(axis: Any) -> None:
    """The name of each line beside its last point, right of the axes; names are moved apart."""
    lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
    heights = [axis.transAxes.inverted().transform(axis.transData.transform(end))[1] for end in ends]
    place = 1.1
    for height, end, line in sorted(zip(heights, ends, lines, strict=True), key=lambda item: (-item[0], -item[1][0])):
        place = min(height, place - 0.07)
        axis.annotate(
            line.get_label(), end, (1.03, place), textcoords="axes fraction", va="center", fontsize=8.5,
            color=line.get_color(),
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": line.get_color(), "alpha": 0.6},
        )  # fmt: skip


def log_ticks(axis: Any, which: str = "both") -> None:
    """Logarithmic axes, with numbers however short they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    if which in ("x", "both"):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        if high < 30 * low:
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.tick_params(axis="x", which="minor", labelbottom=False)
    if which in ("y", "both"):
        axis.set_yscale("log")
        axis.tick_params(axis="y", which="minor", labelsize=7)


def emit(phase: str, **facts: object) -> None:
    """A child's note to ``watch``: a phase begins, or (``phase="result"``) an answer."""
    print(json.dumps({"phase": phase, **facts}), flush=True)


def watch(module: str, *options: str) -> tuple[Row, dict[str, Row]]:
    """Run ``python -m module`` as a child and follow its memory from outside, so that no busy kernel can hide its peak.

    Returns:
        What the child gave to ``emit("result", ...)``, and for each phase its seconds, the memory at its
        start and its peak in bytes. Memory is anonymous plus shared (not the pages of memory-mapped files,
        which the kernel may drop at will).
    """
    child = subprocess.Popen([sys.executable, "-m", module, *options], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    phases: dict[str, Row] = {}
    result: Row = {}
    current: list[Row] = []
    follower = threading.Thread(target=_follow, args=(child, current), daemon=True)
    follower.start()
    assert child.stdout is not None
    for line in child.stdout:
        if not line.startswith("{"):
            print(line, end="", file=sys.stderr)
            continue
        note = json.loads(line)
        phase = note.pop("phase")
        now, memory = time.perf_counter(), _memory(child.pid)
        if current:
            current[0]["seconds"] = now - current[0].pop("begun")
            current.clear()
        if phase == "result":
            result.update(note)
        else:
            phases[phase] = {"begun": now, "start": memory, "peak": memory, **note}
            current.append(phases[phase])
    if child.wait() != 0:
        raise RuntimeError(f"{module} {' '.join(options)} ended with status {child.returncode}")
    return result, phases


def _follow(child: subprocess.Popen[str], current: list[Row]) -> None:
    while child.poll() is None:
        memory = _memory(child.pid)
        for phase in current[:1]:
            phase["peak"] = max(phase["peak"], memory)
        time.sleep(0.01)


def _memory(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(value) for value in re.findall(r"Rss(?:Anon|Shmem):\s*(\d+)", status))
