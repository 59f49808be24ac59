"""The arrays of a tree: what each holds, its type and its shape. This is the one place that says so.

Two levels of nodes stand over the targets: *groups*, about four times the square root of the number of *leaves*, and
these, each of some tens of targets. A leaf's targets lie in consecutive rows of one array, with a little room after
them for targets to come.

Building, growing, saving and checking go by `LAYOUT`, which is made from the fields of `Nodes`.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_MANY_ROWS = 1 << 20
"""Rows from which on a tree is large: a copy of them takes a gigabyte and more of memory at usual widths."""

BLOCK = 256
"""Queries that a kernel handles together: enough that several share a group, few enough for the processor's caches."""


class Axes:
    """The shape of an array by letters (``R`` rows, ``L`` leaves, ``G`` groups, ``d`` dimensions, ``K`` any number from
    1 on) and numbers, what an unused entry holds, and the array's name in a saved index (None: not in the nodes' file).
    """

    def __init__(self, *shape: str | int, blank: int = 0, stored: bool | str = True) -> None:
        self.shape, self.blank, self.stored = shape, blank, stored


class Nodes(NamedTuple):
    """Everything that a kernel reads. A dead leaf has count 0 and group -1."""

    rows: Annotated[NDArray[np.float32] | NDArray[np.uint16], Axes("R", "d", stored=False)]
    """The targets; uint16 holds the bits of bfloat16."""

    row_id: Annotated[Ints, Axes("R")]
    row_leaf: Annotated[NDArray[np.int32], Axes("R")]
    """The leaf that owns a row, in use or not."""

    leaf_start: Annotated[Ints, Axes("L")]
    """A leaf's first row."""

    leaf_count: Annotated[Ints, Axes("L")]
    """Its targets."""

    leaf_room: Annotated[Ints, Axes("L")]
    """The rows it owns."""

    leaf_group: Annotated[Ints, Axes("L", blank=-1)]
    leaf_mean: Annotated[Floats, Axes("L", "d")]
    leaf_stats: Annotated[NDArray[np.float64], Axes("L", 4)]
    """Radius, reach, spread and log count, by the columns that `bounds` names."""

    group_offsets: Annotated[Ints, Axes("G+1", stored=False)]
    """Group g's leaves are ``group_leaves[group_offsets[g] : group_offsets[g + 1]]`` (`group_lists`)."""

    group_leaves: Annotated[Ints, Axes("live leaves", stored=False)]
    group_count: Annotated[Ints, Axes("G")]
    """A group's targets."""

    group_mean: Annotated[Floats, Axes("G", "d")]
    group_stats: Annotated[NDArray[np.float64], Axes("G", 4)]
    leaf_covariance: Annotated[Floats, Axes("K", "d", stored="leaf_shape")]
    """Directions in which leaves spread more than evenly: with `even_variance` the covariance that all leaves share
    (`statistics.pooled_covariance`)."""

    group_covariance: Annotated[Floats, Axes("K", "d", stored="group_shape")]
    """The same for groups."""

    even_variance: Annotated[NDArray[np.float64], Axes(2, stored="evenly")]
    """The share of a node's spread in any other direction: leaves', groups'."""


class Array(NamedTuple):
    """How one array of a tree is laid out; see `Axes`."""

    dtype: np.dtype[Any] | None
    """None for the targets, whose type is the index's."""

    shape: tuple[str | int, ...]
    blank: int
    stored: str | None


def _layout() -> dict[str, Array]:
    found = {}
    for name, hint in get_type_hints(Nodes, include_extras=True).items():
        kind, axes = get_args(hint)
        # NDArray[np.int64] is np.ndarray[..., np.dtype[np.int64]]; the targets' is a union of two.
        dtype = np.dtype(get_args(get_args(kind)[1])[0]) if get_origin(kind) is np.ndarray else None
        stored = axes.stored if isinstance(axes.stored, str) else (name if axes.stored else None)
        found[name] = Array(dtype, axes.shape, axes.blank, stored)
    return found


LAYOUT = _layout()
"""Every field of `Nodes`, in order."""


def blank_nodes(dtype: np.dtype[Any], **sizes: int) -> Nodes:
    """A tree without targets whose leaves are all dead.

    Args:
        dtype: of the targets, float32 or uint16.
        sizes: ``R``, ``L``, ``G`` and ``d`` (see `Axes`).
    """
    known = {"K": 1, "live leaves": 0, "G+1": sizes["G"] + 1, **sizes}
    made = {}
    for name, array in LAYOUT.items():
        made[name] = np.zeros(
            [known[axis] if isinstance(axis, str) else axis for axis in array.shape], array.dtype or dtype
        )
        if array.blank:
            made[name][:] = array.blank
    return Nodes(**made)


def resized(nodes: Nodes, axis: str, used: int, size: int) -> Nodes:
    """The tree with ``size`` rows (``axis`` "R") or leaves ("L"), of which the first ``used`` are as they were and the
    others blank."""
    names = [name for name, array in LAYOUT.items() if array.shape[0] == axis]
    return nodes._replace(**{name: lengthened(name, getattr(nodes, name), used, size) for name in names})


def lengthened(name: str, array: NDArray[Any], used: int, size: int) -> NDArray[Any]:
    """A copy of a tree's array of that name, ``size`` long: the first ``used`` entries, the others blank."""
    longer = np.zeros((size, *array.shape[1:]), array.dtype)
    longer[:used] = array[:used]
    if blank := LAYOUT[name].blank:  # memory that is never touched costs nothing
        longer[used:] = blank
    return longer


def spare_rows(used: int) -> int:
    """How many blank rows to keep behind so many that are in use, for leaves that grow.

    Memory that is never touched costs nothing. Of millions there are so many that a refresh does not use them up
    before what it leaves behind is compacted: longer arrays would be a second copy of all rows, and the peak of a run's
    memory.
    """
    return used // 2 if is_large(used) else used // 16 + 64


def is_large(used: int) -> bool:
    """Whether so many rows are worth what it costs to keep them together."""
    return used > _MANY_ROWS


def group_lists(leaf_group: Ints, groups: int) -> tuple[Ints, Ints]:
    """``group_offsets`` and ``group_leaves`` from each leaf's group; dead leaves are left out."""
    order = np.argsort(leaf_group, kind="stable")
    dead = int((leaf_group < 0).sum())
    counts = np.bincount(leaf_group[leaf_group >= 0], minlength=groups)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), order[dead:].astype(np.int64)


class Spill(NamedTuple):
    """A second leaf for each target, for `search` alone (`change.spill`): leaf ``l`` also shows the targets in
    ``rows[offsets[l] : offsets[l + 1]]``. Both arrays are empty where there is no spill."""

    offsets: Ints  # (L + 1,)
    rows: Ints


class Sketch(NamedTuple):
    """A byte for each number, for `sample` alone (`read.sketch`): row r's residual from its leaf's mean is about
    ``step[leaf] * codes[r]``. Both arrays are empty where there is no sketch."""

    codes: NDArray[np.int8]  # (R, d)
    step: NDArray[np.float32]  # (L,)


NO_SPILL = Spill(np.zeros(0, np.int64), np.zeros(0, np.int64))
NO_SKETCH = Sketch(np.zeros((0, 1), np.int8), np.zeros(0, np.float32))
