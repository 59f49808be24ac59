"""A small BEIR folder that tests break in one place at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from woods import FILES


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[dict[str, str | bytes | None]], Path]:
    """Writes the folder with some files replaced (None: left out) and returns it."""

    def make(changes: dict[str, str | bytes | None]) -> Path:
        folder = tmp_path / "woods"
        for name, content in {**FILES, **changes}.items():
            if content is not None:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make
