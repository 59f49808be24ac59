"""Sources by the names that command lines and run files use."""

from __future__ import annotations

import inspect
from typing import Any

from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cache import CacheNegatives
from hardwood.negatives.dynamic import DynamicNegatives
from hardwood.negatives.exact import ExactNegatives, PeriodicNegatives, StaticNegatives
from hardwood.negatives.in_batch import InBatchNegatives
from hardwood.negatives.pool import PoolNegatives
from hardwood.negatives.uniform import UniformNegatives

SOURCES: dict[str, type[NegativeSource]] = {
    source.name: source
    for source in (
        InBatchNegatives,
        UniformNegatives,
        StaticNegatives,
        PeriodicNegatives,
        CacheNegatives,
        PoolNegatives,
        ExactNegatives,
        DynamicNegatives,
    )
}


def make_source(name: str, /, **options: Any) -> NegativeSource:
    """The source of that name.

    Args:
        name: one of `SOURCES`.
        options: its constructor's arguments.

    Raises:
        ValueError: no such source, or an option that it does not have.
    """
    if name not in SOURCES:
        raise ValueError(f"no source of negatives is called {name!r}; there are {', '.join(SOURCES)}")
    known = {key: p.annotation for key, p in inspect.signature(SOURCES[name].__init__).parameters.items()}
    del known["self"]
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{name!r} negatives have no option {option!r}; they have {', '.join(known) or 'none'}")
        if not _fits(value, str(known[option])):
            raise ValueError(
                f"the option {option!r} of {name!r} negatives must be of type {known[option]}, got {repr(value)[:200]}"
            )
    try:
        return SOURCES[name](**options)
    except TypeError as error:  # such as a number given as text
        raise ValueError(f"an option of {name!r} negatives is of the wrong type ({options}): {error}") from error


_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str, "bool": bool}


def _fits(value: object, annotation: str) -> bool:
    """Whether a value from a run file is of one of the types in ``"int | None"`` and the like."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None or isinstance(value, bool):
        return ("None" if value is None else "bool") in kinds
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    return any(isinstance(value, _TYPES[kind]) for kind in kinds if kind in _TYPES)
