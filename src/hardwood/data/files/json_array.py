"""The elements of a JSON array that is larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardwood.data.files.lines import MOST_IN_A_LINE, text_pieces
from hardwood.errors import DataError

_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


def numbered_elements(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of the array that a file holds, each with the 1-based number of the line that it begins on.

    Only the element at hand and about a megabyte of text are in memory.

    Args:
        path: the file, plain or gzipped.

    Raises:
        DataError: it holds no array, or something in it is no JSON; names the line.
    """
    reader = _Reader(path)
    if reader.next_character() != "[":
        raise DataError("the file must hold a JSON array of objects: it begins with something else", path, reader.line)
    reader.skip()
    if reader.next_character() == "]":
        reader.skip()
    else:
        while True:
            yield reader.element()
            separator = reader.next_character()
            if separator not in (",", "]"):
                what = f"{separator!r} stands" if separator else "the file ends"
                raise DataError(f"{what} where the array needs a comma or its end", path, reader.line)
            reader.skip()
            if separator == "]":
                break
    if reader.next_character():
        raise DataError("something follows the end of the array", path, reader.line)


class _Reader:
    """A place in a text that comes in pieces."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self._pieces = text_pieces(path)
        self._text, self._at = "", 0

    def next_character(self) -> str:
        """The next one that isn't blank, which is not passed over; empty at the end."""
        while True:
            begin = self._at
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            self.line += self._text.count("\n", begin, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Pass over one character, no line feed."""
        self._at += 1

    def element(self) -> tuple[int, Any]:
        """The value that begins at the next character, and its line."""
        if not self.next_character():
            raise DataError("the file ends where an element of the array should begin", self.path, self.line)
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # Most likely it is not all there yet: an element is longer than a piece, or lies across two.
                if len(self._text) - self._at <= MOST_IN_A_LINE and self._more():
                    continue
                at = self.line + self._text.count("\n", self._at, getattr(error, "pos", self._at))
                raise DataError(f"this is not JSON: {getattr(error, 'msg', error)}", self.path, at) from error
            if end == len(self._text) and self._more():  # a number may go on
                continue
            found = self.line, value
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return found

    def _more(self) -> bool:
        """Read on, at least as much as there is left, so that long elements are not parsed too often; whether there
        was more."""
        rest = self._text[self._at :]
        pieces, wanted = [rest], max(len(rest), 1)
        while wanted > 0 and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            wanted -= len(piece)
        self._text, self._at = "".join(pieces), 0
        return len(self._text) > len(rest)
