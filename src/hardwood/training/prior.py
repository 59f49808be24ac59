"""The prior over targets in the softmax: what nobody asks for in training counts less in ``Z``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hardwood._ragged import RaggedRows

DEFAULT_UNASKED_PRIOR = 0.1


def target_log_prior(known: RaggedRows, num_targets: int, unasked_prior: float) -> NDArray[np.float32] | None:
    """``log π_i`` of each target in ``Z = sum_i π_i exp(s_i)``: 0 where a training query asks for the target,
    ``log unasked_prior`` where none does.

    A target that no training query asks for is only ever pushed away: the model learns that what was never asked for
    is never right, and retrieves it too rarely when a new query wants it. A smaller ``π`` weakens that push. Seen and
    unseen classes are calibrated so in generalised zero-shot learning (Chao et al., ECCV 2016, arXiv:1605.04253), and
    priors are shifted so for long tails (Menon et al., ICLR 2021, arXiv:2007.07314).

    Args:
        known: the positives of each training query, rows of the corpus.
        num_targets: n.
        unasked_prior: ``π`` of targets without a training positive, above 0 and at most 1.

    Returns:
        ``(n,)`` float32, or ``None`` where all are alike.

    Raises:
        ValueError: ``unasked_prior`` is out of range.
    """
    check_unasked_prior(unasked_prior)
    asked = np.zeros(num_targets, dtype=bool)
    asked[known.values] = True
    if unasked_prior == 1 or asked.all():
        return None
    return np.where(asked, 0.0, math.log(unasked_prior)).astype(np.float32)


def check_unasked_prior(unasked_prior: float) -> None:
    """Refuse what is no prior.

    Raises:
        ValueError: it is not above 0 and at most 1.
    """
    if not 0 < unasked_prior <= 1:
        raise ValueError(
            f"unasked_prior must be above 0 and at most 1, got {unasked_prior}: 1 counts all targets alike, and 0.001 "
            "all but leaves out those that no training query asks for"
        )
