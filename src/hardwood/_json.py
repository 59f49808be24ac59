"""JSON from outside: read strictly; every error names the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hardwood.errors import DataError

MOST_BYTES = 64 << 20
STAMP = "checksum"


def distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members, for ``object_pairs_hook``.

    Raises:
        ValueError: two of them have the same name: whichever were taken, somebody else's reader would take the other.
    """
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the name {name!r} stands twice in one object")
        members[name] = value
    return members


def parse_object(text: str | bytes, path: Path) -> dict[str, Any]:
    """The JSON object that ``text`` is; ``path`` is for the message.

    Raises:
        DataError: it is something else.
    """
    try:
        value = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not readable JSON ({error}): the file is damaged.", path) from None
    if not isinstance(value, dict):
        raise DataError(f"holds a JSON {type(value).__name__}, not an object.", path)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a small file holds.

    Raises:
        DataError: there is no such file, or it holds something else, or more than `MOST_BYTES`.
    """
    if not path.is_file():
        raise DataError("there is no such file.", path)
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"has {path.stat().st_size:,} bytes, far more than such a file needs.", path)
    return parse_object(path.read_bytes(), path)


def stamped(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with a checksum of all its members beside them, for `without_stamp`."""
    return {**value, STAMP: _digest(value)}


def without_stamp(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """What `stamped` was given.

    Raises:
        DataError: there is no checksum, or it is not that of the members.
    """
    members = {name: member for name, member in value.items() if name != STAMP}
    if value.get(STAMP) != _digest(members):
        raise DataError("does not match its checksum: it is damaged.", path)
    return members


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
