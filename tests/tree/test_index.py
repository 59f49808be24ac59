"""The public face: what it accepts, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import subprocess
import sys

import naive
import numpy as np
import pytest
import torch

from hardwood import TargetIndex


@pytest.fixture(scope="module")
def vectors():
    return naive.clusters(600, 12)


@pytest.fixture
def index(vectors):
    return TargetIndex.build(vectors, leaf_size=8, progress=False)


def state(index):
    nodes = index._tree.nodes
    return [len(index), index.ids, index.vectors(index.ids), *(np.array(a) for a in nodes[3:])]


def test_len_in_repr(index):
    assert len(index) == 600
    assert 0 in index
    assert np.int64(599) in index
    assert 600 not in index
    assert -1 not in index
    assert "a" not in index
    assert 2**80 not in index
    assert repr(index).startswith("TargetIndex(600 targets, 12 dimensions, float32, dot; ")
    assert index.stats()["targets"] == 600


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(600)[::-1],
        np.arange(600) - 300,
        np.random.default_rng(0).permutation(2**62 - np.arange(600)),
    ],
)
def test_any_int64_ids(vectors, ids):
    index = TargetIndex.build(vectors, ids=ids, leaf_size=8, progress=False)
    index.check()
    np.testing.assert_array_equal(index.vectors(ids), vectors)
    np.testing.assert_array_equal(index.ids, np.sort(ids))
    hits = index.search(vectors[:50], 1, probes=1000)
    np.testing.assert_array_equal(hits.ids[:, 0], ids[:50])
    draw = index.sample(vectors[:5], 50, seed=0)
    np.testing.assert_allclose(
        draw.scores,
        20 * np.einsum("bd,bkd->bk", vectors[:5], index.vectors(draw.ids.ravel()).reshape(5, 50, 12)),
        atol=1e-5,
    )


@pytest.mark.parametrize("form", ["array", "float64", "list", "memmap", "chunks", "tensor", "half tensor"])
def test_vectors_in_any_form(vectors, tmp_path, form):
    np.save(tmp_path / "v.npy", vectors)
    forms = {
        "array": vectors, "float64": vectors.astype(np.float64), "list": vectors.tolist(),
        "memmap": np.load(tmp_path / "v.npy", mmap_mode="r"),
        "chunks": (vectors[i : i + 77] for i in range(0, 600, 77)),
        "tensor": torch.from_numpy(vectors), "half tensor": torch.from_numpy(vectors).bfloat16(),
    }  # fmt: skip
    index = TargetIndex.build(forms[form], leaf_size=8, progress=False)
    want = torch.from_numpy(vectors).bfloat16().float().numpy() if form == "half tensor" else vectors
    np.testing.assert_array_equal(index.vectors(np.arange(600)), want)
    index.check()


def test_bfloat16_rounds_as_torch_does(vectors):
    index = TargetIndex.build(vectors, dtype="bfloat16", leaf_size=8, progress=False)
    np.testing.assert_array_equal(index.vectors(np.arange(600)), torch.from_numpy(vectors).bfloat16().float().numpy())


def test_tensors_in_tensors_out(index, vectors):
    x = torch.from_numpy(vectors[:3]).requires_grad_()
    draw, plain = index.sample(x, 4, seed=1), index.sample(vectors[:3], 4, seed=1)
    for a, b in zip(draw, plain, strict=True):
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, np.ndarray)
        np.testing.assert_array_equal(a.numpy(), b)
    assert draw.ids.dtype == torch.int64
    assert isinstance(index.expectation(x, scale=20.0), torch.Tensor)
    assert isinstance(index.search(x, 2).ids, torch.Tensor)


def test_cosine(vectors):
    stretched = vectors * np.linspace(0.1, 9, 600)[:, None].astype(np.float32)
    stretched[5] = 0
    index = TargetIndex.build(stretched, metric="cosine", leaf_size=8, progress=False)
    norms = np.linalg.norm(index.vectors(np.arange(600)), axis=1)
    np.testing.assert_allclose(np.delete(norms, 5), 1, atol=1e-6)
    assert norms[5] == 0
    draw = index.sample(vectors[:4] * 100, 5, probes=10**6, seed=0)
    np.testing.assert_allclose(draw.log_z, naive.log_sum_exp(naive.scores(index, vectors[:4], 20.0)), atol=1e-5)
    index.update(vectors[:1] * 50, [7])
    np.testing.assert_allclose(index.vectors([7]), vectors[:1], atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5, 7, 13, 40, 100, 4096])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_search_and_expectation_agree_with_brute_force(d, dtype):
    """All leaves opened: the same sets as NumPy's but for ties within float32 rounding; a mean within 1e-5 of
    the largest norm."""
    y = naive.clusters(300 if d > 100 else 900, d, spread=1.0)
    index = TargetIndex.build(y, dtype=dtype, leaf_size=16, progress=False)
    x = naive.clusters(7, d, seed=8)
    s = naive.scores(index, x, 1.0)
    hits = index.search(x, 10, probes=10**6)
    best = -np.sort(-s, axis=1)[:, :10]
    np.testing.assert_allclose(hits.scores, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(s, hits.ids, axis=1), best, atol=1e-5)
    assert all(len(set(row)) == 10 for row in hits.ids.tolist())
    for scale in (1.0, 20.0):
        mean = index.expectation(x, scale=scale, probes=10**6)
        np.testing.assert_allclose(mean, naive.expectation(index, x, scale), atol=1e-5)


def test_expectation_is_the_gradient_of_its_log_z():
    """Central differences of ``log Ẑ`` with few leaves open, where no estimate is clipped: the tilt by the
    covariance belongs there."""
    y = naive.clusters(900, 6, spread=0.3)
    index = TargetIndex.build(y, leaf_size=8, progress=False)
    x, scale, h = naive.clusters(1, 6, seed=2).astype(np.float64), 2.0, 1e-3
    steps = np.concatenate([x + h * np.eye(6), x - h * np.eye(6)])
    log_z = index.sample(steps, 1, scale=scale, probes=2, seed=0).log_z
    numeric = (log_z[:6] - log_z[6:]) / (2 * h * scale)
    np.testing.assert_allclose(index.expectation(x, scale=scale, probes=2)[0], numeric, atol=2e-3)


def test_search_says_when_it_looked_at_too_few(index, vectors):
    hits = index.search(vectors[:2], 599, probes=1)
    assert (hits.ids[:, -1] == -1).all()
    assert np.isneginf(hits.scores[:, -1]).all()
    assert (hits.ids[:, 0] >= 0).all()


BAD = [
    (lambda i, v: i.sample(v[:2], 0), ValueError, "k must be at least 1"),
    (lambda i, v: i.sample(v[:2], 1.5), TypeError, "k must be a whole number"),
    (lambda i, v: i.sample(v[:2], 1, scale=0.0), ValueError, "scale must be positive"),
    (lambda i, v: i.sample(v[:2], 1, scale=float("nan")), ValueError, "scale must be positive"),
    (lambda i, v: i.sample(v[:2], 1, probes=0), ValueError, "probes must be at least 1"),
    (lambda i, v: i.sample(v[:2, :5], 1), ValueError, "5 dimensions; this index holds vectors of 12"),
    (lambda i, v: i.sample(v[0], 1), ValueError, r"shape \(n, d\)"),
    (lambda i, v: i.sample(v[:2] * np.nan, 1), ValueError, r"queries\[0\] holds NaN"),
    (lambda i, v: i.sample([["a"] * 12], 1), TypeError, "queries must be numbers"),
    (lambda i, v: i.sample(v[:2], 601, replace=False), ValueError, "600 targets"),
    (lambda i, v: i.sample(v[:2], 1, exclude=[[1]]), ValueError, "1 lists for 2 queries"),
    (lambda i, v: i.sample(v[:2], 1, exclude=[[1], ["x"]]), TypeError, r"exclude\[1\] must be integers"),
    (lambda i, v: i.sample(v[:2], 1, exclude=[np.arange(600), []]), ValueError, "query 0 has 0 targets"),
    (lambda i, v: i.sample(v[:2], 1, seed="x"), TypeError, "seed must be"),
    (lambda i, v: i.search(v[:2], -1), ValueError, "k must be at least 1"),
    (lambda i, v: i.log_partition(v[:2], scale=1.0, tolerance=-1), ValueError, "tolerance must be positive"),
    (lambda i, v: i.log_partition(v[:2], scale=1.0, probes=0), ValueError, "probes must be at least 1"),
    (lambda i, v: i.log_proposal(v[:2], [1, 10**9]), KeyError, "id 1000000000 is not in the index"),
    (lambda i, v: i.vectors([3, -1]), KeyError, "id -1 is not in the index"),
    (lambda i, v: i.add(v[:2], [600]), ValueError, "1 ids for 2 vectors"),
    (lambda i, v: i.add(v[:2], [600, 3]), ValueError, "id 3 is already in the index"),
    (lambda i, v: i.add(v[:2], [600, 600]), ValueError, "repeats 600"),
    (
        lambda i, v: i.add(np.array([v[0], v[1] * np.inf]), [600, 601]),
        ValueError,
        r"vectors\[1\] holds NaN or inf",
    ),
    (lambda i, v: i.add(v[:1] * 1e19, [600]), ValueError, "norm 1e.19, beyond"),
    (lambda i, v: i.add(v[:1, :3], [600]), ValueError, "3 dimensions"),
    (lambda i, v: i.remove([1, 2, 600]), KeyError, "id 600 is not in the index"),
    (lambda i, v: i.remove([1, 2, 1]), ValueError, "repeats 1"),
    (lambda i, v: i.remove(["1"]), TypeError, "ids must be integers"),
    (lambda i, v: i.update(v[:2], [1, 777]), KeyError, "id 777 is not in the index"),
    (lambda i, v: i.update(np.array([v[0], v[1] * np.nan]), [1, 2]), ValueError, r"vectors\[1\] holds NaN"),
    (lambda i, v: i.update(v[:2], [1, 1]), ValueError, "repeats 1"),
    (lambda i, v: i.repair(factor=0), ValueError, "factor must be positive"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_is_refused_and_changes_nothing(index, vectors, call, error, text):
    before = state(index)
    with pytest.raises(error, match=text):
        call(index, vectors)
    for a, b in zip(before, state(index), strict=True):
        np.testing.assert_array_equal(a, b)
    index.check()


BAD_BUILDS = [
    (lambda v: TargetIndex.build(v[:0]), ValueError, "no rows"),
    (lambda v: TargetIndex.build(iter([])), ValueError, "without any rows"),
    (lambda v: TargetIndex.build(v[0]), ValueError, "shape"),
    (lambda v: TargetIndex.build(np.zeros((2, 0))), ValueError, "0 dimensions"),
    (lambda v: TargetIndex.build(np.zeros((2, 4097))), ValueError, "4097 dimensions"),
    (lambda v: TargetIndex.build(v, dtype="float16"), ValueError, "dtype must be one of"),
    (lambda v: TargetIndex.build(v, metric="l2"), ValueError, "metric must be one of"),
    (lambda v: TargetIndex.build(v, leaf_size=0), ValueError, "leaf_size must be at least 1"),
    (lambda v: TargetIndex.build(v, threads=0), ValueError, "threads must be at least 1"),
    (lambda v: TargetIndex.build(v, ids=np.zeros(600, int)), ValueError, "repeats 0"),
    (lambda v: TargetIndex.build(v, ids=[1, 2]), ValueError, "2 ids for 600 vectors"),
    (lambda v: TargetIndex.build(v, ids=np.arange(600.0)), TypeError, "ids must be integers"),
    (lambda v: TargetIndex.build(np.where(np.arange(600)[:, None] == 9, np.nan, v)), ValueError, "NaN"),
    (lambda v: TargetIndex.build(v.astype(str)), TypeError, "numbers"),
    (lambda v: TargetIndex.build(3), TypeError, "an array, a tensor or an iterator"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD_BUILDS, ids=[b[2] for b in BAD_BUILDS])
def test_bad_builds_are_refused(vectors, call, error, text):
    with pytest.raises(error, match=text):
        call(vectors)


def test_an_emptied_index_says_so_and_fills_again(index, vectors):
    index.remove(np.arange(600))
    assert len(index) == 0
    index.check()
    for call in (lambda: index.sample(vectors[:1], 1), lambda: index.search(vectors[:1], 1)):
        with pytest.raises(ValueError, match="index is empty"):
            call()
    assert index.repair() == {"groups_rebuilt": 0, "leaves_merged": 0, "rows_given_back": 0, "groups": 0}
    index.add(vectors[:2], [5, 6])
    index.check()
    np.testing.assert_array_equal(index.vectors([6, 5]), vectors[[1, 0]])


def test_importing_is_quick_and_leaves_torch_and_numba_alone():
    code = (
        "import sys, hardwood; assert not {'torch', 'numba'} & set(sys.modules), 'heavy'; "
        "from hardwood import TargetIndex; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
