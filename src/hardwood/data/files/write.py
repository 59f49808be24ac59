"""BEIR folders, written whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from hardwood._files import folder_written_whole
from hardwood.data.files.answers import ANSWERS, Answers, write_answers
from hardwood.data.records.judgements import Judgements
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError

_OURS = {"corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "queries.jsonl.gz", "qrels", ANSWERS, f"{ANSWERS}.gz"}
_SPLIT_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")
_BATCH = 65536


def write_folder(
    folder: Path,
    corpus: TextTable,
    queries: TextTable,
    splits: dict[str, Judgements],
    overwrite: bool,
    answers: Answers | None = None,
) -> None:
    """Write everything beside ``folder`` first, then put it there."""
    for name in splits:
        if not _SPLIT_NAME.fullmatch(name):
            raise DataError(f"a split named {name!r} can't be a file; rename it")
    folder = folder.resolve()
    check_free(folder, overwrite)
    with folder_written_whole(folder) as fresh:
        (fresh / "qrels").mkdir()
        _write_table(fresh / "corpus.jsonl", corpus, titles=True)
        _write_table(fresh / "queries.jsonl", queries, titles=False)
        for name, judgements in splits.items():
            _write_qrels(fresh / "qrels" / f"{name}.tsv", judgements, queries, corpus)
        if answers is not None:
            write_answers(fresh / ANSWERS, answers, queries)
        check_free(folder, overwrite)  # writing takes a while


def check_free(folder: Path, overwrite: bool) -> None:
    """``DataError`` unless a dataset may be written there: the folder is new, or empty, or one that may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError("this is a file; give the name of a folder", folder)
    content = {path.name for path in folder.iterdir()}
    if content and not overwrite:
        raise DataError("the folder is not empty; choose another, or allow overwrite=True", folder)
    if strangers := sorted(content - _OURS):
        raise DataError(f"the folder also holds {strangers[0]!r}, which is no dataset's; not overwritten", folder)


def _write_table(path: Path, table: TextTable, titles: bool) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        for row in table.iter_fields():
            record = {"_id": row["id"], **({"title": row["title"]} if titles else {}), "text": row["text"]}
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_qrels(path: Path, judgements: Judgements, queries: TextTable, corpus: TextTable) -> None:
    query_rows, target_rows = judgements.pairs()
    grades = judgements.grades
    if judgements.negatives is not None and judgements.negative_grades is not None:
        query_rows = np.concatenate([query_rows, judgements.queries[judgements.negatives.row_ids()]])
        target_rows = np.concatenate([target_rows, judgements.negatives.values])
        grades = np.concatenate([grades, judgements.negative_grades])
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write("query-id\tcorpus-id\tscore\n")
        for start in range(0, len(query_rows), _BATCH):
            block = slice(start, start + _BATCH)
            columns = (
                queries.ids(query_rows[block]),
                corpus.ids(target_rows[block]),
                grades[block],
            )
            handle.writelines(f"{query}\t{target}\t{grade}\n" for query, target, grade in zip(*columns, strict=True))
        missing = judgements.missing  # without them, measures of the folder would be better than those of the dataset
        owners = queries.ids(judgements.queries[missing.places])
        handle.writelines(f"{q}\t{t}\t{g}\n" for q, t, g in zip(owners, missing.ids, missing.grades, strict=True))
