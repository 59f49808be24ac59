"""Numbers that come from outside."""

from __future__ import annotations

import operator
from typing import Any


def count(k: Any, name: str) -> int:
    """A whole number of at least one.

    Raises:
        TypeError: for what is not a whole number.
        ValueError: for a number below 1.
    """
    try:
        number = operator.index(k)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {k!r}.") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1; got {number}.")
    return number
