"""How the time of a draw grows with the number of targets; with ``--large``, one large streamed build."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks._report import (
    Row,
    curve,
    emit,
    figure,
    finish,
    interleave,
    log_ticks,
    parser,
    set_threads,
    timed,
    watch,
)
from benchmarks.tree import _ours
from benchmarks.tree._data import Array, Clusters
from benchmarks.tree._peers import ExactSampler, relative_error, truth

GIB = 2**30


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--smallest", type=int, default=10_000)
    made.add_argument("--largest", type=int, default=10_000_000)
    made.add_argument("--large", type=int, default=0, help="instead: one streamed build of so many, e.g. 20000000")
    made.add_argument("--dim", type=int, default=64)
    made.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    made.add_argument("--scale", type=float, default=20.0)
    made.add_argument("--probes", type=int, nargs="+", default=[32, 128])
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--k", type=int, default=16)
    made.add_argument("--leaf-size", type=int, default=64)
    made.add_argument("--child", choices=("ours", "exact"), help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.quick:
        arguments.largest, arguments.repeats = min(arguments.largest, 100_000), min(arguments.repeats, 5)
        arguments.large = min(arguments.large, 500_000)
    return arguments


def main() -> None:
    """Run the part asked for."""
    arguments = options()
    set_threads(arguments.threads)
    if arguments.child:
        {"ours": run_ours, "exact": run_exact}[arguments.child](arguments)
    elif arguments.large:
        large(arguments)
    else:
        growth(arguments)


def growth(arguments: argparse.Namespace) -> None:
    """Sizes a half decade apart."""
    _ours.warm_up(arguments.dtype)
    decades = np.log10([arguments.smallest, arguments.largest])
    sizes = np.logspace(*decades, round(2 * float(np.diff(decades)[0])) + 1).round(-3).astype(int)
    rows = [row for n in sizes.tolist() for row in of_size(arguments, n)]
    finish(arguments, "tree_growth", rows, exponents=exponents(rows))
    draw_figure(arguments, rows)


def of_size(arguments: argparse.Namespace, n: int) -> list[Row]:
    """The exact peer and ours on ``n`` targets, interleaved. The peer reads float32, as it must for speed."""
    clusters = Clusters(n, arguments.dim, arguments.seed)
    targets, queries = clusters.all(), clusters.queries(max(arguments.batch, 128))
    spent, index = timed(
        partial(_ours.build, targets, arguments.threads, dtype=arguments.dtype, leaf_size=arguments.leaf_size)
    )
    sampler = ExactSampler(targets)
    # beyond a gigabyte of scores only the blocked variant fits
    exact = sampler.plain if 4 * n * arguments.batch <= sampler.memory else sampler.blocked
    batch, generator = queries[: arguments.batch], torch.Generator().manual_seed(0)
    calls = {"exact (torch)": partial(exact, batch, arguments.k, arguments.scale, generator)}
    for probes in arguments.probes:
        draw = partial(index.sample, batch, arguments.k, scale=arguments.scale, probes=probes, seed=0)
        calls[f"Hardwood, {probes} probes"] = draw
    seconds = interleave(calls, arguments.repeats)
    mean = truth(targets, queries, arguments.scale).expectation
    errors = {
        f"Hardwood, {probes} probes": relative_error(
            index.expectation(queries, scale=arguments.scale, probes=probes), mean
        )
        for probes in arguments.probes
    }
    return [
        {
            "n": n,
            "what": name,
            "µs/query": 1e6 * taken / len(batch),
            "times faster than exact": seconds["exact (torch)"] / taken,
            "error of E[y]": errors.get(name),
            "build s": spent if name in errors else None,
        }
        for name, taken in seconds.items()
    ]


def exponents(rows: list[Row]) -> dict[str, float]:
    """The power of ``n`` that each time grows with, fitted over all sizes."""
    fitted = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        points = np.log([(row["n"], row["µs/query"]) for row in rows if row["what"] == what])
        fitted[what] = round(float(np.polyfit(*points.T, 1)[0]), 3)
    return fitted


def draw_figure(arguments: argparse.Namespace, rows: list[Row]) -> None:
    """Time and error by number of targets."""
    with figure(arguments, "tree_growth", panels=2) as axes:
        for what, line in zip(dict.fromkeys(row["what"] for row in rows), ("-", "-", "--", ":"), strict=False):
            mine = [row for row in rows if row["what"] == what]
            curve(axes[0], mine, "n", "µs/query", what, linestyle=line)
            curve(axes[1], mine, "n", "error of E[y]", what, linestyle=line)
        log_ticks(axes[0])
        log_ticks(axes[1], "x")
        axes[0].set(xlabel="targets", ylabel=f"µs a query ({arguments.k} draws, batch {arguments.batch})")
        axes[1].set(xlabel="targets", ylabel=f"relative error of $E_P[y]$, scale {arguments.scale:g}", ylim=(0, None))


def large(arguments: argparse.Namespace) -> None:
    """Ours from a stream of chunks, and the exact peer over bfloat16 in memory, each in its own process."""
    names = ("large", "dim", "scale", "batch", "k", "threads", "seed", "repeats", "dtype", "leaf_size")
    passed = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    passed += ["--probes", *map(str, arguments.probes)]
    exact, exact_phases = watch("benchmarks.tree.growth", *passed, "--child", "exact")
    ours, phases = watch("benchmarks.tree.growth", *passed, "--child", "ours")
    size = arguments.large * arguments.dim * (2 if arguments.dtype == "bfloat16" else 4)
    truths = np.array(exact["log_z"])
    rows = [
        {
            "what": "exact (torch)",
            "µs/query": exact["microseconds"],
            "times faster than exact": 1.0,
            "peak GiB": exact_phases["hold"]["peak"] / GIB,
        }
    ]
    for probes, found in ours["probes"].items():
        rows.append(
            {
                "what": f"Hardwood, {probes} probes",
                "µs/query": found["microseconds"],
                "times faster than exact": exact["microseconds"] / found["microseconds"],
                "error of log Z": float(np.abs(np.array(found["log_z"]) - truths).mean()),
                "peak GiB": max(phase["peak"] for phase in phases.values()) / GIB,
            }
        )
    built = phases["build"]
    facts = {
        "targets": arguments.large,
        "build_seconds": built["seconds"],
        "of_which_making_the_data": phases["generate"]["seconds"],
        "build_peak_GiB": built["peak"] / GIB,
        "build_peak_by_vectors": (built["peak"] - built["start"]) / size,
        "first_sample_seconds": ours["first"],
        "index": ours["index"],
    }
    finish(arguments, f"tree_large_{arguments.large}", rows, **facts)


def _start(arguments: argparse.Namespace) -> tuple[Clusters, Array]:
    clusters = Clusters(arguments.large, arguments.dim, arguments.seed)
    return clusters, clusters.queries(arguments.batch)


def run_ours(arguments: argparse.Namespace) -> None:
    """The child that builds from the stream and samples."""
    _ours.warm_up(arguments.dtype)
    clusters, queries = _start(arguments)
    emit("generate")
    for _ in clusters:
        pass
    emit("build")
    options = {"dtype": arguments.dtype, "leaf_size": arguments.leaf_size}
    index = _ours.build(iter(clusters), arguments.threads, arguments.seed, **options)
    emit("sample")
    first = None
    found: dict[int, Any] = {}
    for probes in arguments.probes:
        draw = partial(index.sample, queries, arguments.k, scale=arguments.scale, probes=probes, seed=0)
        spent, drawn = timed(draw)
        first = spent if first is None else first
        taken = interleave({"ours": draw}, arguments.repeats)["ours"]
        found[probes] = {
            "microseconds": 1e6 * taken / len(queries),
            "log_z": np.asarray(drawn.log_z).tolist(),
        }
    emit("result", probes=found, first=first, index=repr(index))


def run_exact(arguments: argparse.Namespace) -> None:
    """The child that holds all targets in bfloat16 and samples exactly, a block at a time."""
    clusters, queries = _start(arguments)
    emit("hold")
    targets = torch.empty(arguments.large, arguments.dim, dtype=torch.bfloat16)
    for number, rows in enumerate(clusters):
        start = number * clusters.chunk
        targets[start : start + len(rows)] = torch.as_tensor(rows)
    sampler, generator = ExactSampler(targets), torch.Generator().manual_seed(0)
    draw = partial(sampler.blocked, queries, arguments.k, arguments.scale, generator)
    taken = interleave({"exact": draw}, min(3, arguments.repeats))["exact"]
    log_z = truth(targets, queries, arguments.scale).log_z
    emit("result", microseconds=1e6 * taken / len(queries), log_z=log_z.tolist())


if __name__ == "__main__":
    main()
