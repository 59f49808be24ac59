"""Lists of different lengths kept as two flat arrays (compressed rows)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RaggedRows:
    """Row ``i`` holds ``values[offsets[i]:offsets[i + 1]]``.

    Used wherever a query has several targets: its positives, and the targets a draw must leave out.

    Attributes:
        offsets: ``(rows + 1,)`` int64, starting at 0 and never falling.
        values: ``(offsets[-1],)`` int64.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def from_pairs(cls, rows: ArrayLike, values: ArrayLike, num_rows: int) -> RaggedRows:
        """Group ``values`` by their ``rows`` (both ``(n,)``); within a row, ascending and without repeats."""
        row_array = np.asarray(rows, dtype=np.int64)
        value_array = np.asarray(values, dtype=np.int64)
        order = np.lexsort((value_array, row_array))
        row_array, value_array = row_array[order], value_array[order]
        fresh = np.ones(len(row_array), dtype=bool)
        fresh[1:] = (row_array[1:] != row_array[:-1]) | (value_array[1:] != value_array[:-1])
        row_array, value_array = row_array[fresh], value_array[fresh]
        counts = np.bincount(row_array, minlength=num_rows)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), value_array)

    @classmethod
    def empty(cls, num_rows: int) -> RaggedRows:
        """``num_rows`` rows that hold nothing."""
        return cls(np.zeros(num_rows + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @classmethod
    def stacked(cls, parts: Iterable[RaggedRows]) -> RaggedRows:
        """The rows of all parts, one part after the other."""
        parts = list(parts)
        counts = np.concatenate([np.zeros(1, dtype=np.int64), *(part.counts for part in parts)])
        values = np.concatenate([np.zeros(0, dtype=np.int64), *(part.values for part in parts)])
        return cls(np.cumsum(counts), values)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many values each row holds, ``(rows,)``."""
        return np.diff(self.offsets)

    def take(self, rows: ArrayLike) -> RaggedRows:
        """The given rows, in the given order (repeats allowed), as a new object."""
        row_array = np.asarray(rows, dtype=np.int64)
        starts = self.offsets[row_array]
        counts = self.offsets[row_array + 1] - starts  # not self.counts: that is one number a row of the whole
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return RaggedRows(offsets, self.values[positions])

    def row_ids(self) -> NDArray[np.int64]:
        """The row of each value, ``(len(values),)``: ``values[t]`` belongs to row ``row_ids()[t]``."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)
