"""Encodings of the corpus on disk while they are made: what a crash breaks off goes on where it was.

An encoder of size takes hours over a large corpus, and the first checkpoint comes after that. So each block of
encodings is written as soon as it is made, whole or not at all, into a folder for each shard of the corpus:

    _encodings/shard-0000-of-0002/spool.json            what the encodings are of
                                  block-00000.safetensors  rows and vectors, with a checksum
                                  block-00001.safetensors  ...

A process that encodes the same rows with the same weights, texts and settings takes the blocks that are there, and
encodes the others, in the same blocks: bit for bit what it would have made. Knows files and arrays; must not know
models, sources or the trainer.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardwood._checkpoint_tensors import INTEGERS, expect, read_state, write_state
from hardwood._files import written_whole
from hardwood._json import stamped
from hardwood.errors import DataError
from hardwood.training.checkpoint.spool_folder import RECORD, block_name, blocks_in, read_record

Rows = NDArray[np.int64]
Block = tuple[Rows, NDArray[np.float32]]


class EncodingSpool:
    """Where a process keeps the encodings of its shards until a checkpoint has what was made of them.

    Of each shard one encoding is kept, the first since the training began or since the last checkpoint: it is the one
    that a resumed run needs first.

    Args:
        folder: `SPOOL_FOLDER` in the trainer's output folder; it is made when it is needed.
        least: rows from which an encoding is worth it.
        own: names of this process's shards, as `shard_name` gives them.
        note: ``"global_batch"`` and ``"shards"`` of the run, which `spooled` finds.
        reports: whether this process says on stderr what it takes from the disk.
    """

    def __init__(
        self, folder: Path, least: int, own: Collection[str], *, note: dict[str, int], reports: bool = True
    ) -> None:
        self.folder, self.least = folder, least
        self._own, self._note, self._reports = {_shard_of_name(name): name for name in own}, note, reports
        self._writes = True
        self._made: set[Path] = set()  # by this process, and no checkpoint has them yet

    def takes(self, rows: Rows, num_targets: int) -> bool:
        """Whether the encodings of these rows are to go through the spool: those of a whole shard, the first time.

        Args:
            rows: ``(m,)`` int64.
            num_targets: of the corpus.
        """
        if len(rows) < self.least:
            return False
        folder = self._folder_of(rows, num_targets)
        return folder is not None and folder not in self._made

    def completed(
        self,
        rows: Rows,
        num_targets: int,
        block: int,
        of: dict[str, Any],
        encode: Callable[[Rows], Iterator[Block]],
        reused: Callable[[int], None],
    ) -> Iterator[Block]:
        """The encodings of a shard, in its order: whole blocks from the disk, all others encoded, and written.

        Args:
            rows: ``(m,)`` int64, of a shard that the spool `takes`.
            num_targets: of the corpus.
            block: rows a block.
            of: what the encodings are of and made by, by words for a message, the ``"dimension"`` among them; JSON can
                hold it.
            encode: gives blocks of that size of the rows that it is given, in their order.
            reused: is called with the number of rows of each block from the disk.

        Raises:
            ValueError: the rows are of no shard that this process has.
        """
        folder = self._folder_of(rows, num_targets)
        if folder is None:
            raise ValueError(f"these {len(rows):,} rows are not those of a shard of this process")
        there = self._opened(folder, {**of, "block": block, "targets": len(rows)})
        blocks = np.split(rows, range(block, len(rows), block))
        missing = [wanted for number, wanted in enumerate(blocks) if number not in there]
        if there and self._reports:
            left = f"the other {sum(map(len, missing)):,} are encoded" if missing else "none has to be encoded"
            kept = len(rows) - sum(map(len, missing))
            sys.stderr.write(f"encodings of {kept:,} of {len(rows):,} targets are there from before; {left}\n")
        fresh = encode(np.concatenate(missing)) if missing else iter(())
        for number, wanted in enumerate(blocks):
            if number in there:
                vectors = _read(folder / block_name(number), wanted, of["dimension"])
                if vectors is not None:
                    reused(len(wanted))
                    yield wanted, vectors
                    continue
                ((_, vectors),) = list(encode(wanted))
            else:
                _, vectors = next(fresh)
            self._write(folder, number, wanted, vectors)
            yield wanted, vectors
        next(fresh, None)  # its progress bar ends
        if self._writes:
            self._made.add(folder)
        else:  # it has filled the disk, and half of an encoding is worth less than the room
            self._remove(folder)

    def checkpoint_has_them(self) -> None:
        """A whole checkpoint holds what was made of the encodings: remove them from the disk."""
        for folder in self._made:
            self._remove(folder)
        self._made.clear()

    def remove(self) -> None:
        """Remove all that this process has, or an earlier one has left, of its shards."""
        for name in self._own.values():
            self._remove(self.folder / name)
        self._made.clear()

    def _folder_of(self, rows: Rows, num_targets: int) -> Path | None:
        name = self._own.get(_shard_of_rows(rows, num_targets))
        return None if name is None else self.folder / name

    def _opened(self, folder: Path, of: dict[str, Any]) -> set[int]:
        """Numbers of the blocks that are there; what is of something else is thrown away, with a word."""
        try:
            there = read_record(folder)["of"]
        except (DataError, OSError) as error:
            if folder.is_dir():
                self._thrown_away(folder, f"without a readable record ({error})")
        else:
            differs = [name for name in {**of, **there} if of.get(name) != there.get(name)]
            if not differs:
                return set(blocks_in(folder))
            self._thrown_away(folder, f"of other {', '.join(differs)}")
        if self._writes:
            try:
                folder.mkdir(parents=True)
                with written_whole(folder / RECORD) as temporary:
                    record = stamped({"of": of, "note": self._note})
                    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            except OSError as error:
                self._stop(error)
        return set()

    def _thrown_away(self, folder: Path, why: str) -> None:
        warnings.warn(
            f"the encodings that an earlier process has left in {folder} are {why}: they are thrown away, and all "
            "targets of the shard are encoded",
            stacklevel=2,
        )
        self._remove(folder)

    def _write(self, folder: Path, number: int, rows: Rows, vectors: NDArray[np.float32]) -> None:
        from safetensors import SafetensorError

        if not self._writes:
            return
        try:
            with written_whole(folder / block_name(number)) as temporary:
                write_state({"rows": torch.from_numpy(rows), "vectors": torch.from_numpy(vectors)}, temporary)
        except (OSError, SafetensorError) as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._writes = False
        warnings.warn(
            f"the encodings of the corpus are not kept on the disk while they are made ({error}): the run goes on, and "
            "a crash before its next checkpoint would have them made anew",
            stacklevel=2,
        )

    def _remove(self, folder: Path) -> None:
        with suppress(OSError):  # first, so that what is left by a crash counts for nothing
            (folder / RECORD).unlink()
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()  # if nothing is in it


def _shard_of_name(name: str) -> tuple[int, int]:
    _, number, _, num_shards, *_ = name.split("-")
    return int(number), int(num_shards)


def _shard_of_rows(rows: Rows, num_targets: int) -> tuple[int, int]:
    """Which shard of how many these rows are: every V-th of the corpus from v on; ``(-1, -1)``: none."""
    first, step = (int(rows[0]), int(rows[1] - rows[0])) if len(rows) > 1 else (0, 1)
    of_shard = range(first, num_targets, step) if 0 <= first < step else range(0)
    if len(rows) != len(of_shard) or not np.array_equal(rows, np.arange(first, num_targets, step)):
        return -1, -1
    return first, step


def _read(path: Path, rows: Rows, dimension: int) -> NDArray[np.float32] | None:
    """The vectors of a block; ``None``, with a word, if it is damaged."""
    try:
        state = read_state(path)
        needed = {"rows": (INTEGERS, (len(rows),)), "vectors": ((torch.float32,), (len(rows), dimension))}
        expect(state, needed, "it can't be used")
        if not np.array_equal(state["rows"].numpy(), rows):
            raise ValueError("it has other rows")
    except (ValueError, OSError) as error:  # a DataError is a ValueError
        warnings.warn(f"the block of encodings {path} is damaged ({error}): it is encoded again", stacklevel=2)
        return None
    vectors: NDArray[np.float32] = state["vectors"].numpy()
    return vectors
