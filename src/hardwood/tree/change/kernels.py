"""Kernels of change: rows taken out of leaves, leaves moved to other blocks."""

from __future__ import annotations

from hardwood.tree.compiled.numeric import jit


@jit
def drop_rows(nodes, rows, moved):  # type: ignore[no-untyped-def]
    """Takes ``rows`` (descending) out of their leaves; the leaf's last target fills each gap.
    ``moved[:returned]`` are the rows filled."""
    n = 0
    for t in range(rows.shape[0]):
        row = rows[t]
        leaf = nodes.row_leaf[row]
        last = nodes.leaf_start[leaf] + nodes.leaf_count[leaf] - 1
        if row != last:
            for c in range(nodes.rows.shape[1]):
                nodes.rows[row, c] = nodes.rows[last, c]
            nodes.row_id[row] = nodes.row_id[last]
            moved[n] = row
            n += 1
        nodes.leaf_count[leaf] -= 1
    return n


@jit
def move_leaves(nodes, leaves, starts, rooms, ids, places):  # type: ignore[no-untyped-def]
    """Copies each leaf's targets to the block that begins at its ``starts``, which it then owns. Writes what moved, id
    and new row, into ``ids`` and ``places``. A block may overlap its leaf's old one if it begins before it."""
    n = 0
    for t in range(leaves.shape[0]):
        leaf, start = leaves[t], starts[t]
        old = nodes.leaf_start[leaf]
        for i in range(nodes.leaf_count[leaf]):
            for c in range(nodes.rows.shape[1]):
                nodes.rows[start + i, c] = nodes.rows[old + i, c]
            nodes.row_id[start + i] = nodes.row_id[old + i]
            ids[n], places[n] = nodes.row_id[old + i], start + i
            n += 1
        for row in range(start, start + rooms[t]):
            nodes.row_leaf[row] = leaf
        nodes.leaf_start[leaf], nodes.leaf_room[leaf] = start, rooms[t]
