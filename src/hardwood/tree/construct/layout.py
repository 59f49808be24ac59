"""Building the tree: every vector to its leaf, every leaf to its group, rows laid out leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardwood.tree.arrays.bfloat16 import encode
from hardwood.tree.arrays.nodes import Floats, Nodes, blank_nodes, group_lists, spare_rows
from hardwood.tree.arrays.prior import with_prior
from hardwood.tree.arrays.statistics import recompute, with_covariances
from hardwood.tree.construct.assign import next_rows
from hardwood.tree.construct.leaves import CHUNK, leaf_labels


def room_for(count: Any) -> Any:
    """Rows a leaf of ``count`` targets (a number or an array) is given: a sixteenth more, and a few."""
    return count + count // 16 + 2


class Source:
    """Where vectors come from: rows of an array or memmap, made float32 (and unit for cosine) a piece at a
    time, then rounded as stored; with ``log_prior`` ``(n,)``, one number longer (see `arrays.prior`)."""

    def __init__(
        self,
        array: Any,
        prepare: Callable[[Any], Floats],
        log_prior: Floats | None = None,
        dimension: int | None = None,
    ) -> None:
        self._array, self._prepare, self._log_prior = array, prepare, log_prior
        width = int(array.shape[1]) if dimension is None else dimension  # what `prepare` makes of it
        self.shape: tuple[int, int] = (int(array.shape[0]), width + (log_prior is not None))

    def take(self, rows: slice | NDArray[np.int64]) -> Floats:
        """The given rows as float32, ``(len, d)``; writable: Numba compiles a second specialisation for read-only
        arrays."""
        block = self._prepare(self._array[rows])
        if self._log_prior is not None:
            return with_prior(block, self._log_prior[rows])
        return np.require(block, requirements="W")


def build(
    source: Source,
    ids: NDArray[np.int64],
    dtype: np.dtype[Any],
    leaf_size: int,
    seed: int,
    threads: int,
    tick: Callable[[str, int, int], None],
) -> tuple[Nodes, int]:
    """The tree over ``source`` and the number of rows in use. Holds the stored vectors once, with a little room beside
    each leaf; before that, the sample that leaves are sought on (see `construct.leaves`)."""
    n, d = source.shape
    rng = np.random.default_rng(seed)
    labels, leaf_group = leaf_labels(source, leaf_size, rng, threads, tick)
    counts = np.bincount(labels, minlength=len(leaf_group))

    rooms = room_for(counts)
    starts = np.cumsum(rooms) - rooms
    used = int(rooms.sum())
    L, G = len(counts), int(leaf_group.max()) + 1
    # Blank, not whatever memory held: rooms without a target are saved too, and same targets make the same file.
    nodes = blank_nodes(dtype, R=used + spare_rows(used), L=L, G=G, d=d)
    nodes.row_leaf[:used] = np.repeat(np.arange(L, dtype=np.int32), rooms)
    # The source is read once, in its own order: no second array as long as it, and no leaps over a disk.
    cursor, at = starts.copy(), np.empty(CHUNK, dtype=np.int64)
    for begin in range(0, n, CHUNK):
        here = slice(begin, min(begin + CHUNK, n))
        place = at[: here.stop - begin]
        next_rows(labels[here], cursor, place)
        nodes.rows[place] = encode(source.take(here), dtype)
        nodes.row_id[place] = ids[here]
        tick("rows", here.stop, n)
    del labels
    offsets, leaves = group_lists(leaf_group, G)
    nodes = nodes._replace(
        leaf_start=starts, leaf_count=counts, leaf_room=rooms, leaf_group=leaf_group,
        group_offsets=offsets, group_leaves=leaves, even_variance=np.full(2, 1.0 / d),
    )  # fmt: skip
    recompute(nodes, np.arange(L), threads)
    return with_covariances(nodes, rng), used
