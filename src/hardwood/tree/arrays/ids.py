"""From the user's ids to rows: a plain table when ids are small and dense, sorted keys otherwise."""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.nodes import Ints, Nodes
from hardwood.tree.compiled.numeric import jit


@jit
def id_range(nodes):  # type: ignore[no-untyped-def]
    """The smallest and the largest id held, and how many there are."""
    low, high, count = np.int64(2**63 - 1), np.int64(-(2**63)), 0
    for leaf in range(nodes.leaf_count.shape[0]):
        start = nodes.leaf_start[leaf]
        for row in range(start, start + nodes.leaf_count[leaf]):
            low, high = min(low, nodes.row_id[row]), max(high, nodes.row_id[row])
        count += nodes.leaf_count[leaf]
    return low, high, count


@jit
def fill_table(nodes, table):  # type: ignore[no-untyped-def]
    """``table[id] = row`` for every target."""
    for leaf in range(nodes.leaf_count.shape[0]):
        start = nodes.leaf_start[leaf]
        for row in range(start, start + nodes.leaf_count[leaf]):
            table[nodes.row_id[row]] = row


@jit
def list_ids(nodes, keys, rows):  # type: ignore[no-untyped-def]
    """Every target's id and row, leaf by leaf."""
    n = 0
    for leaf in range(nodes.leaf_count.shape[0]):
        start = nodes.leaf_start[leaf]
        for row in range(start, start + nodes.leaf_count[leaf]):
            keys[n], rows[n] = nodes.row_id[row], row
            n += 1


class IdMap:
    """int64 ids to rows; -1 is "not here". A table costs 8 bytes for each id up to the largest, sorted keys
    16 for each id held."""

    def __init__(self, ids: Ints, rows: Ints) -> None:
        self._count = len(ids)
        self._table: Ints | None = None
        self._keys = self._rows = np.zeros(0, dtype=np.int64)
        if len(ids) and self._dense(int(ids.min()), int(ids.max())):
            self._table = np.full(int(ids.max()) + 1, -1, dtype=np.int64)
            self._table[ids] = rows
        else:
            order = np.argsort(ids, kind="stable")
            self._keys, self._rows = ids[order], rows[order]

    @classmethod
    def of(cls, nodes: Nodes) -> IdMap:
        """The map of a whole tree. A table is filled leaf by leaf, without a list of all rows beside it."""
        low, high, count = id_range(nodes)
        made = cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        made._count = int(count)
        if count and made._dense(int(low), int(high)):
            made._table = np.full(int(high) + 1, -1, dtype=np.int64)
            fill_table(nodes, made._table)
        elif count:
            made._keys, made._rows = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
            list_ids(nodes, made._keys, made._rows)
            order = np.argsort(made._keys)
            made._keys, made._rows = made._keys[order], made._rows[order]
        return made

    def _dense(self, low: int, high: int) -> bool:
        return low >= 0 and high < 2 * self._count + 1024

    def __len__(self) -> int:
        return self._count

    def find(self, ids: Ints) -> Ints:
        """Each id's row, -1 where unknown."""
        if self._table is not None:
            inside = (ids >= 0) & (ids < len(self._table))
            return np.where(inside, self._table[np.where(inside, ids, 0)], -1)
        if not len(self._keys):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._keys, ids), len(self._keys) - 1)
        return np.where(self._keys[at] == ids, self._rows[at], -1)

    def are_distinct(self) -> bool:
        """Whether no two targets that the map was made of have the same id."""
        if self._table is not None:
            return int(np.count_nonzero(self._table >= 0)) == self._count
        return bool((self._keys[1:] != self._keys[:-1]).all())

    def place(self, ids: Ints, rows: Ints) -> None:
        """Ids that are known have moved to these rows."""
        if self._table is not None:
            self._table[ids] = rows
        else:
            self._rows[np.searchsorted(self._keys, ids)] = rows

    def insert(self, ids: Ints, rows: Ints) -> None:
        """Ids that are new."""
        self._count += len(ids)
        if self._table is not None:
            low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
            if low >= 0 and high >= len(self._table) and self._dense(low, high):
                grown = np.full(max(high + 1, len(self._table) * 5 // 4), -1, dtype=np.int64)
                grown[: len(self._table)] = self._table
                self._table = grown
            if low >= 0 and high < len(self._table):
                self._table[ids] = rows
                return
            self._keys = np.flatnonzero(self._table >= 0)
            self._rows = self._table[self._keys]
            self._table = None
        order = np.argsort(ids, kind="stable")
        at = np.searchsorted(self._keys, ids[order])
        self._keys = np.insert(self._keys, at, ids[order])
        self._rows = np.insert(self._rows, at, rows[order])

    def remove(self, ids: Ints) -> None:
        """Ids that are known and no longer here."""
        self._count -= len(ids)
        if self._table is not None:
            self._table[ids] = -1
        else:
            at = np.searchsorted(self._keys, ids)
            self._keys, self._rows = np.delete(self._keys, at), np.delete(self._rows, at)

    def all(self) -> Ints:
        """Every id held, ascending."""
        return np.flatnonzero(self._table >= 0) if self._table is not None else self._keys.copy()
