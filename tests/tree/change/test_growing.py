"""Leaves that split: the arrays of leaves grow as a list does, not by a copy for each."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from hardwood.tree import TargetIndex
from hardwood.tree.change import tree as tree_module


def test_leaf_arrays_are_copied_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    resized = tree_module.resized

    def counted(nodes: Any, axis: str, used: int, size: int) -> Any:
        copies.append(axis)
        return resized(nodes, axis, used=used, size=size)

    rng = np.random.default_rng(0)
    index = TargetIndex.build(rng.normal(size=(2_000, 8)), leaf_size=4, progress=False)
    monkeypatch.setattr(tree_module, "resized", counted)
    leaves = len(index._tree.nodes.leaf_count)
    for begin in range(2_000, 6_000, 100):  # all in one place: leaf after leaf splits
        index.add(3 + 0.1 * rng.normal(size=(100, 8)), np.arange(begin, begin + 100))
        index.check()
    grown = len(index._tree.nodes.leaf_count) - leaves
    assert grown > 300
    assert copies.count("L") <= 12  # by an eighth each time; as often as leaves split, it would be hundreds
    again = copy.deepcopy(index)
    for each in (index, again):
        each.add(-3 + 0.1 * np.random.default_rng(1).normal(size=(500, 8)), np.arange(6_000, 6_500))
        each.check()
    query = np.ones((3, 8), dtype=np.float32)
    np.testing.assert_array_equal(index.sample(query, 9, seed=2).ids, again.sample(query, 9, seed=2).ids)
    assert not np.shares_memory(index._tree.nodes.leaf_mean, again._tree.nodes.leaf_mean)


@pytest.mark.parametrize("is_owned", [True, False])
def test_rows_grow_in_place(is_owned: bool) -> None:
    """Where they own their memory: a second copy of all rows would be the peak of a run's memory. Else what was
    replaced is let go of."""
    vectors = np.random.default_rng(0).normal(size=(4_500, 8)).astype(np.float32)
    index = TargetIndex.build(vectors[:500], leaf_size=4, progress=False)
    nodes, capacity = index._tree.nodes, len(index._tree.nodes.rows)
    if not is_owned:  # as after loading
        index._tree.nodes = nodes = nodes._replace(rows=nodes.rows.view(), row_id=nodes.row_id.view())
    first = nodes.rows if is_owned else None
    replaced = None if is_owned else weakref.ref(nodes.rows)  # numpy does not resize what has such a reference
    del nodes
    for begin in range(500, 4_500, 100):  # leaves split and their arrays grow; rows are used up
        index.add(vectors[begin : begin + 100], np.arange(begin, begin + 100))
    gc.collect()
    assert replaced is None or replaced() is None
    assert first is None or index._tree.nodes.rows is first
    assert len(index._tree.nodes.rows) > 4 * capacity
    index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(4_500)), vectors)
    index.remove(np.arange(4_300))
    index.repair()  # and shorter
    assert len(index._tree.nodes.rows) < 2_000
    index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(4_300, 4_500)), vectors[4_300:])
