"""Rows of equal strings among millions: by a hash of 8 bytes each, with a comparison where hashes agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Strings = Callable[[NDArray[np.int64]], "pa.Array | pa.ChunkedArray"]
"""Gives the strings of rows."""

_BLOCK = 1 << 18  # rows looked at together
_STRINGS = 1 << 13  # of Python's at a time


def string_hashes(pieces: Iterable[pa.Array], count: int) -> NDArray[np.int64]:
    """A hash of each of ``count`` strings, ``(count,)`` int64: equal ones have equal hashes, in this process alone."""
    return np.fromiter(map(hash, _each(pieces)), dtype=np.int64, count=count)


def repeats(hashes: NDArray[np.int64], strings: Strings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows whose string an earlier row has, ascending, and for each the first row that has it, both ``(m,)``.

    Beside ``hashes`` ``(n,)`` memory is 8 bytes a row in passing.
    """
    ordered = np.sort(hashes)
    rows = rows_with(hashes, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    del ordered
    _, first, group = np.unique(hashes[rows], return_index=True, return_inverse=True)
    firsts = rows[first[group]]
    if (wrong := np.flatnonzero(~are_equal(strings, rows, strings, firsts))).size:
        members = np.flatnonzero(np.isin(group, group[wrong]))
        firsts[members] = _first_of_each(rows[members], strings)
    later = rows != firsts
    return rows[later], firsts[later]


def rows_with(hashes: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows, ascending, whose hash is among ``wanted``, ascending and without repeats."""
    found = [np.zeros(0, dtype=np.int64)]
    if len(wanted):
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK]
            places = np.searchsorted(wanted, block).clip(max=len(wanted) - 1)
            found.append(start + np.flatnonzero(wanted[places] == block))
    return np.concatenate(found)


def are_equal(
    one: Strings, rows: NDArray[np.int64], other: Strings, other_rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether ``rows`` of the one have the strings that ``other_rows`` of the other have, place by place: ``(m,)``."""
    equal = np.ones(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        equal[block] = np.asarray(pc.equal(one(rows[block]), other(other_rows[block])))
    return equal


def _first_of_each(rows: NDArray[np.int64], strings: Strings) -> NDArray[np.int64]:
    """For each of ``rows`` the first of them that has its string: for the few whose hashes say nothing."""
    seen: dict[str, int] = {}
    firsts = np.empty_like(rows)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        texts = strings(block).to_pylist()
        firsts[start : start + _BLOCK] = [
            seen.setdefault(text, row) for text, row in zip(texts, block.tolist(), strict=True)
        ]
    return firsts


def _each(pieces: Iterable[pa.Array]) -> Iterator[str]:
    """The strings one after another; few are Python's at a time."""
    for piece in pieces:
        for start in range(0, len(piece), _STRINGS):
            yield from piece.slice(start, _STRINGS).to_numpy(zero_copy_only=False)
