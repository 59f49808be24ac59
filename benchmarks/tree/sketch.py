"""What a sketch costs and saves: how far its choice within a leaf is from the exact one, and a draw's time with rows
and with it."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from benchmarks._report import Row, finish, interleave, parser, set_threads
from benchmarks.tree import _ours
from benchmarks.tree._data import load

from hardwood.tree.arrays.nodes import NO_SKETCH, Sketch

if TYPE_CHECKING:
    from _data import Array

    from hardwood import TargetIndex

LEAVES, EVERY = 20, 20
"""Leaves looked at for each query: every so many of those with the best means."""


def options() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--data", default="synthetic", choices=("synthetic", "taxa", "hpo"))
    made.add_argument("--n", type=int, default=1_000_000, help="synthetic targets")
    made.add_argument("--dim", type=int, default=128)
    made.add_argument("--scales", type=float, nargs="+", default=[20.0, 50.0, 100.0])
    made.add_argument("--probes", type=int, default=2)
    made.add_argument("--queries", type=int, default=64)
    arguments = made.parse_args()
    if arguments.quick:
        arguments.n = min(arguments.n, 50_000)
    return arguments


def main() -> None:
    """Run it."""
    arguments = options()
    set_threads(arguments.threads)
    targets, queries = load(arguments.data, arguments.n, arguments.dim, arguments.queries, arguments.seed)
    index = _ours.build(targets, arguments.threads, sketch=True)
    kept = {"rows": NO_SKETCH, "sketch": index._tree.sketch}
    rows: list[Row] = []
    for scale in arguments.scales:
        calls = {what: partial(draw, index, sketch, queries, scale, arguments.probes) for what, sketch in kept.items()}
        seconds = interleave(calls, arguments.repeats)
        rows.append(
            {"d": arguments.dim, "scale": scale}
            | {f"µs/query, {what}": 1e6 * seconds[what] / len(queries) for what in kept}
            | {"times faster": seconds["rows"] / seconds["sketch"]}
            | {
                f"χ² in a leaf, {bits} bits, {name}": float(value)
                for bits in (8, 4)
                for name, value in chi_squared(index, queries, scale, 2 ** (bits - 1) - 1).items()
            }
        )
    finish(arguments, f"sketch_{arguments.data}_{arguments.dim}", rows)


def draw(index: TargetIndex, sketch: Sketch, queries: Array, scale: float, probes: int) -> None:
    """One call of `sample`, with this sketch."""
    index._tree.sketch = sketch
    index.sample(queries, 16, scale=scale, probes=probes, bounds=False, seed=0)


def chi_squared(index: TargetIndex, queries: Array, scale: float, steps: int) -> dict[str, float]:
    """``χ² = Σ p² / q - 1`` within a leaf, ``p`` its softmax and ``q`` that of residuals rounded to ``2 steps + 1``
    values: the mean over leaves, and the largest."""
    nodes = index._tree.nodes
    found = []
    for x in queries:
        best = np.argsort(-(nodes.leaf_mean @ x))[: LEAVES * EVERY : EVERY]
        for leaf in best[nodes.leaf_count[best] > 0]:
            start = nodes.leaf_start[leaf]
            residual = nodes.rows[start : start + nodes.leaf_count[leaf]] - nodes.leaf_mean[leaf]
            step = max(float(np.abs(residual).max()) / steps, 1e-30)
            p, q = softmax(scale * (residual @ x)), softmax(scale * step * (np.rint(residual / step) @ x))
            found.append((p * p / q).sum() - 1.0)
    return {"mean": np.mean(found), "largest": np.max(found)}


def softmax(scores: Array) -> Array:
    """Of one leaf."""
    weights = np.exp(scores.astype(np.float64) - scores.max())
    return weights / weights.sum()


if __name__ == "__main__":
    main()
