"""Sampling error against the share of targets opened, on real encodings, beside flat isotropic clusters."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from benchmarks._report import COLOURS, Row, curve, figure, finish, log_ticks, parser, set_threads
from benchmarks.tree import _ours
from benchmarks.tree._data import load
from benchmarks.tree._peers import FlatClusters, Truth, relative_error, truth

from hardwood._palette import colour_of

if TYPE_CHECKING:
    from _data import Array

    from hardwood import TargetIndex

MEASURES = {
    "error of log Z": "mean absolute error of log Z",
    "total variation": "total variation between q and P",
    "error of E[y]": "relative error of $E_P[y]$",
}


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", default="taxa", choices=("taxa", "hpo", "synthetic"))
    made.add_argument("--n", type=int, default=100_000, help="synthetic targets (200,000 at most)")
    made.add_argument("--dim", type=int, default=384)
    made.add_argument("--scales", type=float, nargs="+", default=[20.0, 50.0])
    made.add_argument("--opened", type=float, nargs="+", default=[0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16])
    made.add_argument("--queries", type=int, default=256)
    made.add_argument("--cells", type=int, default=1_024, help="of the flat index")
    made.add_argument("--leaf-sizes", type=int, nargs="+", default=[32, 64])
    arguments = made.parse_args()
    if arguments.quick:
        arguments.queries, arguments.opened = 64, [0.005, 0.02, 0.08]
        arguments.leaf_sizes = arguments.leaf_sizes[-1:]
    return arguments


def main() -> None:
    """Run it."""
    arguments = options()
    set_threads(arguments.threads)
    targets, queries = load(arguments.data, arguments.n, arguments.dim, arguments.queries, arguments.seed)
    flat = FlatClusters(targets, arguments.cells, seed=arguments.seed)
    indexes = {
        size: _ours.build(targets, arguments.threads, arguments.seed, leaf_size=size) for size in arguments.leaf_sizes
    }
    rows = []
    for scale in arguments.scales:
        exact = truth(targets, queries, scale)
        rows += flat_rows(arguments, flat, queries, scale, exact)
        for size, index in indexes.items():
            what = f"Hardwood, leaves of {size}"
            rows += our_rows(
                arguments, what=what, index=index, targets=targets, queries=queries, scale=scale, exact=exact
            )
    name = f"tree_error_{arguments.data}_{arguments.dim}"
    finish(arguments, name, rows, targets=len(targets))
    draw_figure(arguments, name, rows)


def flat_rows(
    arguments: argparse.Namespace, flat: FlatClusters, queries: Array, scale: float, exact: Truth
) -> list[Row]:
    """The peer's curve, in batches of queries so that ``(B, n)`` float64 fits."""
    probes = [max(1, round(share * len(flat.sizes))) for share in arguments.opened]
    parts = [flat.estimates(part, scale, probes) for part in np.array_split(queries, -(-len(queries) // 32))]
    rows = []
    for count in dict.fromkeys(probes):
        found = [part[count] for part in parts]
        log_z = np.concatenate([part.log_z for part in found])
        mean = np.concatenate([part.expectation for part in found])
        rows.append(
            {
                "scale": scale,
                "what": f"flat clusters ({len(flat.sizes):,})",
                "probes": count,
                "opened": float(np.concatenate([part.opened for part in found]).mean()),
                "error of log Z": float(np.abs(log_z - exact.log_z).mean()),
                "total variation": float(np.concatenate([part.total_variation for part in found]).mean()),
                "error of E[y]": relative_error(mean, exact.expectation),
            }
        )
    return rows


def our_rows(
    arguments: argparse.Namespace,
    *,
    what: str,
    index: TargetIndex,
    targets: Array,
    queries: Array,
    scale: float,
    exact: Truth,
) -> list[Row]:
    """Our curve: probes chosen so that about the wanted shares are opened, and what was opened measured."""
    wanted = dict.fromkeys(max(1, round(share * index.stats()["leaves"])) for share in arguments.opened)
    rows = []
    for probes in wanted:
        log_z = index.sample(queries, 1, scale=scale, probes=probes, seed=0).log_z
        mean = index.expectation(queries, scale=scale, probes=probes)
        rows.append(
            {
                "scale": scale,
                "what": what,
                "probes": probes,
                "opened": _ours.sample_opened(index, queries, scale, probes),
                "error of log Z": float(np.abs(log_z - exact.log_z).mean()),
                "total variation": total_variation(index, targets, queries, scale=scale, probes=probes, exact=exact),
                "error of E[y]": relative_error(mean, exact.expectation),
            }
        )
    return rows


def total_variation(
    index: TargetIndex, targets: Array, queries: Array, *, scale: float, probes: int, exact: Truth
) -> float:
    """``½ Σ_i |q_i - P_i|`` over every target, mean over queries."""
    found = []
    for rows in np.array_split(np.arange(len(queries)), -(-len(queries) // 32)):
        q = _ours.proposal(index, queries[rows], scale, probes)
        scores = scale * (queries[rows] @ targets.T).astype(np.float64)
        q -= np.exp(scores - exact.log_z[rows, None])
        found.append(0.5 * np.abs(q).sum(1))
    return float(np.concatenate(found).mean())


def draw_figure(arguments: argparse.Namespace, name: str, rows: list[Row]) -> None:
    """A panel for each measure; full lines at the first scale, dashed at the second."""
    with figure(arguments, name, panels=len(MEASURES)) as axes:
        for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
            for scale, line in zip(arguments.scales, ("-", "--", ":"), strict=False):
                for what, colour in zip(dict.fromkeys(row["what"] for row in rows), _colours(), strict=False):
                    mine = [row for row in rows if row["what"] == what and row["scale"] == scale]
                    style = {"linestyle": line, "color": colour}
                    curve(axis, mine, "opened", measure, f"{what}, scale {scale:g}", **style)
            log_ticks(axis)
            axis.set(xlabel="share of the targets opened", ylabel=label)


def _colours() -> list[str]:
    """Of the flat index, and of ours by leaf size."""
    ours = (COLOURS["Hardwood"], colour_of("dynamic", dark=True))
    return [COLOURS["flat clusters"], *ours, colour_of("periodic"), colour_of("cache")]


if __name__ == "__main__":
    main()
