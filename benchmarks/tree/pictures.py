"""Pictures for docs/concepts/tree.md: a tree over points of the plane, and bounds that close as leaves open.

python -m benchmarks.tree.pictures docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

from hardwood import TargetIndex

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Points in a hierarchy of clusters, float32."""
    rng = np.random.default_rng(seed)
    wide = rng.normal(size=(8, d))
    narrow = wide[rng.integers(0, 8, 60)] + 0.35 * rng.normal(size=(60, d))
    return (narrow[rng.integers(0, 60, n)] + 0.12 * rng.normal(size=(n, d))).astype(np.float32)


def balls(path: Path) -> None:
    """Leaves and groups of a small tree in the plane, by their means and covering radii."""
    y = points(1200, 2)
    nodes = TargetIndex.build(y, leaf_size=24, progress=False)._tree.nodes
    figure, axis = plt.subplots(figsize=(6, 6))
    axis.scatter(*y.T, s=3, color="0.5")
    for leaf in np.flatnonzero(nodes.leaf_group >= 0):
        colour = f"C{nodes.leaf_group[leaf] % 10}"
        axis.add_patch(Circle(nodes.leaf_mean[leaf], nodes.leaf_stats[leaf, 0], fill=False, lw=0.8, color=colour))
    for group in np.flatnonzero(nodes.group_count > 0):
        colour = f"C{group % 10}"
        axis.add_patch(
            Circle(nodes.group_mean[group], nodes.group_stats[group, 0], fill=False, lw=1.5, ls=":", color=colour)
        )
    axis.set(aspect="equal", title="Leaves (solid) and their groups (dotted)")
    figure.savefig(path / "tree_balls.png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def closing(path: Path) -> None:
    """The certificate of one query as leaves are opened, at two scales."""
    y = points(20_000, 32)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    index = TargetIndex.build(y, leaf_size=32, progress=False)
    budgets = np.unique(np.geomspace(1, index.stats()["leaves"], 40).astype(int))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, scale in zip(axes, (5.0, 20.0), strict=True):
        parts = [index.log_partition(y[:1], scale=scale, probes=int(b)) for b in budgets]
        axis.fill_between(
            budgets, [p.lower[0] for p in parts], [p.upper[0] for p in parts], alpha=0.3, label="certified"
        )
        axis.plot(budgets, [p.estimate[0] for p in parts], label="estimate")
        axis.set(xscale="log", xlabel="leaves opened", ylabel="log Z", title=f"scale {scale:g}")
    axes[0].legend()
    figure.savefig(path / "tree_bounds.png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Writes both pictures into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    balls(folder)
    closing(folder)


if __name__ == "__main__":
    main()
