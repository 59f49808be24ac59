"""ZESHEL: find the entity that a mention in a text is of, among the documents of sixteen worlds together.

The forms are those of https://github.com/lajanugen/zeshel (Logeswaran et al., ACL 2019, arXiv:1906.07348).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardwood.data.files.folder_writer import FolderSummary, FolderWriter, Place, folder_writer
from hardwood.data.files.lines import numbered_lines
from hardwood.data.files.public_files import matching
from hardwood.errors import DataError

_SPLITS = {
    "train": "train",
    "val": "dev",
    "test": "test",
    "heldout_train_seen": "heldout_train_seen",
    "heldout_train_unseen": "heldout_train_unseen",
}
_NEEDED = ("train", "val", "test")
_BEGIN, _END = "[START_ENT]", "[END_ENT]"
_FILE = re.compile(r"(.+)\.json")


def write_zeshel(
    folder: str | Path, source: str | Path, *, context: int = 32, overwrite: bool = False
) -> FolderSummary:
    """Write ZESHEL's documents and mentions as a BEIR folder.

    ``source`` has the release's two folders, their files plain or gzipped, a JSON object a line:

    - ``documents/WORLD.json``: ``document_id``, ``title``, ``text``. The documents of all worlds are the targets.
    - ``mentions/{train,val,test}.json``: ``mention_id``, ``context_document_id``, ``start_index``, ``end_index``,
      ``text``, ``label_document_id``. They become the splits ``train``, ``dev`` and ``test``, and
      ``heldout_train_seen`` and ``heldout_train_unseen``, where they are there, splits of those names.

    A query is the mention in its context: ``words [START_ENT] mention [END_ENT] words`` (the marks of De Cao et al.,
    ICLR 2021, arXiv:2010.00904). Memory holds the queries; documents are written as they are read.

    Args:
        folder: to write; new or empty.
        source: folder of the files.
        context: words at most on each side of the mention.
        overwrite: whether a dataset that is there may be replaced.

    Raises:
        DataError: for a file that is missing or can't be read, a mention that is not where it says, or a document that
            no world has; names file and line.
        ValueError: ``context`` below 0.
    """
    if context < 0:
        raise ValueError(f"context must be 0 words or more, got {context}")
    documents = matching(Path(source) / "documents", _FILE)
    if not documents:
        raise DataError("the folder holds no WORLD.json (nor WORLD.json.gz)", Path(source) / "documents")
    mentions = {name: path for name, path in matching(Path(source) / "mentions", _FILE).items() if name in _SPLITS}
    for name in _NEEDED:
        if name not in mentions:
            raise DataError(f"there is no {name}.json (nor {name}.json.gz) in it", Path(source) / "mentions")
    with folder_writer(folder, overwrite=overwrite) as writer:
        by_document: dict[str, list[_Mention]] = {}
        ordered = [mention for name, path in mentions.items() for mention in _mentions(path, _SPLITS[name])]
        for mention in ordered:
            by_document.setdefault(mention.document, []).append(mention)
        for path in documents.values():
            _copy_documents(writer, path, by_document, context)
        for mention in ordered:
            if not mention.query:
                raise DataError(f"no world has the context document {mention.document!r}", *mention.place)
            writer.query(mention.identifier, mention.query, mention.place)
            writer.judge(mention.split, mention.identifier, mention.label, 1, mention.place)
            writer.count(mention.split)
    return writer.summary


@dataclass(slots=True)
class _Mention:
    """A line of a file of mentions; ``query`` is empty until its document was met."""

    identifier: str
    document: str
    label: str
    text: str
    start: int
    end: int
    split: str
    place: Place
    query: str = ""


def _mentions(path: Path, split: str) -> Iterator[_Mention]:
    for place, record in _records(path):
        for name in ("mention_id", "context_document_id", "label_document_id", "text"):
            if not isinstance(record.get(name), str) or not record[name]:
                raise DataError(f"this line needs a text as {name}, got {record.get(name)!r}", *place)
        start, end = record.get("start_index"), record.get("end_index")
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end):
            raise DataError(f"start_index and end_index must be places of words, got {start!r} and {end!r}", *place)
        yield _Mention(
            identifier=record["mention_id"],
            document=record["context_document_id"],
            label=record["label_document_id"],
            text=record["text"],
            start=start,
            end=end,
            split=split,
            place=place,
        )


def _copy_documents(writer: FolderWriter, path: Path, mentions: dict[str, list[_Mention]], context: int) -> None:
    """A world's documents, and the queries of the mentions in them."""
    for place, record in _records(path):
        identifier, title, text = (record.get(name) for name in ("document_id", "title", "text"))
        if not (isinstance(identifier, str) and isinstance(title, str) and isinstance(text, str)):
            raise DataError("this line needs document_id, title and text, all of them texts", *place)
        writer.target(identifier, title, text, place)
        words = text.split() if identifier in mentions else []
        for mention in mentions.get(identifier, ()):
            mention.query = _query(mention, words, context)


def _query(mention: _Mention, words: list[str], context: int) -> str:
    start, end = mention.start, mention.end + 1
    inside = " ".join(words[start:end])
    if inside != mention.text:
        raise DataError(
            f"the mention is {mention.text!r}, but words {start} to {mention.end} of {mention.document} are {inside!r}"[
                :300
            ],
            *mention.place,
        )
    before, after = words[max(0, start - context) : start], words[end : end + context]
    return " ".join([*before, _BEGIN, inside, _END, *after])


def _records(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"this line is not JSON: {error}", path, number) from error
        if not isinstance(record, dict):
            raise DataError("this line is no JSON object", path, number)
        yield Place(path, number), record
