"""Lines of UTF-8 text files, plain or gzipped, with their numbers; and the same text in pieces of any length."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from hardwood.errors import DataError

_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 20
_LINES_A_REPORT = 4096

MOST_IN_A_LINE = 64 << 20
"""Bytes of one line: far more than any text that an encoder reads, and little enough to hold."""

SURELY_TEXT, MOST_EXPANSION = 256 << 20, 100
"""A gzipped file that has given so many bytes, and so many times its own, is no text but a bomb."""


def find_file(folder: Path, name: str) -> Path:
    """``folder/name``, or ``folder/name.gz``; ``DataError`` where there is neither or both."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise DataError(f"there is no such file (nor {name}.gz); a dataset folder needs it", folder / name)
    if len(found) > 1:
        raise DataError(f"there is also a {name}.gz; keep one of the two", folder / name)
    return found[0]


def numbered_lines(path: Path, advance: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    """The lines that aren't blank with their 1-based numbers, without line end and byte order mark.

    Only line feeds end a line (a carriage return before one belongs to it): JSON strings may hold the other
    characters that ``str.splitlines`` takes for line ends.

    Args:
        path: the file.
        advance: is called now and then with the bytes of the file (packed, if it is) that were read since.

    Raises:
        DataError: for a line that isn't UTF-8 or has no end, and a file that can't be read to its end or that unpacks
            to a hundred times its size.
    """
    number = total = reported = 0
    most = max(SURELY_TEXT, MOST_EXPANSION * path.stat().st_size)
    try:
        with path.open("rb") as file, _unpacked(file, path) as handle:
            while raw := handle.readline(MOST_IN_A_LINE + 1):
                number += 1
                if advance is not None and number % _LINES_A_REPORT == 0:
                    advance(file.tell() - reported)
                    reported = file.tell()
                total += len(raw)
                if len(raw) > MOST_IN_A_LINE:
                    raise DataError(f"this line is longer than {MOST_IN_A_LINE:,} bytes", path, number)
                if total > most:
                    raise DataError(f"the file unpacks to more than {most:,} bytes, which no text does", path, number)
                content = raw.removeprefix(_BOM) if number == 1 else raw
                line = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
                if line and not line.isspace():
                    yield number, line
    except UnicodeDecodeError as error:
        message = f"this line is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        raise DataError(message, path, number) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the file can't be read: {error}", path, number + 1) from error


def text_pieces(path: Path) -> Iterator[str]:
    """The text of a file, plain or gzipped, in pieces of about a megabyte, without byte order mark.

    Raises:
        DataError: for text that isn't UTF-8, and as `numbered_lines`.
    """
    total, line = 0, 1
    most = max(SURELY_TEXT, MOST_EXPANSION * path.stat().st_size)
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        with path.open("rb") as file, _unpacked(file, path) as handle:
            while raw := handle.read(_PIECE_BYTES):
                total += len(raw)
                if total > most:
                    raise DataError(f"the file unpacks to more than {most:,} bytes, which no text does", path, line)
                yield decoder.decode(raw)
                line += raw.count(b"\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = line + error.object[: error.start].count(b"\n")
        raise DataError(f"this line is not UTF-8 ({error.reason}); save the file as UTF-8", path, at) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the file can't be read: {error}", path, line) from error


def _unpacked(file: BinaryIO, path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb")) if path.suffix == ".gz" else file


def line_of_record(path: Path, record: int) -> int:
    """The number of the line that holds the ``record``-th (from 0) line that isn't blank.

    Goes over the file again: line numbers are needed for errors only, so they are not kept.
    """
    for index, (number, _) in enumerate(numbered_lines(path)):
        if index == record:
            return number
    raise DataError(f"the file changed while it was read: record {record} is gone", path)
