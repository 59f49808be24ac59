"""The tree as a thing that changes: rows and leaves come and go, and every statistic stays true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree._assign import nearest_leaves, stay_unless
from hardwood.tree._bounds import SPREAD
from hardwood.tree._build import decoded, encode, refresh, room_for, with_shapes
from hardwood.tree._cluster import Floats, subtree
from hardwood.tree._ids import IdMap, Ints
from hardwood.tree._leaves import CHUNK
from hardwood.tree._nodes import Nodes, group_lists
from hardwood.tree._threads import split_work
from hardwood.tree._update import drop_rows, move_leaves

# A target moves to another leaf when that brings its squared distance below this part of what it is.
MOVE_GAIN = 0.9
BEAM = 2
# A leaf of less than this part of the leaf size is dissolved by `repair`.
MERGE_BELOW = 8
# A group with so many times more leaves than its targets need is rebuilt.
HOLLOW = 3
LEAVES_AT_ONCE = 4096


class Tree:
    """`Nodes` and what changing them needs: rows in use, blocks given back, the ids' rows, each group's
    spread when last built."""

    def __init__(self, nodes: Nodes, used: int, leaf_size: int, reference: NDArray[np.float64] | None = None) -> None:
        self.nodes, self.used, self.leaf_size = nodes, used, leaf_size
        self.ids = IdMap.of(nodes)
        self.reference = self.group_spread() if reference is None else reference
        self._free: dict[int, list[int]] = {}
        self.changed = 0  # targets written, added or removed since the covariance shapes were measured
        self._relist: set[int] = set()  # groups whose leaves came or went since they were listed
        self.leaf_half, self.group_half = half_squares(nodes.leaf_mean), self._group_half(slice(None))
        self._dead: list[int] = np.flatnonzero(nodes.leaf_group < 0).tolist()

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
        """The leaf where each vector belongs; with ``current`` given, staying unless moving pays."""
        nodes, n = self.nodes, len(vectors)
        vectors = np.require(vectors, requirements="W")
        out, best = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float32)

        def find(begin: int, end: int) -> None:
            nearest_leaves(
                vectors, nodes.group_mean, self.group_half, nodes.group_offsets, nodes.group_leaves, nodes.leaf_mean,
                self.leaf_half, BEAM, begin, end, best, out,
            )  # fmt: skip
            if current is not None:
                stay_unless(vectors, nodes.leaf_mean, self.leaf_half, current, MOVE_GAIN, begin, end, best, out)

        split_work(find, n, threads, least=256)
        return out

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
            self._drop(rows[go])
            changed.append(self._insert(stored[go], ids, there[go]))
        self._settle(self._distinct(changed), threads)
        return len(go)

    def add(self, ids: Ints, vectors: Floats, threads: int) -> None:
        """New targets, each to its nearest leaf."""
        stored = encode(vectors, self.dtype)
        leaves = self.place(decoded(stored), None, threads)
        self.changed += len(ids)
        self.ids.insert(ids, np.full(len(ids), -1, dtype=np.int64))
        self._settle(self._distinct([self._insert(stored, ids, leaves)]), threads)

    def remove(self, ids: Ints, threads: int) -> None:
        """Targets that are known, taken out."""
        rows = self.ids.find(ids)
        touched = self._distinct([self.nodes.row_leaf[rows]])
        self.changed += len(ids)
        self._drop(rows)
        self.ids.remove(ids)
        self._settle(touched, threads)

    def _distinct(self, parts: list[NDArray[Any]]) -> Ints:
        """Every leaf that is named, once, ascending."""
        named = np.zeros(len(self.nodes.leaf_count), dtype=np.bool_)
        for part in parts:
            named[part] = True
        return np.flatnonzero(named)

    def _drop(self, rows: Ints) -> None:
        moved = np.empty(len(rows), dtype=np.int64)
        moved = moved[: drop_rows(self.nodes, np.sort(rows)[::-1].copy(), moved)]
        owner = self.nodes.row_leaf[moved]
        moved = moved[moved < self.nodes.leaf_start[owner] + self.nodes.leaf_count[owner]]
        self.ids.place(self.nodes.row_id[moved], moved)

    def _insert(self, stored: NDArray[Any], ids: Ints, leaves: Ints) -> Ints:
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
            changed.append(self._rehouse(np.array([leaf]), block, block_ids, int(self.nodes.leaf_group[leaf])))
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
        self._move(leaves, blocks[:, 0], blocks[:, 1])
        for room, start in old:
            self._free.setdefault(room, []).append(start)

    def _move(self, leaves: Ints, starts: Ints, rooms: Ints) -> None:
        """Leaves to other blocks, and their ids with them."""
        size = int(self.nodes.leaf_count[leaves].sum())
        ids, places = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        move_leaves(self.nodes, leaves, np.ascontiguousarray(starts), np.ascontiguousarray(rooms), ids, places)
        self.ids.place(ids, places)

    def _rehouse(self, old: Ints, stored: NDArray[Any], ids: Ints, group: int) -> Ints:
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
            self._free.setdefault(int(nodes.leaf_room[leaf]), []).append(int(nodes.leaf_start[leaf]))
        nodes.leaf_count[leaf] = nodes.leaf_room[leaf] = 0
        nodes.leaf_group[leaf] = -1
        self._dead.append(leaf)

    def _block(self, room: int) -> tuple[int, int]:
        """The start and size of a block of at least ``room`` rows: one given back that is at most half as large again,
        or from the end, which grows by a quarter when used up."""
        for size in range(room, room + room // 2 + 1):
            if self._free.get(size):
                return self._free[size].pop(), size
        nodes = self.nodes
        capacity = len(nodes.row_id)
        if self.used + room > capacity:
            self._resize(max(capacity * 5 // 4, self.used + 4 * room))
        self.used += room
        return self.used - room, room

    def _leaf_numbers(self, count: int) -> list[int]:
        """``count`` numbers for new leaves: those of dead leaves first, then new ones at the end of the leaf
        arrays."""
        old = [self._dead.pop() for _ in range(min(count, len(self._dead)))]
        if len(old) == count:
            return old
        nodes, fresh = self.nodes, count - len(old)
        L = len(nodes.leaf_count)
        fill = {
            "leaf_start": 0,
            "leaf_count": 0,
            "leaf_room": 0,
            "leaf_group": -1,
            "leaf_mean": 0,
            "leaf_stats": 0,
        }
        grown = {}
        for name, value in fill.items():
            array = getattr(nodes, name)
            extra = np.full((fresh, *array.shape[1:]), value, dtype=array.dtype)
            grown[name] = np.concatenate([array, extra])
        self.nodes = nodes._replace(**grown)
        self.leaf_half = np.concatenate([self.leaf_half, np.zeros(fresh, dtype=np.float32)])
        return [*old, *range(L, L + fresh)]

    def _settle(self, touched: Ints, threads: int) -> None:
        """After rows of the ``touched`` leaves (each once) changed: drops empty leaves, relists the groups' leaves
        where any came or went, and makes the statistics of what was touched true."""
        nodes = self.nodes
        groups = np.unique(nodes.leaf_group[touched])
        for leaf in touched[(nodes.leaf_count[touched] == 0) & (nodes.leaf_group[touched] >= 0)]:
            self._give_back(int(leaf))
        if self._relist:
            groups = np.union1d(groups, np.array(sorted(self._relist), dtype=np.int64))
            offsets, leaves = group_lists(nodes.leaf_group, len(nodes.group_count))
            self.nodes = nodes = nodes._replace(group_offsets=offsets, group_leaves=leaves)
            self._relist.clear()
        refresh(nodes, touched, threads, groups)
        self.leaf_half[touched] = half_squares(nodes.leaf_mean[touched])
        groups = groups[groups >= 0]
        self.group_half[groups] = self._group_half(groups)

    def _group_half(self, groups: Ints | slice) -> Floats:
        """``½‖μ‖²`` of groups; infinite for an empty one, which is then nowhere near."""
        half = half_squares(self.nodes.group_mean[groups])
        half[self.nodes.group_count[groups] == 0] = np.inf
        return half

    def repair(self, factor: float, threads: int) -> dict[str, int]:
        """What `TargetIndex.repair` does."""
        self._settle(np.flatnonzero(self.nodes.leaf_group >= 0), threads)
        worn = np.flatnonzero(self._worn(factor))
        self._rebuild(worn, threads)
        merged = self._merge(threads)
        compacted = self._compact()
        if 8 * self.changed > len(self.ids):
            self.changed = 0
            self.nodes = with_shapes(self.nodes, np.random.default_rng(len(self.ids)))
        return {
            "groups_rebuilt": len(worn),
            "leaves_merged": merged,
            "rows_given_back": compacted,
            "groups": len(self.nodes.group_count),
        }

    def _worn(self, factor: float) -> NDArray[np.bool_]:
        """Groups whose leaves spread ``factor`` times wider than when last built, or are on average less than a third
        full."""
        nodes = self.nodes
        wide = self.group_spread() > factor * self.reference + 1e-30
        few = np.maximum(1, np.round(nodes.group_count / self.leaf_size))
        hollow = np.diff(nodes.group_offsets) > HOLLOW * few
        return np.asarray((wide | hollow) & (nodes.group_count > 0))

    def _rebuild(self, worn: Ints, threads: int) -> None:
        """Makes the leaves of these groups anew."""
        if not len(worn):
            return
        # Where a group has worn, so may have its border: first let its targets go to where they are nearest now.
        rows = self.live_rows(np.flatnonzero(np.isin(self.nodes.leaf_group, worn)))
        ids = self.nodes.row_id[rows]
        for start in range(0, len(ids), CHUNK):
            rows = self.ids.find(ids[start : start + CHUNK])
            self.write(rows, decoded(self.nodes.rows[rows]), threads)
        made: list[Ints] = []
        for group in worn[self.nodes.group_count[worn] > 0]:
            old = np.flatnonzero(self.nodes.leaf_group == group)
            rows = self.live_rows(old)
            block, ids = self.nodes.rows[rows], self.nodes.row_id[rows]
            made.append(self._rehouse(old, block, ids, int(group)))
        self._settle(self._distinct(made), threads)
        self.reference[worn] = self.group_spread()[worn]

    def _merge(self, threads: int) -> int:
        """Dissolves leaves of less than ``leaf_size / MERGE_BELOW``: each target goes to the nearest leaf that stays.
        The largest leaf of a group does. Returns how many are gone."""
        nodes = self.nodes
        small = (nodes.leaf_group >= 0) & (MERGE_BELOW * nodes.leaf_count < self.leaf_size)
        live = np.flatnonzero(nodes.leaf_group >= 0)
        by_size = live[np.argsort(nodes.leaf_count[live], kind="stable")]
        largest = np.full(len(nodes.group_count), -1)
        largest[nodes.leaf_group[by_size]] = by_size
        small[largest[largest >= 0]] = False
        leaves = np.flatnonzero(small)
        if not len(leaves):
            return 0
        rows = self.live_rows(leaves)
        stored, ids = nodes.rows[rows], nodes.row_id[rows]
        self.leaf_half[leaves] = np.inf
        there = self.place(decoded(stored), None, threads)
        self._drop(rows)
        self._settle(self._distinct([leaves, self._insert(stored, ids, there)]), threads)
        return len(leaves)

    def _compact(self) -> int:
        """Where that frees more than a quarter of the rows in use: leaves move down over the gaps, in place, each with
        the room a new one gets. Returns the number of rows given back."""
        nodes, before = self.nodes, self.used
        live = np.flatnonzero(nodes.leaf_group >= 0)
        live = live[np.argsort(nodes.leaf_start[live])]
        rooms = np.minimum(nodes.leaf_room[live], room_for(nodes.leaf_count[live]))
        if 4 * (before - int(rooms.sum())) <= before:
            return 0
        starts = np.cumsum(rooms) - rooms
        # No leaf begins later than before, and none reaches into the next one's old block: order makes it safe.
        for first in range(0, len(live), LEAVES_AT_ONCE):
            part = slice(first, first + LEAVES_AT_ONCE)
            self._move(live[part], starts[part], rooms[part])
        self.used = int(rooms.sum())
        self._free.clear()
        if len(nodes.row_id) > 2 * self.used + 64:
            self._resize(self.used + self.used // 8 + 64)
        return before - self.used

    def _resize(self, capacity: int) -> None:
        """Row arrays of another length; the rows in use are copied."""
        resized = {}
        for name in ("rows", "row_id", "row_leaf"):
            old = getattr(self.nodes, name)
            resized[name] = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
            resized[name][: self.used] = old[: self.used]
        self.nodes = self.nodes._replace(**resized)

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
