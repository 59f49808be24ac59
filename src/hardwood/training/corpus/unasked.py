"""Targets that no training query asks for: what they count in ``Z``, and how much of the gradient moves them.

Most targets of a real corpus are such. In the softmax over the corpus they are only ever negatives: every query pushes
them away and none pulls them back, until the model has learned that what was never asked for is never right. Both
options here weaken that push, and nothing else:

- ``unasked_prior``, ``π`` in ``Z = sum_i π_i exp(s_i)``, is what such a target counts. Seen and unseen classes are
  calibrated so in generalised zero-shot learning (Chao et al., ECCV 2016, arXiv:1605.04253), long tails by their
  priors (Menon et al., ICLR 2021, arXiv:2007.07314).
- ``unasked_push`` is the share of the gradient that reaches such a target's own encoding. The query learns to turn away
  from it all the same.

Both are for drawn targets. What the batch brings along, positives and given negatives, counts 1 and is moved, asked for
or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.training._limits import check_unasked


class UnaskedTargets:
    """The targets that no training query asks for.

    Args:
        asked: the positives of each training query, rows of the corpus.
        num_targets: n.
        prior: ``π`` of the others, above 0 and at most 1.
        push: the share of the gradient that moves their encodings, from 0 to 1.

    Raises:
        ValueError: ``prior`` or ``push`` is out of range.

    Attributes:
        log_prior: ``(n,)`` float32, ``log π_i``: 0 where a training query asks for the target. ``None``: 0 for all.
    """

    def __init__(self, asked: RaggedRows, num_targets: int, *, prior: float, push: float) -> None:
        check_unasked(prior, push)
        self.prior = prior
        self.push = push
        self._is_unasked = np.ones(num_targets, dtype=bool)
        self._is_unasked[asked.values] = False
        self._any = bool(self._is_unasked.any())
        self.log_prior: NDArray[np.float32] | None = None
        if self._any and prior != 1:
            self.log_prior = np.where(self._is_unasked, math.log(prior), 0.0).astype(np.float32)

    def among(self, rows: Tensor) -> Tensor:
        """Which of ``rows`` ``(m,)`` int64 no training query asks for: ``(m,)`` bool, on their device."""
        return torch.from_numpy(self._is_unasked[rows.cpu().numpy()]).to(rows.device)

    def embed(self, rows: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Encodings of corpus rows ``(m,)``: ``(m, d)``, with gradient where some of it may move the target.

        Args:
            rows: int64.
            embed: encodes some of them with gradient.
        """
        if not self._any or self.push == 1 or not torch.is_grad_enabled():
            return embed(rows)
        is_unasked = self.among(rows)
        if self.push > 0:
            encodings = embed(rows)
            slowed = self.push * encodings + (1 - self.push) * encodings.detach()
            return torch.where(is_unasked[:, None], slowed, encodings)
        with torch.no_grad():  # without gradient there is nothing to keep for a backward pass
            still = embed(rows[is_unasked])
        order = torch.argsort(is_unasked.long(), stable=True)
        return torch.cat([embed(rows[~is_unasked]), still])[torch.argsort(order)]
