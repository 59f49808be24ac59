"""Draws: exact where promised, unbiased everywhere, and their probabilities true.

Statistical tests use fixed seeds. Each states its null and its false-alarm rate: how often a right program
would fail with a fresh seed.
"""

from __future__ import annotations

from functools import partial

import naive
import numpy as np
import pytest
from scipy import stats

from hardwood import TargetIndex
from hardwood._ragged import RaggedRows

ALARM = 1e-4


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def index(request):
    return TargetIndex.build(naive.clusters(2000, 16), leaf_size=4, dtype=request.param, progress=False)


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(5)
    return (naive.clusters(2000, 16)[:6] + 0.1 * rng.normal(size=(6, 16))).astype(np.float32)


def assert_distribution(ids, probabilities, names):
    """Chi-squared. Null: the draws have these probabilities; cells are pooled to an expectation of at least
    10; false alarms: `ALARM`."""
    observed = np.array([(ids == name).sum() for name in names], dtype=float)
    expected = probabilities * len(ids)
    order = np.argsort(expected)
    pooled = np.minimum(np.cumsum(expected[order]) // 10, np.cumsum(expected[order])[-1] // 10 - 1).astype(int)
    o, e = np.bincount(pooled, observed[order]), np.bincount(pooled, expected[order])
    o, e = o[e > 0], e[e > 0]
    assert len(e) > 5
    assert observed.sum() == len(ids)
    p = stats.chi2.sf(((o - e) ** 2 / e).sum(), len(e) - 1)
    assert p > ALARM, p


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_with_all_leaves_open_draws_are_exact(index, queries, scale):
    draw = index.sample(queries[:1], 20_000, scale=scale, probes=10**6, seed=1)
    truth = naive.scores(index, queries[:1], scale)
    assert_distribution(draw.ids[0], naive.softmax(truth)[0], index.ids)
    np.testing.assert_allclose(draw.log_z, naive.log_sum_exp(truth), atol=1e-5)
    np.testing.assert_allclose(draw.log_q, draw.scores - draw.log_z[:, None], atol=1e-5)


@pytest.mark.parametrize("probes", [1, 3, 40])
@pytest.mark.parametrize("scale", [2.0, 20.0])
def test_log_q_is_the_probability_of_the_draw(index, queries, probes, scale):
    """Against the enumeration of all targets by `log_proposal`: it sums to 1, the draws follow it, and
    `log_q` is the same number."""
    every = index.log_proposal(queries, index.ids, scale=scale, probes=probes)
    np.testing.assert_allclose(np.exp(every).sum(axis=1), 1.0, atol=1e-5)
    draw = index.sample(queries, 20_000, scale=scale, probes=probes, seed=2)
    assert_distribution(draw.ids[0], np.exp(every[0]), index.ids)
    at = np.searchsorted(index.ids, draw.ids)
    np.testing.assert_allclose(draw.log_q, np.take_along_axis(every, at, axis=1), atol=2e-5)
    np.testing.assert_allclose(
        draw.scores, np.take_along_axis(naive.scores(index, queries, scale), at, axis=1), atol=1e-5 * scale
    )
    if probes == 1:  # the guard: at one probe the proposal is not P
        assert np.abs(np.exp(every) - naive.softmax(naive.scores(index, queries, scale))).sum(axis=1).max() > 0.01


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("probes", [1, 10])
@pytest.mark.parametrize("k", [1, 5])
def test_weighted_sums_are_unbiased(index, queries, replace, probes, k):
    """Null: the mean of ``Σ_j exp(s_j + w_j) f(j)`` over 4 000 independent calls is the sum over all targets,
    for ``f = 1`` and for a coordinate of the target; z-test, 16 tests at false-alarm rate 1e-4 each."""
    x = np.repeat(queries[:1], 4000, axis=0)
    exclude = [[3, 17]] * len(x)
    draw = index.sample(x, k, scale=10.0, probes=probes, replace=replace, exclude=exclude, seed=3)
    s = naive.hide(index, naive.scores(index, x[:1], 10.0), exclude[:1])[0]
    values = index.vectors(index.ids)[:, 0].astype(np.float64)
    weights = np.exp(draw.scores + draw.log_weights - naive.log_sum_exp(s))
    for f in (np.ones(len(s)), values):
        sums = (weights * f[np.searchsorted(index.ids, draw.ids)]).sum(axis=1)
        truth = naive.softmax(s) @ f
        z = (sums.mean() - truth) / (sums.std(ddof=1) / np.sqrt(len(sums)))
        assert abs(z) < stats.norm.isf(0.5e-4), z


def test_without_replacement_never_repeats(index, queries):
    draw = index.sample(queries, 500, scale=5.0, replace=False, probes=3, seed=4)
    assert all(len(set(row)) == 500 for row in draw.ids.tolist())
    np.testing.assert_allclose(
        draw.log_q,
        np.take_along_axis(
            index.log_proposal(queries, index.ids, scale=5.0, probes=3),
            np.searchsorted(index.ids, draw.ids),
            axis=1,
        ),
        atol=2e-5,
    )


def test_without_replacement_to_the_last_target():
    index = TargetIndex.build(naive.clusters(30, 4), leaf_size=2, progress=False)
    x = naive.clusters(3, 4, seed=1)
    draw = index.sample(x, 29, scale=3.0, replace=False, exclude=[[7], [8], [9]], probes=1, seed=0)
    for row, hidden in zip(draw.ids, (7, 8, 9), strict=True):
        assert sorted(row) == [i for i in range(30) if i != hidden]
    truth = naive.hide(index, naive.scores(index, x, 3.0), [[7], [8], [9]])
    np.testing.assert_allclose(naive.log_sum_exp(draw.scores + draw.log_weights), naive.log_sum_exp(truth), atol=1e-5)
    with pytest.raises(ValueError, match="29 targets that are not excluded"):
        index.sample(x, 30, replace=False, exclude=[[7], [8], [9]])


def test_one_draw_without_replacement_is_one_with(index, queries):
    """Its Gumbel weight has infinite variance, and 1/q the least."""
    options = {"scale": 5.0, "probes": 2, "seed": 3, "exclude": [[i] for i in range(len(queries))]}
    draw, same = index.sample(queries, 1, replace=False, **options), index.sample(queries, 1, **options)
    np.testing.assert_array_equal(draw.ids, same.ids)
    np.testing.assert_array_equal(draw.log_weights, -draw.log_q)


def test_without_replacement_the_first_draw_is_one_draw(index, queries):
    """Null: the first of the ordered draws follows `log_proposal`; chi-squared over 20 000 calls."""
    x = np.repeat(queries[:1], 20_000, axis=0)
    draw = index.sample(x, 2, scale=5.0, replace=False, probes=2, seed=9)
    every = index.log_proposal(queries[:1], index.ids, scale=5.0, probes=2)[0]
    assert_distribution(draw.ids[:, 0], np.exp(every), index.ids)


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("k", [1, 40])
def test_exact_draws_are_exact_samples(index, queries, scale, k):
    """Null: draws follow P, after however many leaves; the first of a call and later ones alike."""
    exclude = [[0, 11, 500]]
    x = np.repeat(queries[:1], 8000 // k, axis=0)
    draw = index.sample_exact(x, k, scale=scale, exclude=exclude * len(x), seed=6)
    truth = naive.hide(index, naive.scores(index, queries[:1], scale), exclude)
    assert_distribution(draw.ids.reshape(-1), naive.softmax(truth)[0], index.ids)
    log_z = naive.log_sum_exp(truth)
    assert (draw.log_z_lower <= log_z).all()
    assert (log_z <= draw.log_z_upper).all()
    np.testing.assert_array_equal(draw.log_q, draw.scores - draw.log_z[:, None])


@pytest.mark.parametrize("kind", ["list", "ragged"])
def test_excluded_ids_never_appear_and_leave_log_z(index, queries, kind):
    rng = np.random.default_rng(0)
    truth = naive.scores(index, queries, 20.0)
    exclude = [np.argsort(-row)[:size] for row, size in zip(truth, (0, 1, 5, 20, 60, 100), strict=True)]
    exclude[1] = np.append(exclude[1], [10**12, -4])  # not in the index: nothing to exclude
    lists = exclude
    if kind == "ragged":
        sizes = [len(e) for e in exclude]
        lists = RaggedRows(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate(exclude).astype(np.int64))
    hidden = naive.hide(index, truth, exclude)
    for sample in (index.sample, partial(index.sample, replace=False), index.sample_exact):
        draw = sample(queries, 100, exclude=lists, seed=int(rng.integers(100)))
        assert all(not np.isin(row, out).any() for row, out in zip(draw.ids, exclude, strict=True))
    draw = index.sample(queries, 1, exclude=lists, probes=10**6)
    np.testing.assert_allclose(draw.log_z, naive.log_sum_exp(hidden), atol=1e-5)
    part = index.log_partition(queries, scale=20.0, exclude=lists, probes=10**6)
    np.testing.assert_allclose(part.estimate, naive.log_sum_exp(hidden), atol=1e-5)
    every = index.log_proposal(queries, index.ids, exclude=lists, probes=2)
    np.testing.assert_allclose(np.exp(every).sum(axis=1), 1.0, atol=1e-5)
    assert (np.isneginf(every) == np.isneginf(hidden)).all()
    mean = index.expectation(queries, scale=20.0, exclude=lists, probes=10**6)
    np.testing.assert_allclose(mean, naive.expectation(index, queries, 20.0, exclude), atol=1e-5)


@pytest.mark.parametrize("way", ["replace", "without", "exact"])
@pytest.mark.parametrize("probes", [3, 20])  # leaves scored query by query, and leaf by leaf over a block of queries
def test_same_seed_same_draws(index, queries, way, probes):
    x = np.repeat(queries, 10, axis=0)
    sample = index.sample_exact if way == "exact" else partial(index.sample, probes=probes, replace=way == "replace")
    whole = sample(x, 7, seed=8)
    index._threads = 5
    again = sample(x, 7, seed=8)
    index._threads = 1
    parts = [sample(x[i : i + 13], 7, seed=8, first_query=i) for i in range(0, 60, 13)]
    for a, b, c in zip(whole, again, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, np.concatenate(c))
    other = sample(x, 7, seed=9)
    assert (other.ids != whole.ids).any()
    fresh = [sample(x, 7).ids for _ in range(2)]
    assert (fresh[0] != fresh[1]).any()


@pytest.mark.parametrize("replace", [True, False])
def test_without_bounds_the_draws_are_the_same(index, queries, replace):
    options = {"probes": 3, "seed": 5, "replace": replace, "exclude": [[1, 2]] * len(queries)}
    with_bounds, without = (index.sample(queries, 4, bounds=bounds, **options) for bounds in (True, False))
    for name in ("ids", "log_q", "scores", "log_weights", "log_z"):
        np.testing.assert_array_equal(getattr(with_bounds, name), getattr(without, name))
    assert np.isfinite([with_bounds.log_z_lower, with_bounds.log_z_upper]).all()
    assert (without.log_z_lower == -np.inf).all()
    assert (without.log_z_upper == np.inf).all()
