"""What a step asks its source for: what each query must not be given, and the seed of its draws."""

from __future__ import annotations

import numpy as np

from hardwood._ragged import RaggedRows


def with_own(known: RaggedRows, own: np.ndarray) -> RaggedRows:
    """Each query's known positives and the positive at hand, which may be from another split."""
    rows = np.concatenate([known.row_ids(), np.arange(len(own))])
    return RaggedRows.from_pairs(rows, np.concatenate([known.values, own]), len(own))


def mix(*numbers: int) -> int:
    """One seed of many numbers."""
    return int(np.random.SeedSequence([n % 2**32 for n in numbers]).generate_state(1, np.uint64)[0]) >> 1
