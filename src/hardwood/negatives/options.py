"""A source's options as run files, command lines and checkpoints have them: flat, one name for each value.

An option that is a record (a frozen dataclass such as `hardwood.negatives.RefreshPolicy`) is given by its fields, each
under the option's name and its own: ``refresh_every`` is the field ``every`` of the option ``refresh``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str, "bool": bool}


def parameters_of(source: type) -> dict[str, inspect.Parameter]:
    """The arguments of a source's constructor by name."""
    return dict(inspect.signature(source).parameters)


def flat_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments as flat options; `constructor_arguments` makes them records again."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if dataclasses.is_dataclass(value):
            flat |= {f"{name}_{field}": one for field, one in vars(value).items()}
        else:
            flat[name] = value
    return flat


def constructor_arguments(source: type, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arguments of a source's constructor that flat options say.

    Args:
        source: the class.
        options: from a run file or a command line.
        name: of the source, for messages.

    Raises:
        ValueError: an option that the source does not have, or a value of another type.
    """
    types: dict[str, str] = {}
    place: dict[str, tuple[str, str]] = {}  # argument and field, of options that are fields of a record
    records: dict[str, Any] = {}
    for key, parameter in parameters_of(source).items():
        if not dataclasses.is_dataclass(parameter.default):
            types[key] = str(parameter.annotation)
            continue
        records[key] = parameter.default
        for field in dataclasses.fields(parameter.default):
            types[f"{key}_{field.name}"] = str(field.type)
            place[f"{key}_{field.name}"] = key, field.name
    arguments: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        if option not in types:
            raise ValueError(
                f"{name!r} negatives have no option {option!r}{_nearest(option, types)}; they have "
                f"{', '.join(types) or 'none'}"
            )
        if not _fits(value, types[option]):
            raise ValueError(
                f"the option {option!r} of {name!r} negatives must be of type {types[option]}, got {repr(value)[:200]}"
            )
        if option in place:
            record, name_in_it = place[option]
            fields.setdefault(record, {})[name_in_it] = value
        else:
            arguments[option] = value
    return arguments | {key: dataclasses.replace(records[key], **given) for key, given in fields.items()}


def _nearest(option: str, known: Mapping[str, Any]) -> str:
    near = [name for name in known if name.endswith(f"_{option}")] or difflib.get_close_matches(option, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _fits(value: object, annotation: str) -> bool:
    """Whether a value from a run file is of one of the types in ``"int | None"`` and the like."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None or isinstance(value, bool):
        return ("None" if value is None else "bool") in kinds
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    return any(isinstance(value, _TYPES[kind]) for kind in kinds if kind in _TYPES)
