"""Which columns of a table are meant: as named, or guessed where one name alone is usual."""

from __future__ import annotations

from collections.abc import Sequence

from hardwood.errors import DataError

QUERY_NAMES = ("anchor", "query", "question")
POSITIVE_NAMES = ("positive", "answer", "passage", "document")
CORPUS_NAMES = ("text", *POSITIVE_NAMES)


def choose_column(where: str, names: Sequence[str], given: str | None, usual: Sequence[str], option: str) -> str:
    """The column called ``given``, or the only one that has a usual name, in capitals or not.

    Args:
        where: the file, for messages.
        names: the columns that there are.
        given: the column's name, if the user gave it.
        usual: names to guess by where they didn't.
        option: how to give it, for messages.

    Raises:
        DataError: the column isn't there, or none or several could be meant; it lists the columns.
    """
    listed = ", ".join(map(repr, names))
    if given is not None:
        if given not in names:
            raise DataError(f"there is no column {given!r}; the columns are {listed}: name one with {option}", where)
        return given
    found = [name for name in names if name.strip().lower() in usual]
    if len(found) == 1:
        return found[0]
    why = f"{' and '.join(map(repr, found))} could both be meant" if found else f"none is called {_either(usual)}"
    hint = ""
    if len(names) == 1 and (other := next((mark for mark in (";", "\t", "|") if mark in names[0]), None)):
        hint = f" (fields seem to be separated by {other!r}: .csv takes commas, .tsv tabs)"
    raise DataError(f"name a column with {option}: the columns are {listed}, and {why}{hint}", where)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
