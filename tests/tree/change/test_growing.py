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


def test_rows_that_were_replaced_are_let_go_of() -> None:
    rng = np.random.default_rng(0)
    index = TargetIndex.build(rng.normal(size=(500, 8)), leaf_size=4, progress=False)
    seen = []
    for begin in range(500, 4_500, 100):  # leaves split and their arrays grow; rows are used up, and move
        index.add(rng.normal(size=(100, 8)), np.arange(begin, begin + 100))
        seen.append(weakref.ref(index._tree.nodes.rows))
        gc.collect()
        assert {id(rows()) for rows in seen if rows() is not None} == {id(index._tree.nodes.rows)}
    assert any(rows() is None for rows in seen)
