"""Sources by the names that command lines and run files use."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardwood.negatives.base import NegativeSource

_PLACES = {
    "in-batch": ("in_batch", "InBatchNegatives"),
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
