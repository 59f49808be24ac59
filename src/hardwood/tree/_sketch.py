"""A byte for each number, for `sample` alone: which of a leaf's targets a draw takes is decided by these.

A draw that falls into a leaf that is not opened reads all of its targets to choose one. What it waits for is memory,
and a byte is a quarter of a float32. Residuals from the leaf's mean are rounded to 255 steps of the leaf's own: the
choice follows the softmax of the rounded scores, whose probabilities are as well known as the exact ones, so draws stay
unbiased; the drawn target's score is exact. Where a step is no small part of the softmax's own (`FINE`), rows are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hardwood.tree._masses import weigh_leaf
from hardwood.tree._numeric import decode, inlined, jit
from hardwood.tree._threads import split_work
from hardwood.tree._tiles import ask_for_row

if TYPE_CHECKING:
    from hardwood.tree._tree import Tree

FINE = 0.5
"""A step times ``β‖x‖`` may be so much: log weights then deviate by some 0.14, and 1 + χ² within a leaf is about 1.02
(1.0002 at scale 20, 1.001 at 50, 1.002 at 100 on unit vectors: docs/tree.md)."""

STEPS = np.float32(127.0)


class Sketch(NamedTuple):
    """``codes`` (capacity, d): row r's residual from its leaf's mean is about ``step[leaf] * codes[r]``; empty arrays
    where there is no sketch."""

    codes: NDArray[np.int8]
    step: NDArray[np.float32]  # (L,)


NO_SKETCH = Sketch(np.zeros((0, 1), np.int8), np.zeros(0, np.float32))


def sketched(tree: Tree, threads: int) -> Sketch:
    """The sketch of every target of the tree."""
    nodes = tree.nodes
    L = len(nodes.leaf_count)
    sketch = Sketch(np.zeros(nodes.rows.shape, np.int8), np.zeros(L, np.float32))
    split_work(lambda a, b: write_sketch(nodes, sketch, a, b), L, threads, least=16)
    return sketch


@jit
def write_sketch(nodes, sketch, begin, end):  # type: ignore[no-untyped-def]
    """Fills in ``codes`` and ``step`` of leaves ``begin <= leaf < end``."""
    d, codes = nodes.rows.shape[1], sketch.codes
    for leaf in range(begin, end):
        start, stop = nodes.leaf_start[leaf], nodes.leaf_start[leaf] + nodes.leaf_count[leaf]
        widest = np.float32(0.0)
        for row in range(start, stop):
            for c in range(d):
                widest = max(widest, abs(decode(nodes.rows[row, c]) - nodes.leaf_mean[leaf, c]))
        step = widest / STEPS
        sketch.step[leaf] = step
        if step == 0.0:  # all alike
            codes[start:stop] = 0
            continue
        for row in range(start, stop):
            for c in range(d):
                residual = decode(nodes.rows[row, c]) - nodes.leaf_mean[leaf, c]
                codes[row, c] = np.int8(np.floor(residual / step + np.float32(0.5)))


@jit
def decides(sketch, leaf, bx):  # type: ignore[no-untyped-def]
    """Whether there is a sketch, and it is fine enough for a query with this ``β‖x‖`` in this leaf."""
    return sketch.step.shape[0] > 0 and bx * sketch.step[leaf] <= FINE


@inlined
def four_codes(unit, codes, i0, i1, i2, i3):  # type: ignore[no-untyped-def]
    """The four products of a query with codes ``i0`` to ``i3``."""
    s0 = s1 = s2 = s3 = np.float32(0.0)
    for c in range(unit.shape[0]):
        x = unit[c]
        s0 += x * np.float32(codes[i0, c])
        s1 += x * np.float32(codes[i1, c])
        s2 += x * np.float32(codes[i2, c])
        s3 += x * np.float32(codes[i3, c])
    return s0, s1, s2, s3


@jit
def sketch_leaf(nodes, sketch, leaf, unit, bx, head, weight, ahead):  # type: ignore[no-untyped-def]
    """`score_leaf` by the sketch: products with residuals from the leaf's mean into ``head``, their masses up to a
    common factor into ``weight``; returns the log of the masses' sum, without the mean's part. Meanwhile codes from row
    ``ahead`` on come from memory (-1: not known)."""
    codes, step, nobody = sketch.codes, sketch.step[leaf], np.empty(0, np.int64)
    start, n = nodes.leaf_start[leaf], nodes.leaf_count[leaf]
    for i in range(0, n, 4):
        if ahead >= 0:
            for row in range(ahead + i, ahead + i + 4):
                ask_for_row(codes, row)
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        s = four_codes(unit, codes, start + i, start + i1, start + i2, start + i3)
        head[i], head[i1], head[i2], head[i3] = step * s[0], step * s[1], step * s[2], step * s[3]
    return weigh_leaf(nodes, leaf, bx, nobody, head, weight)


@jit
def sketch_score(sketch, leaf, row, unit):  # type: ignore[no-untyped-def]
    """One number of `sketch_leaf`'s ``head``, the same to the bit wherever the row lies in its leaf."""
    s = four_codes(unit, sketch.codes, row, row, row, row)
    return sketch.step[leaf] * s[0]
