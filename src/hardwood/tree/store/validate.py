"""Checks of what comes from a disk: kernels follow a tree's numbers without bounds checks, so numbers that lead out of
its arrays must never reach them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood._json import parse_object
from hardwood.errors import DataError
from hardwood.tree._inputs import MAX_DIMENSION, MAX_NORM
from hardwood.tree.arrays.bfloat16 import decoded
from hardwood.tree.arrays.bounds import LOG_COUNT, RADIUS, REACH, SPREAD
from hardwood.tree.arrays.nodes import LAYOUT, Array, Nodes

TYPES = {"F32": np.float32, "BF16": np.uint16, "F64": np.float64, "I64": np.int64, "I32": np.int32}
MOST_HEADER = 1 << 20
LEAVES_AT_ONCE = 1 << 14

REFERENCE = "reference"
"""Beside the arrays of `Nodes`: each group's spread when it was last built (`Tree.reference`)."""

STORED = {array.stored: array for array in LAYOUT.values() if array.stored is not None}
STORED[REFERENCE] = Array(np.dtype(np.float64), ("G",), blank=0, stored=REFERENCE)
"""Every array of the nodes' file."""

Entry = tuple[str, type[Any], tuple[int, ...], int]
"""Of an array in a file: name, type, shape, and where it begins."""


def read_header(path: Path) -> tuple[list[Entry], dict[str, Any]]:
    """The arrays of a safetensors file, and its metadata.

    Arrays must follow one another without gaps and fill the file, as the format demands: so a shape can't promise more
    than there is, and reading takes no more memory than the file has bytes.

    Raises:
        DataError: for a header that is not so.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            raise DataError("has a damaged header.", path)
        header = parse_object(file.read(length), path)
    about = header.pop("__metadata__", {})
    try:
        entries = sorted((_entry(name, entry) for name, entry in header.items()), key=lambda found: found[0][3])
    except (KeyError, TypeError, ValueError):
        raise DataError("has a damaged header.", path) from None
    at = 0
    for (_, _, _, begin), end in entries:
        if begin != at:
            raise DataError("has a damaged header: its arrays leave gaps or overlap.", path)
        at = end
    if at != size - 8 - length or not isinstance(about, dict):
        raise DataError("has a damaged header: its arrays are not what the file holds.", path)
    return [(name, kind, shape, 8 + length + begin) for (name, kind, shape, begin), _ in entries], about


def _entry(name: str, entry: dict[str, Any]) -> tuple[Entry, int]:
    kind, shape, (begin, end) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(name)
    if end - begin != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(name)
    return (name, kind, tuple(shape), begin), end


def check_arrays(small: dict[str, NDArray[Any]], rows: NDArray[Any], fail: Callable[[str], DataError]) -> None:
    """Whether these arrays are a tree that kernels can walk: shapes fit each other, and no number leads outside.

    Not whether its statistics are true of its vectors: that is what `TargetIndex.check` looks into.

    Args:
        small: the nodes' file, by name.
        rows: ``(R, d)``, the vectors; only their shape is checked.
        fail: makes the error to raise.

    Raises:
        DataError: naming what is wrong.
    """
    sizes: dict[str | int, int] = {"R": len(rows), "d": rows.shape[1]}
    for name, layout in STORED.items():
        array = small.get(name)
        if array is None or array.dtype != layout.dtype or array.ndim != len(layout.shape):
            raise fail(f"{name} is missing or of another kind")
        for wants, has in zip(layout.shape, array.shape, strict=True):
            known = wants if isinstance(wants, int) else sizes.setdefault(wants, has)
            if not (has >= 1 if wants == "K" else has == known):
                raise fail(f"{name} has the shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise fail(f"{name} holds numbers that are not finite")
    if len(small) != len(STORED) or not 1 <= sizes["d"] <= MAX_DIMENSION or sizes["G"] < 1 or sizes["L"] < 1:
        raise fail("it holds other arrays than a tree has")
    _check_leaves(small, sizes, fail)


def _check_leaves(
    small: dict[str, NDArray[Any]], sizes: dict[str | int, int], fail: Callable[[str], DataError]
) -> None:
    start, count, room, group = (small[f"leaf_{name}"] for name in ("start", "count", "room", "group"))
    live = group >= 0
    # In this order no sum can overflow.
    inside = (start >= 0) & (start <= sizes["R"]) & (room >= 0) & (room <= sizes["R"]) & (start + room <= sizes["R"])
    # A dead leaf may still say where its rows were, never read: beyond the end, once the others moved together.
    if not (inside | ~live).all() or not ((count >= 0) & (count <= room)).all():
        raise fail("a leaf reaches out of the rows")
    if not ((group >= -1) & (group < sizes["G"])).all() or (count[~live] > 0).any() or (count[live] == 0).any():
        raise fail("a leaf belongs to no group, or is empty")
    order = np.flatnonzero(live)[np.argsort(start[live], kind="stable")]
    if ((start + room)[order][:-1] > start[order][1:]).any():
        raise fail("two leaves overlap")
    counts = np.zeros(sizes["G"], dtype=np.int64)
    np.add.at(counts, group[live], count[live])
    if not np.array_equal(counts, small["group_count"]):
        raise fail("a group's count is not the sum of its leaves'")
    for begin in range(0, len(order), LEAVES_AT_ONCE):
        leaves = order[begin : begin + LEAVES_AT_ONCE]
        ends = np.cumsum(count[leaves])
        rows = np.arange(ends[-1]) + np.repeat(start[leaves] - (ends - count[leaves]), count[leaves])
        if not np.array_equal(small["row_leaf"][rows], np.repeat(leaves, count[leaves])):
            raise fail("a row names another leaf than it lies in")
    for level, counted in (("leaf", count), ("group", small["group_count"])):
        stats, filled = small[f"{level}_stats"], counted > 0
        if (stats[filled][:, [RADIUS, REACH, SPREAD]] < 0).any() or (stats[filled, REACH] > 2 * MAX_NORM).any():
            raise fail(f"{level}_stats holds a negative radius, or one beyond all vectors")
        if (np.abs(stats[filled, LOG_COUNT] - np.log(counted[filled])) > 1e-9).any():
            raise fail(f"{level}_stats has another count")
    if (small["evenly"] < 0).any() or (small["reference"] < 0).any():
        raise fail("a spread is negative")


def check_vectors(nodes: Nodes, path: Path) -> None:
    """Whether all stored vectors are finite and of a norm that an index takes; reads all of them.

    Raises:
        DataError: for the first that is not.
    """
    for leaf_start, count in zip(nodes.leaf_start.tolist(), nodes.leaf_count.tolist(), strict=True):
        y = decoded(nodes.rows[leaf_start : leaf_start + count])
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("ij,ij->i", y, y, dtype=np.float64)
        # bfloat16 rounds up by a part in 256.
        if not (squares <= (1.01 * MAX_NORM) ** 2).all():
            raise DataError("holds a vector that is not finite, or too long: it is damaged.", path)
