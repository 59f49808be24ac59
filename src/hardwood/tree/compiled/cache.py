"""Machine code kept on disk, so that later processes load it in a second instead of compiling for a minute.

Numba's own way of keeping it (an index of numbered files for each kernel) has three faults. Two processes that compile
one kernel for two kinds of input at once can each write file number 1, after which one kind runs the other's machine
code. A change in a helper from another file, whose code is copied into the kernel, is not noticed, so an upgrade can go
on running old code. And what can't be read or written is an error in the middle of training.

Here every kernel and kind of input has a file of its own, named by what it was compiled from and for, with a checksum.
What can't be read is compiled, what can't be written is not kept. The files hold pickles, as Numba's do: they lie
beside the package, or in the user's own cache folder, or in ``NUMBA_CACHE_DIR``, and are trusted as the package is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core import serialize
from numba.core.caching import FunctionCache, IndexDataCacheFile

# Not by `ast`, which takes half a second for all kernels: what looks like an import in a docstring does no harm.
_FROM = re.compile(r"^[ \t]*from (\.*)([\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import (.*)", re.MULTILINE)
_PACKAGE = "hardwood"
_FOLDER = Path(__file__).parents[2]  # not from the package itself, or every kernel would depend on all of it
_DIGEST = hashlib.sha256().digest_size


def keep(dispatcher: Any, function: Callable[..., Any]) -> None:
    """Give a kernel its files on disk, where some folder can be written; tell once where none can."""
    if not hasattr(dispatcher, "enable_caching"):  # NUMBA_DISABLE_JIT: plain Python
        return
    try:
        if _homeless():
            raise RuntimeError("this user has no home")
        dispatcher._cache = KernelCache(function)
    except (RuntimeError, OSError):
        _tell()


def _homeless() -> bool:
    """Whether the user's cache folder would be one named "~" in whatever the current folder is.

    So it is for a user without an entry in the system's list and without ``HOME``, as some containers have. It
    would be littered, and trusted: code would be loaded from any folder one works in.
    """
    given = any(os.environ.get(name) for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"))
    return not given and not os.path.isabs(os.path.expanduser("~"))


@functools.cache
def _tell() -> None:
    warnings.warn(
        "no folder for compiled code can be written (beside the package, in the home folder, or $NUMBA_CACHE_DIR), so "
        "each process compiles the tree's kernels anew, which takes about a minute: set NUMBA_CACHE_DIR to a folder "
        "of your own",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def source_digest(path: Path) -> bytes:
    """A hash of a kernel's file and of all files of this package that it imports, directly or through others: their
    helpers are compiled into the kernel."""
    digest = hashlib.sha256()
    for file in sources(path):
        digest.update(_read(file)[0])
    return digest.digest()


def sources(path: Path) -> list[Path]:
    """The file and all files of this package that it imports, directly or through others; itself first."""
    found, waiting = {path}, [path]
    while waiting:
        new = _read(waiting.pop())[1] - found
        found |= new
        waiting += new
    return [path, *sorted(found - {path})]


@functools.cache
def _read(path: Path) -> tuple[bytes, frozenset[Path]]:
    """A hash of a file, and the files of this package that its imports name, wherever in it they stand."""
    content = path.read_bytes()
    text = content.decode()
    named = [place for names in _IMPORT.findall(text) for place in re.findall(r"[\w.]+", names)]
    files = {_module(_FOLDER, place.split(".")[1:]) for place in named if place.split(".")[0] == _PACKAGE}
    for dots, place, names in _FROM.findall(text):
        files.update(_imported_from(path, len(dots), place, re.findall(r"\w+", names)))
    return hashlib.sha256(content).digest(), frozenset(file for file in files if file is not None)


def _imported_from(path: Path, dots: int, place: str, names: list[str]) -> Iterator[Path | None]:
    """The files behind ``from PLACE import NAMES``: those of the names that are modules, and the place's own."""
    package, *parts = place.split(".")
    if not dots and package != _PACKAGE:
        return
    folder, parts = (path.parents[dots - 1], [package, *parts]) if dots else (_FOLDER, parts)
    modules = [_module(folder, [*parts, name]) for name in names]
    yield from modules
    if not all(modules):
        yield _module(folder, parts)


def _module(folder: Path, parts: list[str]) -> Path | None:
    """The file of a module or package in ``folder``, if there is one."""
    at = folder.joinpath(*parts)
    return next((file for file in (at.parent / f"{at.name}.py", at / "__init__.py") if file.is_file()), None)


class KernelFiles(IndexDataCacheFile):
    """One file for each key, written whole; no index, so nothing that two processes could both change."""

    def load(self, key: Any) -> Any:
        """What `save` kept under this very key, or ``None``."""
        try:
            content = Path(self._path(key)).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None  # cut short or damaged
        made_for, data = serialize.loads(content[_DIGEST:])
        return data if made_for == self._made_for(key) else None

    def save(self, key: Any, data: Any) -> None:
        """Keep ``data``.

        Raises:
            OSError: it can't be written; nothing half-written is left.
        """
        content = self._dump((self._made_for(key), data))
        with self._open_for_write(self._path(key)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def flush(self) -> None:
        """Nothing to empty: files are found by their key alone."""

    def _made_for(self, key: Any) -> str:
        return repr((numba.__version__, self._source_stamp, key))

    def _path(self, key: Any) -> str:
        # Without the source in the name, so that a new version of a kernel takes the place of the old one.
        name = hashlib.sha256(repr((numba.__version__, key)).encode()).hexdigest()[:24]
        return str(self._data_path(f"{self._index_name.removesuffix('.nbi')}.{name}.nbc"))


class KernelCache(FunctionCache):
    """What a kernel's dispatcher asks for machine code; never the cause of an error.

    Raises:
        RuntimeError: at the beginning, when no folder can be written.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        source = source_digest(Path(function.__code__.co_filename)).hex()
        self._cache_file: Any = KernelFiles(self._cache_path, self._impl.filename_base, source)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for one kind of input, or ``None``: then it is compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever is wrong with a file, compiling mends it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it, if it can be written."""
        with suppress(OSError):
            super().save_overload(sig, data)
