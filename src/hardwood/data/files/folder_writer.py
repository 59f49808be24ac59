"""A BEIR folder that is written while its source is read: whatever its size, memory holds numbers only."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from hardwood._files import folder_written_whole
from hardwood.data.files.answers import ANSWERS
from hardwood.data.files.lines import numbered_lines
from hardwood.data.files.qrels import COLUMNS
from hardwood.data.files.write import check_free
from hardwood.errors import DataError

_UNNAMEABLE = re.compile(r"[\t\r\n]")
_encode = json.JSONEncoder(ensure_ascii=False).encode


class Place(NamedTuple):
    """Where something was read: a file, and a line from 1."""

    path: Path
    line: int


@dataclass
class FolderSummary:
    """What was written.

    Attributes:
        num_targets: of the corpus.
        queries: how many each split has.
        left_out: the counts of what was left out, by kind.
        notes: what else whoever converts should know.
    """

    num_targets: int = 0
    queries: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@contextmanager
def folder_writer(folder: str | Path, *, overwrite: bool = False) -> Iterator[FolderWriter]:
    """A writer of a folder that is there, whole and checked, when the block ends without an error, or as it was.

    Args:
        folder: new or empty.
        overwrite: whether a dataset that is there may be replaced.

    Raises:
        DataError: the folder isn't free, or what was written is no dataset: an id twice, a judgement of a target that
            was not written.
    """
    folder = Path(folder).resolve()
    check_free(folder, overwrite)
    with folder_written_whole(folder) as fresh:
        with ExitStack() as stack:
            writer = FolderWriter(fresh, stack)
            yield writer
        writer.check()
        check_free(folder, overwrite)  # writing takes a while


class FolderWriter:
    """Takes targets, queries, judgements and answers in any order, and writes each at once.

    It keeps 8 bytes for each target and query, and 16 for each judgement: hashes of their ids, so that `check` finds
    ids that stand twice and judgements of what is not there.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.summary = FolderSummary()
        self._folder, self._stack = folder, stack
        (folder / "qrels").mkdir()
        self._corpus, self._queries = self._open("corpus.jsonl"), self._open("queries.jsonl")
        self._qrels: dict[str, IO[str]] = {}
        self._answers: IO[str] | None = None
        self._target_ids, self._query_ids = array("q"), array("q")
        self._judged, self._judged_at = array("q"), array("q")
        self._sources: list[Path] = []

    def target(self, identifier: str, title: str, text: str, place: Place) -> None:
        """Write one; ``DataError`` for an id or text that no reader would take."""
        if not (text.strip() or title.strip()):
            raise DataError(f"{identifier!r} has neither text nor title", *place)
        self._target_ids.append(hash(_nameable(identifier, place)))
        self._write(self._corpus, {"_id": identifier, "title": title, "text": text}, place)
        self.summary.num_targets += 1

    def query(self, identifier: str, text: str, place: Place) -> None:
        """Write one; ``DataError`` as for `target`."""
        if not text.strip():
            raise DataError(f"the query {identifier!r} has no text", *place)
        self._query_ids.append(hash(_nameable(identifier, place)))
        self._write(self._queries, {"_id": identifier, "text": text}, place)

    def judge(self, split: str, query: str, target: str, grade: int, place: Place) -> None:
        """Write that a target answers a query (``grade`` above 0), or is a given negative of it (0).

        The query must be one that was written, and no pair may be judged twice.
        """
        if split not in self._qrels:
            self._qrels[split] = self._open(f"qrels/{split}.tsv")
            self._qrels[split].write("\t".join(COLUMNS) + "\n")
        self._qrels[split].write(f"{query}\t{target}\t{grade}\n")
        if not self._sources or self._sources[-1] != place.path:
            self._sources.append(place.path)
        self._judged.append(hash(target))
        self._judged_at.append((len(self._sources) - 1) << 40 | place.line)

    def answer(self, query: str, answers: Sequence[str], place: Place, split: str | None = None) -> None:
        """Write the answers of a query; ``split`` is the one that it belongs to if nothing is judged for it."""
        if self._answers is None:
            self._answers = self._open(ANSWERS)
        record: dict[str, object] = {"_id": query, "answers": list(answers)}
        self._write(self._answers, record if split is None else {**record, "split": split}, place)

    def count(self, split: str, queries: int = 1) -> None:
        """Count queries of a split in the summary."""
        self.summary.queries[split] = self.summary.queries.get(split, 0) + queries

    def note(self, text: str) -> None:
        """Say something to whoever converts."""
        self.summary.notes.append(text)

    def check(self) -> None:
        """Whether the folder is a dataset; the files are closed by now.

        Raises:
            DataError: no target or query, an id that stands twice, or a judgement of a target that is not there.
        """
        for name, ids in (("corpus.jsonl", self._target_ids), ("queries.jsonl", self._query_ids)):
            if not len(ids):
                raise DataError(f"there is nothing to write to {name}: the source has no such rows")
        targets = self._distinct(self._target_ids, "corpus.jsonl", "target")
        self._distinct(self._query_ids, "queries.jsonl", "query")
        judged = np.frombuffer(self._judged, dtype=np.int64) if self._judged else np.zeros(0, dtype=np.int64)
        places = np.searchsorted(targets, judged).clip(max=len(targets) - 1)
        unknown = np.flatnonzero(targets[places] != judged)
        if unknown.size:
            source, line = divmod(self._judged_at[int(unknown[0])], 1 << 40)
            raise DataError(
                f"this line names a target that the corpus does not have ({unknown.size:,} of {len(judged):,} "
                "judgements do): give all files of the same release",
                self._sources[source],
                line,
            )

    def _distinct(self, hashes: array[int], name: str, what: str) -> np.ndarray:
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        seen: set[str] = set()
        if suspects:  # two ids may have one hash, though hardly ever
            for _, line in numbered_lines(self._folder / name):
                identifier = json.loads(line)["_id"]
                if hash(identifier) in suspects and identifier in seen:
                    raise DataError(f"two rows have the {what} id {identifier!r}: ids must differ")
                if hash(identifier) in suspects:
                    seen.add(identifier)
        return ordered

    def _open(self, name: str) -> IO[str]:
        path = self._folder / name
        return self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n", buffering=1 << 20))

    @staticmethod
    def _write(handle: IO[str], record: dict[str, object], place: Place) -> None:
        try:
            handle.write(_encode(record) + "\n")
        except UnicodeEncodeError:
            raise DataError("a lone surrogate escape (\\ud800 to \\udfff) is no text", *place) from None


def _nameable(identifier: str, place: Place) -> str:
    if not identifier.strip() or _UNNAMEABLE.search(identifier):
        raise DataError(f"the id {identifier!r} is blank, or has a tab or line break, so no qrels can name it", *place)
    return identifier
