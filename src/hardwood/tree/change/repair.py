"""Repair: what change has worn is made anew, and only that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.bfloat16 import decoded
from hardwood.tree.arrays.nodes import Ints, is_large, spare_rows
from hardwood.tree.arrays.statistics import with_covariances
from hardwood.tree.change.tree import Tree
from hardwood.tree.construct.layout import room_for
from hardwood.tree.construct.leaves import CHUNK, group_count

MERGE_BELOW = 8
"""A leaf of less than this part of the leaf size is dissolved."""

HOLLOW = 3
"""A group with so many times more leaves than its targets need is rebuilt."""

LEAVES_AT_ONCE = 4096


def repair(tree: Tree, factor: float, threads: int) -> dict[str, int]:
    """What `TargetIndex.repair` does."""
    tree.settle(np.flatnonzero(tree.nodes.leaf_group >= 0), threads)
    _dissolve(tree, _surplus(tree), threads)
    worn = np.flatnonzero(_worn(tree, factor))
    _rebuild(tree, worn, threads)
    merged = _merge(tree, threads)
    compacted = compact(tree, 4)
    if 8 * tree.changed > len(tree.ids):
        tree.changed = 0
        tree.nodes = with_covariances(tree.nodes, np.random.default_rng(len(tree.ids)))
    return {
        "groups_rebuilt": len(worn),
        "leaves_merged": merged,
        "rows_given_back": compacted,
        "groups": len(tree.nodes.group_count),
    }


def _worn(tree: Tree, factor: float) -> NDArray[np.bool_]:
    """Groups whose leaves spread ``factor`` times wider than when last built, or are on average less than a third
    full."""
    nodes = tree.nodes
    wide = tree.group_spread() > factor * tree.reference + 1e-30
    few = np.maximum(1, np.round(nodes.group_count / tree.leaf_size))
    hollow = np.diff(nodes.group_offsets) > HOLLOW * few
    return np.asarray((wide | hollow) & (nodes.group_count > 0))


def _rebuild(tree: Tree, worn: Ints, threads: int) -> None:
    """Makes the leaves of these groups anew."""
    if not len(worn):
        return
    # Where a group has worn, so may have its border: first let its targets go to where they are nearest now.
    rows = tree.live_rows(np.flatnonzero(np.isin(tree.nodes.leaf_group, worn)))
    ids = tree.nodes.row_id[rows]
    for start in range(0, len(ids), CHUNK):
        rows = tree.ids.find(ids[start : start + CHUNK])
        tree.write(rows, decoded(tree.nodes.rows[rows]), threads)
    made: list[Ints] = []
    for group in worn[tree.nodes.group_count[worn] > 0]:
        old = np.flatnonzero(tree.nodes.leaf_group == group)
        rows = tree.live_rows(old)
        block, ids = tree.nodes.rows[rows], tree.nodes.row_id[rows]
        made.append(tree.rehouse(old, block, ids, int(group)))
    tree.settle(tree.distinct(made), threads)
    tree.reference[worn] = tree.group_spread()[worn]


def _merge(tree: Tree, threads: int) -> int:
    """Dissolves leaves of less than ``leaf_size / MERGE_BELOW``: each target goes to the nearest leaf that stays.
    The largest leaf of a group does. Returns how many are gone."""
    nodes = tree.nodes
    small = (nodes.leaf_group >= 0) & (MERGE_BELOW * nodes.leaf_count < tree.leaf_size)
    live = np.flatnonzero(nodes.leaf_group >= 0)
    by_size = live[np.argsort(nodes.leaf_count[live], kind="stable")]
    largest = np.full(len(nodes.group_count), -1)
    largest[nodes.leaf_group[by_size]] = by_size
    small[largest[largest >= 0]] = False
    return _dissolve(tree, np.flatnonzero(small), threads)


def _surplus(tree: Tree) -> Ints:
    """Where most targets have gone, so that there are twice the groups a new tree would have: the leaves of the
    smallest ones, down to as many."""
    nodes = tree.nodes
    live = np.flatnonzero(nodes.group_count > 0)
    needed = group_count(max(1, round(len(tree.ids) / tree.leaf_size)))
    if len(live) <= 2 * needed:
        return np.zeros(0, dtype=np.int64)
    smallest = live[np.argsort(nodes.group_count[live], kind="stable")[: len(live) - needed]]
    return np.flatnonzero(np.isin(nodes.leaf_group, smallest))


def _dissolve(tree: Tree, leaves: Ints, threads: int) -> int:
    """Each target of these leaves goes to the nearest leaf that stays. Returns how many are gone."""
    if not len(leaves):
        return 0
    nodes = tree.nodes
    rows = tree.live_rows(leaves)
    stored, ids = nodes.rows[rows], nodes.row_id[rows]
    tree.leaf_half[leaves] = np.inf
    stay = np.setdiff1d(np.flatnonzero(nodes.leaf_group >= 0), leaves)
    tree.group_half[np.setdiff1d(nodes.leaf_group[leaves], nodes.leaf_group[stay])] = np.inf
    there = tree.place(decoded(stored), None, threads)
    tree.drop(rows)
    tree.settle(tree.distinct([leaves, tree.insert(stored, ids, there)]), threads)
    return len(leaves)


def keep_compact(tree: Tree) -> bool:
    """Before a change: of a tree of millions no more than an eighth of the rows lies idle. Returns whether rows have
    moved.

    Where the encoder moves fast, leaves outgrow their blocks by the thousand, and what they leave behind is too small
    for the others: a refresh of twenty million targets would use half as many rows again before `repair` comes.
    """
    return is_large(tree.used) and compact(tree, 8) > 0


def compact(tree: Tree, part: int) -> int:
    """Where that frees more than one of ``part`` rows in use: leaves move down over the gaps, in place, each with
    the room a new one gets. Returns the number of rows given back."""
    nodes, before = tree.nodes, tree.used
    live = np.flatnonzero(nodes.leaf_group >= 0)
    rooms = np.minimum(nodes.leaf_room[live], room_for(nodes.leaf_count[live]))
    if part * (before - int(rooms.sum())) <= before:
        return 0
    order = np.argsort(nodes.leaf_start[live])
    live, rooms = live[order], rooms[order]
    starts = np.cumsum(rooms) - rooms
    # No leaf begins later than before, and none reaches into the next one's old block: order makes it safe.
    for first in range(0, len(live), LEAVES_AT_ONCE):
        some = slice(first, first + LEAVES_AT_ONCE)
        tree.move(live[some], starts[some], rooms[some])
    tree.used = int(rooms.sum())
    tree.free.clear()
    if len(nodes.row_id) > 2 * tree.used + 64:
        tree.resize(tree.used + spare_rows(tree.used))
    return before - tree.used
