"""What the runs of these tests have in common: the small dataset, and an encoder that trains in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardwood.training import RunConfig


def small_run(folder: Path, **changes: Any) -> RunConfig:
    """Settings of a run on the fixture `dataset`, with ``changes``."""
    settings: dict[str, Any] = {
        "data": "ailments",
        "output": str(folder),
        "batch_size": 16,
        "num_negatives": 4,
    }
    if changes.get("encoder", "static") == "static":
        settings |= {"dimension": 16, "vocabulary_size": 300}
    return RunConfig(**settings | changes)
