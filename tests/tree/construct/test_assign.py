"""Which leaf is the nearest: among all groups, or around a target's own."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from hardwood import TargetIndex
from hardwood.tree.change.tree import AROUND, MANY
from hardwood.tree.construct import assign, leaves


@pytest.mark.parametrize(("n", "d"), [(1, 3), (5, 1), (203, 9)])
@pytest.mark.parametrize("looked", [1, 3, 1000])
def test_nearest_leaves(n, d, looked):
    """Against all groups, then all leaves of the nearest; ties within rounding."""
    y = naive.clusters(700, d, spread=1.0)
    tree = TargetIndex.build(y, leaf_size=8, progress=False)._tree
    nodes, points = tree.nodes, naive.clusters(n, d, seed=4)
    best, got = np.empty(n, np.float32), np.empty(n, np.int64)
    assign.nearest_leaves(
        points, assign.NOWHERE, assign.everywhere(len(nodes.group_mean)), nodes.group_mean, tree.group_half,
        nodes.group_offsets, nodes.group_leaves, nodes.leaf_mean, tree.leaf_half, looked, 0, n, best, got,
    )  # fmt: skip
    for i in range(n):
        group_gaps = ((points[i].astype(np.float64) - nodes.group_mean) ** 2).sum(axis=1)
        limit = np.sort(group_gaps)[: min(looked, len(group_gaps))][-1]
        leaf_gaps = ((points[i].astype(np.float64) - nodes.leaf_mean) ** 2).sum(axis=1)
        inside = group_gaps[nodes.leaf_group] <= limit
        np.testing.assert_allclose(leaf_gaps[got[i]], leaf_gaps[inside].min(), atol=1e-5)
        np.testing.assert_allclose((points[i] ** 2).sum() - 2 * best[i], leaf_gaps[got[i]], atol=1e-5)
    for gain in (0.5, 1.0):
        current, kept = np.zeros(n, np.int64), got.copy()
        assign.stay_unless(points, nodes.leaf_mean, tree.leaf_half, current, gain, 0, n, best, kept)
        here, there = (((points - nodes.leaf_mean[leaf]) ** 2).sum(axis=1) for leaf in (current, got))
        clear = np.abs(there - gain * here) > 1e-5
        np.testing.assert_array_equal(kept[clear], np.where(there < gain * here, got, current)[clear])


@pytest.mark.parametrize(("n", "around"), [(1, 1), (203, 3), (5000, 5)])
def test_nearest_leaves_around_a_home(n, around):
    """As above, among the groups around each point's home; so many points that they are taken in chunks."""
    tree = TargetIndex.build(naive.clusters(700, 9, spread=1.0), leaf_size=8, progress=False)._tree
    nodes, points, rng = tree.nodes, naive.clusters(n, 9, seed=4), np.random.default_rng(n)
    lists = np.stack([rng.permutation(len(nodes.group_mean))[:around] for _ in range(4)])
    homes, best, got = rng.integers(0, 4, n), np.empty(n, np.float32), np.empty(n, np.int64)
    assign.nearest_leaves(
        points, homes, lists, nodes.group_mean, tree.group_half, nodes.group_offsets, nodes.group_leaves,
        nodes.leaf_mean, tree.leaf_half, 2, 0, n, best, got,
    )  # fmt: skip
    for i in rng.permutation(n)[:200]:
        group_gaps = ((points[i].astype(np.float64) - nodes.group_mean) ** 2).sum(axis=1)
        mine = lists[homes[i]][np.argsort(group_gaps[lists[homes[i]]])[:2]]
        leaf_gaps = ((points[i].astype(np.float64) - nodes.leaf_mean) ** 2).sum(axis=1)
        np.testing.assert_allclose(leaf_gaps[got[i]], leaf_gaps[np.isin(nodes.leaf_group, mine)].min(), atol=1e-5)


def test_many_that_move_find_nearly_the_leaves_that_each_alone_finds(monkeypatch):
    y = naive.clusters(6000, 16, spread=0.6)
    tree = TargetIndex.build(y, leaf_size=8, progress=False)._tree
    around = tree.groups_around(1)
    assert around.shape == (len(tree.nodes.group_mean), AROUND)
    assert (around == np.arange(len(around))[:, None]).any(axis=1).all()  # itself among them
    rows = tree.ids.find(np.arange(len(y)))
    moved = y + 0.12 * np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    here = tree.nodes.row_leaf[rows].astype(np.int64)
    assert len(y) >= MANY * len(around)
    near = tree.place(moved, here, 1)
    monkeypatch.setattr("hardwood.tree.change.tree.MANY", 10**6)
    anywhere = tree.place(moved, here, 1)
    assert (anywhere != here).mean() > 0.05
    assert (near == anywhere).mean() > 0.95


@pytest.mark.parametrize(
    ("n", "leaf_size", "gone"), [(1500, 8, 0), (1500, 8, 30), (1500, 8, 45), (200, 32, 0), (200, 32, 4)]
)
def test_groups_around_are_the_nearest_with_targets(n, leaf_size, gone):
    """Against all distances between means in float64; ties within rounding. With groups that are empty, and with fewer
    groups than are asked for."""
    y = naive.clusters(n, 9, spread=1.0)
    index = TargetIndex.build(y, leaf_size=leaf_size, progress=False)
    tree = index._tree
    dead = np.arange(gone)
    index.remove(tree.nodes.row_id[tree.live_rows(np.flatnonzero(np.isin(tree.nodes.leaf_group, dead)))])
    means, filled = tree.nodes.group_mean.astype(np.float64), np.flatnonzero(tree.nodes.group_count)
    assert len(filled) == len(means) - gone
    around = tree.groups_around(1)
    np.testing.assert_array_equal(around, tree.groups_around(3))
    assert around.shape == (len(means), min(AROUND, len(filled)))
    assert np.isin(around, filled).all()
    for g in filled:
        gaps = ((means - means[g]) ** 2).sum(axis=1)
        assert around[g, 0] == g
        assert len(set(around[g].tolist())) == around.shape[1]
        np.testing.assert_allclose(gaps[around[g]], np.sort(gaps[filled])[: around.shape[1]], atol=1e-5)
    many = np.arange(len(means) * MANY) % len(index)  # as `write` would ask, were there so many
    rows = tree.ids.find(index.ids)[many]
    moved = y[index.ids[many]] + np.float32(0.01)
    here = tree.nodes.row_leaf[rows].astype(np.int64)
    assert (tree.nodes.leaf_group[tree.place(moved, here, 1)] >= 0).all()


def test_regions_reach_every_group(monkeypatch):
    monkeypatch.setattr(leaves, "REACH", 1)  # so few that the nearest ones alone would not be all
    centres = naive.clusters(500, 6, spread=1.0)
    half = 0.5 * (centres**2).sum(axis=1)
    regions, around = leaves.regions_of(centres, half, np.random.default_rng(0))
    assert set(around.ravel()) == set(range(500))  # else its leaves would stay empty
    assert (np.diff(around) > 0).all()
    gaps = ((regions[:, None].astype(np.float64) - centres) ** 2).sum(axis=2)
    home = gaps.argmin(axis=0)
    for region, mine in enumerate(around):  # its own, and of the others the nearest
        own, rest = np.flatnonzero(home == region), np.setdiff1d(mine, np.flatnonzero(home == region))
        assert np.isin(own, mine).all()
        others = np.setdiff1d(np.arange(500), mine)
        assert gaps[region, rest].max(initial=0.0) <= gaps[region, others].min() + 1e-5


def test_many_groups_are_looked_for_by_region(monkeypatch):
    """Leaves are nearly as tight as where each target is compared with all groups; and any number of threads finds the
    same ones."""
    y = naive.clusters(6000, 16, spread=0.6)
    monkeypatch.setattr(leaves, "LEAVES_A_GROUP", 4)
    whole = TargetIndex.build(y, leaf_size=8, progress=False)
    monkeypatch.setattr(leaves, "MOST_COMPARED", 40)
    one, two = (TargetIndex.build(y, leaf_size=8, threads=threads, progress=False) for threads in (1, 2))
    np.testing.assert_array_equal(one._tree.nodes.row_id, two._tree.nodes.row_id)
    one.check()
    assert one.stats()["mean_spread"] < 1.03 * whole.stats()["mean_spread"]
    assert one.stats()["leaves"] > 0.97 * whole.stats()["leaves"]


def test_a_few_groups_of_thousands_look_around_themselves(monkeypatch):
    """A block of neighbours is compared with the groups around those that it is in, as if all had been looked up."""
    y = naive.clusters(6000, 16, spread=0.6)
    tree = TargetIndex.build(y, leaf_size=8, progress=False)._tree
    groups = len(tree.nodes.group_mean)
    inside = np.flatnonzero(np.isin(tree.nodes.leaf_group, [3, 5, 11]))
    rows = tree.live_rows(inside)
    here = tree.nodes.row_leaf[rows].astype(np.int64)
    assert 3 * MANY <= len(rows) < MANY * groups
    moved = tree.nodes.rows[rows] + 0.12 * np.random.default_rng(0).normal(size=(len(rows), 16)).astype(np.float32)
    asked = []
    look = tree.groups_around

    def looked(threads, own=None):
        asked.append(own)
        return look(threads, own)

    monkeypatch.setattr(tree, "groups_around", looked)
    everywhere = tree.place(moved, here, 1)
    assert not asked  # few groups: all are compared
    monkeypatch.setattr("hardwood.tree.change.tree.MOST_COMPARED", groups - 1)
    near = tree.place(moved, here, 1)
    np.testing.assert_array_equal(asked[0], [3, 5, 11])
    np.testing.assert_array_equal(look(1, asked[0]), look(1)[asked[0]])
    assert (near != here).mean() > 0.05
    assert (near == everywhere).mean() > 0.9
