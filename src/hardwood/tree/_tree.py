"""The tree as a thing that changes: rows and leaves come and go, and every statistic stays true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree._bounds import SPREAD
from hardwood.tree._build import decoded, encode, refresh, room_for, with_shapes
from hardwood.tree._cluster import Floats, subtree
from hardwood.tree._ids import IdMap, Ints
from hardwood.tree._leaves import CHUNK
from hardwood.tree._nodes import Nodes, group_lists
from hardwood.tree._threads import split_work
from hardwood.tree._update import drop_rows, nearest_leaf

# A target moves to another leaf when that brings its squared distance below this part of what it is.
MOVE_GAIN = 0.9
BEAM = 2


class Tree:
    """`Nodes` and what changing them needs: rows in use, blocks given back, the ids' rows, each group's
    spread when last built."""

    def __init__(self, nodes: Nodes, used: int, leaf_size: int, reference: NDArray[np.float64] | None = None) -> None:
        self.nodes, self.used, self.leaf_size = nodes, used, leaf_size
        rows = self.live_rows()
        self.ids = IdMap(nodes.row_id[rows], rows)
        self.reference = self.group_spread() if reference is None else reference
        self._free: dict[int, list[int]] = {}
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
        nodes = self.nodes
        half = [0.5 * np.einsum("ij,ij->i", m, m, dtype=np.float64) for m in (nodes.leaf_mean, nodes.group_mean)]
        out = np.empty(len(vectors), dtype=np.int64)
        current = np.full(len(vectors), -1, dtype=np.int64) if current is None else current
        split_work(
            lambda a, b: nearest_leaf(nodes, vectors, half[0], half[1], current, BEAM, MOVE_GAIN, a, b, out),
            len(vectors), threads, least=64,
        )  # fmt: skip
        return out

    def write(self, rows: Ints, vectors: Floats, threads: int) -> int:
        """New vectors for known rows: moved to a nearer leaf where that pays. Returns how many moved."""
        nodes = self.nodes
        stored = encode(vectors, self.dtype)
        here = nodes.row_leaf[rows].astype(np.int64)
        there = self.place(decoded(stored), here, threads)
        stay = here == there
        nodes.rows[rows[stay]] = stored[stay]
        go = ~stay
        ids = nodes.row_id[rows[go]]
        touched = self._drop(rows[go])
        touched = np.union1d(np.union1d(touched, here[stay]), self._insert(stored[go], ids, there[go]))
        self._settle(touched, threads)
        return int(go.sum())

    def add(self, ids: Ints, vectors: Floats, threads: int) -> None:
        """New targets, each to its nearest leaf."""
        stored = encode(vectors, self.dtype)
        leaves = self.place(decoded(stored), None, threads)
        self.ids.insert(ids, np.full(len(ids), -1, dtype=np.int64))
        self._settle(self._insert(stored, ids, leaves), threads)

    def remove(self, ids: Ints, threads: int) -> None:
        """Targets that are known, taken out."""
        touched = self._drop(self.ids.find(ids))
        self.ids.remove(ids)
        self._settle(touched, threads)

    def _drop(self, rows: Ints) -> Ints:
        leaves = np.unique(self.nodes.row_leaf[rows].astype(np.int64))
        moved = np.empty(len(rows), dtype=np.int64)
        moved = moved[: drop_rows(self.nodes, np.sort(rows)[::-1].copy(), moved)]
        owner = self.nodes.row_leaf[moved]
        moved = moved[moved < self.nodes.leaf_start[owner] + self.nodes.leaf_count[owner]]
        self.ids.place(self.nodes.row_id[moved], moved)
        return leaves

    def _insert(self, stored: NDArray[Any], ids: Ints, leaves: Ints) -> Ints:
        """Appends targets to leaves, enlarging or splitting those that are full. Returns the leaves whose
        content changed."""
        if not len(ids):
            return np.zeros(0, dtype=np.int64)
        order = np.argsort(leaves, kind="stable")
        stored, ids, leaves = stored[order], ids[order], leaves[order]
        touched, first, sizes = np.unique(leaves, return_index=True, return_counts=True)
        nodes = self.nodes
        full = nodes.leaf_count[touched] + sizes > nodes.leaf_room[touched]
        fits = np.repeat(~full, sizes)
        rank = np.arange(len(ids)) - np.repeat(first, sizes)
        at = (nodes.leaf_start[leaves] + nodes.leaf_count[leaves] + rank)[fits]
        nodes.rows[at], nodes.row_id[at] = stored[fits], ids[fits]
        self.ids.place(ids[fits], at)
        nodes.leaf_count[touched[~full]] += sizes[~full]
        changed = [touched]
        for t in np.flatnonzero(full):
            leaf, new = int(touched[t]), slice(first[t], first[t] + sizes[t])
            rows = self.live_rows(np.array([leaf]))
            block = np.concatenate([self.nodes.rows[rows], stored[new]])
            block_ids = np.concatenate([self.nodes.row_id[rows], ids[new]])
            changed.append(self._rehouse(np.array([leaf]), block, block_ids, int(self.nodes.leaf_group[leaf])))
        return np.concatenate(changed)

    def _rehouse(self, old: Ints, stored: NDArray[Any], ids: Ints, group: int) -> Ints:
        """Puts targets into new blocks, as many leaves as they need, in place of the ``old`` leaves. Returns
        the leaves made."""
        large = len(ids) > 2 * self.leaf_size
        # A seed from the data: the same changes make the same tree.
        rng = np.random.default_rng([len(ids), group, len(self.nodes.leaf_count)])
        labels = subtree(decoded(stored), self.leaf_size, 5, rng) if large else np.zeros(len(ids), dtype=np.int64)
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
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
            larger = max(capacity * 5 // 4, self.used + 4 * room)
            grown = {}
            for name in ("rows", "row_id", "row_leaf"):
                old = getattr(nodes, name)
                grown[name] = np.empty((larger, *old.shape[1:]), dtype=old.dtype)
                grown[name][: self.used] = old[: self.used]
            self.nodes = nodes._replace(**grown)
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
        return [*old, *range(L, L + fresh)]

    def _settle(self, touched: Ints, threads: int) -> None:
        """After rows changed: drops empty leaves, relists the groups' leaves, and makes the statistics of
        what was touched true."""
        touched = np.unique(touched)
        nodes = self.nodes
        groups = np.unique(nodes.leaf_group[touched])
        for leaf in touched[(nodes.leaf_count[touched] == 0) & (nodes.leaf_group[touched] >= 0)]:
            self._give_back(int(leaf))
        offsets, leaves = group_lists(nodes.leaf_group, len(nodes.group_count))
        self.nodes = nodes._replace(group_offsets=offsets, group_leaves=leaves)
        refresh(self.nodes, touched, threads, groups)

    def repair(self, factor: float, threads: int) -> dict[str, int]:
        """Makes all statistics exact and rebuilds the groups whose leaves spread ``factor`` times wider than
        when last built."""
        live = np.flatnonzero(self.nodes.leaf_group >= 0)
        self._settle(live, threads)
        spread = self.group_spread()
        worn = np.flatnonzero((spread > factor * self.reference + 1e-30) & (self.nodes.group_count > 0))
        made: list[Ints] = []
        if len(worn):
            # Where a group has worn, so may have its border: first let its targets go to where they are
            # nearest now.
            rows = self.live_rows(np.flatnonzero(np.isin(self.nodes.leaf_group, worn)))
            ids = self.nodes.row_id[rows]
            for start in range(0, len(ids), CHUNK):
                rows = self.ids.find(ids[start : start + CHUNK])
                self.write(rows, decoded(self.nodes.rows[rows]), threads)
        for group in worn[self.nodes.group_count[worn] > 0]:
            old = np.flatnonzero(self.nodes.leaf_group == group)
            rows = self.live_rows(old)
            block, ids = self.nodes.rows[rows], self.nodes.row_id[rows]
            made.append(self._rehouse(old, block, ids, int(group)))
        if made:
            self._settle(np.concatenate(made), threads)
            self.reference[worn] = self.group_spread()[worn]
        self.nodes = with_shapes(self.nodes, np.random.default_rng(len(self.ids)))
        return {"groups_rebuilt": len(worn), "groups": len(self.nodes.group_count)}
