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
    """

    queries: NDArray[np.int64]
    positives: RaggedRows
    grades: NDArray[np.int32]

    @classmethod
    def from_triples(
        cls, queries: NDArray[np.int64], targets: NDArray[np.int64], grades: NDArray[np.int32]
    ) -> Judgements:
        """Group judgements ``(n,)`` of different pairs by query; grades of 0 and below are left out.

        Queries without a grade above 0 are left out too: readers report them before.
        """
        distinct, first, inverse = np.unique(queries, return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        place = np.empty(len(distinct), dtype=np.int64)
        place[by_appearance] = np.arange(len(distinct))
        keep = grades > 0
        places, targets, grades = place[inverse][keep], targets[keep], grades[keep]
        order = np.lexsort((targets, places))
        counts = np.bincount(places, minlength=len(distinct))
        has_positive = counts > 0
        offsets = np.concatenate([[0], np.cumsum(counts[has_positive])]).astype(np.int64)
        return cls(
            distinct[by_appearance][has_positive].astype(np.int64),
            RaggedRows(offsets, targets[order].astype(np.int64)),
            grades[order].astype(np.int32),
        )

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def take(self, places: NDArray[np.int64]) -> Judgements:
        """The queries at the given places of ``queries``, in that order, with all that belongs to them."""
        grades = RaggedRows(self.positives.offsets, self.grades.astype(np.int64)).take(places).values
        return Judgements(self.queries[places], self.positives.take(places), grades.astype(np.int32))

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query rows and target rows of all positive pairs, both ``(len(positives.values),)``."""
        return self.queries[self.positives.row_ids()], self.positives.values
