"""``lower <= log Z <= upper``, against brute force in float64, for whatever hypothesis can find."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood import TargetIndex

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def problems(draw):
    """Vectors, queries, scale: from one target to a few hundred, norms over thirty orders of magnitude,
    duplicates and zero rows."""
    n, d = draw(st.integers(1, 300)), draw(st.sampled_from([1, 2, 5, 7, 13, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = 10.0 ** draw(st.sampled_from([-15, -3, 0, 3, 13]))
    vectors = rng.normal(size=(n, d))
    kind = draw(st.sampled_from(["plain", "unit", "duplicates", "wild norms", "offset"]))
    if kind == "unit":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    elif kind == "duplicates":
        vectors = vectors[rng.integers(0, max(1, n // 10), n)]
    elif kind == "wild norms":
        vectors *= 10.0 ** rng.uniform(-8, 2, size=(n, 1))
    elif kind == "offset":
        vectors += 10.0
    vectors[rng.random(n) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0.0
    queries = rng.normal(size=(3, d)) * 10.0 ** draw(st.sampled_from([-15, 0, 2])) / size
    queries[2] = vectors[0] / size
    scale = 10.0 ** draw(st.sampled_from([-3, -1, 0, 1, 2, 3]))
    return (vectors * size).astype(np.float32), queries.astype(np.float32), scale


def assert_bounds(index, queries, scale, exclude=None):
    truth = naive.log_sum_exp(naive.hide(index, naive.scores(index, queries, scale), exclude))
    for probes in (1, 4, 10_000):
        draw = index.sample(queries, 2, scale=scale, probes=probes, exclude=exclude, seed=0)
        assert (draw.log_z_lower <= truth).all(), (draw.log_z_lower, truth)
        assert (truth <= draw.log_z_upper).all(), (truth, draw.log_z_upper)
        assert (draw.log_z_lower <= draw.log_z).all()
        assert (draw.log_z <= draw.log_z_upper).all()
    for budget in (1, 3, 10_000):
        part = index.log_partition(queries, scale=scale, probes=budget, exclude=exclude)
        assert (part.lower <= truth).all(), (part.lower, truth)
        assert (truth <= part.upper).all(), (truth, part.upper)


@EXAMPLES
@given(problems(), st.sampled_from(["float32", "bfloat16"]), st.sampled_from([2, 16]))
def test_bounds_hold_on_any_input(problem, dtype, leaf_size):
    vectors, queries, scale = problem
    index = TargetIndex.build(vectors, dtype=dtype, leaf_size=leaf_size, threads=1, progress=False)
    index.check()
    assert_bounds(index, queries, scale)


@EXAMPLES
@given(
    problems(),
    st.lists(st.sampled_from(["add", "remove", "thin", "crowd", "update", "repair", "far"]), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
def test_bounds_hold_after_any_changes(problem, changes, seed):
    vectors, queries, scale = problem
    rng = np.random.default_rng(seed)
    index = TargetIndex.build(vectors, leaf_size=4, threads=1, progress=False)
    fresh, d = 10**6, vectors.shape[1]
    truth = dict(enumerate(vectors))
    for change in changes:
        size = int(rng.integers(1, 40))
        some = rng.choice(list(truth), size=min(len(truth), size), replace=False) if truth else np.zeros(0, np.int64)
        moved = (
            vectors[rng.integers(0, len(vectors), max(size, len(some)))] * (1 + 0.3 * rng.normal(size=(1, d)))
        ).astype(np.float32)
        if change == "add":
            ids = np.arange(fresh, fresh + size)
            fresh += size
            index.add(moved[:size], ids)
            truth.update(zip(ids.tolist(), moved, strict=False))
        elif change == "crowd":  # many at one place: leaves are enlarged, then split
            ids = np.arange(fresh, fresh + size)
            fresh += size
            index.add(np.repeat(moved[:1], size, axis=0), ids)
            truth.update(zip(ids.tolist(), np.repeat(moved[:1], size, axis=0), strict=True))
        elif change in {"remove", "thin"}:
            if change == "thin" and truth:  # most targets go: repair then merges leaves and gives rows back
                some = rng.permutation(list(truth))[: len(truth) * 4 // 5]
            index.remove(some)
            for i in some.tolist():
                del truth[i]
        elif change in {"update", "far"} and len(some):
            moved = moved[: len(some)] * np.float32(-30.0 if change == "far" else 1.0)
            index.update(moved, some)
            truth.update(zip(some.tolist(), moved, strict=True))
        elif change == "repair":
            index.repair(factor=1.01)
        index.check()
        assert len(index) == len(truth)
    if truth:
        ids = np.array(sorted(truth))
        np.testing.assert_array_equal(index.ids, ids)
        np.testing.assert_array_equal(index.vectors(ids), np.stack([truth[i] for i in ids.tolist()]))
        assert_bounds(index, queries, scale)


def test_exclusions_leave_the_bounds():
    vectors = naive.clusters(2000, 16)
    index = TargetIndex.build(vectors, leaf_size=16, progress=False)
    rng = np.random.default_rng(1)
    exclude = [rng.choice(2000, size=s, replace=False) for s in (0, 1, 3, 50, 1990)]
    assert_bounds(index, vectors[:5], 20.0, exclude)
    assert_bounds(index, vectors[:5] * 30, 50.0, exclude)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_opening_everything_closes_the_bounds(dtype):
    vectors = naive.clusters(3000, 32)
    index = TargetIndex.build(vectors, dtype=dtype, leaf_size=16, progress=False)
    part = index.log_partition(vectors[:9], scale=20.0, tolerance=1e-2)
    assert part.converged.all()
    assert (part.upper - part.lower <= 1e-2).all()
    tight = index.log_partition(vectors[:9], scale=20.0, tolerance=1e-9)
    assert not tight.converged.any()  # float32 products cannot certify that much
    assert (tight.upper - tight.lower < 1e-3).all()
    truth = naive.log_sum_exp(naive.scores(index, vectors[:9], 20.0))
    np.testing.assert_allclose(tight.estimate, truth, atol=2e-6)
    few = index.log_partition(vectors[:9], scale=20.0, tolerance=1e-2, probes=3)
    assert not few.converged.any()
    assert (few.opened == 3).all()
