"""Sources by the names that command lines and run files use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hardwood.negatives.options import constructor_arguments

if TYPE_CHECKING:
    from hardwood.negatives.base import NegativeSource

IN_BATCH = "in-batch"
"""The source that draws nothing."""

_PLACES = {
    IN_BATCH: ("in_batch", "InBatchNegatives"),
    "uniform": ("uniform", "UniformNegatives"),
    "static": ("exact", "StaticNegatives"),
    "periodic": ("exact", "PeriodicNegatives"),
    "cache": ("cache", "CacheNegatives"),
    "pool": ("pool", "PoolNegatives"),
    "exact": ("exact", "ExactNegatives"),
    "dynamic": ("dynamic", "DynamicNegatives"),
}


class _Sources(Mapping[str, "type[NegativeSource]"]):
    """A source is imported when it is first asked for: its name can be checked without torch."""

    def __getitem__(self, name: str) -> type[NegativeSource]:
        module, source = _PLACES[name]
        found: type[NegativeSource] = getattr(importlib.import_module(f"hardwood.negatives.{module}"), source)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _PLACES  # without importing it, as `Mapping` would

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


SOURCES: Mapping[str, type[NegativeSource]] = _Sources()
"""The classes of all sources, by name."""


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
