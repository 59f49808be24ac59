"""Data in any form, read by one function: tables of pairs, folders of them, saved ``datasets``, BEIR's forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from woods import FILES

from hardwood.data import RetrievalDataset, read_dataset
from hardwood.errors import DataError

EXAMPLE = Path(__file__).parents[2] / "examples" / "pairs.csv"
# what a reader that guesses types would take for a missing value, a number and a date
ROWS = [("NA", "null"), ("007", "2020-01-01"), ('say "hi",\nplease', "1e3"), ("über", "true")]


def written(folder: Path, ending: str) -> Path:
    import csv

    path = folder / f"mine{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table({"query": [q for q, _ in ROWS], "text": [t for _, t in ROWS]}), path)
    elif ending.startswith(".json"):
        content = "".join(json.dumps({"query": q, "text": t, "n": 1}) + "\n" for q, t in ROWS).encode()
        path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    else:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, "excel-tab" if ending == ".tsv" else "excel").writerows([("query", "text"), *ROWS])
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_texts_stay_what_they_are(tmp_path: Path, ending: str) -> None:
    said: list[str] = []
    data = read_dataset(written(tmp_path, ending), positive="text", test_share=0, announce=said.append)
    queries, targets = data.split("train").pairs()
    assert list(zip(data.queries.texts(queries), data.corpus.texts(targets), strict=True)) == ROWS
    assert data.name == "mine"
    assert "takes 'query' as --query" in said[0]
    assert ("does not use 'n'" in said[0]) == ending.startswith(".json")


def test_a_test_is_made_by_target_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    data = read_dataset(EXAMPLE)
    assert "5 targets and all 10 queries" in capfd.readouterr().err
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 90, "test": 10}
    assert len(data.seen_and_unseen("test")["seen"]) == 0
    assert len(data.corpus) == 50
    again = read_dataset(EXAMPLE, announce=lambda line: None)
    assert again.split("test").queries.tolist() == data.split("test").queries.tolist()


def test_too_few_to_hold_out_some(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("query,answer\na,b\nc,d\n")
    with pytest.raises(DataError, match=r"none could be made.*--test-share 0"):
        read_dataset(tmp_path / "two.csv")
    with pytest.raises(ValueError, match="test_share must lie in"):
        read_dataset(tmp_path / "two.csv", test_share=1)


def test_a_folder_of_tables_is_its_splits(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002.csv").write_text("anchor,positive\na,b\n")
    (tmp_path / "train-00001-of-00002.csv").write_text("positive,anchor\nd,c\n")
    (tmp_path / "test.jsonl").write_text('{"anchor": "e", "positive": "b"}\n')
    data = read_dataset(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "test": 1}
    assert data.corpus.texts(data.split("train").pairs()[1]) == ["b", "d"]
    (tmp_path / "dev.csv").write_text("question,positive\na,b\n")
    with pytest.raises(DataError, match=r"test\.jsonl: there is no column 'question'"):
        read_dataset(tmp_path)


def test_what_datasets_saved(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": ["c", "d"]})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(str(tmp_path / "two"))
    assert len(read_dataset(tmp_path / "one", test_share=0).split("train")) == 2
    assert list(read_dataset(tmp_path / "two").splits) == ["train", "dev"]


def test_a_beir_folder_is_read_as_it_was(make_folder: Any) -> None:
    folder = make_folder({})
    assert read_dataset(folder).splits.keys() == RetrievalDataset.load(folder).splits.keys()
    with pytest.raises(ValueError, match="has no columns to name: leave out query"):
        read_dataset(folder, query="text")
    alone = make_folder({name: None for name in FILES if name.startswith("qrels/") and "train" not in name})
    for path in (alone / "qrels").iterdir():
        if path.stem != "train":
            path.unlink()
    with pytest.raises(DataError, match="none could be made"):
        read_dataset(alone, unjudged="ignore", test_share=0.001)


def test_a_corpus_adds_what_no_pair_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "passage": ["null", "other", " other "]}), tmp_path / "all.parquet")
    said: list[str] = []
    data = read_dataset(written(tmp_path, ".csv"), positive="text", corpus=tmp_path / "all.parquet", test_share=0,
                        announce=said.append)  # fmt: skip
    assert data.corpus.texts() == [*(text for _, text in ROWS), "other"]
    assert any("3 targets of pairs are not in it" in line for line in said)
    assert any("takes 'passage' as --corpus-column; does not use 'id'" in line for line in said)
    with pytest.raises(DataError, match="there is no column 'body'; the columns are 'id', 'passage'"):
        read_dataset(EXAMPLE, corpus=tmp_path / "all.parquet", corpus_column="body")
    with pytest.raises(ValueError, match="none was given"):
        read_dataset(EXAMPLE, corpus_column="body")


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ("q,answer\na,b\n", {}, "--query.*the columns are 'q', 'answer', and none is called anchor"),
        ("query,question,answer\na,b,c\n", {}, "'query' and 'question' could both be meant"),
        ("query,answer\na,b\n", {"positive": "text"}, "no column 'text'; the columns are 'query', 'ans.*--positive"),
        ("query;answer\na;b\n", {}, "separated by ';'"),
        ("query,answer\na,b,c\n", {}, "can't be read.*Expected 2 columns"),
        ("query,answer\na,b\nc,\n", {}, "empty 'answer'; --lenient"),
        ("query,answer\n", {}, "has no rows"),
        ("", {}, "Empty CSV"),
    ],
)  # fmt: skip
def test_errors_name_file_columns_and_option(tmp_path: Path, content: str, given: dict[str, str], message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(path, **given)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("line", ['{"query": "a", "answer": ["b"]}', '{"query": "a", "answer": 3}', '[{"query": "a"}]'])
def test_json_that_is_no_pair_of_texts(tmp_path: Path, line: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="one pair of texts"):
        read_dataset(tmp_path / "pairs.jsonl")


def test_a_lenient_reader_counts_pairs_without_text(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"query": "a", "answer": "b"}\n{"query": "c"}\n{"query": " ", "answer": "d"}\n'
    )
    data = read_dataset(tmp_path / "pairs.jsonl", lenient=True, test_share=0)
    assert data.left_out == {"pairs without a query or a positive": 2}
    assert data.corpus.texts() == ["b"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_labels_say_which_pairs_are_positives(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs{ending}"
    rows = [("a", "b", 1), ("a", "c", 0)]
    lines = [json.dumps(dict(zip(("query", "answer", "label"), row, strict=True))) for row in rows]
    path.write_text("\n".join(lines if ending == ".jsonl" else ["query,answer,label", "a,b,1", "a,c,0"]) + "\n")
    said: list[str] = []
    data = read_dataset(path, test_share=0, announce=said.append)
    assert data.corpus.texts() == ["b", "c"]
    assert data.split("train").positives.values.tolist() == [0]
    assert "'label' says which pairs are positives" in said[0]


@pytest.mark.parametrize("source", ["nothing.csv", "nothing", "./nothing/at/all"])
def test_what_is_not_there_is_not_looked_for_on_the_hub(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delattr(huggingface_hub.HfApi, "repo_info")
    with pytest.raises(DataError, match="no such file or folder"):
        read_dataset(source)


def test_a_hub_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    asked = []

    def fail(self: object, name: str, **settings: Any) -> None:
        asked.append((name, settings["repo_type"], settings["timeout"]))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fail)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "7")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"no file or folder 'owner/name:part' here.*no network"):
        read_dataset("owner/name:part")
    assert asked == [("owner/name", "dataset", 7)]


def test_a_folder_or_file_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no dataset"):
        read_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(DataError, match="unknown kind"):
        read_dataset(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="this is a file"):
        RetrievalDataset.load(EXAMPLE)
