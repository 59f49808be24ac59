"""Each kernel beside its naive twin."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hardwood import TargetIndex, warmup
from hardwood.tree.arrays import bfloat16, bounds, products, statistics
from hardwood.tree.arrays.ids import IdMap
from hardwood.tree.compiled import numeric, select, threads
from hardwood.tree.compiled.numeric import jit
from hardwood.tree.construct import assign, kmeans
from hardwood.tree.read import (
    heap,
    masses,
    sample,
    sample_without,
)

from .compiled.test_cache import kernel_modules

KERNELS = kernel_modules()


@jit
def place_from(values, n, x):
    return numeric.first_from(values, n, x)


@jit
def many_exp(x, out):
    for i in range(x.shape[0]):
        out[i] = numeric.exp32(x[i])


@jit
def many_dots(x, rows, out):
    for i in range(rows.shape[0]):
        out[i] = numeric.dot(x, rows, i)


@jit
def many_uniform(key, out):
    for i in range(out.shape[0]):
        out[i] = numeric.uniform(key, i)


def test_exp32():
    x = np.concatenate([np.linspace(-87, 88, 100_001), [-87.5, -1e9, -np.inf, 0.0]]).astype(np.float32)
    out = np.empty_like(x)
    many_exp(x, out)
    truth = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(out[:-4], truth[:-4], rtol=3e-7)
    np.testing.assert_array_equal(out[-4:], [0, 0, 0, 1])


@given(st.lists(st.integers(-5, 30), max_size=20), st.integers(-7, 32), st.integers(0, 20))
@settings(deadline=None)
def test_first_from(values, x, n):
    ascending = np.sort(np.array(values, dtype=np.int64))
    n = min(n, len(ascending))
    assert place_from(ascending, n, x) == np.searchsorted(ascending[:n], x)


@pytest.mark.parametrize("d", [1, 2, 5, 7, 13, 40, 100, 4096])
@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_dot_errs_less_than_promised(d, kind):
    rng = np.random.default_rng(d)
    y = bfloat16.encode(rng.normal(size=(50, d)).astype(np.float32), np.dtype(kind))
    x = np.empty(d, np.float32)
    raw = rng.normal(size=d).astype(np.float32) * np.float32(1e20)
    norm = numeric.unit(raw, x)
    exact = raw.astype(np.float64)
    np.testing.assert_allclose(norm, np.linalg.norm(exact), rtol=1e-12)
    out = np.empty(50, np.float32)
    many_dots(x, y, out)
    true = bfloat16.decoded(y).astype(np.float64)
    error = np.abs(out - true @ (exact / np.linalg.norm(exact)))
    assert (error <= bounds.rounding(d) * np.linalg.norm(true, axis=1)).all()


@pytest.mark.parametrize("d", [1, 2, 5, 7, 13, 40, 100, 4096])
@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_tiles_are_products_whatever_falls_together(d, kind):
    rng = np.random.default_rng(d)
    units = rng.normal(size=(11, d)).astype(np.float32)
    rows = bfloat16.encode(rng.normal(size=(9, d)).astype(np.float32), np.dtype(kind))
    together = np.full((11, 10), np.nan, np.float32)
    products.products(units, np.arange(11), np.ones(11, np.int64), 11, rows, np.arange(9), 0, 9, together, 0, 0)
    assert np.isnan(together[:, 0]).all()
    want = units.astype(np.float64) @ bfloat16.decoded(rows).astype(np.float64).T
    np.testing.assert_allclose(together[:, 1:], want, atol=1e-6 * d)
    # Bit by bit the same, for any choice of queries and rows in any order.
    for _ in range(5):
        who = rng.permutation(11)[: rng.integers(1, 12)]
        index = rng.permutation(9)
        first = int(rng.integers(0, 9))
        ahead, beyond = sorted(rng.integers(0, 10, 2).tolist())  # what comes from memory meanwhile changes nothing
        out = np.empty((11, 9), np.float32)
        zeros = np.zeros(11, np.int64)
        products.products(units, who, zeros, len(who), rows, index, first, 9 - first, out, ahead, beyond)
        np.testing.assert_array_equal(out[who, : 9 - first], together[np.ix_(who, 1 + index[first:])])


@pytest.mark.parametrize("d", [1, 7, 40, 300])
@pytest.mark.parametrize("kind", [np.float32, np.uint16])
def test_a_leafs_products_are_the_same_whatever_is_fetched_meanwhile(d, kind):
    rng = np.random.default_rng(d)
    units = rng.normal(size=(3, d)).astype(np.float32)
    rows = bfloat16.encode(rng.normal(size=(30, d)).astype(np.float32), np.dtype(kind))
    want = units.astype(np.float64) @ bfloat16.decoded(rows[4:15]).astype(np.float64).T
    got = []
    for asked in (np.arange(3), np.arange(1)):  # several queries, and one alone
        for ahead in (-1, 0, 15, 29):  # from the last row on, memory beyond the array is asked for: a hint, no more
            out = np.full(3 * 11, np.nan, np.float32)
            products.row_products(units, asked, 11 * asked, len(asked), rows, 4, 11, out, ahead)
            got.append(out[:11])
    np.testing.assert_allclose(out[:11], want[0], atol=1e-6 * d)
    for other in got:
        np.testing.assert_array_equal(other, got[0])


def test_leaf_products_are_those_of_the_groups_looked_into():
    nodes = TargetIndex.build(naive.clusters(900, 9), leaf_size=8, progress=False)._tree.nodes
    rng = np.random.default_rng(0)
    groups = len(nodes.group_count)
    units = rng.normal(size=(7, 9)).astype(np.float32)
    np.testing.assert_allclose(products.group_products(nodes, units), units @ nodes.group_mean.T, atol=1e-5)
    order = np.array([rng.permutation(groups) for _ in range(7)])
    inside = np.array([1, groups, 3, 2, 4, 0, 1])
    got = products.leaf_products(nodes, units, order, inside)
    for q in range(7):
        lists = [nodes.group_leaves[nodes.group_offsets[g] : nodes.group_offsets[g + 1]] for g in order[q, : inside[q]]]
        leaves = np.concatenate([*lists, np.zeros(0, np.int64)]).astype(np.int64)
        np.testing.assert_allclose(got[q, : len(leaves)], units[q] @ nodes.leaf_mean[leaves].T, atol=1e-5)


def test_pick_follows_the_weights():
    """Chi-squared against the weights over 20 000 uniforms; false-alarm rate 1e-4."""
    weight = np.array([0.0, 0.5, 2.0, 0.0, 1.5, 0.0], np.float32)
    u = np.random.default_rng(0).random(20_000)
    got = np.bincount([sample.pick(weight, 6, x) for x in u], minlength=6)
    assert got[[0, 3, 5]].sum() == 0
    assert stats.chisquare(got[[1, 2, 4]], 20_000 * weight[[1, 2, 4]] / 4.0).pvalue > 1e-4
    assert sample.pick(weight, 6, 1.0 - 1e-12) == 4


@pytest.mark.parametrize("certify", [True, False])
def test_span_is_what_the_bounds_say_node_by_node(certify):
    rng = np.random.default_rng(0)
    stats_ = np.abs(rng.normal(size=(37, 4)))
    dots = rng.normal(size=37).astype(np.float32)
    middle, low, high = np.zeros((3, 37))
    masses.span(np.ascontiguousarray(stats_.T), dots, 37, 20.0, 0.02, 1e-5, middle, low, high, certify)
    for i, (radius, reach, spread, log_count) in enumerate(stats_):
        score = 20.0 * float(dots[i])
        tilted = score + 0.5 * 400 * spread * 0.02
        want = log_count + max(score, min(tilted, score + 20 * radius, 20 * reach))
        np.testing.assert_allclose(middle[i], want, rtol=1e-12)
        if certify:
            error = 20 * 1e-5 * reach
            np.testing.assert_allclose(low[i], log_count + score - error, rtol=1e-9)
            np.testing.assert_allclose(high[i], log_count + min(score + 20 * radius, 20 * reach) + error, rtol=1e-9)
    if not certify:
        assert not low.any()
        assert not high.any()


def test_bfloat16_goes_to_the_nearest_even():
    values = np.random.default_rng(0).normal(size=(1, 10_000)).astype(np.float32)
    stored = bfloat16.decoded(bfloat16.encode(values, np.dtype(np.uint16)))
    assert (np.abs(stored - values) <= np.abs(values) * 2.0**-8).all()
    again = bfloat16.encode(stored, np.dtype(np.uint16))
    np.testing.assert_array_equal(bfloat16.decoded(again), stored)
    half = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8]], np.float32)  # ties
    np.testing.assert_array_equal(bfloat16.decoded(bfloat16.encode(half, np.dtype(np.uint16))), [[1.0, 1 + 2.0**-6]])


def test_uniforms_are_uniform_and_independent():
    """Kolmogorov-Smirnov and lag correlations over 10^5 numbers, for neighbouring keys too: ten tests at a
    false-alarm rate of 1e-4 each."""
    streams = np.empty((5, 100_000))
    for key in range(5):
        many_uniform(np.uint64(key), streams[key])
        assert stats.kstest(streams[key], "uniform").pvalue > 1e-4
    assert ((streams > 0) & (streams < 1)).all()
    for a, b in (
        (streams[0][1:], streams[0][:-1]),
        (streams[0], streams[1]),
        (streams[1], streams[2]),
        (streams[0][3:], streams[0][:-3]),
    ):
        assert stats.pearsonr(a, b).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000])
def test_top(n, dtype):
    rng = np.random.default_rng(n)
    for values in (
        rng.normal(size=n),
        rng.integers(0, 3, n),
        np.zeros(n),
        np.where(rng.random(n) < 0.5, -np.inf, 1.0),
        np.arange(n),
        -np.arange(n),
    ):
        for k in {0, 1, n // 50, n // 20, n // 3, n - 1, n}:
            found, given = np.full(n + 1, -1), values.astype(dtype)
            select.top(given, n, k, found)
            first_among_equals = np.sort(np.argsort(-given, kind="stable")[:k])
            np.testing.assert_array_equal(found[:k], first_among_equals)
            assert (found[k:] == -1).all()


@pytest.mark.parametrize("n", range(10))
def test_largest(n):
    values = np.random.default_rng(n).normal(size=12)
    for place in range(max(1, n)):
        values[place] = 5.0 + place
        assert masses.largest(values, n, -np.inf) == max(values[:n], default=-np.inf)
    assert masses.largest(values, n, 100.0) == 100.0


def test_truncated_gumbels_have_their_maximum_and_distribution():
    """Null: with the maximum drawn from its own law, each of the truncated variates is a Gumbel again
    (Kolmogorov-Smirnov, alarm 1e-4)."""
    rng = np.random.default_rng(0)
    location = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    out = np.empty((20_000, 4))
    for i in range(len(out)):
        roof = rng.gumbel()
        out[i] = location + rng.gumbel(size=4)
        sample_without.truncated(out[i], 4, roof)
        assert out[i].max() == roof
    for j in range(4):
        assert stats.kstest(out[:, j] - location[j], stats.gumbel_r.cdf).pvalue > 1e-4
    assert stats.pearsonr(out[:, 0], out[:, 1]).pvalue > 1e-4


def test_heap():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 50, 300).astype(float)
    keys, items = np.empty(300), np.empty(300, np.int64)
    for n, value in enumerate(values):
        heap.push(keys, items, n, value, n)
    out = []
    for n in range(300, 0, -1):
        assert values[items[0]] == keys[0]
        out.append(keys[0])
        heap.pop(keys, items, n)
    assert out == sorted(values.tolist(), reverse=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_leaf_and_group_statistics(dtype):
    y = naive.clusters(700, 9)
    nodes = TargetIndex.build(y, dtype=dtype, leaf_size=8, progress=False)._tree.nodes
    groups: dict[int, list] = {}
    for leaf in range(len(nodes.leaf_count)):
        start = nodes.leaf_start[leaf]
        block = bfloat16.decoded(nodes.rows[start : start + nodes.leaf_count[leaf]]).astype(np.float64)
        groups.setdefault(int(nodes.leaf_group[leaf]), []).append(block)
        assert_node(nodes.leaf_count[leaf], nodes.leaf_mean[leaf], nodes.leaf_stats[leaf], block, exact=True)
    for group, blocks in groups.items():
        assert_node(
            nodes.group_count[group],
            nodes.group_mean[group],
            nodes.group_stats[group],
            np.concatenate(blocks),
            exact=False,
        )


def assert_node(count, mean, node, block, exact):
    assert count == len(block)
    np.testing.assert_allclose(mean, block.mean(axis=0), atol=1e-6)
    far = np.linalg.norm(block - mean.astype(np.float64), axis=1)
    assert node[bounds.RADIUS] >= far.max()
    assert node[bounds.REACH] >= np.linalg.norm(block, axis=1).max()
    np.testing.assert_allclose(node[bounds.SPREAD], (far**2).mean(), rtol=1e-5, atol=1e-12)
    if exact:
        slack = statistics.sum_slack(block.shape[1])
        assert node[bounds.RADIUS] <= far.max() * slack + 1e-30
        assert node[bounds.REACH] <= np.linalg.norm(block, axis=1).max() * slack + 1e-30


def test_pooled_covariance_is_the_covariance_for_large_samples():
    rng = np.random.default_rng(0)
    widths = np.linspace(0.1, 2, 80)
    z = rng.normal(size=(60_000, 80)) * widths
    shape, even = statistics.pooled_covariance(z)
    for _ in range(5):
        x = rng.normal(size=80)
        x /= np.linalg.norm(x)
        want = (x**2 * widths**2).sum() / (widths**2).sum()
        got = even * (x @ x) + ((shape.astype(np.float64) @ x) ** 2).sum()
        np.testing.assert_allclose(got, want, rtol=0.03)
    zero_shape, zero_even = statistics.pooled_covariance(np.zeros((10, 4)))
    assert zero_even == 0.25
    assert not zero_shape.any()
    wide = statistics.pooled_covariance(rng.normal(size=(20, 300)))[0]
    assert wide.shape[1] == 300


def test_add_up_and_next_rows():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(100, 5)).astype(np.float32), rng.integers(0, 7, 100)
    means, counts = kmeans.means(points, labels, 8)
    for k in range(7):
        np.testing.assert_allclose(means[k], points[labels == k].mean(axis=0), atol=1e-6)
    assert counts.tolist() == [*np.bincount(labels).tolist(), 0]
    assert not means[7].any()
    cursor, out = np.arange(7) * 1000, np.empty(100, np.int64)
    assign.next_rows(labels.astype(np.int32), cursor, out)
    for k in range(7):
        np.testing.assert_array_equal(out[labels == k], 1000 * k + np.arange((labels == k).sum()))


@pytest.mark.parametrize("limit", [1, 4, 16])
def test_clusters_are_of_bounded_size(limit):
    rng = np.random.default_rng(0)
    for points in (
        rng.normal(size=(300, 3)),
        np.zeros((300, 3)),
        np.repeat(rng.normal(size=(3, 3)), 100, axis=0),
    ):
        labels = kmeans.subtree(points.astype(np.float32), limit, 3, rng)
        counts = np.bincount(labels)
        assert counts.max() <= 2 * limit
        assert counts.min() > 0


def test_ids():
    rng = np.random.default_rng(0)
    for pool in (np.arange(3000), rng.integers(-(2**62), 2**62, 3000)):
        names = rng.permutation(pool)
        book = IdMap(names[:1000], np.arange(1000))
        truth = {int(name): row for row, name in enumerate(names[:1000])}
        fresh = 1000
        for _ in range(40):
            gone = rng.choice(list(truth), size=10, replace=False)
            book.remove(gone)
            for name in gone.tolist():
                del truth[name]
            new = names[fresh : fresh + 25]
            fresh += 25
            book.insert(new, new % 97)
            truth.update({int(name): int(name % 97) for name in new})
            moved = rng.choice(list(truth), size=10, replace=False)
            book.place(moved, np.arange(10))
            truth.update(zip(moved.tolist(), range(10), strict=True))
            assert len(book) == len(truth)
            np.testing.assert_array_equal(book.find(pool), [truth.get(int(name), -1) for name in pool])
            np.testing.assert_array_equal(book.all(), sorted(truth))
    small = IdMap(np.arange(10), np.arange(10))
    small.insert(np.array([10**15, -5]), np.array([70, 71]))  # no longer dense
    np.testing.assert_array_equal(small.find(np.array([3, 10**15, -5, 11, -1])), [3, 70, 71, -1, -1])


def test_only_the_agreed_fastmath_flags():
    assert {"nsz", "arcp", "contract", "afn", "reassoc"} == numeric.FASTMATH
    for module in KERNELS:
        for name, item in vars(module).items():
            if hasattr(item, "targetoptions"):
                assert item.targetoptions["fastmath"] == set(numeric.FASTMATH), name
                assert not item.targetoptions.get("parallel"), name


def test_warmup_compiles_everything(monkeypatch):
    """After it, sampling at the user's sizes compiles nothing: no kernel gains a signature."""
    warmup()
    every = [k for m in KERNELS for k in vars(m).values() if hasattr(k, "signatures")]
    assert threads.watch.signatures  # by none of the calls below, if helpers have ended when the caller has
    before = [len(k.signatures) for k in every]
    y = naive.clusters(300, 8)
    for dtype in ("float32", "bfloat16"):
        index = TargetIndex.build(y, dtype=dtype, leaf_size=8, threads=2, progress=False)
        index.sample(y, 5, replace=False, exclude=[[1]] * 300)
        index.sample(y, 5)
        index.sample_exact(y[:3], 5)
        index.search(y, 5)
        index.expectation(y, scale=20.0)
        index.log_partition(y, scale=20.0, tolerance=0.1)
        index.log_proposal(y, np.arange(20))
        index.update(y[50:100], np.arange(50))
        index.add(y[:1], [1000])
        index.repair()
        index.update(y[20:], np.arange(20, 300))
        TargetIndex.build(y, dtype=dtype, leaf_size=64, progress=False).update(y[::-1], np.arange(300))  # many at once
    assert before == [len(k.signatures) for k in every]
