"""Which targets answer which queries: one split of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows


@dataclass(frozen=True, eq=False)
class MissingPositives:
    """Positives that the corpus does not have. No search can find them, and they count as not found.

    Attributes:
        places: ``(p,)`` int64, ascending: the query of each, as a place in ``Judgements.queries``.
        ids: ``p`` ids of targets.
        grades: ``(p,)`` int32.
    """

    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ids: tuple[str, ...] = ()
    grades: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def take(self, places: NDArray[np.int64], num_queries: int) -> MissingPositives:
        """As `Judgements.take`; ``num_queries`` is the number of queries before."""
        by_query = RaggedRows.from_pairs(self.places, np.arange(len(self.places)), num_queries).take(places)
        ids = tuple(self.ids[row] for row in by_query.values)
        return MissingPositives(by_query.row_ids(), ids, self.grades[by_query.values])

    def grades_of(self, place: int) -> list[int]:
        """The grades of one query's."""
        begin, end = np.searchsorted(self.places, [place, place + 1])
        return self.grades[begin:end].tolist()


@dataclass(frozen=True, eq=False)
class Judgements:
    """The judged queries of one split, each with at least one positive (which the corpus has, or lacks).

    Attributes:
        queries: ``(m,)`` int64, rows of the dataset's queries, in the order in which the file first names
            them.
        positives: ``m`` rows; row ``i`` has the rows of the targets with a grade above 0 for
            ``queries[i]``, ascending.
        grades: ``(len(positives.values),)`` int32, the grade of each of ``positives.values``.
        missing: positives that the corpus does not have; none of a dataset that was read strictly.
        negatives: ``m`` rows; row ``i`` has the targets that were judged with a grade of 0 or below for ``queries[i]``,
            in the file's order. ``None``: no row has any.
        negative_grades: ``(len(negatives.values),)`` int32, the grade of each of them.
    """

    queries: NDArray[np.int64]
    positives: RaggedRows
    grades: NDArray[np.int32]
    missing: MissingPositives = field(default_factory=MissingPositives)
    negatives: RaggedRows | None = None
    negative_grades: NDArray[np.int32] | None = None

    @classmethod
    def from_triples(
        cls,
        queries: NDArray[np.int64],
        targets: NDArray[np.int64],
        grades: NDArray[np.int32],
        missing_ids: Sequence[str] = (),
    ) -> Judgements:
        """Group judgements ``(n,)`` of different pairs by query.

        Queries without a grade above 0 are left out too: readers report them before. ``missing_ids`` are those of the
        targets that are -1, which the corpus does not have.
        """
        distinct, first, inverse = np.unique(queries, return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        place = np.empty(len(distinct), dtype=np.int64)
        place[by_appearance] = np.arange(len(distinct))
        places, is_positive, is_there = place[inverse], grades > 0, targets >= 0
        kept = np.bincount(places[is_positive], minlength=len(distinct)) > 0
        is_kept = kept[places]
        places = (np.cumsum(kept) - 1)[places]  # of queries that stay

        def grouped(members: NDArray[np.bool_], *by: NDArray[np.int64]) -> tuple[RaggedRows, NDArray[np.int32]]:
            at = np.flatnonzero(members & is_there & is_kept)
            at = at[np.lexsort((*(key[at] for key in by), places[at]))]  # stable: else in the file's order
            counts = np.bincount(places[at], minlength=int(kept.sum()))
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            return RaggedRows(offsets, targets[at].astype(np.int64)), grades[at].astype(np.int32)

        absent = np.flatnonzero(is_positive & ~is_there)
        absent = absent[np.argsort(places[absent], kind="stable")]
        names = dict(zip(np.flatnonzero(~is_there).tolist(), missing_ids, strict=True))
        positives, positive_grades = grouped(is_positive, targets)
        negatives, negative_grades = (None, None) if is_positive.all() else grouped(~is_positive)
        return cls(
            distinct[by_appearance][kept].astype(np.int64),
            positives,
            positive_grades,
            MissingPositives(
                places[absent].astype(np.int64),
                tuple(names[row] for row in absent.tolist()),
                grades[absent].astype(np.int32),
            ),
            negatives,
            negative_grades,
        )

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.queries)

    def take(self, places: NDArray[np.int64]) -> Judgements:
        """The queries at the given places of ``queries``, in that order, with all that belongs to them."""
        missing = self.missing.take(places, len(self))
        positives, grades = _taken(self.positives, self.grades, places)
        if self.negatives is None or self.negative_grades is None:
            return Judgements(self.queries[places], positives, grades, missing)
        negatives = _taken(self.negatives, self.negative_grades, places)
        return Judgements(self.queries[places], positives, grades, missing, *negatives)

    def with_positives(self) -> Judgements:
        """Without the queries whose every positive is missing: there is nothing to train on."""
        return self.take(np.flatnonzero(self.positives.counts)) if (self.positives.counts == 0).any() else self

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query rows and target rows of all positive pairs, both ``(len(positives.values),)``."""
        return self.queries[self.positives.row_ids()], self.positives.values


def _taken(
    rows: RaggedRows, grades: NDArray[np.int32], places: NDArray[np.int64]
) -> tuple[RaggedRows, NDArray[np.int32]]:
    """Some of the rows, with the grade of each of their values."""
    kept = RaggedRows(rows.offsets, grades.astype(np.int64)).take(places).values
    return rows.take(places), kept.astype(np.int32)
