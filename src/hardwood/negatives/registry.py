"""Sources by the names that command lines and run files use."""

from __future__ import annotations

from typing import Any

from hardwood.negatives.base import NegativeSource
from hardwood.negatives.cache import CacheNegatives
from hardwood.negatives.dynamic import DynamicNegatives
from hardwood.negatives.exact import ExactNegatives, PeriodicNegatives, StaticNegatives
from hardwood.negatives.in_batch import InBatchNegatives
from hardwood.negatives.options import constructor_arguments
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
        options: its constructor's arguments; those that are records by their fields (`hardwood.negatives.options`).

    Raises:
        ValueError: no such source, or an option that it does not have.
    """
    if name not in SOURCES:
        raise ValueError(f"no source of negatives is called {name!r}; there are {', '.join(SOURCES)}")
    arguments = constructor_arguments(SOURCES[name], options, name)
    try:
        return SOURCES[name](**arguments)
    except TypeError as error:  # such as a number given as text
        raise ValueError(f"an option of {name!r} negatives is of the wrong type ({options}): {error}") from error
