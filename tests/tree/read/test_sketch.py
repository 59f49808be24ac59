"""A byte for each number: the draws' probabilities stay known and the weights unbiased, and nothing else changes."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from scipy import stats

from hardwood import TargetIndex
from hardwood.tree.arrays.nodes import NO_SKETCH, Sketch
from hardwood.tree.read.sketch import LEAST

from ..change.test_spill import CHANGES
from .test_sample import assert_distribution


@pytest.fixture(params=["float32", "bfloat16"])
def index(request):
    made = TargetIndex.build(
        naive.clusters(2000, 16), ids=np.arange(2000) * 7, leaf_size=16, dtype=request.param, progress=False
    )
    made.enable_sketch()
    return made


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(5)
    return (naive.clusters(2000, 16)[:6] + 0.1 * rng.normal(size=(6, 16))).astype(np.float32)


def coarsen(index):
    """Codes in steps of 40: were the sketch's scores taken for exact ones somewhere, it would show."""
    codes, step = index._tree.sketch
    index._tree.sketch = Sketch((np.round(codes / 40) * 40).astype(np.int8), step)


def test_a_code_is_the_residual_to_half_a_step(index):
    nodes, sketch = index._tree.nodes, index._tree.sketch
    rows = index._tree.live_rows()
    leaf = nodes.row_leaf[rows]
    residual = index.vectors(nodes.row_id[rows]) - nodes.leaf_mean[leaf]
    error = residual - sketch.step[leaf][:, None] * sketch.codes[rows]
    assert (np.abs(error) <= 0.5001 * sketch.step[leaf][:, None] + 1e-7).all()
    assert (np.abs(sketch.codes[rows]).max(axis=1) <= 127).all()
    assert sketch.step[leaf].max() > 0


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("probes", [1, 3])
def test_log_q_is_the_probability_of_the_draw(index, queries, replace, probes):
    """Chi-squared with replacement, false alarms as in `test_sample`; the same numbers from `log_proposal`, which sum
    to one."""
    coarsen(index)
    every = index.log_proposal(queries, index.ids, scale=8.0, probes=probes)
    np.testing.assert_allclose(np.exp(every).sum(axis=1), 1.0, atol=1e-5)
    draw = index.sample(queries, 20_000 if replace else 500, scale=8.0, probes=probes, replace=replace, seed=2)
    at = np.searchsorted(index.ids, draw.ids)
    np.testing.assert_allclose(draw.log_q, np.take_along_axis(every, at, axis=1), atol=2e-5)
    truth = naive.scores(index, queries, 8.0)
    np.testing.assert_allclose(draw.scores, np.take_along_axis(truth, at, axis=1), atol=1e-4)
    if replace:
        assert_distribution(draw.ids[0], np.exp(every[0]), index.ids)
    # The guard: with codes so coarse the proposal is another one than with exact scores.
    index._tree.sketch = NO_SKETCH
    assert np.abs(every - index.log_proposal(queries, index.ids, scale=8.0, probes=probes)).max() > 0.05


@pytest.mark.parametrize("replace", [True, False])
def test_weighted_sums_are_unbiased(index, queries, replace):
    """Null: the mean of ``Σ_j exp(s_j + w_j)`` over 4 000 independent calls is Z; z-test, false alarms 1e-4."""
    coarsen(index)
    x = np.repeat(queries[:1], 4000, axis=0)
    exclude = [[21, 119]] * len(x)
    draw = index.sample(x, 4, scale=8.0, probes=1, replace=replace, exclude=exclude, seed=3)
    assert not np.isin(draw.ids, [21, 119]).any()
    s = naive.hide(index, naive.scores(index, x[:1], 8.0), exclude[:1])[0]
    sums = np.exp(draw.scores + draw.log_weights - naive.log_sum_exp(s)).sum(axis=1)
    z = (sums.mean() - 1.0) / (sums.std(ddof=1) / np.sqrt(len(sums)))
    assert abs(z) < stats.norm.isf(0.5e-4), z


def test_the_proposal_is_almost_the_exact_one(index, queries):
    with_bytes = index.log_proposal(queries, index.ids, scale=20.0, probes=2)
    index._tree.sketch = NO_SKETCH
    without = index.log_proposal(queries, index.ids, scale=20.0, probes=2)
    assert 0.0 < np.abs(with_bytes - without).max() < 0.2


def test_where_steps_are_too_coarse_rows_are_read(index, queries):
    draws = {}
    for kept in (index._tree.sketch, NO_SKETCH):
        index._tree.sketch = kept
        draws[kept is NO_SKETCH] = index.sample(queries, 50, scale=1e5, probes=1, seed=6)
    np.testing.assert_array_equal(draws[True].log_q, draws[False].log_q)
    np.testing.assert_array_equal(draws[True].ids, draws[False].ids)


@pytest.mark.parametrize("factor", [1e-44, 1e-42, 1e-38, 1e-30, 1e15])
def test_extreme_vectors(factor):
    y = (naive.clusters(300, 8) / 4 * factor).astype(np.float32)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    index.enable_sketch()
    step = index._tree.sketch.step
    assert ((step == 0.0) | (step >= LEAST)).all()  # what float32 has in full precision
    x = naive.clusters(4, 8, seed=9)
    for scale in (1e-3, 20.0):
        draw = index.sample(x, 30, scale=scale, probes=1, seed=0)
        assert np.isfinite(draw.log_q).all()
        every = index.log_proposal(x, index.ids, scale=scale, probes=1)
        if factor < 1.0:  # of larger scores differences say nothing
            np.testing.assert_allclose(np.exp(every).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_drops_it(index, change):
    before = index.stats()
    assert before["sketched"] == 2000
    change(index, naive.clusters(40, 16, seed=7))
    assert index.stats()["sketched"] == 0
    index.enable_sketch()
    assert index.stats()["sketched"] == len(index)
    index.check()


def test_threads_and_chunks_change_no_draw():
    y, x = naive.clusters(20_000, 24), naive.clusters(90, 24, seed=3)
    draws = []
    for threads in (1, 3):
        index = TargetIndex.build(y, leaf_size=32, threads=threads, progress=False)
        index.enable_sketch()
        draws.append(index.sample(x, 9, probes=1, seed=1))
    parts = [index.sample(x[a : a + 30], 9, probes=1, seed=1, first_query=a) for a in (0, 30, 60)]
    for name in ("ids", "log_q", "scores"):
        np.testing.assert_array_equal(getattr(draws[0], name), getattr(draws[1], name))
        np.testing.assert_array_equal(getattr(draws[0], name), np.concatenate([getattr(p, name) for p in parts]))


def test_an_empty_index_has_none():
    index = TargetIndex.build(naive.clusters(3, 4), progress=False)
    index.remove([0, 1, 2])
    index.enable_sketch()
    assert index.stats()["sketched"] == 0
