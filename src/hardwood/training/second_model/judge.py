"""A guide at work on one loss: what it is asked in a step, and what it has answered so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardwood._checkpoint_tensors import INTEGERS, Wanted, expect
from hardwood.negatives import Cost
from hardwood.ranks import Ranks
from hardwood.training.batch.candidates import Candidates
from hardwood.training.batch.margin_watch import MarginWatch
from hardwood.training.second_model.guide import Guide

if TYPE_CHECKING:
    from hardwood.data import TextTable

_KEPT = 1_000_000
"""Judgements that are kept, some 100 bytes each in memory and 12 in a checkpoint; the oldest are forgotten."""


@dataclass(frozen=True)
class Judged:
    """A step's judgements.

    Attributes:
        scores: ``(B, C)`` float32, the guide's scores; NaN for what was not judged. Of each query for which something
            was judged, the positive has a score too.
        rejected: ``(B, C)`` bool, false negatives by the guide.
    """

    scores: Tensor
    rejected: Tensor


class Judge:
    """Asks a guide about candidates near a query's positive, about each pair once.

    Args:
        guide: the second model, which stays as it is.
        queries: the loss's queries.
        corpus: its targets.
        cost: where pairs and seconds are counted.
        trained: the model in training.

    Raises:
        ValueError: guide and ``trained`` share weights: judgements are kept, and would be out of date.
    """

    def __init__(self, guide: Guide, queries: TextTable, corpus: TextTable, cost: Cost, trained: nn.Module) -> None:
        own = {id(parameter) for parameter in trained.parameters()}
        if any(id(parameter) in own for parameter in guide.model.parameters()):
            raise ValueError(
                "the guide has weights of the model in training, so that its judgements would change in every step "
                "while the first ones are kept: give another model, or a copy (copy.deepcopy(model))"
            )
        self.guide = guide
        self._queries, self._corpus, self._cost = queries, corpus, cost
        self.ranks = Ranks.alone()  # all of them judge the batch of all, each a part of it
        self._scores: dict[int, float] = {}  # by query row * number of targets + target row, the oldest first
        self._fingerprint: str | None = None
        self._watch = MarginWatch("guide", "lower its margin, or the distance within which it judges")
        self._num_judged = self._num_rejected = 0

    def judge(self, query_rows: NDArray[np.int64], candidates: Candidates, scores: Tensor, usable: Tensor) -> Judged:
        """Judge what is near each query's positive or above it.

        Args:
            query_rows: ``(B,)``.
            candidates: of the step.
            scores: ``(B, C)`` similarities by the model in training, before the scale, without gradient.
            usable: ``(B, C)`` bool, what counts against each query but for the guide.

        Raises:
            ValueError: a score of the guide that is not finite, or a guide that rejects all negatives of the first
                batches.
        """
        own = candidates.positive_columns[:, None]
        near = usable & (scores >= scores.gather(1, own) - self.guide.within)
        asked = near.scatter(1, own, near.any(dim=1, keepdim=True))
        batch_rows, columns = asked.nonzero(as_tuple=True)
        keys = self._keys(query_rows[batch_rows.cpu().numpy()], candidates.ids[columns].cpu().numpy())
        found = torch.full_like(scores, torch.nan)
        found[batch_rows, columns] = torch.from_numpy(self._of(keys)).to(scores)
        ceiling = self.guide.filter.ceiling(found.gather(1, own)[:, 0])
        rejected = near & (found > ceiling[:, None]) if ceiling is not None else torch.zeros_like(near)
        self._num_judged, self._num_rejected = int(near.sum()), int(rejected.sum())
        self._watch.observe(usable, rejected, was_drawn=False)
        return Judged(found, rejected)

    def figures(self) -> dict[str, float]:
        """What the last batch's judgements were, for the log: pairs, and the share of them that was rejected."""
        share = self._num_rejected / self._num_judged if self._num_judged else 0.0
        return {"judged_by_guide": float(self._num_judged), "rejected_by_guide": share}

    def opinion(self, query: int, target: int, positives: Iterable[int]) -> dict[str, Any]:
        """What the guide has said of a pair, for the report of suspects; nothing is asked anew.

        Args:
            query: row of a query.
            target: row of a target.
            positives: rows of the query's known positives.

        Returns:
            ``{"guide", "guide_score", "guide_positive_scores"}``: ``"answer"`` for a target that it takes for a right
            answer beside one of the positives that it has scored, else ``"negative"``; ``None`` where it was not asked
            or this was forgotten.
        """
        score = self._scores.get(self._key(query, target))
        of_positives = [
            self._scores[key] for key in (self._key(query, one) for one in positives) if key in self._scores
        ]
        verdict = None
        if score is not None and of_positives:
            ceiling = self.guide.filter.ceiling(torch.tensor(of_positives))
            verdict = "answer" if ceiling is not None and score > float(ceiling.min()) else "negative"
        return {
            "guide": verdict,
            "guide_score": None if score is None else round(score, 4),
            "guide_positive_scores": [round(one, 4) for one in of_positives],
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All judgements that are kept, as tensors for a checkpoint."""
        return {
            "keys": torch.tensor(list(self._scores.keys()), dtype=torch.int64),
            "scores": torch.tensor(list(self._scores.values()), dtype=torch.float32),
            "guide": torch.tensor(list(bytes.fromhex(self._own_fingerprint())), dtype=torch.uint8),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with the judgements that `state_dict` gave.

        Raises:
            ValueError: they are another guide's, or damaged.
        """
        wanted: dict[str, Wanted] = {
            "keys": (INTEGERS, ("pairs",)),
            "scores": ((torch.float32,), ("pairs",)),
            "guide": ((torch.uint8,), ("bytes",)),
        }
        expect(state, wanted, "it is damaged, so resume from another checkpoint or start anew")
        keys, scores, guide = state["keys"], state["scores"], state["guide"]
        if bytes(guide.tolist()).hex() != self._own_fingerprint():
            raise ValueError(
                "the checkpoint has the judgements of another guide (its weights, prompts, similarity or length of "
                "texts differ): resume with the same one, or start anew"
            )
        self._scores = dict(zip(keys.tolist(), scores.tolist(), strict=True))

    def _of(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """The guide's scores of pairs; those that are not known yet are asked for, each once."""
        new = np.unique([key for key in keys.tolist() if key not in self._scores]).astype(np.int64)
        if len(new):
            with self._cost.timed("judge"):
                own = new[self.ranks.number :: self.ranks.size]
                pairs = np.divmod(own, len(self._corpus))
                found = self.guide.scores(self._queries, self._corpus, *pairs) if len(own) else np.zeros(0, np.float32)
            self._cost.pairs_judged += len(own)
            for keys_of, scores_of in self.ranks.gather([torch.from_numpy(own), torch.from_numpy(found)]):
                self._scores.update(zip(keys_of.tolist(), scores_of.tolist(), strict=True))
        scores = np.array([self._scores[key] for key in keys.tolist()], dtype=np.float32)
        for key in list(islice(self._scores, max(len(self._scores) - _KEPT, 0))):
            del self._scores[key]
        return scores

    def _keys(self, queries: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
        return queries * len(self._corpus) + targets

    def _key(self, query: int, target: int) -> int:
        return query * len(self._corpus) + target

    def _own_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self.guide.fingerprint()
        return self._fingerprint
