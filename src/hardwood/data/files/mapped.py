"""Arrow copies of large text tables, made once and mapped into memory: texts are read where they lie on the disk, and
all processes of a machine share their pages.

A copy is a folder of the cache: ``table.arrow`` (an Arrow IPC file) and ``about.json``, which says of what file it is a
copy, by a hash of the content, and has a checksum of the copy. One that doesn't fit in every respect is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from hardwood._files import folder_written_whole
from hardwood._progress import progress_bar
from hardwood._version import __version__
from hardwood.data.files.beir_lines import read_table
from hardwood.data.records.table import COLUMNS, TEXT_TYPE, TextTable, TextTableBuilder
from hardwood.errors import DataError

CACHE = "HARDWOOD_CACHE"
"""The environment variable that names the cache folder."""

LARGE = 256 << 20
"""Bytes of a file from which it is large: its table is mapped unless asked otherwise."""

_TABLE, _ABOUT = "table.arrow", "about.json"
_SCHEMA = pa.schema([pa.field(name, TEXT_TYPE) for name in COLUMNS])
_BLOCK_BYTES = 1 << 20
_CHUNK_BYTES = 128 << 20  # in memory twice while a copy is written


def cache_folder(given: str | Path | None = None) -> Path:
    """Where copies lie: ``given``, else ``HARDWOOD_CACHE``, else ``hardwood`` in the user's cache folder
    (``XDG_CACHE_HOME``, ``~/.cache``).

    Raises:
        OSError: none is named, and the user has no home folder.
    """
    if given is not None:
        return Path(given)
    if named := os.environ.get(CACHE):
        return Path(named)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not caches.is_absolute():
        raise OSError("this user has no home folder")
    return caches / "hardwood"


def text_table(
    path: Path,
    what: str,
    titles: bool,
    left_out: Counter[str] | None = None,
    mapped: bool | None = None,
    cache: str | Path | None = None,
) -> TextTable:
    """What `read_table` gives, from a copy in the cache where the file is large.

    Args:
        path, what, titles, left_out: as for `read_table`.
        mapped: whether to make and map a copy; None: if the file is large, and a copy can be made.
        cache: see `cache_folder`.

    Raises:
        DataError: as `read_table`.
        OSError: ``mapped`` is True, and no copy can be written.
    """
    if mapped or (mapped is None and path.stat().st_size >= LARGE):
        try:
            return _mapped(path, what, titles, left_out, cache_folder(cache))
        except OSError as error:
            if mapped:
                raise
            warnings.warn(
                f"{path} is read into memory, and again by each process: no copy that could be mapped was written "
                f"({error}). Name a folder with room for it in the environment variable {CACHE} (or by cache=)",
                RuntimeWarning,
                stacklevel=3,
            )
    with _progress(f"Reading {path.name}", path) as advance:
        return read_table(path, what, titles, left_out, advance=advance)


def _mapped(path: Path, what: str, titles: bool, left_out: Counter[str] | None, cache: Path) -> TextTable:
    lenient = left_out is not None
    place = Path(os.path.abspath(path))  # not what a link leads to, which may lack the ending .gz
    key = hashlib.blake2b(f"{what}\0{lenient}\0".encode() + os.fsencode(place), digest_size=8).hexdigest()
    copy = cache / "texts" / f"{place.parent.name}-{place.name}-{key}"
    before = _state(path)
    meant = {"version": __version__, "content": _content(path), "what": what, "lenient": lenient}
    if (found := _opened(copy, meant)) is None:
        with _one_at_a_time(copy):
            if (found := _opened(copy, meant)) is None:  # another process may have made it meanwhile
                _make(copy, meant, path, titles, before)
                found = _opened(copy, meant)
        if found is None:
            raise OSError(f"what was written to {copy} can't be read back")
    table, counts = found
    if left_out is not None:
        left_out.update(counts)
    return table


def _make(copy: Path, meant: dict[str, Any], path: Path, titles: bool, before: tuple[int, ...]) -> None:
    counts: Counter[str] = Counter()
    with folder_written_whole(copy) as fresh:
        with _Writer(fresh / _TABLE) as builder, _progress(f"Copying {path.name} to {copy}", path) as advance:
            read_table(path, meant["what"], titles, counts if meant["lenient"] else None, builder, advance)
        if _state(path) != before:
            raise DataError("the file changed while it was read: read it again", path)
        about = {**meant, "left_out": counts, "bytes": (fresh / _TABLE).stat().st_size, "crc32": _crc(fresh / _TABLE)}
        (fresh / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class _Writer(TextTableBuilder):
    """Makes a table of a file that it writes and maps."""

    def __init__(self, path: Path) -> None:
        super().__init__(_CHUNK_BYTES)
        self._path = path

    def __enter__(self) -> _Writer:
        self._sink = pa.OSFile(str(self._path), "wb")
        self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._file, self._sink):  # after an error; `finish` has closed both
            with suppress(OSError, pa.ArrowInvalid):
                part.close()

    def finish(self) -> TextTable:
        self._merge()
        self._file.close()
        self._sink.close()
        return TextTable(_chunks(self._path))

    def _keep(self, chunk: pa.RecordBatch) -> None:
        self._file.write_batch(chunk)


def _opened(copy: Path, meant: dict[str, Any]) -> tuple[TextTable, dict[str, int]] | None:
    """The copy's table, and what its reader left out; None unless it is whole and a copy of what is meant."""
    try:
        about = json.loads((copy / _ABOUT).read_text(encoding="utf-8"))
        table = copy / _TABLE
        if {name: about[name] for name in meant} != meant or table.stat().st_size != about["bytes"]:
            return None
        if _crc(table) != about["crc32"]:
            return None
        return TextTable(_chunks(table)), {str(kind): int(count) for kind, count in about["left_out"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None


def _chunks(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    if reader.schema != _SCHEMA:
        raise ValueError(f"{path} has other columns")
    chunks = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    for chunk in chunks:
        chunk.validate()  # without a look at the texts
    return chunks


@contextmanager
def _one_at_a_time(copy: Path) -> Iterator[None]:
    """Wait until no other process of this machine makes this copy. Where a disk has no locks several make it, each
    whole, and the last one's stays."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(copy.with_name(f".{copy.name}.lock"), os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _progress(description: str, path: Path) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal that is advanced by bytes, for a file that takes a while."""
    size = path.stat().st_size
    with progress_bar(f"{description}, MiB", size >> 20, None if size >= LARGE // 8 else False) as advance:
        done = 0

        def by_bytes(count: int) -> None:
            nonlocal done
            advance(((done + count) >> 20) - (done >> 20))
            done += count

        yield by_bytes


def _content(path: Path) -> str:
    digest = hashlib.sha256()  # processors have instructions for it: a gigabyte takes half a second
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _crc(path: Path) -> int:
    value = 0
    for block in _blocks(path):
        value = zlib.crc32(block, value)
    return value


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            yield block
