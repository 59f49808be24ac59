"""Settings that a resumed run must share with its checkpoint."""

from __future__ import annotations

from typing import Any

_MAY_CHANGE = ("mini_batch_size",)  # how a step is cut: it has the same value


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that JSON can hold and compare, by name; what stands in a mapping as ``mapping.name``."""
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            plain |= {f"{name}.{inner}": one for inner, one in plain_settings(value).items()}
        elif (value is None or isinstance(value, (str, bool, int, float))) and name not in _MAY_CHANGE:
            plain[name] = value
    return plain


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two of `plain_settings`, in words. What only one of them has is of another version."""
    return [f"{name} was {then[name]!r}, is {now[name]!r}" for name in now if name in then and then[name] != now[name]]
