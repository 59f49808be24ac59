"""A prior over targets: draws, probabilities and bounds are those of ``π exp(s)``, whatever changes."""

from __future__ import annotations

import json
from pathlib import Path

import naive
import numpy as np
import pytest

from hardwood import TargetIndex
from hardwood.errors import DataError

N, D = 1500, 12
TARGETS = naive.clusters(N, D)
LOG_PRIOR = np.log(np.array([1.0, 0.1, 0.01, 2.0]))[np.arange(N) % 4].astype(np.float32)
QUERIES = TARGETS[:8] + 0.2 * np.random.default_rng(3).normal(size=(8, D)).astype(np.float32)


def build(dtype: str = "float32", **options) -> TargetIndex:
    return TargetIndex.build(TARGETS, log_prior=LOG_PRIOR, dtype=dtype, leaf_size=8, progress=False, **options)


def true_scores(index: TargetIndex, scale: float) -> np.ndarray:
    """The naive twin, ``(B, n)`` float64."""
    stored = index.vectors(index.ids).astype(np.float64)
    return scale * QUERIES.astype(np.float64) @ stored.T + index.log_prior(index.ids)


def assert_true(index: TargetIndex, scale: float) -> None:
    """Draws, their probabilities, and certified bounds, against the twin."""
    scores = true_scores(index, scale)
    log_z = np.logaddexp.reduce(scores, axis=1)
    every = index.log_proposal(QUERIES, index.ids, scale=scale, probes=10**6)
    np.testing.assert_allclose(every, scores - log_z[:, None], atol=2e-4)
    few = index.log_proposal(QUERIES, index.ids, scale=scale, probes=3)
    np.testing.assert_allclose(np.exp(few).sum(axis=1), 1, atol=1e-6)
    draw = index.sample(QUERIES, 50, scale=scale, probes=3, seed=1)
    places = np.searchsorted(index.ids, draw.ids)
    np.testing.assert_allclose(draw.log_q, np.take_along_axis(few, places, axis=1), atol=1e-5)
    np.testing.assert_allclose(draw.scores, np.take_along_axis(scores, places, axis=1), atol=2e-4)
    bounds = index.log_partition(QUERIES, scale=scale, probes=5)
    assert (bounds.lower <= log_z + 1e-9).all()
    assert (log_z <= bounds.upper + 1e-9).all()
    certain = index.log_partition(QUERIES, scale=scale, tolerance=0.01)
    np.testing.assert_allclose(certain.estimate, log_z, atol=0.01)
    weights = np.exp(scores - log_z[:, None])
    np.testing.assert_allclose(
        index.expectation(QUERIES, scale=scale, probes=10**6), weights @ index.vectors(index.ids), atol=2e-4
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [0.5, 20.0, 100.0])
def test_draws_probabilities_and_bounds(dtype: str, scale: float) -> None:
    assert_true(build(dtype), scale)


def test_it_is_not_part_of_what_is_stored_or_searched() -> None:
    index, plain = build(), TargetIndex.build(TARGETS, leaf_size=8, progress=False)
    assert (index.dimension, index.has_prior, plain.has_prior) == (D, True, False)
    assert index.vectors(np.arange(N)).shape == (N, D)
    np.testing.assert_array_equal(index.vectors(np.arange(N)), plain.vectors(np.arange(N)))
    np.testing.assert_allclose(index.log_prior(np.arange(N)), LOG_PRIOR, atol=1e-6)
    assert (plain.log_prior([3, 4]) == 0).all()
    ours, theirs = (each.search(QUERIES, 5, probes=10**6) for each in (index, plain))
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_it_stays_through_changes_and_files(tmp_path: Path) -> None:
    index = build()
    moved = np.arange(0, N, 3)
    index.update(-TARGETS[moved], moved)
    index.remove(np.arange(30))
    index.add(TARGETS[:2], [N, N + 1], log_prior=[-3.0, 0.5])
    index.add(TARGETS[2:3], [N + 2])
    index.repair()
    index.check()
    np.testing.assert_allclose(index.log_prior([30, 31, 33, N, N + 1, N + 2]), [*LOG_PRIOR[[30, 31, 33]], -3, 0.5, 0])
    np.testing.assert_array_equal(index.vectors([33]), -TARGETS[[33]])
    assert_true(index, 20.0)
    index.save(tmp_path / "index")
    loaded = TargetIndex.load(tmp_path / "index", verify=True)
    assert loaded.has_prior
    assert loaded.dimension == D
    ours, theirs = (each.sample(QUERIES, 20, probes=4, seed=3) for each in (index, loaded))
    np.testing.assert_array_equal(ours.ids, theirs.ids)


def test_the_cosine_is_that_of_the_vectors_alone() -> None:
    index = TargetIndex.build(5 * TARGETS, log_prior=LOG_PRIOR, metric="cosine", progress=False)
    np.testing.assert_allclose(np.linalg.norm(index.vectors([1, 2, 3]), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(index.log_prior([1, 2, 3]), LOG_PRIOR[1:4], atol=1e-6)


def test_what_is_no_prior_is_refused() -> None:
    for wrong, words in ((LOG_PRIOR[:-1], "one a target"), (np.full(N, -np.inf), r"log_prior\[0\] is -inf")):
        with pytest.raises(ValueError, match=words):
            TargetIndex.build(TARGETS, log_prior=wrong, progress=False)
    with pytest.raises(TypeError, match="must be numbers"):
        TargetIndex.build(TARGETS, log_prior=["a"] * N, progress=False)
    with pytest.raises(ValueError, match="built without log_prior"):
        TargetIndex.build(TARGETS, progress=False).add(TARGETS[:1], [N], log_prior=[0.0])
    with pytest.raises(ValueError, match="scale must be at least 1e-06 for an index with a prior"):
        build().sample(QUERIES, 1, scale=1e-9)


def test_a_folder_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"log_prior_in_last_column": 0.5}, {"log_prior_in_last_column": None}):
        changed = {name: value for name, value in {**manifest, **change}.items() if value is not None}
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError):
            TargetIndex.load(tmp_path / "index")
