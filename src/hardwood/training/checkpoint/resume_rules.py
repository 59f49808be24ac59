"""What a resumed run may have otherwise than the run that it goes on with; everything else it must share.

One list for both ways: a script that resumes with `NegativesCallback`, and ``hardwood train --resume``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MAY_DIFFER = frozenset(
    {
        # How far it goes, what it reports, and where. (Of the data a hash is compared, wherever it lies.)
        *("output", "data", "steps", "epochs", "save_every", "evaluate_every", "report_to"),
        *("report", "report_base", "report_texts", "spool_encodings"),
        # On what, and how much at a time: the same numbers up to rounding, in other memory and time.
        *("device", "threads", "mini_batch_size", "encode_batch_size"),
    }
)
"""Settings of a run or of a loss, by name."""

_UNKNOWN = object()


def shared_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the settings of a loss those that a resumed run must share, as `plain_settings`."""
    return plain_settings({name: value for name, value in settings.items() if name not in MAY_DIFFER})


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that JSON can hold and compare, by name; what stands in a mapping as ``mapping.name``.

    Numbers, texts, paths, and lists of these; any other object is passed over.
    """
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            plain |= {f"{name}.{inner}": one for inner, one in plain_settings(value).items()}
        elif (known := _plain(value)) is not _UNKNOWN:
            plain[name] = known
    return plain


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two of `shared_settings`, in words. What only one of them has is of another version."""
    both = {name: (then[name], now[name]) for name in now if name in then}
    # Equal values may be spelled differently (20 and 20.0), and not-a-number is equal to nothing.
    return [f"{name} was {a!r}, is {b!r}" for name, (a, b) in both.items() if a != b and repr(a) != repr(b)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        members = [_plain(member) for member in value]
        return _UNKNOWN if _UNKNOWN in members else members
    return _UNKNOWN
