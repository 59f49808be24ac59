"""Changes keep the tree good, not only true: targets move to nearer leaves, and repair brings a drifted tree
back."""

from __future__ import annotations

import tracemalloc

import naive
import numpy as np
import pytest
from scipy import stats

from hardwood import TargetIndex


def error(index, queries, scale=20.0, probes=8):
    """Relative error of ``E_P[y]``, mean over queries."""
    truth = naive.expectation(index, queries, scale)
    gap = index.expectation(queries, scale=scale, probes=probes) - truth
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
        assert index.update(moved[part], part) > 0
    index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(4000)), moved)
    report = index.repair()
    index.check()
    assert report["groups_rebuilt"] > 0
    assert error(index, queries) < 1.15 * error(fresh, queries) + 1e-3


def test_update_moves_targets_where_that_pays(drifted):
    y, _ = drifted
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    assert index.update(y, np.arange(4000)) < 200  # where they are is where they belong, but for ties and the beam
    far = np.arange(100)
    spread = index.stats()["mean_spread"]
    assert index.update(y[1000:1100], far) > 90
    index.check()
    assert index.stats()["mean_spread"] < 1.1 * spread
    hits = index.search(y[1000:1100], 2, probes=2)
    assert np.mean([i in row for i, row in zip(far, hits.ids, strict=True)]) > 0.9


def test_leaves_stay_bounded_and_empty_ones_go():
    y = naive.clusters(500, 8)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    rng = np.random.default_rng(0)
    index.add(y[rng.integers(0, 500, 3000)] + 0.01 * rng.normal(size=(3000, 8)), (np.arange(500, 3500)))
    index.add(np.repeat(y[:1], 200, axis=0), np.arange(3500, 3700))  # equal vectors must split too
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
        index.add(naive.clusters(300, 8, seed=int(rng.integers(1000))), ids)
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


def test_repair_gives_idle_rows_back():
    """After most targets have gone, what remains lies together again, and nothing of it has changed."""
    y = naive.clusters(3000, 8)
    for dtype in ("float32", "bfloat16"):
        index = TargetIndex.build(y, ids=np.arange(3000) * 10**10, dtype=dtype, leaf_size=16, progress=False)
        kept = np.random.default_rng(0).permutation(3000)[:500] * 10**10
        before = index.vectors(kept)
        index.remove(np.setdiff1d(index.ids, kept))
        used = index.stats()["rows_used"]
        assert index.stats()["rows_idle"] > 0.7 * used
        done = index.repair()
        assert done["rows_given_back"] > 0.5 * used
        assert done["groups_rebuilt"] > 0
        assert index.stats()["mean_leaf"] > 16 / 3
        assert index.stats()["rows_idle"] < 0.35 * index.stats()["rows_used"]
        index.check()
        np.testing.assert_array_equal(index.vectors(kept), before)
        again = index.repair()
        assert (again["rows_given_back"], again["groups_rebuilt"]) == (0, 0)
        index.add(y[1:600], np.arange(1, 600))
        index.check()
        np.testing.assert_array_equal(index.vectors(kept), before)


def test_repair_dissolves_small_leaves():
    y = naive.clusters(2000, 8)
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    nodes = index._tree.nodes
    rng = np.random.default_rng(1)
    thinned = rng.choice(np.flatnonzero(nodes.leaf_count > 4), 20, replace=False)
    gone = np.concatenate(
        [nodes.row_id[nodes.leaf_start[v] + 1 : nodes.leaf_start[v] + nodes.leaf_count[v]] for v in thinned]
    )
    index.remove(gone)
    small = index.stats()["small_leaves"]
    assert small >= 20
    done = index.repair(factor=1e9)
    index.check()
    assert done["leaves_merged"] > 0.8 * small  # all but the largest leaves of their groups
    assert index.stats()["small_leaves"] == small - done["leaves_merged"]
    kept = np.setdiff1d(np.arange(2000), gone)
    np.testing.assert_array_equal(index.vectors(kept), y[kept])
    hits = index.search(y[kept], 1, probes=4)
    assert (hits.ids[:, 0] == kept).mean() > 0.95


def test_leaves_that_fill_are_enlarged_then_split():
    """One leaf after another gets targets, a few at a time, until it splits; ids lead to their rows throughout."""
    y = naive.clusters(400, 6)
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    leaves = index.stats()["leaves"]
    truth = dict(enumerate(y))
    for step in range(30):
        ids = 1000 + 20 * step + np.arange(20)
        new = (y[step % 3 : step % 3 + 1] + 1e-3 * naive.clusters(20, 6, seed=step)).astype(np.float32)
        index.add(new, ids)
        truth.update(zip(ids.tolist(), new, strict=True))
        index.check()
        assert index.stats()["largest_leaf"] <= 32
    assert index.stats()["leaves"] > leaves
    np.testing.assert_array_equal(index.vectors(list(truth)), np.stack(list(truth.values())))


def test_read_only_vectors_are_welcome(drifted):
    y, moved = drifted
    frozen = moved[:50].copy()
    frozen.flags.writeable = False
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    index.update(frozen, np.arange(50))
    index.check()
    np.testing.assert_array_equal(index.vectors(np.arange(50)), frozen)


@pytest.mark.parametrize("count", [1, 7, 100, 599, 600, 10**6])
def test_spread_takes_one_of_each_stratum(count):
    y = naive.clusters(600, 8)
    index = TargetIndex.build(y, ids=np.arange(600) * 3, leaf_size=8, progress=False)
    index.update(y[100:200], np.arange(100) * 3)  # room and leaf order no longer a fresh build's
    found = index.spread(count, seed=3)
    size = min(count, 600)
    assert found.dtype == np.int64
    assert len(np.unique(found)) == len(found) == size
    np.testing.assert_array_equal(found, index.spread(count, seed=3))
    nodes = index._tree.nodes
    order = np.concatenate(
        [nodes.row_id[nodes.leaf_start[v] : nodes.leaf_start[v] + nodes.leaf_count[v]] for v in nodes.group_leaves]
    )
    for part, target in enumerate(found):
        assert target in order[part * 600 // size : (part + 1) * 600 // size]
    if size < 600:
        assert (found != index.spread(count, seed=4)).any()


def test_spread_covers_evenly():
    """Null: each place of a stratum is equally likely. Chi-squared over 2000 seeds, 6 strata of 10, alarm 1e-4."""
    y = naive.clusters(60, 4)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    drawn = np.concatenate([index.spread(6, seed=seed) for seed in range(2000)])
    assert stats.chisquare(np.bincount(drawn, minlength=60)).pvalue > 1e-4
    with pytest.raises(ValueError, match="count must be at least 1"):
        index.spread(0)


@pytest.mark.slow
def test_a_build_takes_little_beside_the_vectors(tmp_path):
    """What Python and NumPy allocate while building from a memmap: the rows with their room, and the training sample
    (48 of 64 targets) only before there are rows."""
    n, d = 60_000, 128
    np.save(tmp_path / "v.npy", naive.clusters(n, d))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    TargetIndex.build(vectors[:2000], threads=1, progress=False)
    tracemalloc.start()
    index = TargetIndex.build(vectors, threads=1, progress=False)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == n
    rows = index._tree.nodes.rows.nbytes
    assert rows < 1.18 * vectors.nbytes  # of which a sixteenth is never touched
    assert held < rows + 0.1 * vectors.nbytes
    # The shapes' sample and a chunk are of fixed size: half of this small corpus, a hundredth of a large one.
    assert peak < rows + 0.1 * vectors.nbytes + 16384 * d * 4 * 3
