"""Which targets answer which queries: one split of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows


@dataclass(frozen=True, eq=False)
class Judgements:
    """The judged queries of one split, each with at least one positive.

    Attributes:
        queries: ``(m,)`` int64, rows of the dataset's queries, in the order in which the file first names
            them.
        positives: ``m`` rows; row ``i`` has the rows of the targets with a grade above 0 for
            ``queries[i]``, ascending.
        grades: ``(len(positives.values),)`` int32, the grade of each of ``positives.values``.
        negatives: ``m`` rows; row ``i`` has the targets that were judged with a grade of 0 or below for ``queries[i]``,
            in the file's order. ``None``: no row has any.
        negative_grades: ``(len(negatives.values),)`` int32, the grade of each of them.
    """

    queries: NDArray[np.int64]
    positives: RaggedRows
    grades: NDArray[np.int32]
    negatives: RaggedRows | None = None
    negative_grades: NDArray[np.int32] | None = None

    @classmethod
    def from_triples(
        cls, queries: NDArray[np.int64], targets: NDArray[np.int64], grades: NDArray[np.int32]
    ) -> Judgements:
        """Group judgements ``(n,)`` of different pairs by query.

        Queries without a grade above 0 are left out too: readers report them before.
        """
        distinct, first, inverse = np.unique(queries, return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        place = np.empty(len(distinct), dtype=np.int64)
        place[by_appearance] = np.arange(len(distinct))
        keep = grades > 0
        counts = np.bincount(place[inverse][keep], minlength=len(distinct))
        has_positive = counts > 0

        def grouped(members: NDArray[np.bool_], *by: NDArray[np.int64]) -> tuple[RaggedRows, NDArray[np.int32]]:
            at = np.flatnonzero(members & has_positive[place[inverse]])
            order = at[np.lexsort((*(key[at] for key in by), place[inverse][at]))]  # stable: else in the file's order
            sizes = np.bincount(place[inverse][order], minlength=len(distinct))[has_positive]
            offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
            return RaggedRows(offsets, targets[order].astype(np.int64)), grades[order].astype(np.int32)

        return cls(
            distinct[by_appearance][has_positive].astype(np.int64),
            *grouped(keep, targets),
            *((None, None) if keep.all() else grouped(~keep)),
        )

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query rows and target rows of all positive pairs, both ``(len(positives.values),)``."""
        return self.queries[self.positives.row_ids()], self.positives.values
