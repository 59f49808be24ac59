"""What is saved is what was there, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood import DataError
from hardwood.data import Judgements, RetrievalDataset, TextTable

MakeFolder = Callable[[dict[str, str | bytes | None]], Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(one: RetrievalDataset, two: RetrievalDataset) -> bool:
    return (
        one.corpus.fields() == two.corpus.fields()
        and one.queries.fields() == two.queries.fields()
        and sorted(one.splits) == sorted(two.splits)
        and all(
            np.array_equal(left, right)
            for name in one.splits
            for left, right in zip(arrays(one.splits[name]), arrays(two.splits[name]), strict=True)
        )
    )


def arrays(split: Judgements) -> tuple[np.ndarray, ...]:
    return split.queries, split.positives.offsets, split.positives.values, split.grades


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
texts = anything.filter(lambda text: text.strip() != "")
identifiers = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1, max_size=8)
ids = st.one_of(identifiers.filter(lambda text: text.strip() != ""), st.integers().map(str))


@st.composite
def datasets_of_any_text(draw: st.DrawFn) -> RetrievalDataset:
    target_ids = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    query_ids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    n, m = len(target_ids), len(query_ids)
    titles = draw(st.lists(anything, min_size=n, max_size=n))
    corpus = TextTable.from_columns(target_ids, draw(st.lists(texts, min_size=n, max_size=n)), titles)
    queries = TextTable.from_columns(query_ids, draw(st.lists(texts, min_size=m, max_size=m)))
    pairs = [
        (query, target, draw(st.integers(1, 2**31 - 1)))
        for query in draw(st.permutations(range(m)))
        for target in draw(st.sets(st.integers(0, n - 1), min_size=1))
    ]
    rows, targets, grades = np.array(pairs, dtype=np.int64).T
    split = Judgements.from_triples(rows, targets, grades.astype(np.int32))
    return RetrievalDataset(corpus, queries, {"train": split, "a.b c": split})


@settings(max_examples=60, deadline=None)
@given(datasets_of_any_text())
def test_load_gives_back_what_was_saved(dataset: RetrievalDataset) -> None:
    with tempfile.TemporaryDirectory() as parent:
        dataset.save(Path(parent) / "deep" / "set")
        loaded = RetrievalDataset.load(Path(parent) / "deep" / "set")
    assert same(loaded, dataset)


def test_same_compares_everything(make_folder: MakeFolder) -> None:
    """The comparison that the test above rests on sees a changed text, grade and split."""
    whole = RetrievalDataset.load(make_folder({}))
    assert same(whole, RetrievalDataset.load(make_folder({})))
    for name, old, new in (
        ("corpus.jsonl", b"Oak", b"oak"),
        ("qrels/train.tsv", b"d3\t2", b"d3\t3"),
        ("qrels/train.tsv", b"q2\t2", b"q2\td3"),
    ):
        changed = (make_folder({}) / name).read_bytes().replace(old, new)
        assert not same(whole, RetrievalDataset.load(make_folder({name: changed})))


def test_saving_leaves_nothing_else(make_folder: MakeFolder, tmp_path: Path) -> None:
    dataset = RetrievalDataset.load(make_folder({}))
    (tmp_path / "empty").mkdir()
    dataset.save(tmp_path / "empty")
    assert sorted(contents(tmp_path / "empty")) == [
        "corpus.jsonl",
        "qrels/test.tsv",
        "qrels/train.tsv",
        "queries.jsonl",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "woods"]


def test_a_full_folder_is_refused_and_untouched(make_folder: MakeFolder) -> None:
    folder = make_folder({})
    before = contents(folder)
    dataset = RetrievalDataset.load(folder)
    with pytest.raises(DataError, match=r"not empty; .*overwrite=True"):
        dataset.save(folder)
    assert contents(folder) == before
    dataset.save(folder, overwrite=True)
    assert contents(folder) != before  # it lost the score of 0 and the file order
    assert sorted(path.name for path in folder.parent.iterdir()) == ["woods"]


def test_only_datasets_are_overwritten(make_folder: MakeFolder) -> None:
    folder = make_folder({"thesis.tex": "years of work"})
    with pytest.raises(DataError, match=r"also holds 'thesis\.tex'"):
        RetrievalDataset.load(folder).save(folder, overwrite=True)
    assert (folder / "thesis.tex").exists()
    with pytest.raises(DataError, match="this is a file"):
        RetrievalDataset.load(folder).save(folder / "thesis.tex", overwrite=True)


def test_a_failed_save_leaves_the_old_folder(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder({})
    before = contents(folder)
    dataset = RetrievalDataset.load(folder)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("hardwood.data.files.write._write_qrels", fail)
    for target in (folder, folder.parent / "new"):
        with pytest.raises(OSError, match="disk full"):
            dataset.save(target, overwrite=True)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["woods"]


def test_a_failed_rename_puts_the_old_folder_back(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder({})
    before = contents(folder)
    dataset = RetrievalDataset.load(folder)
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr("hardwood._files._exchange", lambda *_: False)  # as where folders can't be swapped
    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="busy"):
        dataset.save(folder, overwrite=True)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["woods"]


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\nb"])
def test_split_names_must_be_file_names(make_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    dataset = RetrievalDataset.load(make_folder({}))
    dataset.splits[name] = dataset.split("test")
    with pytest.raises(DataError, match="can't be a file"):
        dataset.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
