"""Which of a trainer's checkpoints are whole.

The trainer writes a checkpoint's files in place, one after another, and a crash leaves whatever was written until then.
`NegativesCallback` writes a list of all files with their sizes, last of all, once the disk holds them: a checkpoint is
whole if it has that list and the files in it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardwood._files import is_temporary, sync_all, written_whole
from hardwood._json import read_object, stamped, without_stamp
from hardwood.errors import DataError

STATE_FOLDER = "hardwood"
_SEAL = Path(STATE_FOLDER) / "source.json"
_DESCRIBES = {
    "negatives": str,
    "weighting": str,
    "settings": dict,
    "weights": str,
    "data": str,
    "cost": dict,
    "files": dict,
}
LOSSES = "losses"
"""Of a trainer with several losses: the descriptions of all, in the order of their callbacks."""
_NAME = re.compile(r"checkpoint-(\d+)")


def seal(checkpoint: Path, description: dict[str, Any]) -> None:
    """Declare a checkpoint whole, once the disk holds all of it.

    Args:
        checkpoint: the folder ``checkpoint-STEP``.
        description: kept beside the list of files.
    """
    sync_all(checkpoint)
    files = {name: size for name, size in _sizes(checkpoint).items() if name != _SEAL.as_posix()}
    with written_whole(checkpoint / _SEAL) as temporary:
        temporary.write_text(json.dumps(stamped({**description, "files": files}), indent=1), encoding="utf-8")


def sizes_of(paths: Iterable[Path], checkpoint: Path) -> dict[str, int]:
    """Bytes of files, and of all files in folders, by their place in the checkpoint; what is not there is left out.

    Args:
        paths: in the checkpoint.
        checkpoint: the folder ``checkpoint-STEP``.
    """
    found: dict[str, int] = {}
    for path in paths:
        if path.is_dir():
            inside = path.relative_to(checkpoint).as_posix()
            found |= {f"{inside}/{name}": size for name, size in _sizes(path).items()}
        elif path.is_file():
            found[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    return found


def check_arrived(checkpoint: Path, written: Sequence[Mapping[str, int]]) -> None:
    """Whether the first process sees what all have written.

    Args:
        checkpoint: the folder ``checkpoint-STEP``.
        written: of each process, `sizes_of` its files.

    Raises:
        ValueError: it does not: the processes have no disk in common.
    """
    found = _sizes(checkpoint)
    for rank, files in enumerate(written):
        missing = [name for name, size in files.items() if found.get(name) != size]
        if missing:
            raise ValueError(
                f"rank {rank} has written {missing[0]!r} into {checkpoint}, and the first process does not see it (of "
                f"{len(files)} files {len(missing)} are missing): the folder must be on a disk that all machines share"
            )


def unseal(checkpoint: Path) -> None:
    """Declare a checkpoint not whole: it is about to be written over.

    Args:
        checkpoint: the folder; need not be there.
    """
    (checkpoint / _SEAL).unlink(missing_ok=True)


def read_seal(checkpoint: Path) -> dict[str, Any] | None:
    """The description of a whole checkpoint; ``None`` if it is not whole, or the description is damaged.

    Args:
        checkpoint: the folder ``checkpoint-STEP``.
    """
    try:
        description = read_description(checkpoint / STATE_FOLDER)
        found = _sizes(checkpoint)
    except (OSError, ValueError):
        return None
    return description if all(found.get(name) == size for name, size in description["files"].items()) else None


def read_description(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: ``"negatives"``, ``"weighting"``, ``"settings"``, ``"weights"``, ``"data"``,
    ``"cost"`` and ``"files"``. With several losses: ``"losses"``, all that of each, and ``"files"``.

    Args:
        folder: `STATE_FOLDER` in the checkpoint.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / _SEAL.name
    description = without_stamp(read_object(path), path)
    losses = description.get(LOSSES)
    if isinstance(losses, list) and set(description) == {LOSSES, "files"}:
        files = description["files"]
        parts = [{**one, "files": files} if isinstance(one, dict) else {} for one in losses]
        if len(parts) > 1 and all(_is_whole(part) for part in parts):
            return description
    elif _is_whole(description):
        return description
    raise DataError(f"must hold {', '.join(_DESCRIBES)} and nothing else: it is damaged.", path)


def _is_whole(description: dict[str, Any]) -> bool:
    known = set(description) == set(_DESCRIBES)
    return known and all(isinstance(description[name], kind) for name, kind in _DESCRIBES.items())


def loss_folder(place: int) -> str:
    """The folder of one of several losses within `STATE_FOLDER`, by its place among their callbacks."""
    return f"loss-{place}"


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a trainer with `NegativesCallback`, to resume from after a crash.

    ``trainer.train(resume_from_checkpoint=True)`` takes the newest of all, even one that a crash has cut short.

    Args:
        folder: the trainer's ``output_dir``.

    Returns:
        The folder ``checkpoint-STEP``, or ``None`` where none is whole.
    """
    for checkpoint in _newest_first(Path(folder)):
        if read_seal(checkpoint) is not None:
            return checkpoint
    return None


def remove_cut_short(folder: Path) -> None:
    """Remove the checkpoints that are not whole: the trainer would count them among those it keeps.

    Args:
        folder: the trainer's ``output_dir``.
    """
    for checkpoint in _newest_first(folder):
        if read_seal(checkpoint) is None:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    by_step = {int(name[1]): path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))}
    return [by_step[step] for step in sorted(by_step, reverse=True)]


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file by its place in the checkpoint; temporary ones left out."""
    return {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not is_temporary(path)
    }
