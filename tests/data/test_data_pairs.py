"""Datasets from Hugging Face `datasets` of text pairs."""

from __future__ import annotations

from collections.abc import Iterator
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
    rows = datasets.Dataset.from_dict({"q": ["a", "b", "c"], "n": [1, 2, 3], "d": ["x", "y", "z"]}).select([2, 0])
    with pytest.warns(UserWarning, match=r"made of the columns 'q' and 'd'; these are not used: 'n' \(train\)"):
        dataset = RetrievalDataset.from_pairs(rows, anchor="q", positive="d", name="letters")
    assert dataset.corpus.texts() == ["z", "x"]
    assert dataset.queries.texts() == ["c", "a"]
    assert dataset.name == "letters"


def test_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict(
        {"anchor": [f"a{i % 7}" for i in range(100)], "positive": [f"p{i % 11}" for i in range(100)]}
    )
    whole = RetrievalDataset.from_pairs(rows)
    monkeypatch.setattr("hardwood.data.records.pairs._BATCH", 3)
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


def test_columns_that_are_not_used_are_named_with_their_splits() -> None:
    one = datasets.Dataset.from_dict({**ROWS, "negative": ["x"] * 5, "id": range(5)})
    two = datasets.Dataset.from_dict({**ROWS, "id": range(5)})
    with pytest.warns(UserWarning, match=r"not used: 'negative' \(train\), 'id' \(train, dev\)"):
        dataset = RetrievalDataset.from_pairs(one, evaluation=two)
    assert dataset.corpus.texts() == ["pine", "oak", "ash"]
    with pytest.warns(UserWarning, match=r"'label' \(train\)"):  # rows of targets are no labels of 0 and 1
        RetrievalDataset.from_pairs(dataset.training_pairs())


def test_triplets_are_labelled_as_the_warning_says() -> None:
    triplets = datasets.Dataset.from_dict({**ROWS, "negative": ["fir", "elm", "yew", "fir", "box"]})
    with pytest.warns(UserWarning, match=r"corpus=data\['negative'\]\) and train on dataset.label_pairs\(data\)"):
        without = RetrievalDataset.from_pairs(triplets)
    with pytest.raises(DataError, match=r"5 of 'negative' .*from_pairs\(pairs, corpus=texts\)"):
        without.label_pairs(triplets)
    dataset = RetrievalDataset.from_pairs(triplets, corpus=triplets["negative"])
    rows = [label[2] for label in dataset.label_pairs(triplets)["label"]]
    assert dataset.corpus.texts(rows) == triplets["negative"][:]


@pytest.mark.parametrize("as_dataset", ["list", "positive", "text"])
def test_the_whole_corpus(as_dataset: str) -> None:
    texts = ["teak", " oak", "elm", "teak"]
    corpus = texts if as_dataset == "list" else datasets.Dataset.from_dict({as_dataset: texts})
    dataset = RetrievalDataset.from_pairs(datasets.Dataset.from_dict(ROWS), corpus=corpus)
    assert dataset.corpus.texts() == ["pine", "oak", "ash", "teak", "elm"]
    assert [row.tolist() for row in dataset.split("train").positives] == [[0], [1, 2], [0]]


def test_a_corpus_that_is_none() -> None:
    rows = datasets.Dataset.from_dict(ROWS)
    for wrong in ("oak", [1], [None]):
        with pytest.raises(TypeError, match="corpus must be a list of texts"):
            RetrievalDataset.from_pairs(rows, corpus=wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="row 1 of the corpus has an empty 'text'"):
        RetrievalDataset.from_pairs(rows, corpus=["oak", " "])
    with pytest.raises(DataError, match="the corpus has no column 'positive'; it has id, text"):
        RetrievalDataset.from_pairs(rows, corpus=datasets.Dataset.from_dict({"id": ["a"], "text": ["b"]}))


@pytest.mark.parametrize("labels", [[1, 0, 1, 1, 0], [1.0, 0.0, 1.0, 1.0, 0.0], [True, False, True, True, False]])
@pytest.mark.parametrize("column", ["label", "score"])
def test_rows_labelled_0_are_no_positives(column: str, labels: list[object]) -> None:
    dataset = RetrievalDataset.from_pairs(datasets.Dataset.from_dict({**ROWS, column: labels}))
    assert dataset.corpus.texts() == ["pine", "oak", "ash"]  # their targets are targets
    assert dataset.queries.texts() == ["soft", "hard"]  # "light" has no positive, so nothing would judge it
    assert [row.tolist() for row in dataset.split("train").positives] == [[0], [1, 2]]
    dataset = RetrievalDataset.from_pairs(datasets.Dataset.from_dict({**ROWS, column: [0, 0, 0, 0, 1]}))
    assert dataset.training_pairs()["anchor"][:] == ["light"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"label": [1, 2, 0, 0, 0]}, "row 1 of split 'train' has 2 as 'label', but only 0"),
        ({"score": [1, 0, 0.87, 0, 0]}, "row 2 of split 'train' has 0.87 as 'score'"),
        ({"label": [1, None, 0, 0, 0]}, "row 1 of split 'train' has None as 'label'"),
        ({"label": [0] * 5}, "no row of split 'train' has 1 as 'label'"),
        ({"label": [1] * 5, "score": [1] * 5}, "has labels in the columns label and score"),
    ],
)
def test_labels_that_are_not_understood(labels: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RetrievalDataset.from_pairs(datasets.Dataset.from_dict({**ROWS, **labels}))


def upper(row: dict[str, str]) -> dict[str, str]:
    return {"anchor": row["anchor"].upper(), "positive": row["positive"]}


def generated() -> Iterator[dict[str, str]]:
    for anchor, positive in zip(*ROWS.values(), strict=True):
        yield {"anchor": anchor, "positive": positive}


STREAMS = {
    "plain": lambda: datasets.Dataset.from_dict(ROWS).to_iterable_dataset(),
    "generated": lambda: datasets.IterableDataset.from_generator(generated),
    "mapped": lambda: datasets.Dataset.from_dict(ROWS).to_iterable_dataset().map(upper),
    "mapped, then renamed": lambda: (
        datasets.Dataset.from_dict({"a": ROWS["anchor"], "positive": ROWS["positive"]})
        .to_iterable_dataset()
        .map(lambda row: {"a": row["a"].upper()})
        .rename_column("a", "anchor")
    ),
    "of tensors": lambda: datasets.Dataset.from_dict(ROWS).to_iterable_dataset().with_format("torch"),
    "mapped beforehand": lambda: datasets.Dataset.from_dict(ROWS).map(upper),
    "with a transform": lambda: datasets.Dataset.from_dict(ROWS).with_transform(
        lambda rows: {**rows, "anchor": [text.upper() for text in rows["anchor"]]}
    ),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("batch", [2, 65536])
def test_streams_mappings_and_transforms(kind: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardwood.data.records.pairs._BATCH", batch)
    dataset = RetrievalDataset.from_pairs(STREAMS[kind]())
    want = ["soft", "hard", "light"]
    assert dataset.queries.texts() == ([text.upper() for text in want] if "ma" in kind or "trans" in kind else want)
    assert dataset.corpus.texts() == ["pine", "oak", "ash"]
    assert [row.tolist() for row in dataset.split("train").positives] == [[0], [1, 2], [0]]


def test_streams_that_do_not_fit() -> None:
    def rows(*items: dict[str, object]) -> datasets.IterableDataset:
        return datasets.IterableDataset.from_generator(lambda: iter(items))

    good = {"anchor": "a", "positive": "x"}
    with pytest.raises(DataError, match="split 'train' has no column 'positive'; it has anchor"):
        RetrievalDataset.from_pairs(rows({"anchor": "a"}))
    with pytest.raises(DataError, match="split 'train' has no rows"):
        RetrievalDataset.from_pairs(rows().filter(lambda row: False))
    with pytest.raises(DataError, match="row 1 of split 'train' has an empty 'positive'"):
        RetrievalDataset.from_pairs(rows(good, {"anchor": "b", "positive": None}))
    with pytest.raises(DataError, match="holds values of several kinds"):
        RetrievalDataset.from_pairs(rows(good, {"anchor": 1, "positive": "x"}))


def test_bad_arguments() -> None:
    rows = datasets.Dataset.from_dict(ROWS)
    with pytest.raises(DataError, match="both data and evaluation have a split 'train'"):
        RetrievalDataset.from_pairs(rows, evaluation={"train": rows})
    with pytest.raises(DataError, match="no splits"):
        RetrievalDataset.from_pairs({})
    with pytest.raises(TypeError, match=r"'train' must be a datasets\.Dataset, got a list"):
        RetrievalDataset.from_pairs([("a", "b")])  # type: ignore[arg-type]


def test_the_corpus_may_be_an_iterator() -> None:
    pairs = datasets.Dataset.from_dict({"anchor": ["a", "b"], "positive": ["one", "two"]})
    dataset = RetrievalDataset.from_pairs(pairs, corpus=(text for text in ["three", "one"]))
    assert sorted(dataset.corpus.texts()) == ["one", "three", "two"]


def test_own_pairs_that_are_labelled_as_wrong_are_refused() -> None:
    pairs = {"anchor": ["a", "b", "b"], "positive": ["one", "two", "one"]}
    dataset = RetrievalDataset.from_pairs(
        datasets.Dataset.from_dict({"anchor": ["a", "b"], "positive": ["one", "two"]})
    )
    labelled = datasets.Dataset.from_dict({**pairs, "label": [1, 1, 0]})
    with pytest.raises(DataError, match="of 3 pairs 1 have 0 as 'label'"):
        dataset.label_pairs(labelled)
    for scores in ([1, 1, 1], [0.5, 0.0, 0.25]):  # all right, and similarities
        found = dataset.label_pairs(datasets.Dataset.from_dict({**pairs, "label": scores}))
        assert found["label"] == [[0, 0], [1, 1], [1, 0]]
