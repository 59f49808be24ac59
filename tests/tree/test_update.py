"""Changes keep the tree good, not only true: targets move to nearer leaves, and repair brings a drifted tree
back."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from hardwood import TargetIndex


def error(index, queries, scale=20.0, probes=8):
    """Relative error of ``E_P[y]``, mean over queries."""
    truth = naive.expectation(index, queries, scale)
    gap = index.expectation(queries, scale, probes=probes) - truth
    return (np.linalg.norm(gap, axis=1) / np.linalg.norm(truth, axis=1)).mean()


@pytest.fixture
def drifted():
    """Vectors, and the same after a small rotation and some noise (cosine about 0.9): every target has
    moved."""
    y = naive.clusters(4000, 16)
    rng = np.random.default_rng(1)
    turn, signs = np.linalg.qr(np.eye(16) + 0.03 * rng.normal(size=(16, 16)))
    turn *= np.sign(np.diag(signs))  # a small rotation, not its mirror image
    moved = y @ turn + 0.1 * rng.normal(size=y.shape)
    return y, (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def test_a_full_pass_and_repair_restore_quality(drifted):
    y, moved = drifted
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    fresh = TargetIndex.build(moved, leaf_size=16, progress=False)
    queries = moved[::40] + np.float32(0.05)
    order = np.random.default_rng(2).permutation(4000)
    for part in np.split(order, 8):
        assert index.update(part, moved[part]) > 0
    index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(4000)), moved)
    report = index.repair()
    index.check()
    assert report["groups_rebuilt"] > 0
    assert error(index, queries) < 1.15 * error(fresh, queries) + 1e-3


def test_update_moves_targets_where_that_pays(drifted):
    y, _ = drifted
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    assert index.update(np.arange(4000), y) < 200  # where they are is where they belong, but for ties and the beam
    far = np.arange(100)
    spread = index.stats()["mean_spread"]
    assert index.update(far, y[1000:1100]) > 90
    index.check()
    assert index.stats()["mean_spread"] < 1.1 * spread
    hits = index.search(y[1000:1100], 2, probes=2)
    assert np.mean([i in row for i, row in zip(far, hits.ids, strict=True)]) > 0.9


def test_leaves_stay_bounded_and_empty_ones_go():
    y = naive.clusters(500, 8)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    rng = np.random.default_rng(0)
    index.add(np.arange(500, 3500), (y[rng.integers(0, 500, 3000)] + 0.01 * rng.normal(size=(3000, 8))))
    index.add(np.arange(3500, 3700), np.repeat(y[:1], 200, axis=0))  # equal vectors must split too
    index.check()
    assert index.stats()["largest_leaf"] <= 2 * 8
    leaves = index.stats()["leaves"]
    index.remove(np.arange(500, 3700))
    index.check()
    assert index.stats()["leaves"] < leaves
    np.testing.assert_array_equal(index.vectors(np.arange(500)), y)


def test_space_is_used_again():
    """Targets that come and go for ever must not make the index grow for ever."""
    y = naive.clusters(600, 8)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    rng = np.random.default_rng(0)
    sizes = []
    for step in range(60):
        ids = np.arange(1000 * (step + 1), 1000 * (step + 1) + 300)
        index.add(ids, naive.clusters(300, 8, seed=int(rng.integers(1000))))
        index.remove(ids)
        index.repair()
        sizes.append(index.stats()["rows_used"])
    index.check()
    assert max(sizes) < 4 * 900


def test_repair_leaves_a_good_tree_alone():
    y = naive.clusters(2000, 8)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    leaves = index.stats()["leaves"]
    done = index.repair()
    assert (done["groups_rebuilt"], done["rows_given_back"]) == (0, 0)
    assert done["leaves_merged"] < leaves // 20
    assert done["groups"] == index.stats()["groups"]
    np.testing.assert_array_equal(index.vectors(np.arange(2000)), y)
