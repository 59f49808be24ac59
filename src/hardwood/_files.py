"""Writing files and folders whole or not at all, and clearing away what dead processes have left of theirs.

Whatever is written lies first under a temporary name beside its destination: ``.NAME.HOST-PROCESS-NUMBER.tmp``. So a
crash leaves the old content or none, never half of one, and the next write of the same name knows whose temporary
files have no owner any more.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_NUMBERS = itertools.count()
_IN_USE: set[str] = set()
_TAG = re.compile(r"(?P<host>[0-9a-f]{8})-(?P<process>\d+)-\d+")
_ABANDONED_SECONDS = 24 * 3600
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, renameat2(2)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write a file to; it takes the place of ``path`` when the block ends without
    an error.

    A crash leaves the old file, or none: never half of one.

    Args:
        path: the file; folders on the way to it are made.

    Raises:
        OSError: it can't be written; what was there is as it was.
    """
    path = Path(path)
    with temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def folder_written_whole(folder: str | Path) -> Iterator[Path]:
    """As `written_whole` for a folder: an empty one beside ``folder``, which takes its place, content and all.

    Where the system can't swap two folders in one step (all but Linux), a crash may leave the old one under another
    name for a moment's work: `recover` puts it back, and whoever reads such a folder calls it first.

    Args:
        folder: the folder; if it is a link, the folder that it points to.

    Raises:
        OSError: it can't be written; what was there is as it was.
    """
    folder = Path(folder).resolve()
    recover(folder)
    with temporary_beside(folder) as fresh:
        fresh.mkdir()
        yield fresh
        sync_all(fresh)
        _put_in_place(fresh, folder)
        _sync(folder.parent)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A free name beside ``path`` in a folder that exists; whatever stands there afterwards is removed.

    Args:
        path: names what the temporary file or folder is for, by which the next process finds it after a crash.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{next(_NUMBERS)}.tmp")
    with named_if_not_writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        _remove(temporary)
        temporary.touch(exist_ok=False)
        temporary.unlink()
    _IN_USE.add(temporary.name)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _IN_USE.discard(temporary.name)


@contextmanager
def named_if_not_writable(path: Path) -> Iterator[None]:
    """An ``OSError`` of the block, which may be about a temporary name or a folder on the way, names ``path``."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, f"can't write to {path}: {error.strerror}") from error


def check_writable(path: str | Path) -> None:
    """``OSError`` where a file can't be written to ``path``: called before the work whose result goes there."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"can't write to {path}: it is a folder, and this is for a file")
    with temporary_beside(path):
        pass


def recover(folder: str | Path) -> None:
    """Undo a crash between the two renames that put a folder in the place of another."""
    folder = Path(folder).resolve()
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)


def sweep(path: str | Path) -> None:
    """Remove the temporary files and folders of ``path`` that no living process has.

    A process of this machine is looked up by its number; of another machine's (the disk may be shared) those are
    removed that have not changed for a day.
    """
    path = Path(path)
    prefix, suffix = f".{path.name}.", ".tmp"
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(prefix) and entry.name.endswith(suffix)):
                continue
            tag = _TAG.fullmatch(entry.name[len(prefix) : -len(suffix)])
            if tag is not None and _is_abandoned(entry, tag["host"], int(tag["process"])):
                _remove(Path(entry.path))


def is_temporary(path: Path) -> bool:
    """Whether that is a name which `written_whole` writes under."""
    middle = path.name.removesuffix(".tmp").rsplit(".", 1)[-1]
    return path.name.startswith(".") and path.name.endswith(".tmp") and _TAG.fullmatch(middle) is not None


def sync_all(folder: Path) -> None:
    """Have the disk hold everything under ``folder``, so that a power cut can't take it back."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place) / name)
        _sync(Path(place))


def _is_abandoned(entry: os.DirEntry[str], host: str, process: int) -> bool:
    if host == _HOST and os.name == "posix":
        if process == os.getpid():
            return entry.name not in _IN_USE  # numbers come round: an earlier process had this one
        return not _is_alive(process)
    with suppress(FileNotFoundError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and does nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _put_in_place(fresh: Path, folder: Path) -> None:
    """``fresh`` becomes ``folder``; what stood there may stand under the name of ``fresh`` now."""
    if not folder.exists():
        fresh.rename(folder)
    elif not _exchange(fresh, folder):
        old = _aside(folder)
        _remove(old)
        folder.rename(old)
        try:
            fresh.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        _remove(old)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; whether the system could."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder (where folders can be synced)."""
    try:
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
