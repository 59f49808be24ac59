"""Arguments checked, in one wording for all of the package: what is wanted, then ``", got "`` and what came."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def at_least(least: float, value: float, name: str) -> None:
    """``ValueError`` for a number below ``least``, or for none at all (NaN)."""
    if not value >= least:
        wanted = "0 or more" if least == 0 else f"at least {least}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def count(value: Any, name: str) -> int:
    """A whole number of at least one.

    Raises:
        TypeError: for what is not a whole number.
        ValueError: for a number below 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    at_least(1, number, name)
    return number


def positive(value: float, name: str, other: str = "") -> None:
    """``ValueError`` for what is not above 0 and finite; ``other`` says what else may be given."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite{other}, got {value}")


def not_negative(value: float, name: str, other: str = "") -> None:
    """``ValueError`` for what is not 0 or more and finite; ``other`` says what else may be given."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be 0 or more and finite{other}, got {value}")


def share(value: float, name: str) -> None:
    """``ValueError`` for what does not lie in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def one_of(allowed: Iterable[str], value: Any, name: str) -> None:
    """``ValueError`` for what is not among the names ``allowed``."""
    names = tuple(allowed)
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
