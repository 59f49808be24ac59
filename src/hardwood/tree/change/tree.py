"""The tree as a thing that changes: rows and leaves come and go, and every statistic stays true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.bfloat16 import decoded, encode
from hardwood.tree.arrays.bounds import SPREAD
from hardwood.tree.arrays.ids import IdMap
from hardwood.tree.arrays.nodes import (
    LAYOUT,
    NO_SKETCH,
    NO_SPILL,
    Floats,
    Ints,
    Nodes,
    group_lists,
    resized,
)
from hardwood.tree.arrays.statistics import recompute
from hardwood.tree.change.kernels import drop_rows, move_leaves
from hardwood.tree.compiled.threads import split_work
from hardwood.tree.construct.assign import NOWHERE, everywhere, nearest_groups, nearest_leaves, stay_unless
from hardwood.tree.construct.kmeans import subtree
from hardwood.tree.construct.layout import room_for
from hardwood.tree.construct.leaves import MOST_COMPARED

# A target moves to another leaf when that brings its squared distance below this part of what it is.
MOVE_GAIN = 0.9
BEAM = 2
AROUND, MANY = 24, 16
"""So many groups near its own are where a moved target looks for a leaf when many move at once, as many as `MANY` for
each group: to find a group's neighbours costs something too."""


class Tree:
    """`Nodes` and what changing them needs: rows in use, blocks given back, the ids' rows, each group's
    spread when last built."""

    def __init__(self, nodes: Nodes, used: int, leaf_size: int, reference: NDArray[np.float64] | None = None) -> None:
        self.nodes, self.used, self.leaf_size = nodes, used, leaf_size
        self.ids = IdMap.of(nodes)
        self.reference = self.group_spread() if reference is None else reference
        self.free: dict[int, list[int]] = {}
        self.changed = 0  # targets written, added or removed since the covariance shapes were measured
        self._relist: set[int] = set()  # groups whose leaves came or went since they were listed
        self.leaf_half, self.group_half = half_squares(nodes.leaf_mean), self._group_half(slice(None))
        self.spill, self.sketch = NO_SPILL, NO_SKETCH
        self._dead: list[int] = np.flatnonzero(nodes.leaf_group < 0).tolist()
        # Arrays by name of which those of leaves are the beginning, once they have grown; no whole `Nodes`, which would
        # keep rows that have been replaced.
        self._longer: dict[str, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_longer": {}}

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or uint16 for bfloat16."""
        return self.nodes.rows.dtype

    def live_rows(self, leaves: Ints | None = None) -> Ints:
        """The rows that hold targets, of all leaves or of the given ones, leaf by leaf."""
        nodes = self.nodes
        starts = nodes.leaf_start if leaves is None else nodes.leaf_start[leaves]
        counts = nodes.leaf_count if leaves is None else nodes.leaf_count[leaves]
        ends = np.cumsum(counts)
        return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)

    def group_spread(self) -> NDArray[np.float64]:
        """The mean squared distance of each group's targets from their *leaf's* mean, ``(G,)``."""
        nodes = self.nodes
        live = nodes.leaf_group >= 0
        weights = nodes.leaf_count[live] * nodes.leaf_stats[live, SPREAD]
        total = np.bincount(nodes.leaf_group[live], weights=weights, minlength=len(nodes.group_count))
        return total / np.maximum(nodes.group_count, 1)

    def place(self, vectors: Floats, current: Ints | None, threads: int) -> Ints:
        """The leaf where each vector belongs, among those of its `BEAM` nearest groups; with ``current`` given, staying
        unless moving pays. Many with ``current`` given (`MANY` for each group, or where groups are thousands for each
        group that they are in) look only at the groups around the one that they are in (`groups_around`), so that one
        that has gone far may find a leaf that is not the nearest.

        Args:
            vectors: ``(n, d)``.
            current: ``(n,)``, the leaf that each is in.
            threads: to share the work.

        Returns:
            ``(n,)`` leaves.
        """
        nodes, n = self.nodes, len(vectors)
        vectors = np.require(vectors, requirements="W")
        out, best = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float32)
        homes, around = NOWHERE, everywhere(len(nodes.group_mean))
        if current is not None:
            own = nodes.leaf_group[current]
            is_home = np.zeros(len(nodes.group_mean), dtype=np.bool_)
            is_home[own if len(is_home) > MOST_COMPARED else slice(None)] = True
            if n >= MANY * is_home.sum():
                homes = (np.cumsum(is_home) - 1)[own]
                around = self.groups_around(threads, np.flatnonzero(is_home))

        def find(begin: int, end: int) -> None:
            nearest_leaves(
                vectors, homes, around, nodes.group_mean, self.group_half, nodes.group_offsets, nodes.group_leaves,
                nodes.leaf_mean, self.leaf_half, BEAM, begin, end, best, out,
            )  # fmt: skip
            if current is not None:
                stay_unless(vectors, nodes.leaf_mean, self.leaf_half, current, MOVE_GAIN, begin, end, best, out)

        split_work(find, n, threads, least=256)
        return out

    def groups_around(self, threads: int, groups: Ints | None = None) -> Ints:
        """The `AROUND` groups with targets nearest to each of ``groups`` (all), itself first, then its neighbours,
        nearest first: ``(G, AROUND)``, or as wide as there are such groups. The row of a group without targets means
        nothing.

        Not kept: every update moves means, and an index that went by older ones would place its targets otherwise than
        the same index saved and loaded. Where it is asked for (`MANY`) it costs a sixteenth of what it saves.
        """
        nodes = self.nodes
        filled = np.flatnonzero(nodes.group_count)
        means = nodes.group_mean if groups is None else nodes.group_mean[groups]
        near = np.empty((len(means), min(AROUND, len(filled))), dtype=np.int32)

        def find(begin: int, end: int) -> None:
            nearest_groups(means, nodes.group_mean, self.group_half, filled, begin, end, near)

        split_work(find, len(near), threads, least=64)
        return near.astype(np.int64)

    def write(self, rows: Ints, vectors: Floats, threads: int) -> int:
        """New vectors for known rows: moved to a nearer leaf where that pays. Returns how many moved."""
        nodes = self.nodes
        stored = encode(vectors, self.dtype)
        here = nodes.row_leaf[rows].astype(np.int64)
        there = self.place(decoded(stored), here, threads)
        nodes.rows[rows] = stored
        self.changed += len(rows)
        go = np.flatnonzero(here != there)
        changed = [here]
        if len(go):
            ids = nodes.row_id[rows[go]]
            self.drop(rows[go])
            changed.append(self.insert(stored[go], ids, there[go]))
        self.settle(self.distinct(changed), threads)
        return len(go)

    def add(self, ids: Ints, vectors: Floats, threads: int) -> None:
        """New targets, each to its nearest leaf."""
        stored = encode(vectors, self.dtype)
        leaves = self.place(decoded(stored), None, threads)
        self.changed += len(ids)
        self.ids.insert(ids, np.full(len(ids), -1, dtype=np.int64))
        self.settle(self.distinct([self.insert(stored, ids, leaves)]), threads)

    def remove(self, ids: Ints, threads: int) -> None:
        """Targets that are known, taken out."""
        rows = self.ids.find(ids)
        touched = self.distinct([self.nodes.row_leaf[rows]])
        self.changed += len(ids)
        self.drop(rows)
        self.ids.remove(ids)
        self.settle(touched, threads)

    def distinct(self, parts: list[NDArray[Any]]) -> Ints:
        """Every leaf that is named, once, ascending."""
        named = np.zeros(len(self.nodes.leaf_count), dtype=np.bool_)
        for part in parts:
            named[part] = True
        return np.flatnonzero(named)

    def drop(self, rows: Ints) -> None:
        """Takes rows out of their leaves; the last target of a leaf fills a gap. Statistics are not yet true then."""
        moved = np.empty(len(rows), dtype=np.int64)
        moved = moved[: drop_rows(self.nodes, np.sort(rows)[::-1].copy(), moved)]
        owner = self.nodes.row_leaf[moved]
        moved = moved[moved < self.nodes.leaf_start[owner] + self.nodes.leaf_count[owner]]
        self.ids.place(self.nodes.row_id[moved], moved)

    def insert(self, stored: NDArray[Any], ids: Ints, leaves: Ints) -> Ints:
        """Appends targets to leaves, enlarging those without room and splitting those that become too large. Returns
        the leaves whose content changed."""
        if not len(ids):
            return np.zeros(0, dtype=np.int64)
        order = np.argsort(leaves, kind="stable")
        stored, ids, leaves = stored[order], ids[order], leaves[order]
        touched, first, sizes = np.unique(leaves, return_index=True, return_counts=True)
        total = self.nodes.leaf_count[touched] + sizes
        large = total > 2 * self.leaf_size
        tight = ~large & (total > self.nodes.leaf_room[touched])
        self._enlarge(touched[tight], total[tight])
        nodes = self.nodes
        fits = np.repeat(~large, sizes)
        rank = np.arange(len(ids)) - np.repeat(first, sizes)
        at = (nodes.leaf_start[leaves] + nodes.leaf_count[leaves] + rank)[fits]
        nodes.rows[at], nodes.row_id[at] = stored[fits], ids[fits]
        self.ids.place(ids[fits], at)
        nodes.leaf_count[touched[~large]] += sizes[~large]
        changed = [touched]
        for t in np.flatnonzero(large):
            leaf, new = int(touched[t]), slice(first[t], first[t] + sizes[t])
            rows = self.live_rows(np.array([leaf]))
            block = np.concatenate([self.nodes.rows[rows], stored[new]])
            block_ids = np.concatenate([self.nodes.row_id[rows], ids[new]])
            changed.append(self.rehouse(np.array([leaf]), block, block_ids, int(self.nodes.leaf_group[leaf])))
        return np.concatenate(changed)

    def _enlarge(self, leaves: Ints, counts: Ints) -> None:
        """Moves leaves to blocks with room for ``counts`` targets and a quarter more: one that has grown once will
        again."""
        if not len(leaves):
            return
        wanted = np.minimum(counts + counts // 4 + 2, np.maximum(counts, 2 * self.leaf_size)).tolist()
        blocks = np.array([self._block(room) for room in wanted], dtype=np.int64)
        old = [(int(room), int(start)) for room, start in zip(
            self.nodes.leaf_room[leaves], self.nodes.leaf_start[leaves], strict=True)]  # fmt: skip
        self.move(leaves, blocks[:, 0], blocks[:, 1])
        for room, start in old:
            self.free.setdefault(room, []).append(start)

    def move(self, leaves: Ints, starts: Ints, rooms: Ints) -> None:
        """Leaves to other blocks, and their ids with them."""
        size = int(self.nodes.leaf_count[leaves].sum())
        ids, places = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        move_leaves(self.nodes, leaves, np.ascontiguousarray(starts), np.ascontiguousarray(rooms), ids, places)
        self.ids.place(ids, places)

    def rehouse(self, old: Ints, stored: NDArray[Any], ids: Ints, group: int) -> Ints:
        """Puts targets into new blocks, as many leaves as they need, in place of the ``old`` leaves. Returns
        the leaves made."""
        large = len(ids) > 2 * self.leaf_size
        # A seed from the data: the same changes make the same tree.
        rng = np.random.default_rng([len(ids), group, len(self.nodes.leaf_count)])
        labels = subtree(decoded(stored), self.leaf_size, 5, rng) if large else np.zeros(len(ids), dtype=np.int64)
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        self._relist.add(group)
        for leaf in old:
            self._give_back(int(leaf))
        numbers = self._leaf_numbers(len(counts))
        done = 0
        for leaf, count in zip(numbers, counts.tolist(), strict=True):
            start, room = self._block(room_for(count))
            nodes = self.nodes
            part = order[done : done + count]
            at = np.arange(start, start + count)
            nodes.rows[at], nodes.row_id[at] = stored[part], ids[part]
            nodes.row_leaf[start : start + room] = leaf
            nodes.leaf_start[leaf], nodes.leaf_count[leaf] = start, count
            nodes.leaf_room[leaf], nodes.leaf_group[leaf] = room, group
            self.ids.place(ids[part], at)
            done += count
        return np.array(numbers, dtype=np.int64)

    def _give_back(self, leaf: int) -> None:
        nodes = self.nodes
        self._relist.add(int(nodes.leaf_group[leaf]))
        if nodes.leaf_room[leaf]:
            self.free.setdefault(int(nodes.leaf_room[leaf]), []).append(int(nodes.leaf_start[leaf]))
        nodes.leaf_start[leaf] = nodes.leaf_count[leaf] = nodes.leaf_room[leaf] = 0
        nodes.leaf_group[leaf] = -1
        self._dead.append(leaf)

    def _block(self, room: int) -> tuple[int, int]:
        """The start and size of a block of at least ``room`` rows: one given back that is at most half as large again,
        or from the end, which grows by a quarter when used up."""
        for size in range(room, room + room // 2 + 1):
            if self.free.get(size):
                return self.free[size].pop(), size
        nodes = self.nodes
        capacity = len(nodes.row_id)
        if self.used + room > capacity:
            self.resize(max(capacity * 5 // 4, self.used + 4 * room))
        self.used += room
        return self.used - room, room

    def _leaf_numbers(self, count: int) -> list[int]:
        """``count`` numbers for new leaves: those of dead leaves first, then new ones at the end of the leaf
        arrays."""
        old = [self._dead.pop() for _ in range(min(count, len(self._dead)))]
        if len(old) == count:
            return old
        fresh, L = count - len(old), len(self.nodes.leaf_count)
        self._lengthen(L + fresh)
        self.leaf_half = np.concatenate([self.leaf_half, np.zeros(fresh, dtype=np.float32)])
        return [*old, *range(L, L + fresh)]

    def _lengthen(self, size: int) -> None:
        """Leaf arrays of ``size`` leaves, the beginning of longer ones.

        Copied for each leaf that splits, they would make a refresh of twenty million targets last hours.
        """
        names = [name for name, array in LAYOUT.items() if array.shape[0] == "L"]
        kept = self._longer
        if not kept or len(kept[names[0]]) < size or any(getattr(self.nodes, n).base is not kept[n] for n in names):
            grown = resized(self.nodes, "L", used=len(self.nodes.leaf_count), size=size + size // 8)
            self._longer = kept = {name: getattr(grown, name) for name in names}
        self.nodes = self.nodes._replace(**{name: kept[name][:size] for name in names})

    def settle(self, touched: Ints, threads: int) -> None:
        """After rows of the ``touched`` leaves (each once) changed: drops empty leaves, relists the groups' leaves
        where any came or went, and makes the statistics of what was touched true."""
        self.spill, self.sketch = NO_SPILL, NO_SKETCH
        nodes = self.nodes
        groups = np.unique(nodes.leaf_group[touched])
        for leaf in touched[(nodes.leaf_count[touched] == 0) & (nodes.leaf_group[touched] >= 0)]:
            self._give_back(int(leaf))
        if self._relist:
            groups = np.union1d(groups, np.array(sorted(self._relist), dtype=np.int64))
            offsets, leaves = group_lists(nodes.leaf_group, len(nodes.group_count))
            self.nodes = nodes = nodes._replace(group_offsets=offsets, group_leaves=leaves)
            self._relist.clear()
        recompute(nodes, touched, threads, groups)
        self.leaf_half[touched] = half_squares(nodes.leaf_mean[touched])
        groups = groups[groups >= 0]
        self.group_half[groups] = self._group_half(groups)

    def _group_half(self, groups: Ints | slice) -> Floats:
        """``½‖μ‖²`` of groups; infinite for an empty one, which is then nowhere near."""
        half = half_squares(self.nodes.group_mean[groups])
        half[self.nodes.group_count[groups] == 0] = np.inf
        return half

    def resize(self, capacity: int) -> None:
        """Row arrays of another length; the rows in use are copied."""
        self.nodes = resized(self.nodes, "R", used=self.used, size=capacity)

    def spread(self, count: int, seed: int) -> Ints:
        """What `TargetIndex.spread` returns."""
        nodes, n = self.nodes, len(self.ids)
        count = min(count, n)
        edges = np.arange(count + 1) * n // max(count, 1)
        width = np.diff(edges)
        places = edges[:-1] + np.floor(np.random.default_rng(seed).random(count) * width).astype(np.int64)
        sizes = nodes.leaf_count[nodes.group_leaves]
        ends = np.cumsum(sizes)
        at = np.searchsorted(ends, places, side="right")
        leaves = nodes.group_leaves[at]
        return nodes.row_id[nodes.leaf_start[leaves] + places - (ends[at] - sizes[at])]


def half_squares(means: Floats) -> Floats:
    """``½‖μ‖²`` of each row."""
    return np.float32(0.5) * np.einsum("ij,ij->i", means, means)
