"""Functions of Python files, read by their syntax alone: nothing is imported, and nothing is run."""

from __future__ import annotations

import ast
import inspect
import io
import itertools
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MOST_BYTES = 1 << 20  # of a file; what is larger was made by a program
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
_NO_PROSE = re.compile(r"[^\w`'\"(]|[-=~^*_#]{3}|[\w.]+(\[.*\])?\s*\(|\w+\s*:")
"""How a line begins that is no prose: a doctest, list, line of a heading, signature, parameter, "Returns:"."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """One function or method.

    Attributes:
        name: with its classes, such as ``"Path.exists"``.
        code: its source from ``def`` on, without docstrings and decorators, moved to the left margin.
        sentence: the first sentence of its docstring, without the full stop; "" where there is none.
    """

    name: str
    code: str
    sentence: str


def read_functions(path: Path) -> Iterator[Function]:
    """The functions of a file and the methods of its classes, in file order; none of a file that isn't Python's.

    A function within another one is part of that. A function that does nothing (``pass``, ``...``, an error that it is
    not implemented) is left out: it says no more than its name.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        content = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python will refuse one day
            tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = [line.encode() for line in text.split("\n")]  # the parser counts bytes
    for name, node in _functions_in(tree.body, ""):
        if any(not _does_nothing(statement) for statement in node.body):
            sentence = first_sentence(ast.get_docstring(node, clean=True) or "")
            yield Function(name, _code(node, lines), sentence)


def first_sentence(docstring: str) -> str:
    """The first sentence of a cleaned docstring on one line, without the full stop; "" where it begins otherwise."""
    paragraph = inspect.cleandoc(docstring).split("\n\n")[0].split("\n")
    prose = list(itertools.takewhile(lambda line: not _NO_PROSE.match(line.strip()), paragraph))
    if len(prose) < len(paragraph) and set(paragraph[len(prose)].strip()) <= set("-=~^*_#"):
        return ""  # a heading
    sentence = _SENTENCE_END.split(" ".join(" ".join(prose).split()))[0]
    return sentence.rstrip(".:").strip()


def _functions_in(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Function]]:
    for node in body:
        if isinstance(node, _Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions_in(node.body, f"{prefix}{node.name}.")
        else:  # what stands under if, try, with
            for field in ("body", "handlers", "orelse", "finalbody"):
                for part in getattr(node, field, []):
                    inner = part.body if isinstance(part, ast.ExceptHandler) else [part]
                    yield from _functions_in(inner, prefix)


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return isinstance(statement, ast.Pass)


def _code(function: _Function, lines: list[bytes]) -> str:
    """The source without the docstrings of the function and of what is defined in it."""
    first, last = function.lineno - 1, function.end_lineno or function.lineno
    kept = lines[first:last]
    kept[-1] = lines[last - 1][: function.end_col_offset]
    for docstring in sorted(_docstrings(function), key=lambda node: node.lineno, reverse=True):
        start, stop = docstring.lineno - 1 - first, (docstring.end_lineno or docstring.lineno) - 1 - first
        before = lines[docstring.lineno - 1][: docstring.col_offset]
        after = kept[stop][docstring.end_col_offset :]
        rest = before + after.lstrip(b" ;")
        if rest.strip():
            kept[start : stop + 1] = [rest]
            continue
        while stop + 1 < len(kept) and not kept[stop + 1].strip():  # blank lines that set the docstring off
            stop += 1
        del kept[start : stop + 1]
    text = b"\n".join(kept).decode()
    return textwrap.dedent(" " * function.col_offset + text[function.col_offset :]).strip()


def _docstrings(function: _Function) -> Iterator[ast.stmt]:
    for node in ast.walk(function):
        if isinstance(node, _Function | ast.ClassDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first
