"""A byte for each number, for `sample` alone: which of a leaf's targets a draw takes is decided by these.

A draw that falls into a leaf that is not opened reads all of its targets to choose one. What it waits for is memory,
and a byte is a quarter of a float32. Residuals from the leaf's mean are rounded to 255 steps of the leaf's own: the
choice follows the softmax of the rounded scores, whose probabilities are as well known as the exact ones, so draws stay
unbiased; the drawn target's score is exact. Where a step is no small part of the softmax's own (`FINE`), rows are read.
"""

from __future__ import annotations

import numpy as np

from hardwood.tree.arrays.nodes import Nodes, Sketch
from hardwood.tree.arrays.products import row_products
from hardwood.tree.compiled.numeric import decode, dot, jit
from hardwood.tree.compiled.threads import split_work
from hardwood.tree.read.masses import weigh_leaf

FINE = 0.5
"""A step times ``β‖x‖`` may be so much: log weights then deviate by some 0.14, and 1 + χ² within a leaf is about 1.02
(1.0002 at scale 20, 1.001 at 50, 1.002 at 100 on unit vectors: docs/lab/tree.md)."""

STEPS = np.float32(127.0)
"""From a leaf's mean to the furthest number of a residual."""

LEAST = np.float32(1.2e-38)
"""Steps below this (subnormal in float32) are treated as zero: no score can tell such targets apart."""


def sketched(nodes: Nodes, threads: int) -> Sketch:
    """The sketch of every target."""
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
        if step < LEAST:
            sketch.step[leaf], codes[start:stop] = 0.0, 0
            continue
        sketch.step[leaf] = step
        for row in range(start, stop):
            for c in range(d):
                residual = decode(nodes.rows[row, c]) - nodes.leaf_mean[leaf, c]
                codes[row, c] = np.int8(np.floor(residual / step + np.float32(0.5)))


@jit
def decides(sketch, leaf, beta_norm):  # type: ignore[no-untyped-def]
    """Whether there is a sketch, and it is fine enough for a query with this ``β‖x‖`` in this leaf."""
    return sketch.step.shape[0] > 0 and beta_norm * sketch.step[leaf] <= FINE


@jit
def sketch_leaf(nodes, sketch, leaf, unit, beta_norm, head, weight, ahead):  # type: ignore[no-untyped-def]
    """`score_leaf` by the sketch: products with residuals from the leaf's mean into ``head``, their masses up to a
    common factor into ``weight``; returns the log of the masses' sum, without the mean's part. Nothing is excluded:
    such leaves are opened. Meanwhile codes from row ``ahead`` on come from memory (-1: not known)."""
    here, one, count = np.zeros(1, np.int64), unit.reshape((1, unit.shape[0])), nodes.leaf_count[leaf]
    row_products(one, here, here, 1, sketch.codes, nodes.leaf_start[leaf], count, head, ahead)
    for i in range(count):
        head[i] *= sketch.step[leaf]
    return weigh_leaf(nodes, leaf, beta_norm, np.empty(0, np.int64), head, weight)


@jit
def sketch_score(sketch, leaf, row, unit):  # type: ignore[no-untyped-def]
    """One number of `sketch_leaf`'s ``head``."""
    return sketch.step[leaf] * dot(unit, sketch.codes, row)
