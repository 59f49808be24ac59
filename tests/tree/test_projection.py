"""Vectors in fewer dimensions: what is kept, what is drawn, and that it is said."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from hardwood.errors import DataError
from hardwood.tree import TargetIndex
from hardwood.tree.arrays.projection import Projection, moments

N, FULL, KEPT = 600, 24, 6


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Most of their length lies in `KEPT` directions."""
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(FULL) < KEPT, 1.0, 0.05)
    turned = np.linalg.qr(rng.normal(size=(FULL, FULL)))[0]
    found = (rng.normal(size=(N, FULL)) * spread) @ turned
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def index(vectors: np.ndarray) -> TargetIndex:
    return TargetIndex.build(vectors, dimension=KEPT, leaf_size=16, progress=False)


def test_the_directions_lose_the_least_length(vectors: np.ndarray) -> None:
    projection = Projection.fit(vectors, KEPT)
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2
    assert projection.kept(vectors) == pytest.approx(values[:KEPT].sum() / values.sum(), rel=1e-5)
    np.testing.assert_allclose(projection.matrix @ projection.matrix.T, np.eye(KEPT), atol=1e-5)
    parts = moments(vectors[::2]) + moments(vectors[1::2])
    np.testing.assert_allclose(Projection.of_moments(parts, KEPT).matrix, projection.matrix, atol=1e-4)


def test_scores_are_those_of_reduced_vectors(vectors: np.ndarray, index: TargetIndex) -> None:
    assert index.projection is not None
    reduced = index.projection(vectors)
    np.testing.assert_array_equal(index.vectors(np.arange(N)), reduced)
    plain = TargetIndex.build(reduced, leaf_size=16, progress=False)
    for queries in (vectors[:5], reduced[:5]):
        found, wanted = index.search(queries, 10, probes=100), plain.search(reduced[:5], 10, probes=100)
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.scores, wanted.scores)


def test_draws_weigh_the_full_softmax_without_bias(vectors: np.ndarray, index: TargetIndex) -> None:
    # Null: the mean of exp(full score) / q is Z. z-test of 4 queries at 5 standard errors: false alarms 2e-6.
    scale, queries = 5.0, vectors[:4]
    drawn = index.sample(queries, 20_000, scale=scale, probes=4, seed=3)
    scores = scale * np.einsum("bd,bkd->bk", queries, vectors[drawn.ids]).astype(np.float64)
    ratios = np.exp(scores - drawn.log_q)
    truth = np.exp(scale * (queries @ vectors.T).astype(np.float64)).sum(axis=1)
    errors = ratios.std(axis=1) / np.sqrt(ratios.shape[1])
    assert (np.abs(ratios.mean(axis=1) - truth) < 5 * errors).all()


def test_new_vectors_may_be_full_or_reduced(vectors: np.ndarray) -> None:
    one, other = (TargetIndex.build(vectors[:400], dimension=KEPT, progress=False) for _ in range(2))
    assert one.projection is not None
    one.add(vectors[400:], np.arange(400, N))
    other.add(one.projection(vectors[400:]), np.arange(400, N))
    one.update(vectors[:10], np.arange(10, 20))
    other.update(one.projection(vectors[:10]), np.arange(10, 20))
    np.testing.assert_array_equal(one.vectors(np.arange(N)), other.vectors(np.arange(N)))
    one.check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_prior", [False, True])
def test_it_is_saved_and_copied(vectors: np.ndarray, tmp_path: Path, dtype: str, with_prior: bool) -> None:
    prior = np.linspace(-1, 0, N).astype(np.float32) if with_prior else None
    made = TargetIndex.build(vectors, dimension=KEPT, log_prior=prior, dtype=dtype, progress=False)
    made.save(tmp_path / "index")
    for again in (TargetIndex.load(tmp_path / "index", verify=True), copy.deepcopy(made)):
        assert again.projection is not None
        assert made.projection is not None
        np.testing.assert_array_equal(again.projection.matrix, made.projection.matrix)
        found, wanted = (each.sample(vectors[:7], 5, seed=1) for each in (again, made))
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.log_q, wanted.log_q)


def test_cosine_makes_unit_before_it_reduces(vectors: np.ndarray) -> None:
    long = TargetIndex.build(7 * vectors, dimension=KEPT, metric="cosine", progress=False)
    unit = TargetIndex.build(vectors, dimension=KEPT, metric="cosine", progress=False)
    np.testing.assert_allclose(long.vectors(np.arange(N)), unit.vectors(np.arange(N)), atol=1e-6)
    found, wanted = long.search(3 * vectors[:5], 4, probes=100), unit.search(vectors[:5], 4, probes=100)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


def test_chunks_are_reduced_too(vectors: np.ndarray, index: TargetIndex) -> None:
    found = TargetIndex.build(iter([vectors[:100], vectors[100:]]), dimension=KEPT, leaf_size=16, progress=False)
    np.testing.assert_array_equal(found.vectors(np.arange(N)), index.vectors(np.arange(N)))


def test_a_projection_may_be_given_and_vectors_be_reduced_already(vectors: np.ndarray, index: TargetIndex) -> None:
    projection = Projection.fit(vectors, KEPT)
    for given in (vectors, projection(vectors), torch.from_numpy(projection(vectors))):
        found = TargetIndex.build(given, dimension=projection, leaf_size=16, progress=False)
        np.testing.assert_array_equal(found.vectors(np.arange(N)), index.vectors(np.arange(N)))


@pytest.mark.parametrize("dimension", [0, FULL, FULL + 1, -1])
def test_a_dimension_that_there_is_not_is_refused(vectors: np.ndarray, dimension: int) -> None:
    with pytest.raises(ValueError, match="dimension"):
        TargetIndex.build(vectors, dimension=dimension, progress=False)


def test_vectors_of_another_model_are_refused(vectors: np.ndarray, index: TargetIndex) -> None:
    with pytest.raises(ValueError, match=r"10 dimensions; this index keeps 6 of 24"):
        index.search(vectors[:1, :10], 1)
    with pytest.raises(ValueError, match=r"10 dimensions; this index keeps 6 of 24"):
        index.update(vectors[:1, :10], [0])
    with pytest.raises(ValueError, match=r"10 dimensions; this index keeps 6 of 24"):
        TargetIndex.build(vectors[:, :10], dimension=Projection.fit(vectors, KEPT), progress=False)


def test_a_matrix_that_is_no_projection_is_refused(index: TargetIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="orthonormal"):
        Projection(np.ones((2, 5), np.float32))
    broken = Projection(np.eye(KEPT, FULL, dtype=np.float32))
    broken.matrix[0] = 2
    bad = TargetIndex(index._tree, "dot", None, False, broken)
    bad.save(tmp_path / "index")
    with pytest.raises(DataError, match="not orthonormal"):
        TargetIndex.load(tmp_path / "index")
