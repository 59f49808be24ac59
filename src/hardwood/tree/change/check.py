"""Every invariant of a tree, verified one by one; and its quality in numbers."""

from __future__ import annotations

import numpy as np

from hardwood.errors import DataError
from hardwood.tree.arrays.bfloat16 import decoded
from hardwood.tree.arrays.bounds import LOG_COUNT, RADIUS, REACH, SPREAD
from hardwood.tree.arrays.nodes import Nodes, group_lists
from hardwood.tree.change.repair import MERGE_BELOW
from hardwood.tree.change.tree import Tree

LEAVES_AT_ONCE = 1024


def stats(tree: Tree) -> dict[str, float]:
    """What `TargetIndex.stats` returns.

    Of wear: ``wear_mean`` and ``wear_max`` are the mean squared distance of targets from their leaf's mean, by what it
    was when their group was built; ``small_leaves`` are those that `repair` may dissolve; ``rows_idle`` are rows in
    use that hold no target (room beside leaves and blocks given back); ``changed`` counts targets written, added or
    removed since the covariance shapes were measured.
    """
    nodes = tree.nodes
    live = nodes.leaf_group >= 0
    counts, n = nodes.leaf_count[live], len(tree.ids)
    filled = nodes.group_count > 0
    spread, was = tree.group_spread()[filled], tree.reference[filled]
    with np.errstate(over="ignore"):
        worn = spread[was > 0] / was[was > 0]  # where targets lay in one point, nothing can be said
    return {
        "targets": n,
        "leaves": int(live.sum()),
        "groups": int(filled.sum()),
        "largest_leaf": int(counts.max(initial=0)),
        "mean_leaf": float(counts.mean()) if len(counts) else 0.0,
        "rows_used": int(tree.used),
        "rows_idle": int(tree.used - n),
        "mean_radius": float(counts @ nodes.leaf_stats[live, RADIUS] / max(n, 1)),
        "mean_spread": float(counts @ nodes.leaf_stats[live, SPREAD] / max(n, 1)),
        "small_leaves": int((MERGE_BELOW * counts < tree.leaf_size).sum()),
        "changed": int(tree.changed),
        "wear_mean": float(worn.mean()) if len(worn) else 1.0,
        "wear_max": float(worn.max(initial=1.0)),
        "spilled": len(tree.spill.rows),
        "sketched": len(tree.ids) if len(tree.sketch.step) else 0,
        "bytes": int(sum(array.nbytes for array in (*nodes, *tree.spill, *tree.sketch))),
    }


def _must(good: object, what: str) -> None:
    if not good:
        raise DataError(f"the index is damaged: {what}. Load it from a good copy or build it anew.")


def check(tree: Tree) -> None:
    """What `TargetIndex.check` does."""
    nodes = tree.nodes
    live = np.flatnonzero(nodes.leaf_group >= 0)
    _must((nodes.leaf_count >= 0).all(), "a leaf has a negative count")
    _must((nodes.leaf_count <= nodes.leaf_room).all(), "a leaf holds more than its room")
    _must((nodes.leaf_count[live] > 0).all(), "a live leaf is empty")
    _must((nodes.leaf_count[nodes.leaf_group < 0] == 0).all(), "a dead leaf holds targets")
    order = live[np.argsort(nodes.leaf_start[live])]
    ends = nodes.leaf_start[order] + nodes.leaf_room[order]
    _must((ends[:-1] <= nodes.leaf_start[order][1:]).all(), "two leaves overlap")
    _must(not len(order) or ends[-1] <= tree.used <= len(nodes.row_id), "a leaf reaches beyond the rows in use")
    offsets, leaves = group_lists(nodes.leaf_group, len(nodes.group_count))
    _must(np.array_equal(offsets, nodes.group_offsets), "the groups' lists do not match the leaves' groups")
    _must(
        np.array_equal(np.sort(leaves), np.sort(nodes.group_leaves)),
        "the groups' lists do not match the leaves' groups",
    )
    rows = tree.live_rows()
    _must(len(rows) == len(tree.ids), "the numbers of rows and of ids differ")
    _must(np.array_equal(tree.ids.find(nodes.row_id[rows]), rows), "an id does not lead to its row")
    _must(
        (nodes.row_leaf[rows] == np.repeat(np.arange(len(nodes.leaf_count)), nodes.leaf_count)).all(),
        "a row names another leaf",
    )
    for start in range(0, len(live), LEAVES_AT_ONCE):
        _check_leaves(tree, live[start : start + LEAVES_AT_ONCE])
    for group in np.flatnonzero(nodes.group_count > 0):
        _check_group(nodes, int(group))
    counts = np.bincount(nodes.leaf_group[live], weights=nodes.leaf_count[live], minlength=len(nodes.group_count))
    _must((counts == nodes.group_count).all(), "a group's count is not the sum of its leaves'")


def _check_leaves(tree: Tree, leaves: np.ndarray) -> None:
    nodes = tree.nodes
    rows = tree.live_rows(leaves)
    y = decoded(nodes.rows[rows]).astype(np.float64)
    _must(np.isfinite(y).all(), "a stored vector is not finite")
    edges = np.cumsum(nodes.leaf_count[leaves]) - nodes.leaf_count[leaves]
    owner = np.repeat(np.arange(len(leaves)), nodes.leaf_count[leaves])
    mean = np.add.reduceat(y, edges, axis=0) / nodes.leaf_count[leaves][:, None]
    reach = np.maximum.reduceat(np.sqrt((y * y).sum(axis=1)), edges)
    slack = 1e-6 * reach + 1e-37
    wrong = np.sqrt(((mean - nodes.leaf_mean[leaves]) ** 2).sum(axis=1)) > slack
    _must(not wrong.any(), "a leaf's mean is not the mean of its targets")
    gap = np.sqrt(((y - nodes.leaf_mean[leaves][owner]) ** 2).sum(axis=1))
    _must(
        (nodes.leaf_stats[leaves, RADIUS] >= np.maximum.reduceat(gap, edges)).all(),
        "a target lies outside its leaf's radius",
    )
    _must((nodes.leaf_stats[leaves, REACH] >= reach).all(), "a target is longer than its leaf's reach")
    counted = np.log(nodes.leaf_count[leaves])
    _must(
        (np.abs(nodes.leaf_stats[leaves, LOG_COUNT] - counted) <= 1e-12).all(), "a leaf's count has another logarithm"
    )


def _check_group(nodes: Nodes, group: int) -> None:
    leaves = nodes.group_leaves[nodes.group_offsets[group] : nodes.group_offsets[group + 1]]
    counts = nodes.leaf_count[leaves].astype(np.float64)
    means = nodes.leaf_mean[leaves].astype(np.float64)
    gap = np.sqrt(((means - nodes.group_mean[group]) ** 2).sum(axis=1)) + nodes.leaf_stats[leaves, RADIUS]
    stats = nodes.group_stats[group]
    _must(stats[RADIUS] >= gap.max(), "a leaf's ball reaches out of its group's")
    _must(stats[REACH] >= nodes.leaf_stats[leaves, REACH].max(), "a group's reach is below a leaf's")
    _must(abs(stats[LOG_COUNT] - np.log(counts.sum())) <= 1e-12, "a group's count has another logarithm")
    drift = np.sqrt(((counts @ means / counts.sum() - nodes.group_mean[group]) ** 2).sum())
    _must(drift <= 1e-6 * stats[REACH] + 1e-37, "a group's mean is not the mean of its targets")
