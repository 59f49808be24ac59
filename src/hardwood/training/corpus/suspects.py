"""Suspected false negatives: targets that go on outranking a query's positive, for people to judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood._checkpoint_tensors import INTEGERS, Wanted, expect
from hardwood._files import written_whole

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset
    from hardwood.training.batch.candidates import Candidates

_PENDING = 200_000
_KEPT = 1_000_000


class SuspectedNegatives:
    """Counts, pair by pair, the steps in which a target that is no known positive scored above the positive.

    A model that has learned the rest and still prefers a target to the labelled answer, time and again, has often
    found a missing label. Memory is bounded: of more than a million pairs those seen least are forgotten.

    Args:
        num_targets: size of the corpus.
    """

    def __init__(self, num_targets: int) -> None:
        self._num_targets = num_targets
        self._keys: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # query row * num_targets + target row, ascending
        self._counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._leads: NDArray[np.float64] = np.zeros(0, dtype=np.float64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        self._num_pending = 0

    def observe(self, queries: NDArray[np.int64], targets: NDArray[np.int64], leads: NDArray[np.float64]) -> None:
        """Note pairs of one step.

        Args:
            queries: ``(m,)`` query rows.
            targets: ``(m,)`` target rows.
            leads: ``(m,)`` by how much the target's score exceeds the positive's.
        """
        self._pending.append((queries * self._num_targets + targets, leads))
        self._num_pending += len(queries)
        if self._num_pending > _PENDING:
            self._settle()

    def observe_scores(
        self, query_rows: NDArray[np.int64], candidates: Candidates, scores: Tensor, known: Tensor
    ) -> None:
        """Note which candidates of a step outrank the positive of a query without being known positives of it.

        Args:
            query_rows: ``(B,)``.
            candidates: of the step.
            scores: ``(B, C)`` without gradient.
            known: ``(B, C)`` bool, what is no negative of a query.
        """
        leads = scores - scores.gather(1, candidates.positive_columns[:, None])
        batch_rows, columns = ((leads > 0) & ~known).nonzero(as_tuple=True)
        self.observe(
            query_rows[batch_rows.cpu().numpy()],
            candidates.ids[columns].cpu().numpy(),
            leads[batch_rows, columns].double().cpu().numpy(),
        )

    def most_often(self, limit: int = 1000, at_least: int = 2) -> list[tuple[int, int, int, float]]:
        """``(query row, target row, times, mean lead)``, the most frequent first."""
        self._settle()
        order = np.lexsort((self._keys, -self._leads, -self._counts))
        order = order[self._counts[order] >= at_least][:limit]
        return [
            (
                int(self._keys[i] // self._num_targets),
                int(self._keys[i] % self._num_targets),
                int(self._counts[i]),
                float(self._leads[i] / self._counts[i]),
            )
            for i in order
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """What was counted so far, as tensors for a checkpoint."""
        self._settle()
        parts = {"keys": self._keys, "counts": self._counts, "leads": self._leads}
        return {name: torch.from_numpy(array) for name, array in parts.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on counting from what `state_dict` gave.

        Raises:
            ValueError: it is something else; the counts are as they were.
        """
        counts: dict[str, Wanted] = dict.fromkeys(("keys", "counts"), (INTEGERS, ("pairs",)))
        wanted = {**counts, "leads": ((torch.float64,), ("pairs",))}
        expect(state, wanted, "it is damaged, so resume from another checkpoint or start anew")
        self._keys, self._counts, self._leads = (state[name].numpy().copy() for name in ("keys", "counts", "leads"))
        self._pending, self._num_pending = [], 0

    def write(
        self,
        path: Path,
        dataset: RetrievalDataset,
        split: str = "train",
        limit: int = 1000,
        opinion: Callable[[int, int, Sequence[int]], dict[str, Any]] | None = None,
    ) -> int:
        """Write the report as JSON lines, with texts; returns how many pairs it holds.

        Args:
            path: of the file.
            dataset: its texts and positives are shown.
            split: its positives are shown.
            limit: pairs at most.
            opinion: gives further entries for a query's row, a target's row and the rows of the query's positives.
        """
        rows = self.most_often(limit)
        known = dataset.known_positives(split)
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for query, target, times, lead in rows:
                record = {
                    "query_id": dataset.queries.ids([query])[0],
                    "query": dataset.queries.texts([query])[0],
                    "target_id": dataset.corpus.ids([target])[0],
                    "target": dataset.corpus.texts([target])[0],
                    "positives": list(dict.fromkeys(dataset.corpus.texts(known[query]))),  # twins say the same
                    "times_above_positive": times,
                    "mean_score_lead": round(lead, 4),
                }
                if opinion is not None:
                    record |= opinion(query, target, known[query].tolist())
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return len(rows)

    def _settle(self) -> None:
        """Merge what is pending into the counts."""
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        counts = np.concatenate([self._counts, np.ones(self._num_pending, dtype=np.int64)])
        leads = np.concatenate([self._leads, *(leads for _, leads in self._pending)])
        self._keys, place = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(place, weights=counts).astype(np.int64)
        self._leads = np.bincount(place, weights=leads).astype(np.float64)
        self._pending, self._num_pending = [], 0
        if len(self._keys) > _KEPT:
            keep = np.sort(np.argsort(-self._counts, kind="stable")[: _KEPT // 2])
            self._keys, self._counts, self._leads = self._keys[keep], self._counts[keep], self._leads[keep]
