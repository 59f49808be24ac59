"""Datasets from Hugging Face `datasets` of text pairs."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from hardwood import DataError
from hardwood.data import RetrievalDataset

ROWS = {
    "anchor": ["soft", "hard", " hard", "hard", "light"],
    "positive": ["pine", "oak", "ash ", "oak", "pine"],
}


def test_equal_texts_are_one_query_and_one_target() -> None:
    dataset = RetrievalDataset.from_pairs(datasets.Dataset.from_dict(ROWS))
    assert dataset.corpus.texts() == ["pine", "oak", "ash"]
    assert dataset.corpus.ids() == ["t0", "t1", "t2"]
    assert dataset.queries.texts() == ["soft", "hard", "light"]
    assert dataset.queries.ids() == ["q0", "q1", "q2"]
    train = dataset.split("train")
    assert train.queries.tolist() == [0, 1, 2]
    assert [row.tolist() for row in train.positives] == [[0], [1, 2], [0]]
    assert train.grades.tolist() == [1, 1, 1, 1]


def test_splits_share_corpus_and_queries() -> None:
    one = datasets.Dataset.from_dict(ROWS)
    two = datasets.Dataset.from_dict({"anchor": ["hard", "red"], "positive": ["teak", "oak"]})
    dataset = RetrievalDataset.from_pairs(datasets.DatasetDict(train=one, test=two), evaluation=two)
    assert list(dataset.splits) == ["train", "test", "dev"]
    assert dataset.corpus.texts() == ["pine", "oak", "ash", "teak"]
    for name in ("test", "dev"):
        assert dataset.split(name).queries.tolist() == [1, 3]
        assert [row.tolist() for row in dataset.split(name).positives] == [[3], [1]]
    assert dataset.known_positives("train")[1].tolist() == [1, 2]


def test_selections_other_columns_and_names_are_respected() -> None:
    rows = datasets.Dataset.from_dict({"q": ["a", "b", "c"], "n": [1, 2, 3], "d": ["x", "y", "z"]}).select(
        [2, 0]
    )
    dataset = RetrievalDataset.from_pairs(rows, anchor="q", positive="d", name="letters")
    assert dataset.corpus.texts() == ["z", "x"]
    assert dataset.queries.texts() == ["c", "a"]
    assert dataset.name == "letters"


def test_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict(
        {"anchor": [f"a{i % 7}" for i in range(100)], "positive": [f"p{i % 11}" for i in range(100)]}
    )
    whole = RetrievalDataset.from_pairs(rows)
    monkeypatch.setattr("hardwood.data._pairs._BATCH", 3)
    small = RetrievalDataset.from_pairs(rows)
    assert (
        small.corpus.fields()
        == whole.corpus.fields()
        == [{"id": f"t{i}", "title": "", "text": f"p{i}"} for i in range(11)]
    )
    assert small.split("train").positives.counts.tolist() == [11] * 7
    assert small.training_pairs()[:] == whole.training_pairs()[:]


def test_they_can_be_saved(tmp_path: Path) -> None:
    dataset = RetrievalDataset.from_pairs(datasets.Dataset.from_dict(ROWS))
    dataset.save(tmp_path / "set")
    assert RetrievalDataset.load(tmp_path / "set").training_pairs()[:] == dataset.training_pairs()[:]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"anchor": ["a"], "target": ["x"]}, "'train' has no column 'positive'; it has anchor, target"),
        ({"anchor": ["a", " "], "positive": ["x", "y"]}, "row 1 of split 'train' has an empty 'anchor'"),
        ({"anchor": ["a", "b"], "positive": ["x", None]}, "row 1 of split 'train' has an empty 'positive'"),
        ({"anchor": [1], "positive": ["x"]}, "'anchor' of split 'train' holds int64, not strings"),
        ({"anchor": [], "positive": []}, "'train' has no rows"),
    ],
)
def test_bad_rows(rows: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RetrievalDataset.from_pairs(datasets.Dataset.from_dict(rows))


def test_bad_arguments() -> None:
    rows = datasets.Dataset.from_dict(ROWS)
    with pytest.raises(DataError, match="both data and evaluation have a split 'train'"):
        RetrievalDataset.from_pairs(rows, evaluation={"train": rows})
    with pytest.raises(DataError, match="no splits"):
        RetrievalDataset.from_pairs({})
    with pytest.raises(TypeError, match=r"'train' must be a datasets\.Dataset, not a list"):
        RetrievalDataset.from_pairs([("a", "b")])  # type: ignore[arg-type]
