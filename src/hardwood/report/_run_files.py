"""The files that a run has left, read with care: whoever has a run's folder may have written anything into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardwood._json import read_object
from hardwood.errors import DataError
from hardwood.report._texts import FORMAT, VERSION
from hardwood.report.svg import Point

_BESIDE_SPLITS = ("cost", "training", "left_out")


def read_run_file(path: Path) -> dict[str, Any]:
    """Settings in a run file; none where there is none."""
    if not path.is_file():
        return {}
    from hardwood.training.job.yaml_file import read_settings

    return read_settings(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The trainer's log: records with a step. ``DataError`` for another file."""
    if not path.is_file():
        return []
    try:
        records = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not readable JSON ({error}): the file is damaged.", path) from None
    if not isinstance(records, list):
        raise DataError(f"holds a JSON {type(records).__name__}, not a list of log records.", path)
    return [record for record in records if isinstance(record, dict) and number(record.get("step")) is not None]


def read_trace(path: Path) -> dict[str, Any] | None:
    """A trace of this version; ``None`` where there is none, ``DataError`` for another file."""
    if not path.is_file():
        return None
    trace = read_object(path)
    if trace.get("format") != FORMAT or trace.get("version") != VERSION:
        raise DataError(
            f"is a {trace.get('format')!r} of version {trace.get('version')!r}, and this version of Hardwood reads "
            f"{FORMAT!r} of version {VERSION}: remove the file to have a page without it.",
            path,
        )
    return trace


def splits_of(metrics: Mapping[str, Any], trace: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """By split, ``base``, ``trained`` and ``compared``, as far as there are any; the trace's go first."""
    found: dict[str, dict[str, Any]] = {
        name: dict(entry) for name, entry in ((trace or {}).get("splits") or {}).items()
    }
    for name, measures in metrics.items():
        if name not in _BESIDE_SPLITS and isinstance(measures, dict):
            found.setdefault(name, {}).setdefault("trained", measures)
    order = {"test": 0, "dev": 1}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0].split("/")[0], 2), item[0])))


def series(history: list[dict[str, Any]], key: str) -> list[Point]:
    """``(step, value)`` of each record of a log that has a finite value by that name."""
    found = [(number(record.get("step")), number(record.get(key))) for record in history]
    return [(x, y) for x, y in found if x is not None and y is not None]


def number(value: Any) -> float | None:
    """A finite number as a float; ``None`` for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < float("inf") else None
