"""Sources by the names that command lines and run files use."""

from __future__ import annotations

import inspect
from typing import Any

from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cache import CacheNegatives
from hardwood.negatives.dynamic import DynamicNegatives
from hardwood.negatives.in_batch import InBatchNegatives
from hardwood.negatives.indexed import ExactNegatives, PeriodicNegatives, StaticNegatives
from hardwood.negatives.uniform import UniformNegatives

SOURCES: dict[str, type[NegativeSource]] = {
    source.name: source
    for source in (
        InBatchNegatives,
        UniformNegatives,
        StaticNegatives,
        PeriodicNegatives,
        CacheNegatives,
        ExactNegatives,
        DynamicNegatives,
    )
}


def make_source(name: str, **options: Any) -> NegativeSource:
    """The source of that name.

    Args:
        name: one of `SOURCES`.
        options: its constructor's arguments.

    Raises:
        ValueError: no such source, or an option that it does not have.
    """
    if name not in SOURCES:
        raise ValueError(f"no source of negatives is called {name!r}; there are {', '.join(SOURCES)}")
    known = [key for key in inspect.signature(SOURCES[name].__init__).parameters if key != "self"]
    for option in options:
        if option not in known:
            raise ValueError(f"{name!r} negatives have no option {option!r}; they have {', '.join(known)}")
    try:
        return SOURCES[name](**options)
    except TypeError as error:  # such as a number given as text
        raise ValueError(f"an option of {name!r} negatives is of the wrong type ({options}): {error}") from error
