"""Won and lost, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from hardwood._ragged import RaggedRows
from hardwood.data import Judgements
from hardwood.report._paired import compare_ranks, first_ranks


def test_first_ranks_are_those_by_hand() -> None:
    positives = RaggedRows.from_pairs([0, 0, 1, 3], [5, 2, 9, 4], 4)
    judgements = Judgements(np.arange(4), positives, np.ones(4, dtype=np.int32))
    ranking = np.array([[1, 2, 5], [1, 2, 3], [1, 2, -1], [4, -1, -1]])
    assert first_ranks(ranking, judgements).tolist() == [2, 0, 0, 1]


def test_counts_and_moves_are_those_by_hand() -> None:
    before = np.array([1, 0, 5, 2, 50, 1], dtype=np.int16)
    after = np.array([1, 3, 1, 0, 40, 2], dtype=np.int16)
    found = compare_ranks(before, after, seed=0)
    assert (found["won"], found["lost"], found["same"]) == (3, 2, 1)
    assert found["net"][0] == pytest.approx(1 / 6)
    assert found["mrr@10"][0] == pytest.approx((0 + 1 / 3 + 0.8 - 0.5 + 0 - 0.5) / 6)
    moves = np.array(found["moves"])
    assert moves.sum() == 6
    assert moves[4, 1] == moves[2, 0] == moves[1, 4] == moves[3, 3] == moves[0, 1] == moves[0, 0] == 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """400 sets of 200 queries, a fifth of which gain a place: the truth is inside 95 % of the intervals, within four
    standard errors of that count (0.9 to 1; a false alarm in some ten thousand, and the seed is fixed)."""
    generator = np.random.Generator(np.random.PCG64(0))
    truth, inside = 0.2 * 0.5, 0
    for seed in range(400):
        gains = generator.random(200) < 0.2
        before, after = np.full(200, 2, dtype=np.int16), np.where(gains, 1, 2).astype(np.int16)
        _, low, high = compare_ranks(before, after, seed)["mrr@10"]
        inside += low <= truth <= high
    assert 0.9 * 400 < inside < 400


def test_the_same_seed_gives_the_same_interval_and_nothing_gives_nothing() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    before, after = generator.integers(0, 101, (2, 500)).astype(np.int16)
    assert compare_ranks(before, after, 3) == compare_ranks(before, after, 3)
    empty = np.zeros(0, dtype=np.int16)
    assert compare_ranks(empty, empty, 0)["mrr@10"] == [0.0, 0.0, 0.0]
