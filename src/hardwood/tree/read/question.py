"""What is asked of a tree: queries and the settings of the answer, in one record."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hardwood.tree.compiled.numeric import jit


class Question(NamedTuple):
    """Queries and how to answer them, by the names of `hardwood.tree.read`."""

    queries: np.ndarray
    scale: float
    probes: int
    groups: int
    excluded_offsets: np.ndarray
    excluded_rows: np.ndarray
    gamma: float


@jit
def excluded_by(question: Question, b):  # type: ignore[no-untyped-def]
    """The rows that query ``b`` excludes, ascending."""
    return question.excluded_rows[question.excluded_offsets[b] : question.excluded_offsets[b + 1]]
