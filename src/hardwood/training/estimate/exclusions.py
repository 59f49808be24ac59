"""Which candidates count against a query in the loss, and which don't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood.negatives import MarginFilter, Request, seen_mask
from hardwood.training.batch.candidates import Candidates
from hardwood.training.batch.margin_watch import MarginWatch
from hardwood.training.corpus.suspects import SuspectedNegatives
from hardwood.training.estimate.hardest import softer_draws
from hardwood.training.estimate.weights import Strategy
from hardwood.training.second_model.judge import Judge, Judged


@dataclass(frozen=True)
class Counted:
    """What counts in a step.

    Attributes:
        log_weights: ``(B, C)`` float32, minus infinity where a candidate does not count against a query.
        known: ``(B, B)`` bool, whether the positive of another pair is no negative of this query.
        judged: what the guide said; ``None`` without one.
    """

    log_weights: Tensor
    known: Tensor
    judged: Judged | None


class Exclusions:
    """Leaves out what is known to be right for a query, is the query itself, or is too near its positive.

    Args:
        margin: filter against false negatives.
        judge: the guide at work, if there is one.
        suspects: where candidates above their query's positive are noted.
        hardest: see `hardwood.training.CorpusSoftmaxLoss`.
    """

    def __init__(
        self, margin: MarginFilter, judge: Judge | None, suspects: SuspectedNegatives, hardest: int | None
    ) -> None:
        self._margin, self._judge, self._suspects, self._hardest = margin, judge, suspects, hardest
        self._margin_watch = MarginWatch()

    def apply(
        self,
        log_weights: Tensor,
        scores: Tensor,
        candidates: Candidates,
        request: Request,
        strategies: Sequence[Strategy],
        query_rows: NDArray[np.int64],
        *,
        is_training: bool,
    ) -> Counted:
        """Take out what does not count.

        Args:
            log_weights: ``(B, C)`` of all candidates.
            scores: ``(B, C)``, scaled, without gradient.
            candidates: of the step.
            request: it has each query's known positives, and the ceiling of its margin.
            strategies: the draws; that of the source is the first.
            query_rows: ``(B,)``.
            is_training: outside training nothing is noted, and all draws count.

        Raises:
            ValueError: margin or guide have left nothing in the first 20 batches.
        """
        excluded = seen_mask(request.exclude, candidates.ids)
        if is_training:
            self._suspects.observe_scores(query_rows, candidates, scores, excluded)
        if request.ceiling is not None:
            dropped = scores > request.scale * request.ceiling[:, None]
            if is_training:
                usable = ~excluded & torch.isfinite(log_weights)
                was_drawn = any(strategy.num_draws for strategy in strategies)
                self._margin_watch.observe(usable, dropped, was_drawn=was_drawn)
            excluded |= dropped
        known, judged = seen_mask(request.exclude, request.positives), None
        if self._judge is not None:
            usable = ~excluded & torch.isfinite(log_weights)
            judged = self._judge.judge(query_rows, candidates, scores / request.scale, usable)
            excluded, known = excluded | judged.rejected, known | judged.rejected[:, candidates.positive_columns]
        log_weights = log_weights.masked_fill(excluded, -torch.inf)
        if self._hardest is not None and is_training:
            draws = [strategy.draw for strategy in strategies]
            softer = softer_draws(draws, candidates, scores, torch.isfinite(log_weights), self._hardest)
            log_weights = log_weights.masked_fill(softer, -torch.inf)
        return Counted(log_weights, known, judged)

    def figures(self) -> dict[str, float]:
        """For the log: the share of the last batch's candidates that the margin dropped, and the guide's figures."""
        dropped = {"dropped_by_margin": self._margin_watch.dropped} if self._margin else {}
        return dropped | ({} if self._judge is None else self._judge.figures())
