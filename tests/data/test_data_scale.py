"""The corpus of any size, on a toy taxonomy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_data_taxa import toy
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, write_scale
from hardwood.data.converters import scale as scale_module
from hardwood.data.converters.scale import GeneratedNames
from hardwood.data.converters.taxonomy import Taxonomy

SPECIES, GENUS = 0, 1


def woods() -> Taxonomy:
    """Three genera of 4, 9 and 2 species with 15 epithets, one name twice, and a strain."""
    species = [
        f"{genus} {'abcdefghijklmno'[i]}us" for genus, n in (("Aus", 4), ("Bus", 9), ("Cus", 2)) for i in range(n)
    ]
    species += ["Dus nus", "Dus ous", "Eus mus", "Eus lus", "Eus kus", "Eus jus"]
    names = [*species, "Aus", "Aus", "Aus aus strain 3", "Aus jus"]  # the last is of no rank
    size = len(names)
    return Taxonomy(
        ids=np.arange(1000, 1000 + size),
        parents=np.zeros(size, dtype=np.int64),
        ranks=np.array([SPECIES] * len(species) + [GENUS, GENUS, -1, -1], dtype=np.int8),
        is_named=np.array([True] * len(species) + [False] * 4),
        names=names,
        common_names={0: "first wood", 4: "second wood", 21: "aus tree", 22: "aus shrub", 5: "second wood"},
        descriptions={},
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_module, "read_taxonomy", woods)
    monkeypatch.setattr(scale_module, "_BLOCK", 4)
    monkeypatch.setattr(scale_module, "_FRACTIONS", (0, 0, 0))


def texts(folder: Path) -> list[str]:
    return RetrievalDataset.load(folder).corpus.texts()


def test_all_names_come_before_generated_ones_and_no_text_comes_twice(tmp_path: Path) -> None:
    real = set(woods().names)
    write_scale(tmp_path / "a", 40)
    found = texts(tmp_path / "a")
    assert len(found) == len(set(found)) == 40
    assert set(found[: len(real)]) == real
    for name in found[len(real) :]:  # a genus and an epithet, each of some species
        genus, epithet = name.split()
        assert any(other.startswith(f"{genus} ") for other in real)
        assert any(other.endswith(f" {epithet}") for other in real)


def test_every_combination_that_there_is_comes_once() -> None:
    made = GeneratedNames(woods(), np.random.default_rng(3))
    names = [name for block in made.blocks() for name in block]
    assert len(names) == len(set(names)) >= made.at_least > 0
    assert not set(names) & set(woods().names)
    # Of 15 epithets as many whole rounds as go in: 3 of 4 species, 1 of 9, 7 of 2; less what is real.
    assert made.at_least == 12 + 9 + 14 + 14 + 12 - len(set(woods().names) - {"Aus", "Aus aus strain 3"})
    first = [name.split()[0] for name in names[:10]]
    assert first.count("Bus") >= first.count("Cus")


def test_taxa_of_one_name_are_one_target_with_the_queries_of_both(tmp_path: Path) -> None:
    write_scale(tmp_path / "a", 24)
    dataset = RetrievalDataset.load(tmp_path / "a")
    split = dataset.split("train")
    asked = dict(zip(dataset.queries.texts(split.queries), split.positives, strict=True))
    found = {query: set(dataset.corpus.texts(rows)) for query, rows in asked.items()}
    assert found == {
        "first wood": {"Aus aus"},
        "second wood": {"Bus aus", "Bus bus"},
        "aus tree": {"Aus"},
        "aus shrub": {"Aus"},
    }


def test_the_same_seed_gives_the_same_folder_and_smaller_ones_are_in_it(tmp_path: Path) -> None:
    for name, targets, seed in (("a", 40, 0), ("b", 40, 0), ("c", 40, 1), ("d", 33, 0)):
        write_scale(tmp_path / name, targets, seed)
    for file in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert texts(tmp_path / "a") != texts(tmp_path / "c")
    assert texts(tmp_path / "a")[:33] == texts(tmp_path / "d")
    assert (tmp_path / "a/qrels/train.tsv").read_bytes() == (tmp_path / "d/qrels/train.tsv").read_bytes()


def test_the_command_refuses_what_cannot_be_had(tmp_path: Path) -> None:
    folder = str(tmp_path / "a")
    shown = CliRunner().invoke(app, ["data", "scale", folder, "--targets", "30"])
    assert shown.exit_code == 0, shown.output
    assert "30 targets; queries: train 4" in shown.output.replace("\n", " ")
    most = 24 + GeneratedNames(woods(), np.random.default_rng(0)).at_least
    for targets, message in ((1, "at least 2"), (most + 1, f"at most {most}")):
        refused = CliRunner().invoke(app, ["data", "scale", folder, "--targets", str(targets), "--overwrite"])
        assert refused.exit_code == 2
        assert message in refused.output
    assert len(texts(Path(folder))) == 30


def test_splits_are_made_as_those_of_the_taxa_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_module, "read_taxonomy", toy)
    monkeypatch.setattr(scale_module, "_FRACTIONS", (0.3, 0.2, 0.2))
    summary = write_scale(tmp_path / "a", 16)
    dataset = RetrievalDataset.load(tmp_path / "a")
    assert {name: len(split) for name, split in dataset.splits.items()} == summary.queries
    assert set(summary.queries) == {"train", "dev", "test", "test_unseen"}
    unseen = set(dataset.split("test_unseen").positives.values.tolist())
    assert not unseen & set(dataset.split("train").positives.values.tolist())
