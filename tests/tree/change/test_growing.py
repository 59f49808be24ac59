"""Leaves that split: the arrays of leaves grow as a list does, not by a copy for each."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
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


def test_a_refresh_of_millions_copies_no_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second copy of all rows would be the peak of a run's memory; after loading too."""
    copies = []
    resized = tree_module.resized

    def counted(nodes: Any, axis: str, used: int, size: int) -> Any:
        copies.append(axis)
        return resized(nodes, axis, used=used, size=size)

    monkeypatch.setattr("hardwood.tree.arrays.nodes._MANY_ROWS", 1_000)
    rng = np.random.default_rng(0)
    y = rng.normal(size=(3_000, 8)).astype(np.float32)
    built = TargetIndex.build(y, leaf_size=8, progress=False)
    built.save(tmp_path / "index")
    loaded = TargetIndex.load(tmp_path / "index", mmap=False)
    monkeypatch.setattr(tree_module, "resized", counted)
    at_first, most_used = built._tree.used, 0
    for _ in range(4):
        y = y + 0.5 * rng.normal(size=y.shape).astype(np.float32)
        for index in (built, loaded):
            for begin in range(0, 3_000, 250):
                index.update(y[begin : begin + 250], np.arange(begin, begin + 250))
                most_used = max(most_used, index._tree.used)
            index.repair()
            index.check()
            np.testing.assert_array_equal(index.vectors(np.arange(3_000)), y)
    assert "R" not in copies
    assert most_used < 1.24 * at_first  # what leaves have outgrown is compacted in time
    np.testing.assert_array_equal(built.ids, loaded.ids)
    again = [index.sample(y[:5], 9, seed=1).ids for index in (built, loaded)]
    np.testing.assert_array_equal(*again)


def test_a_corpus_of_millions_that_comes_and_goes_is_compacted_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardwood.tree.arrays.nodes._MANY_ROWS", 1_000)
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(12_000, 8)) + np.repeat(rng.normal(size=(12, 8)), 1_000, axis=0)).astype(np.float32)
    index = TargetIndex.build(y[:3_000], leaf_size=8, progress=False)
    at_first, most_used = index._tree.used, 0
    for begin in range(0, 9_000, 250):  # always as many, and always elsewhere
        index.remove(np.arange(begin, begin + 250))
        index.add(y[begin + 3_000 : begin + 3_250], np.arange(begin + 3_000, begin + 3_250))
        most_used = max(most_used, index._tree.used)
        index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(9_000, 12_000)), y[9_000:])
    assert len(index) == 3_000
    assert most_used < 1.24 * at_first
