"""The tree built (time and memory against FAISS IVF), updated, and repaired after every vector has moved."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks._report import COLOURS, Row, emit, figure, finish, parser, set_threads, table, timed, watch
from benchmarks.tree import _ours
from benchmarks.tree._data import Array, Clusters, unit
from benchmarks.tree._peers import empty_ivf, relative_error, truth

from hardwood._palette import colour_of

if TYPE_CHECKING:
    from hardwood import TargetIndex

WRITTEN = 65_536
SCALES = (20.0, 50.0)
STATES = (colour_of("in-batch"), COLOURS["Hardwood"], colour_of("dynamic", dark=True))
"""Of an index whose vectors were written and not repaired, one repaired, and a fresh build."""


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--n", type=int, default=1_000_000)
    made.add_argument("--dim", type=int, default=128)
    made.add_argument("--leaf-size", type=int, default=64)
    made.add_argument("--cells", type=int, nargs="*", default=[4_096], help="IVF sizes beside that of our leaves")
    made.add_argument("--skip-equal", action="store_true", help="leave out the IVF with as many cells as leaves")
    made.add_argument("--updated", type=int, default=1_000)
    made.add_argument("--probes", type=int, nargs="+", default=[16, 64], help="for the quality after repair")
    made.add_argument("--drift", type=float, default=0.95, help="mean cosine between a vector and its moved self")
    made.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    made.add_argument("--child-cells", type=int, default=0, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.quick:
        arguments.n, arguments.cells = min(arguments.n, 100_000), [1_024]
    return arguments


def main() -> None:
    """Write the vectors once, then let a child for each builder read them as a memmap."""
    arguments = options()
    set_threads(arguments.threads)
    if arguments.child:
        return CHILDREN[arguments.child[0]](arguments, Path(arguments.child[1]))
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(arguments, Path(folder))
        result, phases = child(arguments, "ours", folder)
        rows = our_rows(arguments, result, phases)
        cells = [] if arguments.skip_equal else [int(result["leaves"])]
        for count in [*cells, *arguments.cells]:
            rows.append(ivf_row(arguments, count, *child(arguments, "ivf", folder, count)))
    for row in rows:
        row["times of our build"] = row["seconds"] / rows[0]["seconds"]
    states = [{"state": state, **values} for state, values in result["quality"].items()]
    print("\n" + table(states))
    finish(arguments, "tree_build", rows, quality=result["quality"], stats=result["stats"])
    draw_figure(arguments, rows, result["quality"])
    return None


def child(arguments: argparse.Namespace, what: str, folder: str, cells: int = 0) -> tuple[Row, dict[str, Row]]:
    """One builder in a process of its own, its memory followed from here."""
    names = ("n", "dim", "leaf_size", "threads", "seed", "updated", "repeats")
    passed = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    passed += ["--probes", *map(str, arguments.probes)]
    return watch("benchmarks.tree.build", *passed, "--child", what, str(folder), "--child-cells", str(cells))


def write_vectors(arguments: argparse.Namespace, folder: Path) -> None:
    """The targets, the same after drifting, and queries, as .npy files."""
    clusters = Clusters(arguments.n, arguments.dim, arguments.seed)
    shape = (arguments.n, arguments.dim)
    before = np.lib.format.open_memmap(folder / "before.npy", "w+", np.float32, shape)
    clusters.all(before)
    after = np.lib.format.open_memmap(folder / "after.npy", "w+", np.float32, shape)
    for number, rows in enumerate(clusters):
        start = number * clusters.chunk
        after[start : start + len(rows)] = drifted(rows, arguments.drift, arguments.seed, number)
    before.flush()
    after.flush()
    np.save(folder / "queries.npy", clusters.queries(min(1_024, arguments.n // 100)))


def drifted(rows: Array, cosine: float, seed: int, number: int) -> Array:
    """Rows moved as fine-tuning moves them: mostly a smooth motion of rank 16, a quarter of its own."""
    d = rows.shape[1]
    shared = np.random.default_rng([seed, 7])
    away = shared.standard_normal((d, 16), dtype=np.float32) @ shared.standard_normal((16, d), dtype=np.float32)
    motion = unit(rows @ away)
    own = np.random.default_rng([seed, 8, number]).standard_normal(rows.shape, dtype=np.float32)
    motion = unit(motion + 0.5 * unit(own))
    motion -= (motion * rows).sum(1, keepdims=True) * rows
    return unit(rows + float(np.sqrt(1 / cosine**2 - 1)) * unit(motion))


def run_ours(arguments: argparse.Namespace, folder: Path) -> None:
    """The child that builds, updates, drifts, repairs, and builds afresh."""
    _ours.warm_up()
    before, after = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("before", "after"))
    queries = np.load(folder / "queries.npy")
    make = partial(_ours.build, threads=arguments.threads, seed=arguments.seed, leaf_size=arguments.leaf_size)
    make(before[:4_096])  # a memmap may need kernels of its own
    emit("build")
    index = make(before)
    emit("after build")
    stats = index.stats()
    rng = np.random.default_rng(1)
    spent = []
    for _ in range(arguments.repeats):
        ids = rng.choice(arguments.n, arguments.updated, replace=False)
        fresh = after[np.sort(ids)]
        spent.append(timed(partial(index.update, np.sort(ids), fresh))[0])
    emit("write all")
    for start, rows in written(after):
        index.update(rows, np.arange(start, start + len(rows)))
    emit("after write")
    stale = errors(index, after, queries, arguments.probes)
    emit("repair")
    repaired = index.repair()
    emit("after repair")
    quality = {"written, not repaired": stale, "repaired": errors(index, after, queries, arguments.probes)}
    del index
    emit("fresh build")
    index = make(after)
    emit("after fresh build")
    quality["fresh build"] = errors(index, after, queries, arguments.probes)
    emit(
        "result",
        update=float(np.median(spent)),
        leaves=stats["leaves"],
        quality=quality,
        stats=stats,
        repaired=repaired,
    )


def written(vectors: Array) -> Iterator[tuple[int, Array]]:
    """Chunks of a memmap as plain arrays, with where each starts."""
    for start in range(0, len(vectors), WRITTEN):
        yield start, np.array(vectors[start : start + WRITTEN])


def errors(index: TargetIndex, targets: Array, queries: Array, probes: list[int]) -> dict[str, float]:
    """Relative error of ``E_P[y]`` and absolute error of log Z, by scale and probes."""
    found = {}
    for scale in SCALES:
        exact = truth(np.asarray(targets), queries, scale)
        for count in probes:
            mean = index.expectation(queries, scale=scale, probes=count)
            log_z = index.sample(queries, 1, scale=scale, probes=count, seed=0).log_z
            case = f"scale {scale:g}, {count} probes"
            found[f"E[y], {case}"] = relative_error(mean, exact.expectation)
            found[f"log Z, {case}"] = float(np.abs(log_z - exact.log_z).mean())
    return found


def run_ivf(arguments: argparse.Namespace, folder: Path) -> None:
    """The child that trains an IVF-Flat and adds everything, from the same memmap."""
    vectors = np.load(folder / "before.npy", mmap_mode="r")
    index = empty_ivf(arguments.dim, arguments.child_cells)
    emit("train")
    index.train(vectors)
    emit("add")
    for _, rows in written(vectors):
        index.add(rows)
    emit("result")


CHILDREN = {"ours": run_ours, "ivf": run_ivf}


def our_rows(arguments: argparse.Namespace, result: Row, phases: dict[str, Row]) -> list[Row]:
    """A row for each thing that we did."""
    size = 4 * arguments.n * arguments.dim
    rows = []
    for phase in ("build", "write all", "repair", "fresh build"):
        taken = phases[phase]
        peak = (taken["peak"] - phases["build"]["start"]) / size
        rows.append({"what": f"Hardwood: {phase}", "seconds": taken["seconds"], "peak / vectors": peak})
    both = phases["write all"]["seconds"] + phases["repair"]["seconds"]
    rows.append({"what": "Hardwood: write all + repair", "seconds": both})
    rows.append({"what": f"Hardwood: update of {arguments.updated:,}", "seconds": result["update"]})
    return rows


def ivf_row(arguments: argparse.Namespace, cells: int, _: Row, phases: dict[str, Row]) -> Row:
    """Train and add together."""
    peak = max(phase["peak"] for phase in phases.values()) - phases["train"]["start"]
    seconds = sum(phase["seconds"] for phase in phases.values())
    size = 4 * arguments.n * arguments.dim
    return {
        "what": f"IVF-Flat, {cells:,} cells: train + add",
        "seconds": seconds,
        "peak / vectors": peak / size,
    }


def draw_figure(arguments: argparse.Namespace, rows: list[Row], quality: dict[str, dict[str, float]]) -> None:
    """Time of everything; quality after drift, beside a fresh build's."""
    with figure(arguments, "tree_build", panels=2) as axes:
        names = [row["what"] for row in rows][::-1]
        colours = [COLOURS["Hardwood" if name.startswith("Hardwood") else "IVF-Flat"] for name in names]
        axes[0].barh(names, [row["seconds"] for row in rows][::-1], color=colours)
        axes[0].set(xscale="log", xlabel=f"seconds ({arguments.n:,} × {arguments.dim})")
        axes[0].tick_params(axis="y", labelsize=7)
        cases = [case for case in quality["fresh build"] if case.startswith("E[y]")]
        for at, (state, colour) in enumerate(zip(quality, STATES, strict=True)):
            places = np.arange(len(cases)) + 0.27 * (at - 1)
            axes[1].bar(places, [quality[state][case] for case in cases], 0.25, label=state, color=colour)
        axes[1].set_xticks(range(len(cases)), [case[6:].replace(", ", "\n") for case in cases], fontsize=7)
        axes[1].set_ylabel("relative error of $E_P[y]$")
        axes[1].margins(y=0.35)


if __name__ == "__main__":
    main()
