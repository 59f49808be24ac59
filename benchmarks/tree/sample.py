"""`TargetIndex.sample` against exact softmax sampling in torch: time, error, share of the targets opened."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks._report import COLOURS, Row, curve, figure, finish, interleave, log_ticks, parser, set_threads
from benchmarks.tree import _ours
from benchmarks.tree._data import load
from benchmarks.tree._peers import ExactSampler, Truth, relative_error, truth

if TYPE_CHECKING:
    from _data import Array

    from hardwood import TargetIndex


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", default="synthetic", choices=("synthetic", "taxa", "hpo"))
    made.add_argument("--n", type=int, default=1_000_000, help="synthetic targets")
    made.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    made.add_argument("--scales", type=float, nargs="+", default=[20.0, 50.0])
    made.add_argument("--probes", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256])
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--k", type=int, default=16)
    made.add_argument("--queries", type=int, default=256, help="for the errors")
    made.add_argument("--leaf-size", type=int, default=64)
    made.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="in which we keep vectors")
    made.add_argument("--sketch", action="store_true", help="with a byte for each number beside the vectors")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.n, arguments.dims, arguments.repeats = min(arguments.n, 100_000), arguments.dims[:1], 5
        arguments.probes = arguments.probes[1::2]
    return arguments


def main() -> None:
    """Run it."""
    arguments = options()
    set_threads(arguments.threads)
    _ours.warm_up()
    rows = [row for d in arguments.dims for row in of_dimension(arguments, d)]
    name = f"tree_sample_{arguments.data}" + ("_sketched" if arguments.sketch else "")
    finish(arguments, name, rows)
    draw_figure(arguments, rows, name)


def of_dimension(arguments: argparse.Namespace, d: int) -> list[Row]:
    """All scales and probes in one dimension, the peer first at each scale."""
    targets, queries = load(arguments.data, arguments.n, d, arguments.queries, arguments.seed)
    indexes = {
        kind: _ours.build(
            targets, arguments.threads, leaf_size=arguments.leaf_size, dtype=kind, sketch=arguments.sketch
        )
        for kind in arguments.dtypes
    }
    peers = {"plain": ExactSampler(targets).plain, "blocked": ExactSampler(targets).blocked}
    rows = []
    for scale in arguments.scales:
        rows += of_scale(arguments, indexes, peers, queries, scale=scale, exact=truth(targets, queries, scale))
    return rows


def of_scale(
    arguments: argparse.Namespace,
    indexes: dict[str, TargetIndex],
    peers: dict,
    queries: Array,
    *,
    scale: float,
    exact: Truth,
) -> list[Row]:
    """Timings interleaved: every peer, every number of probes, and again."""
    batch, generator = queries[: arguments.batch], torch.Generator().manual_seed(arguments.seed)
    calls = {name: partial(peer, batch, arguments.k, scale, generator) for name, peer in peers.items()}
    ours = [(kind, probes) for kind in indexes for probes in arguments.probes]
    for kind, probes in ours:
        calls[f"{kind} {probes}"] = partial(
            indexes[kind].sample, batch, arguments.k, scale=scale, probes=probes, bounds=False, seed=0
        )
    seconds = interleave(calls, arguments.repeats)
    best = min(peers, key=lambda name: seconds[name])
    fixed = {"n": len(next(iter(indexes.values()))), "d": queries.shape[1], "scale": scale}
    rows = [
        {**fixed, "what": f"exact (torch, {name})", "µs/query": 1e6 * seconds[name] / len(batch)}
        | {"times faster than exact": seconds[best] / seconds[name], "opened": 1.0}
        for name in peers
    ]
    for kind, probes in ours:
        taken = seconds[f"{kind} {probes}"]
        rows.append(
            {
                **fixed,
                "what": f"Hardwood, {kind}, {probes} probes",
                "probes": probes,
                "kept in": kind,
                "µs/query": 1e6 * taken / len(batch),
            }
            | {"times faster than exact": seconds[best] / taken}
            | errors(indexes[kind], queries, scale, probes, exact)
        )
    return rows


def errors(index: TargetIndex, queries: Array, scale: float, probes: int, exact: Truth) -> Row:
    """How far the estimates are from the truth, and what they cost."""
    log_z = index.sample(queries, 1, scale=scale, probes=probes, seed=0).log_z
    mean = index.expectation(queries, scale=scale, probes=probes)
    return {
        "opened": _ours.sample_opened(index, queries, scale, probes),
        "error of E[y]": relative_error(mean, exact.expectation),
        "error of log Z": float(np.mean(np.abs(log_z - exact.log_z))),
    }


def draw_figure(arguments: argparse.Namespace, rows: list[Row], name: str) -> None:
    """Speed against error, a panel for each scale, a line for each dimension and dtype."""
    with figure(arguments, name, panels=len(arguments.scales), at_ends=True) as axes:
        for axis, scale in zip(axes, arguments.scales, strict=True):
            for d, line in zip(arguments.dims, ("-", "--", ":"), strict=False):
                for kind, face in zip(arguments.dtypes, (None, "white"), strict=False):
                    ours = [row for row in rows if (row["d"], row["scale"], row.get("kept in")) == (d, scale, kind)]
                    curve(
                        axis, ours, "error of E[y]", "times faster than exact", f"{d}-d, {kind}",
                        color=COLOURS["Hardwood"], linestyle=line, markerfacecolor=face,
                    )  # fmt: skip
            axis.axhline(1, color=COLOURS["exact (torch)"], linewidth=1)
            log_ticks(axis, "x")
            axis.set_ylim(bottom=0)
            axis.set_xlabel("relative error of $E_P[y]$")
            axis.set_title(f"scale {scale:g}, {rows[0]['n']:,} targets", fontsize=10)
        axes[0].set_ylabel("times faster than exact sampling (line: 1)")


if __name__ == "__main__":
    main()
