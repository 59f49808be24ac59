"""Landmarks: every target is as likely as any, and every part of the tree has its share."""

from __future__ import annotations

import numpy as np
import pytest

from hardwood.negatives.dynamic.landmarks import oldest, spread_over
from hardwood.tree import TargetIndex


@pytest.fixture(scope="module")
def clusters() -> tuple[TargetIndex, np.ndarray]:
    """400 targets in 20 tight clusters far apart; and the cluster of each."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(400) % 20)
    centres = 10 * generator.standard_normal((20, 8))
    vectors = (centres[labels] + 0.01 * generator.standard_normal((400, 8))).astype(np.float32)
    return TargetIndex.build(vectors, leaf_size=20, progress=False), labels


def test_every_cluster_has_its_share(clusters: tuple[TargetIndex, np.ndarray]) -> None:
    index, labels = clusters
    squares = []
    for seed in range(10):
        chosen = spread_over(index, 100, seed)
        assert len(np.unique(chosen)) == 100
        assert (np.diff(chosen) > 0).all()
        squares.append(np.square(np.bincount(labels[chosen], minlength=20) - 5).mean())
    # A uniform sample's counts have the variance 100 * 0.05 * 0.95 * 300 / 399 = 3.6, whatever the tree.
    assert np.mean(squares) < 1.0


def test_seeds_reach_every_target(clusters: tuple[TargetIndex, np.ndarray]) -> None:
    index, _ = clusters
    seen = np.unique(np.concatenate([spread_over(index, 40, seed) for seed in range(200)]))
    assert len(seen) == 400
    assert np.array_equal(spread_over(index, 40, 3), spread_over(index, 40, 3))


def test_more_than_there_are_is_all(clusters: tuple[TargetIndex, np.ndarray]) -> None:
    assert np.array_equal(spread_over(clusters[0], 1000, 0), np.arange(400))


def test_the_oldest_come_first_and_the_current_never(clusters: tuple[TargetIndex, np.ndarray]) -> None:
    index, labels = clusters
    periods = np.full(400, 3, dtype=np.int16)
    periods[::2], periods[[1, 3, 5]] = 1, 0
    assert oldest(index, periods, 2, 0).tolist() in ([1, 3], [1, 5], [3, 5])
    some = oldest(index, periods, 103, 0)
    assert {1, 3, 5} < set(some.tolist())
    assert len(np.unique(some)) == len(some) == 103
    assert (np.bincount(periods[some], minlength=4) == [3, 100, 0, 0]).all()
    assert (np.diff(some) > 0).all()
    halves = np.bincount(labels[periods == 1], minlength=20) / 2  # of the period that is taken in part
    assert np.square(np.bincount(labels[some[periods[some] == 1]], minlength=20) - halves).mean() < 1.0
    assert len(oldest(index, periods, 1000, 0)) == 203
    assert len(oldest(index, np.zeros(400, dtype=np.int16), 5, 0)) == 0
    assert len(oldest(index, periods, 0, 0)) == 0
