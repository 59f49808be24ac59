"""The layout of a tree's arrays: what `arrays.nodes` says is what every tree has."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from hardwood import TargetIndex
from hardwood.tree.arrays.nodes import LAYOUT, Nodes, blank_nodes, resized


def assert_laid_out(nodes: Nodes, dtype: np.dtype) -> None:
    sizes: dict[str, int] = {}
    for name, layout in LAYOUT.items():
        array = getattr(nodes, name)
        assert array.dtype == (layout.dtype or dtype), name
        assert array.flags.c_contiguous, name
        for axis, size in zip(layout.shape, array.shape, strict=True):
            expected = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            assert size == expected or axis == "K", name
    assert sizes["G+1"] == sizes["G"] + 1
    assert sizes["live leaves"] == (nodes.leaf_group >= 0).sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tree_keeps_its_layout_through_every_change(dtype: str, tmp_path) -> None:
    assert LAYOUT.keys() == set(Nodes._fields)
    y = naive.clusters(600, 5)
    index = TargetIndex.build(y, dtype=dtype, leaf_size=8, progress=False)
    stored = np.dtype(np.float32 if dtype == "float32" else np.uint16)
    assert_laid_out(index._tree.nodes, stored)
    rows, leaves = len(index._tree.nodes.row_id), len(index._tree.nodes.leaf_count)
    index.add(np.repeat(y[:1], 400, axis=0), np.arange(1000, 1400))  # more rows and more leaves than there was room for
    assert len(index._tree.nodes.row_id) > rows
    assert len(index._tree.nodes.leaf_count) > leaves
    assert_laid_out(index._tree.nodes, stored)
    index.remove(np.arange(500))
    index.repair()
    assert_laid_out(index._tree.nodes, stored)
    index.save(tmp_path / "index")
    assert_laid_out(TargetIndex.load(tmp_path / "index")._tree.nodes, stored)


def test_new_leaves_are_dead_and_new_rows_empty() -> None:
    nodes = blank_nodes(np.dtype(np.float32), R=3, L=2, G=1, d=4)
    assert_laid_out(nodes, np.dtype(np.float32))
    nodes.leaf_group[:] = 0
    nodes.rows[:] = 1.0
    longer = resized(resized(nodes, "L", used=2, size=5), "R", used=2, size=6)
    assert longer.leaf_group.tolist() == [0, 0, -1, -1, -1]
    assert longer.leaf_count.tolist() == [0] * 5
    assert longer.rows[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
