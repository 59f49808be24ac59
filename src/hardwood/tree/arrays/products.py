"""Products of many queries with many rows, a tile at a time: what is most of the work of any query.

One query against one row loads two numbers for each multiplication. A tile of four queries and two rows loads six for
eight, and a row that several queries look at is fetched from memory once: measured at d = 128, 5 ns a product against
12, and no trip to memory for rows in use.

Every product is computed by the same code in the same order, wherever in a tile it falls (short tiles repeat their last
member), so that results do not depend, not in a bit, on which queries are asked together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hardwood.tree.arrays.nodes import Nodes
from hardwood.tree.compiled.numeric import decode, inlined, jit

QUERIES, ROWS = 4, 2


@inlined
def tile(units, q0, q1, q2, q3, rows, a, b):  # type: ignore[no-untyped-def]
    """The eight products of four queries with rows ``a`` and ``b``."""
    s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0.0)
    for c in range(units.shape[1]):
        y, z = decode(rows[a, c]), decode(rows[b, c])
        x0, x1, x2, x3 = units[q0, c], units[q1, c], units[q2, c], units[q3, c]
        s0 += x0 * y
        s1 += x1 * y
        s2 += x2 * y
        s3 += x3 * y
        t0 += x0 * z
        t1 += x1 * z
        t2 += x2 * z
        t3 += x3 * z
    return s0, s1, s2, s3, t0, t1, t2, t3


LINE = 64
"""Bytes that memory hands over at once."""

ASKED_FOR = 256
"""Longer float32 rows, for one query, come as quickly unasked: the processor sees where they lie, and only memory is
waited for (docs/lab/tree.md)."""


@intrinsic
def _ask_for(context: Any, rows: Any, row: Any, offset: Any) -> Any:
    """Has the cache fetch the line that is ``offset`` bytes into ``rows[row]``, without waiting for it. Nothing happens
    where there is none: this is a hint."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        (stride, _), word, flag = cgutils.unpack_tuple(builder, array.strides), ir.IntType(64), ir.IntType(32)
        address = builder.add(builder.ptrtoint(array.data, word), builder.mul(arguments[1], stride))
        place = builder.inttoptr(builder.add(address, arguments[2]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, flag, flag, flag])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
        builder.call(fetch, [place, flag(0), flag(1), flag(1)])  # to read, into the second cache, as data
        return context.get_dummy_value()

    return types.void(rows, row, offset), generate


@inlined
def ask_for_row(rows, row):  # type: ignore[no-untyped-def]
    """Has the cache fetch a row, without waiting for it."""
    for offset in range(0, rows.shape[1] * rows.itemsize, LINE):
        _ask_for(rows, row, offset)


@jit
def products(units, who, at, m, rows, index, first, n, out, ahead, beyond):  # type: ignore[no-untyped-def]
    """``out[who[t], at[t] + i] = units[who[t]] · rows[index[first + i]]`` for ``t < m`` and ``i < n``. Meanwhile the
    rows ``index[ahead:beyond]``, which will be next, come from memory."""
    for i in range(0, n, ROWS):
        for coming in range(ahead + i, min(ahead + i + ROWS, beyond)):
            ask_for_row(rows, index[coming])
        j = min(i + 1, n - 1)
        a, b = index[first + i], index[first + j]
        for t in range(0, m, QUERIES):
            t1, t2, t3 = min(t + 1, m - 1), min(t + 2, m - 1), min(t + 3, m - 1)
            q0, q1, q2, q3 = who[t], who[t1], who[t2], who[t3]
            s = tile(units, q0, q1, q2, q3, rows, a, b)
            p0, p1, p2, p3 = at[t], at[t1], at[t2], at[t3]
            out[q0, p0 + i], out[q1, p1 + i], out[q2, p2 + i], out[q3, p3 + i] = s[0], s[1], s[2], s[3]
            out[q0, p0 + j], out[q1, p1 + j], out[q2, p2 + j], out[q3, p3 + j] = s[4], s[5], s[6], s[7]


@inlined
def four_rows(units, q, rows, i0, i1, i2, i3):  # type: ignore[no-untyped-def]
    """The four products of a query with rows ``i0`` to ``i3``."""
    s0 = s1 = s2 = s3 = np.float32(0.0)
    for c in range(units.shape[1]):
        x = units[q, c]
        s0 += x * decode(rows[i0, c])
        s1 += x * decode(rows[i1, c])
        s2 += x * decode(rows[i2, c])
        s3 += x * decode(rows[i3, c])
    return s0, s1, s2, s3


@jit
def row_products(units, who, at, m, rows, start, n, out, ahead):  # type: ignore[no-untyped-def]
    """``out[at[t] + i] = units[who[t]] · rows[start + i]`` for ``t < m``, ``i < n``: a leaf's rows, which lie together.
    Meanwhile the rows from ``ahead`` on, which will be next, come from memory (-1: not known).

    Compiled once, for all that opens a leaf, for many queries or for one: elsewhere the compiler may add up in another
    order. One query at a time for the same reason: of two in a tile an older LLVM adds up one otherwise than the other,
    and a query's place must not matter. A row always has the same place.
    """
    fetch = ahead >= 0 and (m > 1 or rows.itemsize < 4 or rows.shape[1] <= ASKED_FOR)
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        if fetch:
            for row in range(ahead + i, ahead + i + 4):
                ask_for_row(rows, row)
        for t in range(m):
            s, p = four_rows(units, who[t], rows, start + i, start + i1, start + i2, start + i3), at[t]
            out[p + i], out[p + i1], out[p + i2], out[p + i3] = s


@jit
def group_products(nodes: Nodes, units):  # type: ignore[no-untyped-def]
    """``(Q, G)``: every query with every group's mean."""
    Q, G = units.shape[0], nodes.group_mean.shape[0]
    out = np.empty((Q, G), np.float32)
    products(units, np.arange(Q), np.zeros(Q, np.int64), Q, nodes.group_mean, np.arange(G), 0, G, out, 0, 0)
    return out


@jit
def leaf_products(nodes: Nodes, units, order, inside):  # type: ignore[no-untyped-def]
    """``(Q, S)``: query q with the means of all leaves of the groups ``order[q, :inside[q]]``, group by group.

    Group by group over the whole block, so that a group's means are read once for all queries that look into it.
    """
    Q = units.shape[0]
    offsets, leaves, means = nodes.group_offsets, nodes.group_leaves, nodes.leaf_mean
    G = offsets.shape[0] - 1
    # Lists of (query, where its products of this group begin), by group.
    begins = np.zeros(G + 1, np.int64)
    longest = 0
    for q in range(Q):
        for t in range(inside[q]):
            begins[order[q, t] + 1] += 1
    for g in range(G):
        begins[g + 1] += begins[g]
    who, at, filled = np.empty(begins[G], np.int64), np.empty(begins[G], np.int64), begins.copy()
    for q in range(Q):
        seen = 0
        for t in range(inside[q]):
            g = order[q, t]
            who[filled[g]], at[filled[g]] = q, seen
            filled[g] += 1
            seen += offsets[g + 1] - offsets[g]
        longest = max(longest, seen)
    out = np.empty((Q, longest), np.float32)
    g = next_used(begins, -1)
    while g < G:
        m, n, after = begins[g + 1] - begins[g], offsets[g + 1] - offsets[g], next_used(begins, g)
        ahead, beyond = offsets[after], offsets[min(after + 1, G)]
        products(units, who[begins[g] :], at[begins[g] :], m, means, leaves, offsets[g], n, out, ahead, beyond)
        g = after
    return out


@jit
def next_used(begins, g):  # type: ignore[no-untyped-def]
    """The first list after list ``g`` that is not empty, of those that begin at ``begins[:-1]``; how many there are if
    there is none."""
    g += 1
    while g < begins.shape[0] - 1 and begins[g + 1] == begins[g]:
        g += 1
    return g
