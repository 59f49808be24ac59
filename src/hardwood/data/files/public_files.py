"""The files of a public release, wherever in a folder they lie."""

from __future__ import annotations

import re
from pathlib import Path

from hardwood.errors import DataError


def matching(folder: Path, name: re.Pattern[str]) -> dict[str, Path]:
    """The files under a folder whose whole name matches, plain or gzipped, by the pattern's group, in its order.

    Args:
        folder: searched to any depth.
        name: of the file without ``.gz``; with one group, such as the split, or none (then the group is empty).

    Raises:
        DataError: there is no such folder, or a group has two files: in two places, or plain and gzipped.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder", folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        match = name.fullmatch(path.name.removesuffix(".gz"))
        if match is None or not path.is_file():
            continue
        group = match[1] if name.groups else ""
        if group in found:
            raise DataError(f"{found[group]} says the same: keep one of the two", path)
        found[group] = path
    return dict(sorted(found.items()))


def find_one(folder: Path, name: str) -> Path:
    """The only file under a folder of that name, plain or gzipped; ``DataError`` where there is none, or two."""
    found = matching(folder, re.compile(re.escape(name)))
    if not found:
        raise DataError(f"there is no {name} (nor {name}.gz) in it", folder)
    return found[""]
