"""Run files, read strictly: what YAML allows beyond a plain list of settings is how files go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES, MOST_VALUES, MOST_DEPTH = 1 << 16, 20_000, 50


class _StrictLoader(yaml.SafeLoader):
    """Refuses mappings that name a key twice; YAML itself forbids them, PyYAML takes the last."""


def _distinct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    # Not SafeLoader's own: that takes merge keys ("<<"), and a few lines of these stand for any number of entries.
    members: dict[Any, Any] = yaml.constructor.BaseConstructor.construct_mapping(loader, node, deep=True)
    if len(members) < len(node.value):
        raise yaml.constructor.ConstructorError("in a mapping", node.start_mark, "a key stands twice", node.start_mark)
    return members


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _distinct_mapping)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML run file.

    Raises:
        ValueError: no such file, no YAML, or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no run file {path}")
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"{path} must hold settings by name, such as 'negatives: dynamic', got {type(content).__name__}"
        )
    return content


def read_yaml(path: Path) -> Any:
    """The one document in a YAML file, of plain values.

    Raises:
        ValueError: it is not YAML, or larger than any run file: a few lines of aliases can stand for more values than
            there is memory.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a run file has some thousand")
    try:
        text = path.read_text(encoding="utf-8")
        loader = _StrictLoader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    # PyYAML's own constructors raise almost anything for tags that don't fit their value.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a YAML file: {type(error).__name__}: {error}") from error
    if not _is_small(content, [MOST_VALUES], MOST_DEPTH):
        raise ValueError(f"{path} stands for more than {MOST_VALUES:,} values, or lies deeper than {MOST_DEPTH} levels")
    return content


def _is_small(value: Any, left: list[int], depth: int) -> bool:
    """Whether ``value`` has no more parts than are ``left`` (counted down), an alias as often as it stands."""
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        return False
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(_is_small(part, left, depth - 1) for part in parts)
