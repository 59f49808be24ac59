"""The folder in which encodings are spooled: what is there, and what it is called. Knows files; loads no torch."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardwood._json import read_object, without_stamp
from hardwood.errors import DataError

SPOOL_FOLDER = "_encodings"
"""In the trainer's output folder. Of what stands there, only names with an underscore stay off the hub when a trainer
pushes its model."""
RECORD = "spool.json"
"""In each shard's folder."""

_SHARD = re.compile(r"shard-\d{4,}-of-\d{4,}(-rank-\d+)?")
_BLOCK = re.compile(r"block-(\d{5,})\.safetensors")


@dataclass(frozen=True)
class Spooled:
    """What a folder has of the encodings of an earlier process.

    Attributes:
        targets: those whose encodings are there.
        notes: of each shard's folder, the ``note`` of its `EncodingSpool`.
    """

    targets: int
    notes: list[dict[str, Any]]


def spooled(folder: Path) -> Spooled | None:
    """What is there to go on with; ``None``: nothing.

    Args:
        folder: `SPOOL_FOLDER` in the trainer's output folder.
    """
    targets, notes = 0, []
    for shard in _shards_in(folder):
        with suppress(DataError, OSError, KeyError, TypeError):
            record = read_record(shard)
            whole = len(blocks_in(shard)) * int(record["of"]["block"])
            if whole:
                targets += min(whole, int(record["of"]["targets"]))
                notes.append(record["note"])
    return Spooled(targets, notes) if notes else None


def discard_others(folder: Path, names: Collection[str], why: str) -> None:
    """Throw away, with a word, what stands there of shards that this run does not have.

    Args:
        folder: `SPOOL_FOLDER` in the trainer's output folder.
        names: of all shards of the run, of all processes.
        why: what is otherwise now, for the message.
    """
    others = [shard for shard in _shards_in(folder) if shard.name not in names]
    if others:
        warnings.warn(
            f"the encodings that an earlier process has left in {folder} ({', '.join(one.name for one in others)}) are "
            f"thrown away: {why}",
            stacklevel=2,
        )
    for shard in others:
        shutil.rmtree(shard, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def shard_name(number: int, num_shards: int, rank: int | None = None) -> str:
    """The name of a shard's folder; with a ``rank`` where each process has a shard of that number."""
    return f"shard-{number:04d}-of-{num_shards:04d}" + ("" if rank is None else f"-rank-{rank}")


def _shards_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("shard-*") if _SHARD.fullmatch(one.name)) if folder.is_dir() else []


def blocks_in(folder: Path) -> list[int]:
    """Numbers of the blocks that a shard's folder has."""
    return [int(name[1]) for path in folder.iterdir() if (name := _BLOCK.fullmatch(path.name))]


def block_name(number: int) -> str:
    """The name of a block's file."""
    return f"block-{number:05d}.safetensors"


def read_record(folder: Path) -> dict[str, Any]:
    """What a shard's folder says of itself: ``"of"`` and ``"note"``.

    Raises:
        DataError: the record is missing or damaged.
    """
    path = folder / RECORD
    record = without_stamp(read_object(path), path)
    if set(record) != {"of", "note"} or not all(isinstance(value, dict) for value in record.values()):
        raise DataError("must hold 'of' and 'note' and nothing else: it is damaged.", path)
    if set(record["note"]) != {"global_batch", "shards"}:
        raise DataError("must note the global batch and the shards: it is damaged.", path)
    return record
