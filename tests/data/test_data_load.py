"""Good BEIR folders: what is read, and in how much memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from woods import FILES

from hardwood.data import RetrievalDataset
from hardwood.data.files.beir_lines import read_table

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]


def check_woods(dataset: RetrievalDataset) -> None:
    assert dataset.corpus.ids() == ["d1", "2", "d3"]
    assert dataset.corpus.texts() == ["Oak a hardwood", "a softwood", "balsa"]
    assert dataset.queries.ids() == ["q1", "q2", "3"]
    train = dataset.split("train")
    assert train.queries.tolist() == [1, 0]
    assert [row.tolist() for row in train.positives] == [[1], [0, 2]]
    assert train.grades.tolist() == [1, 1, 2]
    assert train.grades.dtype == np.int32
    assert train.queries.dtype == np.int64
    assert len(train) == 2
    assert dataset.split("test").queries.tolist() == [2]


def test_a_folder_is_read(make_folder: MakeFolder) -> None:
    dataset = RetrievalDataset.load(make_folder({}))
    check_woods(dataset)
    assert dataset.name == "woods"
    assert list(dataset.splits) == ["test", "train"]
    assert "3 targets" in repr(dataset)


def test_bom_windows_line_ends_and_blank_lines_do_no_harm(make_folder: MakeFolder) -> None:
    changed = {name: b"\xef\xbb\xbf" + ("\n \n" + text).replace("\n", "\r\n").encode() for name, text in FILES.items()}
    check_woods(RetrievalDataset.load(make_folder({**changed})))


def test_qrels_without_a_header(make_folder: MakeFolder) -> None:
    train, test = (FILES[f"qrels/{name}.tsv"].split("\n", 1)[1] for name in ("train", "test"))
    check_woods(RetrievalDataset.load(make_folder({"qrels/train.tsv": train, "qrels/test.tsv": test.rstrip("\n")})))


def test_gzipped_files(make_folder: MakeFolder) -> None:
    changes: dict[str, str | bytes | None] = dict.fromkeys(FILES)
    changes |= {f"{name}.gz": gzip.compress(text.encode()) for name, text in FILES.items()}
    check_woods(RetrievalDataset.load(make_folder(changes)))


def test_line_separators_inside_strings_end_no_line(make_folder: MakeFolder) -> None:
    text = "a\u2028b\u0085c\x0b"
    corpus = FILES["corpus.jsonl"] + json.dumps({"_id": "d4", "text": text}, ensure_ascii=False) + "\n"
    assert RetrievalDataset.load(make_folder({"corpus.jsonl": corpus})).corpus.fields([3])[0]["text"] == text


def test_only_the_splits_asked_for_are_read(make_folder: MakeFolder) -> None:
    folder = make_folder({"qrels/test.tsv": "broken"})
    dataset = RetrievalDataset.load(folder, splits=["train"])  # query "3" is unjudged here: no error
    assert list(dataset.splits) == ["train"]
    with pytest.raises(ValueError, match=r"no split 'test'; woods has train"):
        dataset.split("test")


def test_unjudged_queries_can_be_ignored(make_folder: MakeFolder) -> None:
    dataset = RetrievalDataset.load(make_folder({"qrels/test.tsv": None}), unjudged="ignore")
    assert len(dataset.queries) == 3
    assert dataset.known_positives().counts.tolist() == [2, 1, 0]


def test_hidden_files_are_no_splits(make_folder: MakeFolder) -> None:
    check_woods(RetrievalDataset.load(make_folder({"qrels/._train.tsv": "x", "qrels/readme.txt": "x"})))


def test_known_positives_are_by_query_row(make_folder: MakeFolder) -> None:
    dataset = RetrievalDataset.load(make_folder({}))
    assert [row.tolist() for row in dataset.known_positives("train")] == [[0, 2], [1], []]
    assert [row.tolist() for row in dataset.known_positives("test")] == [[], [], [2]]


def test_first_appearance_counts_lines_with_score_0(make_folder: MakeFolder) -> None:
    dataset = RetrievalDataset.load(make_folder({"qrels/train.tsv": "q2\td1\t0\nq1\td1\t1\nq2\td3\t1\n"}))
    assert dataset.split("train").queries.tolist() == [1, 0]


def test_training_pairs(make_folder: MakeFolder) -> None:
    pairs = RetrievalDataset.load(make_folder({})).training_pairs()
    assert pairs.column_names == ["anchor", "positive", "label"]
    assert pairs[:] == {
        "anchor": ["soft?", "hard?", "hard?"],
        "positive": ["a softwood", "Oak a hardwood", "balsa"],
        "label": [[1, 1], [0, 0], [0, 2]],
    }
    assert pairs.with_format("torch")[:]["label"].shape == (3, 2)


def test_training_pairs_of_several_blocks(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = RetrievalDataset.load(make_folder({}))
    whole = dataset.training_pairs()[:]
    monkeypatch.setattr("hardwood.data._dataset._PAIR_BLOCK", 2)
    assert dataset.training_pairs()[:] == whole


@pytest.mark.slow
def test_reading_streams(tmp_path: Path) -> None:
    """Python's own memory stays far below the file: rows go to Arrow a batch at a time."""
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as handle:
        handle.writelines(f'{{"_id": "d{i}", "title": "t", "text": "{"word " * 20}{i}"}}\n' for i in range(200_000))
    tracemalloc.start()
    try:
        table = read_table(path, "target", titles=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table) == 200_000
    assert peak < path.stat().st_size / 4, f"{peak:,} bytes"  # all rows as Python strings would exceed the file
    assert table.nbytes < 1.2 * path.stat().st_size
