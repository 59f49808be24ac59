"""MS MARCO passage ranking, from the files of its release.

The forms are those of https://microsoft.github.io/msmarco/Datasets (Bajaj et al., 2016, arXiv:1611.09268).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hardwood.data.files.folder_writer import FolderSummary, FolderWriter, Place, folder_writer
from hardwood.data.files.lines import numbered_lines
from hardwood.data.files.public_files import find_one, matching
from hardwood.errors import DataError

_QUERIES = re.compile(r"queries\.(.+)\.tsv")
_QRELS = re.compile(r"qrels\.(.+)\.tsv")
_TRIPLES = re.compile(r"qidpidtriples\.train\.full(?:\.2)?\.tsv")
_TRAIN = "train"
_MOST_PASSAGES = np.iinfo(np.int32).max


def write_msmarco(
    folder: str | Path, source: str | Path, *, given_negatives: int = 16, overwrite: bool = False
) -> FolderSummary:
    """Write MS MARCO's passages, queries and judgements as a BEIR folder.

    ``source`` holds these files, in folders of any depth, each plain or gzipped (unpack ``.tar.gz`` first):

    - ``collection.tsv``: passage id and passage
    - ``queries.NAME.tsv``: query id and query
    - ``qrels.SPLIT.tsv``, in TREC's form: query id, 0, passage id and grade. Each is a split of that name: ``train``,
      ``dev``, ``dev.small``. Queries that none judges are left out.
    - ``qidpidtriples.train.full.2.tsv``, if it is there: query id, positive and negative passage id. Negatives are
      judged 0 in ``train``, for ``given_negatives`` of training.

    Args:
        folder: to write; new or empty.
        source: folder of the files.
        given_negatives: the most negatives a query that are taken from the triples: its first ones. Memory holds 4
            bytes for each.
        overwrite: whether a dataset that is there may be replaced.

    Raises:
        DataError: for a file that is missing or can't be read, naming file and line.
        ValueError: ``given_negatives`` below 0.
    """
    if given_negatives < 0:
        raise ValueError(f"given_negatives must be 0 or more, got {given_negatives}")
    source = Path(source)
    collection, qrels = find_one(source, "collection.tsv"), matching(source, _QRELS)
    queries, triples = matching(source, _QUERIES), matching(source, _TRIPLES)
    if _TRAIN not in qrels:
        raise DataError("there is no qrels.train.tsv (nor qrels.train.tsv.gz) in it", source)
    with folder_writer(folder, overwrite=overwrite) as writer:
        judged: dict[str, Place] = {}  # each query, and where it was first named
        positives: dict[str, set[str]] = {}
        for split, path in qrels.items():
            _copy_qrels(writer, split, path, judged, positives)
        if triples and given_negatives:
            _add_negatives(writer, triples[""], positives, given_negatives)
        elif not triples:
            writer.note("there is no qidpidtriples.train.full.2.tsv, so no query has given negatives")
        _copy_queries(writer, list(queries.values()), judged)
        for place, (identifier, text) in _rows(collection, "passage id and passage"):
            writer.target(identifier, "", text, place)
    return writer.summary


def _copy_qrels(
    writer: FolderWriter, split: str, path: Path, judged: dict[str, Place], positives: dict[str, set[str]]
) -> None:
    """One file of judgements; gathers its queries, and the positives of training queries."""
    seen: dict[str, set[str]] = {}
    right: set[str] = set()
    for number, line in numbered_lines(path):
        fields, place = line.split(), Place(path, number)
        if len(fields) != 4 or not _is_integer(fields[3]):
            raise DataError("this line is not query id, 0, passage id and an integer grade", *place)
        query, _, target, grade = fields
        if target in seen.setdefault(query, set()):
            raise DataError(f"the query {query!r} and the passage {target!r} are judged on an earlier line", *place)
        seen[query].add(target)
        judged.setdefault(query, place)
        if int(grade) > 0:
            right.add(query)
        writer.judge(split, query, target, int(grade), place)
    if without := sorted(seen.keys() - right):
        raise DataError(f"the query {without[0]!r} has no passage of a grade above 0 ({len(without):,} such)", path)
    if not seen:
        raise DataError("the file holds no judgement", path)
    writer.count(split, len(seen))
    if split == _TRAIN:
        positives.update(seen)


def _add_negatives(writer: FolderWriter, path: Path, positives: dict[str, set[str]], count: int) -> None:
    """The first different negatives of each training query."""
    row_of = {query: row for row, query in enumerate(positives)}
    found: NDArray[np.int32] = np.zeros((len(row_of), count), dtype=np.int32)
    held = [0] * len(row_of)
    left_out = writer.summary.left_out
    beyond = 0
    for place, (query, _, target) in _rows(path, "query id, positive and negative passage id", width=3):
        row = row_of.get(query)
        if row is None:
            left_out["triples of queries that qrels.train.tsv does not judge"] += 1
        elif held[row] == count:
            beyond += 1
        elif target in positives[query]:
            left_out["negatives of triples that are positives of the query"] += 1
        else:
            number = int(target) if _is_integer(target) else -1
            if not 0 <= number <= _MOST_PASSAGES:
                raise DataError(f"the passage id {target!r} is no number", *place)
            if not (found[row, : held[row]] == number).any():
                found[row, held[row]] = number
                held[row] += 1
                writer.judge(_TRAIN, query, target, 0, place)
    if beyond:
        writer.note(
            f"{path.name}: of each query the first {count} negatives are kept; {beyond:,} triples come after these"
        )
    if without := sum(not number for number in held):
        writer.note(f"{path.name}: {without:,} of {len(held):,} training queries have no negative there")


def _copy_queries(writer: FolderWriter, paths: list[Path], judged: dict[str, Place]) -> None:
    """The queries that a split judges; one that stands in two files alike is one."""
    texts: dict[str, str] = {}
    unjudged = 0
    for path in paths:
        for place, (query, text) in _rows(path, "query id and query"):
            if query not in judged:
                unjudged += 1
            elif query not in texts:
                writer.query(query, text, place)
                texts[query] = text
            elif texts[query] != text:
                raise DataError(f"the query {query!r} has another text in a file before", *place)
    missing = next((query for query in judged if query not in texts), None)
    if missing is not None:
        raise DataError(
            f"the query {missing!r} is in no queries.*.tsv ({len(judged) - len(texts):,} such)", *judged[missing]
        )
    if unjudged:
        writer.summary.left_out["queries that no split judges"] += unjudged


def _rows(path: Path, columns: str, width: int = 2) -> Iterator[tuple[Place, list[str]]]:
    """Tab-separated rows without quotes."""
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if len(fields) != width:
            raise DataError(f"this line has {len(fields)} tab-separated columns, not {width} ({columns})", path, number)
        yield Place(path, number), fields


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()
