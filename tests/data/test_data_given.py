"""Targets that are judged 0 or below, as given negatives of training pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardwood.data import RetrievalDataset
from hardwood.data.unseen import split_unseen
from hardwood.errors import DataError

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]

CORPUS = "".join(f'{{"_id": "d{i}", "title": "", "text": "text {i}"}}\n' for i in range(8))
CORPUS += '{"_id": "twin", "title": "", "text": "text 0"}\n'
QUERIES = '{"_id": "a", "text": "one"}\n{"_id": "b", "text": "two"}\n'
QRELS = "query-id\tcorpus-id\tscore\n" + "".join(
    f"{line}\n".replace(" ", "\t")
    for line in ("a d5 0", "a d0 1", "b d1 2", "a d3 -1", "a d4 0", "b d2 -1", "b d6 1", "a twin 0")
)
FILES: dict[str, str | bytes | None] = {
    "corpus.jsonl": CORPUS,
    "queries.jsonl": QUERIES,
    "qrels/train.tsv": QRELS,
    "qrels/test.tsv": None,
}


def test_the_first_of_each_query_are_given(make_folder: MakeFolder) -> None:
    dataset = RetrievalDataset.load(make_folder(FILES))
    with pytest.warns(UserWarning, match=r"1 are left out, since a positive .*; 1 of 2 queries have fewer than 2"):
        pairs = dataset.training_pairs(given_negatives=2)
    assert pairs.column_names == ["anchor", "positive", "negative", "negative_1", "label"]
    rows = pairs[:]
    # d5 and d3 come first in the file; b has d2 alone, for each of its positives; twin says what a's positive says.
    assert rows["label"] == [[0, 0, 5, 3], [1, 1, 2, 2], [1, 6, 2, 2]]
    assert rows["negative"] == ["text 5", "text 2", "text 2"]
    assert rows["negative_1"] == ["text 3", "text 2", "text 2"]


def test_nothing_changes_where_none_is_asked_for(make_folder: MakeFolder) -> None:
    positives = [line for line in QRELS.splitlines() if not line.endswith(("\t0", "\t-1"))]
    plain = RetrievalDataset.load(make_folder({**FILES, "qrels/train.tsv": "\n".join(positives) + "\n"}))
    dataset = RetrievalDataset.load(make_folder(FILES))
    assert plain.split("train").negatives is None
    for name in ("queries", "grades"):
        assert np.array_equal(getattr(plain.split("train"), name), getattr(dataset.split("train"), name))
    assert np.array_equal(plain.split("train").positives.values, dataset.split("train").positives.values)
    assert dataset.training_pairs()[:] == plain.training_pairs()[:]
    assert np.array_equal(dataset.never_negatives("train").values, plain.never_negatives("train").values)


def test_they_go_with_their_queries(make_folder: MakeFolder) -> None:
    taken = RetrievalDataset.load(make_folder(FILES)).split("train").take(np.array([1, 0]))
    assert taken.negatives is not None
    assert taken.negative_grades is not None
    assert [row.tolist() for row in taken.negatives] == [[2], [5, 3, 4, 8]]
    assert taken.negative_grades.tolist() == [-1, 0, -1, 0, 0]


def test_a_split_of_unseen_targets_keeps_them(make_folder: MakeFolder) -> None:
    made = split_unseen(RetrievalDataset.load(make_folder(FILES)), count=1, seed=0)
    found = {name: split.negatives for name, split in made.splits.items()}
    assert all(negatives is not None for negatives in found.values()), found
    kept = {tuple(row) for negatives in found.values() for row in negatives or ()}
    assert kept == {(5, 3, 4, 8), (2,)}


def test_they_are_saved(make_folder: MakeFolder, tmp_path: Path) -> None:
    dataset = RetrievalDataset.load(make_folder(FILES))
    dataset.save(tmp_path / "saved")
    again = RetrievalDataset.load(tmp_path / "saved").split("train")
    split = dataset.split("train")
    assert split.negatives is not None
    assert again.negatives is not None
    assert [row.tolist() for row in again.negatives] == [row.tolist() for row in split.negatives] == [[5, 3, 4, 8], [2]]
    assert again.negative_grades is not None
    assert again.negative_grades.tolist() == [0, -1, 0, 0, -1]


def test_queries_without_any_are_counted(make_folder: MakeFolder) -> None:
    fewer = QRELS.replace("b\td2\t-1\n", "")
    dataset = RetrievalDataset.load(make_folder({**FILES, "qrels/train.tsv": fewer}))
    with pytest.raises(DataError, match=r"1 of 2 queries of the split 'train' have none .* 'b'"):
        dataset.training_pairs(given_negatives=1)
    with pytest.raises(ValueError, match=r"given_negatives must be 0 or more, got -1"):
        dataset.training_pairs(given_negatives=-1)
