"""Leaves that a block of queries opens together: nothing but the time may change, and what is kept stays small."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from hardwood import TargetIndex
from hardwood.tree.arrays.bounds import rounding
from hardwood.tree.arrays.nodes import BLOCK
from hardwood.tree.read.question import Question
from hardwood.tree.read.survey import MOST_SHARED, SHARED, forced_leaves, shares_leaves, survey


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def index(request):
    return TargetIndex.build(naive.clusters(2000, 16), leaf_size=4, dtype=request.param, progress=False)


@pytest.fixture(scope="module")
def queries():
    return naive.clusters(2000, 16)[:6]


def block_of(index, queries, probes, exclude):
    """What the kernels see of all these queries at once."""
    lists, x = index._excluded_rows(exclude, 1), index._queries(queries)
    question = Question(x, 20.0, probes, index._groups(probes), *lists, rounding(index.dimension))
    return survey(index._tree.nodes, question, 0, len(x))


def test_leaves_scored_for_many_queries_at_once_or_one_by_one(index, queries):
    """The few probes from which on a block's queries share leaves change nothing but the time."""
    nodes = index._tree.nodes
    fewest = int(np.ceil(SHARED * len(nodes.leaf_count) / len(queries)))
    assert not shares_leaves(nodes, len(queries) * (fewest - 1))
    assert shares_leaves(nodes, len(queries) * fewest)
    for probes in (fewest - 1, fewest):  # either side; expectation and log_z use all that was opened
        lists = [np.arange(3 * i) for i in range(len(queries))]
        draw = index.sample(queries, 2, scale=20.0, probes=probes, exclude=lists, seed=1)
        every = index.log_proposal(queries, index.ids, scale=20.0, probes=probes, exclude=lists)
        np.testing.assert_allclose(np.exp(every).sum(axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(
            np.take_along_axis(every, np.searchsorted(index.ids, draw.ids), axis=1), draw.log_q, atol=2e-5
        )
        truth = naive.hide(index, naive.scores(index, queries, 20.0), lists)
        assert (draw.log_z_lower <= naive.log_sum_exp(truth)).all()
        assert (naive.log_sum_exp(truth) <= draw.log_z_upper).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("d", [3, 16, 17, 24, 40, 100, 384])
def test_shared_heads_are_each_query_s_own_to_the_bit(d, dtype):
    """With as many dimensions as the compiler adds up in one way and in another; with and without exclusions, long
    ones among them."""
    y = naive.clusters(600, d)
    index = TargetIndex.build(y, leaf_size=8, dtype=dtype, threads=1, progress=False)
    x, probes = y[:40], 12
    lists = [np.arange(0, 5 * i, 3) for i in range(len(x))]
    for exclude in (None, lists):
        rows = naive.ragged(exclude or [[]] * len(x))
        assert len(block_of(index, x, probes, rows).heads.dots)
        assert not len(block_of(index, x[:1], probes, rows.take([0])).heads.dots)  # the guard: alone they share nothing
        for options in ({}, {"replace": False}):
            whole = index.sample(x, 5, probes=probes, exclude=exclude, seed=2, **options)
            for i in range(len(x)):
                own = None if exclude is None else exclude[i : i + 1]
                alone = index.sample(
                    x[i : i + 1], 5, probes=probes, exclude=own, seed=2, first_query=i, **options
                )  # fmt: skip
                for together, single in zip(whole, alone, strict=True):
                    np.testing.assert_array_equal(together[i : i + 1], single)
        means = index.expectation(x, scale=20.0, probes=probes, exclude=exclude)
        alone = [
            index.expectation(
                x[i : i + 1], scale=20.0, probes=probes, exclude=None if exclude is None else exclude[i : i + 1]
            )
            for i in range(len(x))
        ]
        np.testing.assert_array_equal(means, np.concatenate(alone))


def test_what_a_block_keeps_at_once_is_bounded(index):
    """A whole block that opens every leaf would keep the scores of all targets for each of its queries."""
    nodes = index._tree.nodes
    every = BLOCK * len(nodes.leaf_count)
    assert shares_leaves(nodes, every)  # of 2 000 targets that is nothing
    assert not shares_leaves(nodes._replace(group_count=np.array([10**7])), every)


def test_leaves_opened_for_long_exclusions_count_too():
    """Half of all targets excluded, so that every leaf is opened, whatever ``probes`` says."""
    index = TargetIndex.build(naive.clusters(20_000, 4), leaf_size=64, threads=1, progress=False)
    x, leaves = naive.clusters(BLOCK, 4, seed=1), len(index._tree.nodes.leaf_count)
    assert BLOCK * len(index) > 1.2 * MOST_SHARED  # too much, if kept
    probes = -(-leaves // BLOCK)
    assert len(block_of(index, x, probes, naive.ragged([[]] * BLOCK)).heads.dots)  # few enough without exclusions
    half = np.arange(0, len(index), 2)
    few, many = ([half if q < long else [] for q in range(BLOCK)] for long in (16, BLOCK))
    assert 16 * len(index) < len(block_of(index, x, probes, naive.ragged(few)).heads.dots) <= MOST_SHARED
    assert not len(block_of(index, x, probes, naive.ragged(many)).heads.dots)


def test_forced_leaves_are_those_of_the_excluded_rows(index):
    nodes, rng = index._tree.nodes, np.random.default_rng(0)
    for size in (0, 1, 40, 2000):
        rows = np.sort(rng.permutation(index._tree.live_rows())[:size])
        out = np.empty(size, np.int64)
        n = forced_leaves(nodes, rows, out)
        assert len(set(out[:n].tolist())) == n
        np.testing.assert_array_equal(np.sort(out[:n]), np.unique(nodes.row_leaf[rows]))
