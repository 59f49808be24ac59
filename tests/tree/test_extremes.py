"""Numbers at the ends of what an index takes: bounds hold, nothing overflows in silence, draws stay true to their
probabilities, and changes end."""

from __future__ import annotations

import tracemalloc

import naive
import numpy as np
import pytest
from scipy import stats

from hardwood import TargetIndex

ALARM = 1e-4


def normal(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def wild(low, high, n=500, d=8):
    """Norms over many orders of magnitude."""
    return normal(n, d) * 10.0 ** np.random.default_rng(1).uniform(low, high, (n, 1))


def heavy_tailed():
    rng = np.random.default_rng(2)
    return np.clip(rng.standard_cauchy((800, 6)) * rng.pareto(0.5, (800, 1)), -1e15, 1e15)


def with_one_dominant():
    y = normal(500, 8)
    y[7] *= 1e4
    return y


# Vectors, and a factor for the queries.
CORPORA = {
    "norms of 1e-38": (normal(300, 8) * 1e-38, 1e37), "norms of 1e-20": (normal(300, 8) * 1e-20, 1e20),
    "norms of 1e12": (normal(300, 8) * 1e12, 1.0), "norms of 1e17": (normal(300, 8) * 1e17, 1.0),
    "mixed norms": (wild(-30, 15), 1.0), "mixed norms, short queries": (wild(-30, 15), 1e-15),
    "denormal numbers": (wild(-44, -36), 1e37), "one dominant target": (with_one_dominant(), 1.0),
    "heavy tails": (heavy_tailed(), 1e-3), "all zero": (np.zeros((300, 5)), 1.0), "one target": (normal(1, 5), 1.0),
    "one zero target": (np.zeros((1, 5)), 1.0), "one dimension": (normal(500, 1), 1.0),
    "4096 dimensions": (normal(120, 4096), 1.0), "long queries": (normal(300, 8), 1e30),
    "zero queries": (normal(300, 8), 0.0),
    "one place": (np.repeat(normal(1, 8), 400, axis=0), 1.0),
    "two places": (np.repeat(normal(2, 8), [399, 1], axis=0), 1.0),
}  # fmt: skip
EVERY_CORPUS = pytest.mark.parametrize("name", CORPORA)
EVERY_DTYPE = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def made(name, dtype, leaf_size=16):
    y, factor = CORPORA[name]
    x = (normal(3, y.shape[1], seed=5) * factor).astype(np.float32)
    return TargetIndex.build(y.astype(np.float32), dtype=dtype, leaf_size=leaf_size, threads=1, progress=False), x


@EVERY_CORPUS
@EVERY_DTYPE
def test_bounds_hold_and_all_is_finite(name, dtype):
    index, x = made(name, dtype)
    index.check()
    longest = np.linalg.norm(index.vectors(index.ids).astype(np.float64), axis=1).max()
    single = np.finfo(np.float32).eps * np.linalg.norm(x.astype(np.float64), axis=1) * longest  # of products in float32
    for scale in (1e-3, 1.0, 1e3):
        scores = naive.scores(index, x, scale)
        truth = naive.log_sum_exp(scores)
        rounding = 8 * np.spacing(np.abs(scores).max())  # log q is a difference of scores, in float64
        for probes in (1, 10**6):
            for draw in (
                index.sample(x, 4, scale=scale, probes=probes, seed=1),
                index.sample(x, min(3, len(index)), scale=scale, probes=probes, seed=1, replace=False),
            ):
                assert all(np.isfinite(part).all() for part in draw)
                assert (draw.log_q < 1e-3 + rounding).all()
                assert (draw.log_z_lower <= truth).all()
                assert (truth <= draw.log_z_upper).all()
            every = index.log_proposal(x, index.ids, scale=scale, probes=probes)
            # Opened targets' scores and their leaf's mass come from different loops, which add in float32 in the order
            # that the compiler likes (with Numba 0.61 another one for each).
            assert (np.abs(naive.log_sum_exp(every)) < 1e-4 + single * scale).all()
            mean = index.expectation(x, scale=scale, probes=probes)
            assert (np.linalg.norm(mean.astype(np.float64), axis=1) <= 3 * longest + 1e-37).all()
        np.testing.assert_allclose(mean, naive.expectation(index, x, scale), atol=1e-3 * longest)
        part = index.log_partition(x, scale=scale, tolerance=0.1)
        assert np.isfinite(part.estimate).all()
        assert ((part.lower <= truth) & (truth <= part.upper)).all()
        assert np.isfinite(index.sample_exact(x, 4, scale=scale, seed=1).log_q).all()


@EVERY_CORPUS
@EVERY_DTYPE
def test_changes_keep_every_invariant(name, dtype):
    index, _ = made(name, dtype, leaf_size=8)
    y = CORPORA[name][0].astype(np.float32)
    some = index.ids[::2]
    index.update(y[::-1][: len(some)], some)
    index.check()
    index.repair(factor=1.0001)
    index.check()
    index.add(y, np.arange(10**7, 10**7 + len(y)))
    index.check()
    index.remove(index.ids[: len(y) // 2])
    index.repair()
    index.check()
    assert index.stats()["largest_leaf"] <= 16


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replace", "exact", "without"])
@EVERY_CORPUS
@EVERY_DTYPE
def test_draws_follow_their_probabilities(name, dtype, way):
    """Null: 4 000 first draws (400 where there are 4 096 dimensions) have the probabilities of `log_proposal` (of the
    softmax for ``exact``); chi-squared over cells of at least 10 expected draws, the rarest pooled; 108 tests at a
    false-alarm rate of 1e-4 each."""
    index, x = made(name, dtype)
    size = 4000 if index.dimension < 100 else 400
    scale = 1.0 if CORPORA[name][1] else 20.0
    same = np.repeat(x[:1], size, axis=0)
    if way == "exact":
        ids = index.sample_exact(same, 1, scale=scale, seed=3).ids[:, 0]
    else:
        ids = index.sample(same, 1, scale=scale, probes=2, seed=3, replace=way == "replace").ids[:, 0]
    truth = naive.scores(index, x[:1], scale)[0]
    p = (
        naive.softmax(truth)
        if way == "exact"
        else np.exp(index.log_proposal(x[:1], index.ids, scale=scale, probes=2)[0])
    )
    observed = np.bincount(np.searchsorted(index.ids, ids), minlength=len(index)).astype(float)
    order = np.argsort(p)
    cells = np.minimum(np.cumsum(size * p[order]) // 10, size // 10 - 1).astype(int)
    o, e = np.bincount(cells, observed[order]), np.bincount(cells, size * p[order])
    small = e < 10
    o, e = np.append(o[~small], o[small].sum()), np.append(e[~small], e[small].sum())
    assert (o[e < 1e-9] == 0).all()
    o, e = o[e >= 1e-9], e[e >= 1e-9]
    assert stats.chi2.sf(((o - e) ** 2 / e).sum(), max(len(e) - 1, 1)) > ALARM
    if len(e) == 1:
        assert o[0] == size


def test_a_scale_beyond_all_scores_is_refused():
    index = TargetIndex.build(normal(30, 4).astype(np.float32), progress=False)
    x = normal(2, 4).astype(np.float32)
    assert np.isfinite(index.sample(x, 2, scale=1e99, seed=0).log_z).all()
    for call in (index.sample, index.expectation, index.log_partition):
        with pytest.raises(ValueError, match=r"scale must be at most 1e\+100, got 1e\+300"):
            call(x, scale=1e300, **({"k": 2} if call == index.sample else {}))


def test_the_expectation_stays_among_the_targets_at_any_scale():
    """Where the estimate of a shut node is held by its ball, so is the mean of its targets."""
    y = naive.clusters(2000, 16, spread=1.0)
    index = TargetIndex.build(y, leaf_size=16, progress=False)
    for scale in (50.0, 200.0, 1e4):
        truth = naive.expectation(index, y[::40], scale)
        gap = np.linalg.norm(index.expectation(y[::40], scale=scale, probes=1) - truth, axis=1)
        assert (gap / np.linalg.norm(truth, axis=1)).mean() < 0.5


@pytest.mark.slow
@EVERY_DTYPE
def test_equal_targets_by_the_hundred_thousand(dtype):
    """Leaves are cut, memory stays near what the vectors take, and what was one place may spread again."""
    rng, n = np.random.default_rng(0), 100_000
    y = np.repeat(normal(1, 16).astype(np.float32), n, axis=0)
    tracemalloc.start()
    index = TargetIndex.build(y, dtype=dtype, leaf_size=64, threads=1, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * y.nbytes
    index.check()
    assert index.stats()["largest_leaf"] <= 128
    assert index.stats()["mean_leaf"] > 32
    index.update(rng.normal(size=y.shape), index.ids)  # no leaf is nearer than another, all being of one place
    assert index.repair()["groups_rebuilt"] > 0
    assert index.stats()["wear_max"] < 1.2
    index.check()
    index.update(y + np.float32(1), index.ids)
    index.add(y, np.arange(n, 2 * n))
    index.repair()
    index.check()
    assert index.stats()["largest_leaf"] <= 128
    assert index.stats()["rows_used"] < 4 * n
