"""A second leaf for each target: more is found for the same leaves opened, and nothing else changes."""

import naive
import numpy as np
import pytest

from hardwood import TargetIndex
from hardwood.tree.change.spill import LAMBDA


@pytest.fixture(params=["float32", "bfloat16"])
def index(request):
    y = naive.clusters(3000, 12)
    return TargetIndex.build(y, ids=np.arange(3000) * 7, dtype=request.param, leaf_size=16, progress=False)


def test_the_second_leaf_is_the_one_that_soar_asks_for(index, monkeypatch):
    monkeypatch.setattr("hardwood.tree.change.spill.LOOKED_INTO", 10**6)
    index.enable_spill()
    tree, nodes = index._tree, index._tree.nodes
    spill, rows = tree.spill, tree.live_rows()
    assert sorted(spill.rows) == sorted(rows)
    home = nodes.row_leaf[spill.rows].astype(np.int64)
    second = np.repeat(np.arange(len(nodes.leaf_count)), np.diff(spill.offsets))
    assert (home != second).all()
    y = index.vectors(nodes.row_id[spill.rows]).astype(np.float64)
    live = np.flatnonzero(nodes.leaf_count > 0)
    centres = nodes.leaf_mean[live].astype(np.float64)
    residual = y - nodes.leaf_mean[home]
    residual /= np.maximum(np.linalg.norm(residual, axis=1, keepdims=True), 1e-30)  # a leaf of one target
    gap = y[:, None] - centres
    loss = (gap**2).sum(axis=2) + float(LAMBDA) * np.einsum("ijk,ik->ij", gap, residual) ** 2
    loss[home[:, None] == live] = np.inf
    chosen = loss[np.arange(len(y)), np.searchsorted(live, second)]
    np.testing.assert_allclose(chosen, loss.min(axis=1), rtol=1e-4)


def test_search_finds_more_in_the_same_leaves_and_nothing_twice(index):
    queries = naive.clusters(40, 12, seed=5)
    before = index.search(queries, 10, probes=2)
    index.enable_spill()
    after = index.search(queries, 10, probes=2)
    assert (after.scores >= before.scores).all()
    assert (after.scores > before.scores).any(axis=1).mean() > 0.5
    for found in after.ids:
        assert len(set(found)) == 10
    np.testing.assert_allclose(
        after.scores, np.einsum("bd,bkd->bk", queries, index.vectors(after.ids.ravel()).reshape(40, 10, 12)), rtol=1e-5
    )


def test_search_of_all_leaves_is_brute_force(index):
    index.enable_spill()
    queries = naive.clusters(20, 12, seed=6)
    found = index.search(queries, 3000, probes=10**6)
    s = naive.scores(index, queries, 1.0)
    np.testing.assert_allclose(found.scores, -np.sort(-s, axis=1), atol=1e-5)
    assert all(len(set(ids)) == 3000 for ids in found.ids)


CHANGES = {
    "update": lambda index, y: index.update(y[:2], [7, 14]),
    "add": lambda index, y: index.add(y[:1], [5]),
    "remove": lambda index, y: index.remove([7]),
    "repair": lambda index, y: index.repair(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_drops_it(index, change):
    index.enable_spill()
    assert index.stats()["spilled"] == 3000
    change(index, naive.clusters(40, 12, seed=7))
    assert index.stats()["spilled"] == 0
    index.check()
    index.search(naive.clusters(4, 12), 5)
    index.enable_spill()
    assert index.stats()["spilled"] == len(index)


def test_sampling_is_as_before(index):
    queries = naive.clusters(8, 12, seed=8)
    before = index.sample(queries, 4, probes=2, seed=3)
    index.enable_spill()
    after = index.sample(queries, 4, probes=2, seed=3)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.log_z, after.log_z)


def test_one_leaf_has_no_second():
    index = TargetIndex.build(np.eye(3, dtype=np.float32), progress=False)
    index.enable_spill()
    assert index.stats()["spilled"] == 0
    np.testing.assert_array_equal(index.search(np.eye(3, dtype=np.float32), 1).ids, [[0], [1], [2]])


def test_any_number_of_threads_gives_the_same():
    y = naive.clusters(40_000, 4)
    spills = []
    for threads in (1, 3):
        index = TargetIndex.build(y, leaf_size=32, threads=threads, progress=False)
        index.enable_spill()
        spills.append(index._tree.spill)
    np.testing.assert_array_equal(spills[0].rows, spills[1].rows)
    np.testing.assert_array_equal(spills[0].offsets, spills[1].offsets)
