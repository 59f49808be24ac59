"""The errors that users can act on. All are ``ValueError``s whose text says what was received and the way out."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Something is wrong with a dataset; names the file and the line (1-based) where it can be mended."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)
