"""Landmarks: every target is as likely as any, and every part of the tree has its share."""

from __future__ import annotations

import numpy as np
import pytest

from hardwood.negatives._landmarks import spread_over
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
