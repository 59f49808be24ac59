"""`TargetIndex.search` against FAISS IVF-Flat and HNSW: recall@10 by time and by share visited."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks._report import COLOURS, Row, curve, figure, finish, interleave, log_ticks, parser, set_threads, timed
from benchmarks.tree import _ours
from benchmarks.tree._data import load
from benchmarks.tree._peers import Hnsw, Ivf, nearest, recall

if TYPE_CHECKING:
    from _data import Array

K = 10


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", default="taxa", choices=("taxa", "hpo", "synthetic"))
    made.add_argument("--n", type=int, default=1_000_000, help="synthetic targets")
    made.add_argument("--dim", type=int, default=384)
    made.add_argument("--queries", type=int, default=1_024)
    made.add_argument("--batch", type=int, default=64, help="queries a call, for all")
    made.add_argument("--cells", type=int, default=None, help="of IVF; by default the power of two near 4 √n")
    made.add_argument("--probes", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    made.add_argument("--nprobes", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    made.add_argument("--efforts", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="efSearch of HNSW")
    made.add_argument("--construction", type=int, default=100, help="efConstruction of HNSW")
    made.add_argument("--leaf-sizes", type=int, nargs="+", default=[32, 64])
    arguments = made.parse_args()
    if arguments.quick:
        arguments.n, arguments.queries, arguments.repeats = min(arguments.n, 50_000), 256, 3
        arguments.leaf_sizes, arguments.construction = arguments.leaf_sizes[-1:], 40
        for name in ("probes", "nprobes", "efforts"):
            setattr(arguments, name, getattr(arguments, name)[1::2])
    return arguments


def main() -> None:
    """Run it."""
    arguments = options()
    set_threads(arguments.threads)
    _ours.warm_up()
    targets, queries = load(arguments.data, arguments.n, arguments.dim, arguments.queries, arguments.seed)
    best = nearest(targets, queries, K)
    searches, rows = {}, []
    for row, search in contenders(arguments, targets, queries):
        name = f"{row['what']} {row['effort']}"
        searches[name] = partial(in_batches, search, queries, arguments.batch)
        rows.append({**row, "recall@10": recall(np.concatenate(searches[name]()), best)})
    seconds = interleave(searches, arguments.repeats)
    exact = seconds["exact (torch) 0"]
    for row, taken in zip(rows, seconds.values(), strict=True):
        row["µs/query"] = 1e6 * taken / len(queries)
        row["times faster than exact"] = exact / taken
    name = f"tree_search_{arguments.data}_{arguments.dim}"
    finish(arguments, name, rows, targets=len(targets), equal_time=at_equal_time(rows))
    draw_figure(arguments, name, rows)


Contender = tuple[Row, Callable]


def contenders(arguments: argparse.Namespace, targets: Array, queries: Array) -> list[Contender]:
    """Every index at every effort, as a row to fill in and a search to time."""
    rows: torch.Tensor = torch.as_tensor(targets)
    found: list[Contender] = [
        (
            {"what": "exact (torch)", "effort": 0, "visited": 1.0},
            lambda batch: torch.topk(torch.as_tensor(batch) @ rows.T, K).indices.numpy(),
        )
    ]
    for size, spill in itertools.product(arguments.leaf_sizes, (False, True)):
        spent, index = timed(partial(_ours.build, targets, arguments.threads, leaf_size=size, spill=spill))
        name = f"Hardwood, leaves of {size}" + (", spilled" if spill else "")
        for probes in arguments.probes:
            row = {"what": name, "effort": probes, "visited": _ours.search_opened(index, queries, probes)}
            found.append(({**row, "build s": spent}, partial(_search, index, probes)))
    cells = arguments.cells or 2 ** round(np.log2(4 * len(targets) ** 0.5))
    peers = {f"IVF-Flat ({cells:,} cells)": (partial(Ivf, targets, cells), arguments.nprobes)}
    peers["HNSW (M = 32)"] = partial(Hnsw, targets, 32, arguments.construction), arguments.efforts
    for name, (make, efforts) in peers.items():
        spent, peer = timed(make)
        for effort in efforts:
            row = {
                "what": name,
                "effort": effort,
                "visited": peer.visited(queries, K, effort),
                "build s": spent,
            }
            found.append((row, partial(peer.search, k=K, **{_knob(peer): effort})))
    return found


def _search(index, probes, batch):  # type: ignore[no-untyped-def]
    return index.search(batch, K, probes=probes).ids


def _knob(peer: Ivf | Hnsw) -> str:
    return "nprobe" if isinstance(peer, Ivf) else "effort"


def in_batches(search: Callable, queries: Array, batch: int) -> list:
    """All queries, ``batch`` a call."""
    return [search(queries[start : start + batch]) for start in range(0, len(queries), batch)]


def at_equal_time(rows: list[Row]) -> dict[str, str]:
    """For each of our points, what the peers' curves (recall by log time) give in the same time."""
    lines = {}
    for row in rows:
        if not row["what"].startswith("Hardwood"):
            continue
        others = [f"{label} {_interpolated(rows, label, row['µs/query'])}" for label in ("IVF-Flat", "HNSW")]
        lines[f"{row['what']}, {row['effort']} probes"] = f"{row['recall@10']:.3f}; " + ", ".join(others)
    return lines


def _interpolated(rows: list[Row], label: str, time: float) -> str:
    points = sorted((row["µs/query"], row["recall@10"]) for row in rows if row["what"].startswith(label))
    times, recalls = np.array(points).T
    if time < times[0]:
        return "none as quick"
    return f"{np.interp(np.log(time), np.log(times), np.maximum.accumulate(recalls)):.3f}"


def draw_figure(arguments: argparse.Namespace, name: str, rows: list[Row]) -> None:
    """Recall by time, and by share visited."""
    kinds = [what for what in dict.fromkeys(row["what"] for row in rows) if not what.startswith("exact")]
    sizes = {f"leaves of {size}": face for size, face in zip(arguments.leaf_sizes, (None, "white"), strict=False)}
    with figure(arguments, name, panels=2, at_ends=True) as axes:
        for axis, across in zip(axes, ("µs/query", "visited"), strict=True):
            for what in kinds:
                mine = [row for row in rows if row["what"] == what]
                face = next((face for size, face in sizes.items() if size in what), None)
                style = {"linestyle": "--" if what.endswith("spilled") else "-", "markerfacecolor": face}
                curve(axis, mine, across, "recall@10", what, **style)
            log_ticks(axis, "x")
        axes[0].set_ylabel("recall@10 (this axis does not begin at 0)")
        axes[0].axvline(rows[0]["µs/query"], color=COLOURS["exact (torch)"], linewidth=1)
        axes[0].annotate(
            "exact (torch)", (rows[0]["µs/query"], 0.5), xytext=(-4, 0), textcoords="offset points",
            rotation=90, va="center", ha="right", fontsize=8.5, color=COLOURS["exact (torch)"],
        )  # fmt: skip
        axes[0].set_xlabel(f"time, µs a query (batches of {arguments.batch}, {arguments.threads} threads)")
        axes[1].set_xlabel("share of the targets looked at")


if __name__ == "__main__":
    main()
