"""What a setting may hold: YAML, the command line and a caller's code all reach a run's settings."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

_KINDS: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "Literal": str,
    "Towers": str,
    "Weighting": str,
    "TeacherForm": str,
    "LeaveOut": str,
    "Shards": str,
}


def check_types(settings: Any) -> None:
    """``ValueError`` for a field of a dataclass that holds something of another type than its annotation says."""
    for f in dataclasses.fields(settings):
        value, allowed = getattr(settings, f.name), str(f.type)
        kinds = [kind.split("[")[0].strip() for kind in allowed.split("|")]
        if value is None and "None" in kinds:
            continue
        fits = any(isinstance(value, _KINDS[kind]) for kind in kinds if kind in _KINDS)
        if "list[str]" in allowed and isinstance(value, list):
            fits = all(isinstance(item, str) for item in value)
        if isinstance(value, dict):
            fits = fits and all(isinstance(key, str) for key in value)
        if not fits or (isinstance(value, bool) and "bool" not in kinds):
            raise ValueError(f"{f.name} must be of type {allowed}, got {repr(value)[:200]}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{f.name} is a number of {value.bit_length()} bits; 63 are the most")


def check_readable(name: str, text: str) -> None:
    """Refuse a path whose bytes Python could not read: other libraries, and the run file, could not name it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} is {text!r}, which this process can't read as text (it takes file names for "
            f"{sys.getfilesystemencoding()}): set PYTHONUTF8=1 or a UTF-8 locale such as LC_ALL=C.UTF-8"
        ) from None
