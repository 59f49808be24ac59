"""Every way in which a folder can be wrong is told with its file and line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from woods import FILES

from hardwood import DataError
from hardwood.data import RetrievalDataset

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]

GOOD = '\n{"_id": "d1", "text": "x"}\n\n'  # the next line is the fourth
QRELS = "query-id\tcorpus-id\tscore\n\nq2\t2\t1\n"  # likewise

RECORDS = [
    ('{"_id": "d2", "text": "x"', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('["d2", "x"]', "JSON array, not an object"),
    ("7", "JSON number, not an object"),
    ('{"text": "x"}', "no _id"),
    ('{"_id": "", "text": "x"}', "empty _id"),
    ('{"_id": "  ", "text": "x"}', "empty _id"),
    ('{"_id": null, "text": "x"}', "a null as _id"),
    ('{"_id": true, "text": "x"}', "a boolean as _id"),
    ('{"_id": 1.5, "text": "x"}', "a number as _id"),
    ('{"_id": "a\\tb", "text": "x"}', "tab or line break"),
    ('{"_id": "d2"}', "no text"),
    ('{"_id": "d2", "text": null}', "a null as text"),
    ('{"_id": "d2", "text": ["x"]}', "an? array as text"),
    ('{"_id": "d2", "text": ""}', "'d2' has an empty text"),
    ('{"_id": "d2", "text": " \\n"}', "'d2' has an empty text"),
    ('{"_id": "d1", "text": "y"}', "the _id 'd1' is already on line 2"),
    ('{"_id": "d2", "text": "\\ud800"}', "lone surrogate"),
    (b'{"_id": "d2", "text": "\xff"}', "not UTF-8"),
]


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(("record", "message"), RECORDS)
def test_broken_record(make_folder: MakeFolder, name: str, record: str | bytes, message: str) -> None:
    line = record if isinstance(record, bytes) else record.encode()
    folder = make_folder({name: GOOD.encode() + line + b'\n{"_id": "d9", "text": "x"}\n'})
    with pytest.raises(DataError, match=message) as caught:
        RetrievalDataset.load(folder)
    assert caught.value.path == folder / name
    assert caught.value.line == 4
    assert str(caught.value).startswith(f"{folder / name}:4: ")


def test_surrogate_is_found_among_good_rows(make_folder: MakeFolder) -> None:
    lines = [f'{{"_id": "d{i}", "text": "x"}}\n' for i in range(9000)]
    lines[8500] = '{"_id": "\\udfff", "text": "x"}\n'
    with pytest.raises(DataError, match="lone surrogate") as caught:
        RetrievalDataset.load(make_folder({"corpus.jsonl": "".join(lines)}))
    assert caught.value.line == 8501


def test_title_must_be_a_string_in_the_corpus_only(make_folder: MakeFolder) -> None:
    record = '{"_id": "q1", "title": 5, "text": "x"}\n'
    with pytest.raises(DataError, match="a number as title"):
        RetrievalDataset.load(make_folder({"corpus.jsonl": record}))
    queries = record + '{"_id": "q2", "text": "y"}\n{"_id": "3", "text": "z"}'
    corpus = '{"_id": "only title", "title": "x", "text": ""}\n{"_id": "d4", "title": null, "text": "x"}\n'
    folder = make_folder({"corpus.jsonl": FILES["corpus.jsonl"] + corpus, "queries.jsonl": queries})
    assert RetrievalDataset.load(folder).corpus.texts([3, 4]) == ["x", "x"]


QRELS_LINES = [
    ("q9\td1\t1", "'q9' is not in queries.jsonl"),
    ("q1\td9\t1", "'d9' is not in corpus.jsonl"),
    ("q1\td1", "2 tab-separated columns, not 3"),
    ("q1\t0\td1\t1", "4 tab-separated columns, not 3"),
    ("q1 d1 1", "1 tab-separated columns, not 3"),
    ("q1\td1\t1.5", r"score '1\.5' is not an integer"),
    ("q1\td1\t1_0", "not an integer"),
    ("q1\td1\t", "not an integer"),
    ("q1\td1\t2147483648", "not an integer of 32 bits"),
    ("query-id\tcorpus-id\tscore", "score 'score' is not an integer"),
    ("q2\t2\t0", "already judged on line 3"),
    ("q1\td1\t0", "'q1' has no target with a score above 0"),
    ("q1\td1\t-1", "'q1' has no target with a score above 0"),
    (b"q1\t\xff\t1", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), QRELS_LINES)
def test_broken_qrels(make_folder: MakeFolder, line: str | bytes, message: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    folder = make_folder({"qrels/train.tsv": QRELS.encode() + raw + b"\nq2\td3\t1\n"})
    with pytest.raises(DataError, match=message) as caught:
        RetrievalDataset.load(folder)
    assert caught.value.path == folder / "qrels" / "train.tsv"
    assert caught.value.line == 4


def test_lines_are_right_without_a_header(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="already judged on line 1") as caught:
        RetrievalDataset.load(make_folder({"qrels/train.tsv": "q2\t2\t1\nq1\td1\t1\nq2\t2\t1\n"}))
    assert caught.value.line == 3


def test_a_bad_score_on_the_first_line_is_no_header(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match="'high' is not an integer") as caught:
        RetrievalDataset.load(make_folder({"qrels/train.tsv": "q2\t2\thigh\n"}))
    assert caught.value.line == 1


def test_unjudged_query(make_folder: MakeFolder) -> None:
    folder = make_folder({"qrels/test.tsv": None})
    with pytest.raises(DataError, match=r"'3' has no target in any split \(1 such\).*--ignore-unjudged") as caught:
        RetrievalDataset.load(folder)
    assert (caught.value.path, caught.value.line) == (folder / "queries.jsonl", 3)


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"corpus.jsonl": None}, "corpus.jsonl", "no such file"),
        ({"queries.jsonl": None}, "queries.jsonl", "no such file"),
        ({"corpus.jsonl": ""}, "corpus.jsonl", "holds no target"),
        ({"corpus.jsonl": "\n\n"}, "corpus.jsonl", "holds no target"),
        ({"queries.jsonl": ""}, "queries.jsonl", "holds no query"),
        ({"corpus.jsonl.gz": b""}, "corpus.jsonl", "keep one of the two"),
        ({"qrels/train.tsv": None, "qrels/test.tsv": None}, "qrels", "no such folder"),
        (
            {"qrels/train.tsv": None, "qrels/test.tsv": None, "qrels/x.txt": ""},
            "qrels",
            r"holds no SPLIT\.tsv",
        ),
        ({"qrels/train.tsv": ""}, "qrels/train.tsv", "split is empty"),
        ({"qrels/train.tsv": "query-id\tcorpus-id\tscore\n"}, "qrels/train.tsv", "split is empty"),
        ({"corpus.jsonl": None, "corpus.jsonl.gz": b"plain"}, "corpus.jsonl.gz", "can't be read"),
        (
            {"corpus.jsonl": None, "corpus.jsonl.gz": gzip.compress(b"x" * 99)[:-9]},
            "corpus.jsonl.gz",
            "can't be read",
        ),
    ],
)
def test_broken_files(
    make_folder: MakeFolder, changes: dict[str, str | bytes | None], where: str, message: str
) -> None:
    folder = make_folder(changes)
    with pytest.raises(DataError, match=message) as caught:
        RetrievalDataset.load(folder)
    assert caught.value.path == folder / where


def test_wrong_arguments(make_folder: MakeFolder) -> None:
    folder = make_folder({})
    with pytest.raises(DataError, match="there is no such folder"):
        RetrievalDataset.load(folder / "nowhere")
    with pytest.raises(DataError, match="no split 'dev'; the folder has test, train"):
        RetrievalDataset.load(folder, splits=["dev"])
    with pytest.raises(TypeError, match=r"splits=\['train'\]"):
        RetrievalDataset.load(folder, splits="train")
    with pytest.raises(ValueError, match="unjudged must be one of error, ignore, got 'drop'"):
        RetrievalDataset.load(folder, unjudged="drop")  # type: ignore[arg-type]
