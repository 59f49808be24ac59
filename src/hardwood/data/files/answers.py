"""Short answers: strings that a passage must hold to answer a question, as open-domain question answering has them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood.data.files.left_out import ANSWERS_OF_MISSING
from hardwood.data.files.lines import find_file, numbered_lines
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of queries, and the queries that have nothing else.

    Attributes:
        texts: the answers of each query that has any, by query row.
        splits: by split, the rows, ascending, of its queries that have answers but no judgement: a test that is
            measured by answers alone has only such queries.
    """

    texts: Mapping[int, tuple[str, ...]]
    splits: Mapping[str, NDArray[np.int64]]

    def renumbered(self, new_rows: NDArray[np.int64]) -> Answers:
        """The same after queries have left; ``new_rows`` ``(number of queries before,)`` has -1 for those."""
        texts = {int(new_rows[row]): texts for row, texts in self.texts.items() if new_rows[row] >= 0}
        return Answers(texts, {name: new_rows[rows] for name, rows in self.splits.items()})

    def unjudged(self) -> NDArray[np.int64]:
        """The rows of the queries in ``splits``, ascending."""
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *self.splits.values()]))


def read_answers(folder: Path, queries: TextTable, left_out: Counter[str] | None = None) -> Answers | None:
    """The answers in ``answers.jsonl`` of a dataset folder, which may be gzipped; ``None`` where there is none.

    A line is an object: ``_id`` of a query, ``answers``, a list of strings, and ``split`` where nothing judges it.

    Args:
        folder: of the dataset.
        queries: whose ids count.
        left_out: counts the answers of queries that are not there, which are left out; None: they are errors.

    Raises:
        DataError: for a line that says something else, or names a query twice or one that is not there.
    """
    if not any((folder / name).exists() for name in (ANSWERS, f"{ANSWERS}.gz")):
        return None
    path = find_file(folder, ANSWERS)
    ids, lines, answers, splits = [], [], [], []
    for number, line in numbered_lines(path):
        record = _record(line, path, number)
        ids.append(record["_id"])
        lines.append(number)
        answers.append(tuple(record["answers"]))
        splits.append(record.get("split"))
    if not ids:
        raise DataError("the file is empty: give it at least one line, or remove it", path)
    rows = queries.find(pa.array(ids, type=pa.large_string()))
    texts: dict[int, tuple[str, ...]] = {}
    members: dict[str, list[int]] = {}
    for row, name, number, found, split in zip(rows.tolist(), ids, lines, answers, splits, strict=True):
        if row < 0 and left_out is not None:
            left_out[ANSWERS_OF_MISSING] += 1
            continue
        if row < 0 or row in texts:
            problem = "is not in queries.jsonl" if row < 0 else "has answers on another line, too"
            raise DataError(f"the query {name!r} {problem}", path, number)
        texts[row] = found
        if split is not None:
            members.setdefault(split, []).append(row)
    return Answers(texts, {name: np.sort(np.array(rows, dtype=np.int64)) for name, rows in members.items()})


def write_answers(path: Path, answers: Answers, queries: TextTable) -> None:
    """Write the file that `read_answers` reads."""
    split_of = {row: name for name, rows in answers.splits.items() for row in rows.tolist()}
    rows = list(answers.texts)
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        for row, identifier in zip(rows, queries.ids(np.array(rows, dtype=np.int64)), strict=True):
            record: dict[str, Any] = {"_id": identifier, "answers": list(answers.texts[row])}
            if row in split_of:
                record["split"] = split_of[row]
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _record(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"this line is not JSON: {error}", path, number) from error
    if not isinstance(record, dict) or not isinstance(record.get("_id"), str):
        raise DataError("this line is no object with the _id of a query", path, number)
    found = record.get("answers")
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise DataError(f"the answers must be a list of texts, one at least, got {found!r}"[:300], path, number)
    if not isinstance(record.get("split", ""), str):
        raise DataError(f"the split must be a name, got {record['split']!r}", path, number)
    return record
