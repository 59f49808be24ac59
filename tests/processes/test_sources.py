"""A source over shards, in one process and in several: the draws of one source over the whole corpus, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hardwood.negatives import Cost, make_source
from hardwood.negatives.dynamic.divergence import measure_divergence
from hardwood.negatives.dynamic.staleness import measure_staleness, scores_of_draws
from hardwood.negatives.partition import Partition
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.ranks import Ranks

from .launch import run
from .sources import BATCH, NUM_TARGETS, SOURCES, MovingTargets, life, made, request

NUM_SHARDS = 4


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def lives(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each of W processes has seen, by source."""
    folder = tmp_path_factory.mktemp("sources")
    run(request.param, ["-m", "tests.processes.sources", str(folder), str(NUM_SHARDS)])
    return {
        f"{name}-{prior}": [dict(np.load(folder / f"{name}-{prior}-{rank}.npz")) for rank in range(request.param)]
        for name in SOURCES
        for prior in (False, True)
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The same with one process that holds all shards."""
    return {
        f"{name}-{prior}": life(name, Ranks.alone(), NUM_SHARDS, prior) for name in SOURCES for prior in (False, True)
    }


@pytest.fixture(scope="module")
def many_draws() -> dict[str, dict[str, Any]]:
    return {
        f"{name}-{prior}": life(name, Ranks.alone(), NUM_SHARDS, prior, draws=250)
        for name in SOURCES
        for prior in (False, True)
    }


def test_draws_are_the_same_to_the_byte_with_any_number_of_processes(lives: Any, alone: Any) -> None:
    for name, of_ranks in lives.items():
        for found in of_ranks:
            assert str(found["digest"]) == str(alone[name]["digest"]), name
            assert np.array_equal(found["log_q"], alone[name]["log_q"]), name
            assert np.array_equal(found["counts"], alone[name]["counts"]), name
            assert np.array_equal(found["staleness"], alone[name]["staleness"]), name


def test_each_process_encodes_its_own_part_of_the_corpus_alone(lives: Any) -> None:
    for name, of_ranks in lives.items():
        for rank, found in enumerate(of_ranks):
            owners = Partition(NUM_TARGETS, NUM_SHARDS, len(of_ranks)).rank_of(found["encoded"])
            assert (owners == rank).all(), name
            assert len(found["encoded"]) > 0


@pytest.mark.slow
def test_draws_are_as_frequent_as_they_say(many_draws: Any) -> None:
    # Null: draws have the probabilities of log_proposal, which is exact here (all leaves open). Chi-squared over some
    # 40 targets; 12 sources x 5 queries; 7,500 to 10,000 draws each. False alarms: 60 x 1e-5.
    for name, found in many_draws.items():
        chances = np.exp(found["proposal"].astype(np.float64))
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5, err_msg=name)
        assert found["agrees"] < 2e-5, name
        for query in range(BATCH):
            observed = found["counts"][query]
            assert (observed[chances[query] == 0] == 0).all(), name
            expected = chances[query] * observed.sum()
            common = expected > 5
            rest = observed[~common].sum(), expected[~common].sum()
            statistic = ((observed - expected)[common] ** 2 / expected[common]).sum()
            degrees = common.sum() - 1
            if rest[1] > 5:
                statistic, degrees = statistic + (rest[0] - rest[1]) ** 2 / rest[1], degrees + 1
            assert stats.chi2.sf(statistic, degrees) > 1e-5, (name, query)


def test_a_source_that_is_never_stale_proposes_the_softmax_of_the_corpus(alone: Any) -> None:
    for prior in (False, True):
        found = alone[f"exact-{prior}"]
        asked = request(0)
        # The corpus was encoded last at step 4, and is scored as it was then.
        targets = MovingTargets(Cost())
        targets.step = 4
        scores = asked.scale * asked.queries.numpy() @ targets.vectors.numpy().T
        if prior:
            scores = scores + np.log([1, 0.1, 0.3])[np.arange(NUM_TARGETS) % 3]
        scores[asked.exclude.row_ids(), asked.exclude.values] = -np.inf
        wanted = np.exp(scores - scores.max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.exp(found["proposal"]), wanted, atol=1e-6)
        assert np.array_equal(np.isneginf(found["proposal"]), wanted == 0)


@pytest.mark.parametrize("name", ["exact", "dynamic"])
def test_all_targets_are_given_where_so_many_draws_are_asked_for(name: str) -> None:
    source = ShardedNegatives(made(name), Ranks.alone(), NUM_SHARDS)
    cost = Cost()
    source.attach(MovingTargets(cost), cost)
    source.begin_step(0)
    asked = request(1, num_negatives=NUM_TARGETS)
    draw = source.sample(asked)
    assert draw.exhaustive
    whole = made(name)
    whole.attach(MovingTargets(cost), cost)
    whole.begin_step(0)
    expected = whole.sample(asked)
    assert np.array_equal(draw.ids.numpy(), expected.ids.numpy())
    np.testing.assert_allclose(draw.log_q.numpy(), expected.log_q.numpy(), atol=2e-5)
    np.testing.assert_allclose(draw.log_z.numpy(), expected.log_z.numpy(), atol=2e-5)


def test_weights_are_unbiased_where_shards_hold_parts_of_different_size() -> None:
    # Null: sum_j exp(log_weights_j) estimates the number of drawable targets; 400 caches, each with its own seed.
    found = []
    for seed in range(400):
        source = ShardedNegatives(make_source("cache", start_step=0, cache_size=25, seed=seed), Ranks.alone(), 4)
        cost = Cost()
        source.attach(MovingTargets(cost), cost)
        source.begin_step(0)
        found.append(source.sample(request(seed)).log_weights.double().exp().sum(dim=1).numpy())
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    allowed = NUM_TARGETS - request(0).exclude.counts
    assert (np.abs(mean - allowed) < 4.5 * error).all()  # false alarms: 5 x 7e-6


@pytest.mark.parametrize("has_prior", [False, True])
def test_shards_measure_staleness_and_divergence_of_the_whole_draw(has_prior: bool) -> None:
    log_prior = np.log([1, 0.1, 0.3])[np.arange(NUM_TARGETS) % 3].astype(np.float32) if has_prior else None
    cost = Cost()
    targets = MovingTargets(cost, log_prior)
    source = ShardedNegatives(make_source("dynamic", leaf_size=4, probes=400), Ranks.alone(), NUM_SHARDS)
    source.attach(targets, cost)
    source.begin_step(0)
    stored, targets.step = targets.vectors, 3
    asked = request(1)
    draw = source.sample(asked)
    rows = torch.unique(draw.ids[draw.ids >= 0])
    source.observe(asked, draw, rows, targets.vectors[rows])
    old, new = (scores_of_draws(asked, draw, rows, vectors[rows]) for vectors in (stored, targets.vectors))
    prior = None if log_prior is None else torch.from_numpy(log_prior)[draw.ids]
    expected = measure_divergence(draw, old, new, prior)
    assert expected is not None
    figures = source.diagnostics()
    assert expected.figures() == pytest.approx({name: figures[name] for name in expected.figures()}, abs=1e-5)
    assert figures["total_variation"] > 0.05
    staleness = measure_staleness(stored[rows], targets.vectors[rows], old, new)
    assert figures["stale_cosine_error"] == pytest.approx(staleness.cosine, abs=1e-6)
    assert figures["stale_score_error"] == pytest.approx(staleness.score, abs=1e-5)


@pytest.mark.parametrize("name", ["exact", "pool"])
def test_the_highest_scores_of_the_corpus_are_not_those_of_its_shards(name: str) -> None:
    source = make_source(name, top=True)
    assert source.for_shard(0, 1).settings() == source.settings()
    with pytest.raises(ValueError, match=r"top=True.*replicated"):
        ShardedNegatives(source, Ranks.alone(), 2)


@pytest.mark.parametrize(
    ("asked", "num_shards", "opened"),
    [(128, 1, 128), (128, 2, 91), (128, 4, 64), (128, 8, 46), (128, 64, 32), (400, 4, 200), (20, 1, 20), (20, 8, 20)],
)
def test_trees_of_shards_open_what_it_takes_to_draw_like_one_tree(asked: int, num_shards: int, opened: int) -> None:
    """Found by measurement: ``python -m benchmarks.processes.shards``, docs/lab/sources.md."""
    assert make_source("dynamic", probes=asked).for_shard(0, num_shards).probes == opened


def test_a_corpus_that_can_not_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2, or start the run anew"):
        Partition(10, num_shards=2, num_ranks=3)
    with pytest.raises(ValueError, match="replicated"):
        Partition(3, num_shards=4, num_ranks=2)
    with pytest.raises(ValueError, match="index='somewhere' is a tree over the whole corpus"):
        make_source("dynamic", index="somewhere").for_shard(0, 2)


@pytest.mark.parametrize("name", list(SOURCES))
def test_the_state_of_a_shard_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    def begun() -> tuple[ShardedNegatives, MovingTargets]:
        source, cost = ShardedNegatives(made(name), Ranks.alone(), 3), Cost()
        targets = MovingTargets(cost)
        source.attach(targets, cost)
        return source, targets

    def step(source: ShardedNegatives, targets: MovingTargets, number: int) -> np.ndarray:
        targets.step = number
        source.begin_step(number)
        draw = source.sample(request(number))
        rows = torch.unique(draw.ids[draw.ids >= 0])
        source.observe(request(number), draw, rows, targets.vectors[rows])
        return draw.log_q.numpy()

    first, targets = begun()
    for number in range(3):
        step(first, targets, number)
    first.save_state(tmp_path)
    second, others = begun()
    second.load_state(tmp_path)
    for number in range(3, 6):
        assert np.array_equal(step(first, targets, number), step(second, others, number))
