"""The set of natural language and code: find a Python function by the first sentence of its docstring.

The functions are those of the standard library and of the packages that are installed, so nothing is downloaded. Files
are parsed; nothing is imported or run. Each package has a licence of its own: keep the set to yourself, or look there.
"""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hardwood import _checks
from hardwood.data._dataset import RetrievalDataset
from hardwood.data.converters.functions import Function, read_functions
from hardwood.data.records.splits import split_judgements
from hardwood.data.records.table import TextTable
from hardwood.errors import DataError

LONGEST = 1000
"""Characters of a function's text; the rest is cut off."""

_FEWEST_WORDS, _MOST_CHARACTERS = 4, 300  # of a sentence
_MOST_FUNCTIONS = 5  # that one sentence may describe; more are not told apart by it ("Initialize the weights")
_MOST_OF_A_PACKAGE = 0.1  # of the pairs: a few packages have as many functions as all others together
_WORD = re.compile(r"\w+")
_LEFT_OUT = re.compile(
    r"(.*_)?tests?|testing|idle_test|lib2to3|(site|dist)-packages|_?vendor(ed)?|_?third_party|extern(als?)?|[._].*cache.*"
)
"""Folders of tests, of copies of other packages, and of what isn't the package's own."""

_CHOICE_SEED = 20_250_418
"""The texts are the same for every seed of the splits."""


class _Found(NamedTuple):
    """The functions of all packages. ``packages[i]`` is the package's number, ``ids[i]`` names it for a reader."""

    ids: list[str]
    packages: list[int]
    functions: list[Function]


def read_code(
    seed: int = 0,
    pairs: int = 20_000,
    undocumented: float = 0.5,
    test_fraction: float = 0.1,
    dev_fraction: float = 0.05,
    unseen_fraction: float = 0.1,
) -> RetrievalDataset:
    """The code set in memory: functions are targets, first sentences of docstrings are queries.

    A target is a function's source from ``def`` on, its name included, without docstrings and decorators, cut at 1,000
    characters. Functions of equal text are one target, and text that several packages have is left out. So are
    sentences of fewer than 4 words, those that describe more than 5 functions or functions of several packages, and
    those that stand word for word in their function, be it in a comment. Folders of tests and of other packages'
    copies are not read. A package gives at most a tenth of the pairs if the others have enough.

    Many functions of a real code base have no docstring. The corpus has as many of them as ``undocumented`` says: no
    query asks for them.

    Splits: ``test_unseen`` has all queries of some packages (modules, of the standard library), none of which is
    asked for in any other split; the others are divided at random into ``train``, ``dev`` and ``test``. As a function
    has one docstring, ``test`` too asks mostly for functions that training has only as negatives, but of packages that
    it knows. Texts depend on what is installed, not on the seed; in the same environment the same seed gives the same
    set.

    Args:
        seed: of the splits.
        pairs: the number of (sentence, function) pairs; fewer if so many aren't installed.
        undocumented: share of the corpus that no split asks for.
        test_fraction: share of the queries not in ``test_unseen`` that go to ``test``.
        dev_fraction: share of the same that go to ``dev``.
        unseen_fraction: share of the functions with queries that are held out, package by package. A split whose
            fraction is 0 is left out.

    Raises:
        DataError: no function with a fitting docstring is installed.
        ValueError: for fewer than 1 pair, a share outside [0, 1), or fractions that leave nothing to train on.
    """
    _checks.at_least(1, pairs, "pairs")
    if not 0 <= undocumented < 1:
        raise ValueError(f"undocumented is a share of the corpus, at least 0 and below 1, got {undocumented}")
    fractions = (test_fraction, dev_fraction, unseen_fraction)
    return _build(_installed(_roots()), seed, pairs, undocumented, *fractions)


def write_code(
    folder: str | Path,
    seed: int = 0,
    pairs: int = 20_000,
    undocumented: float = 0.5,
    test_fraction: float = 0.1,
    dev_fraction: float = 0.05,
    unseen_fraction: float = 0.1,
    *,
    overwrite: bool = False,
) -> RetrievalDataset:
    """Make the code set as ``read_code`` does, ``save`` it to a folder, and return it."""
    dataset = read_code(seed, pairs, undocumented, test_fraction, dev_fraction, unseen_fraction)
    dataset.save(folder, overwrite=overwrite)
    return dataset


def _roots() -> list[Path]:
    """The folders of the standard library and of this environment's packages."""
    paths = sysconfig.get_paths()
    return [Path(path) for path in dict.fromkeys(paths[kind] for kind in ("stdlib", "purelib", "platlib"))]


def _installed(roots: Sequence[Path]) -> _Found:
    """All functions, each text once, without those whose text several packages have; in the order of their names."""
    by_text: dict[str, tuple[str, int, Function]] = {}
    common: set[str] = set()
    numbers: dict[str, int] = {}
    for package, module, path in _modules(roots):
        number = numbers.setdefault(package, len(numbers))
        names: dict[str, int] = {}
        for function in read_functions(path):
            times = names[function.name] = names.get(function.name, 0) + 1
            identifier = f"{module}:{function.name}" + (f"#{times}" if times > 1 else "")
            text = function.code[:LONGEST].strip()
            found = by_text.setdefault(text, (identifier, number, function._replace(code=text)))
            if found[1] != number:
                common.add(text)
            elif not found[2].sentence and function.sentence:
                by_text[text] = (*found[:2], found[2]._replace(sentence=function.sentence))
    kept = [found for text, found in by_text.items() if text not in common]
    return _Found(*(list(column) for column in zip(*kept, strict=True))) if kept else _Found([], [], [])


def _modules(roots: Sequence[Path]) -> Iterator[tuple[str, str, Path]]:
    """Package, name and file of each module, sorted; of two with one name the first, as an import would find it."""
    seen: set[str] = set()
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            folders = path.relative_to(root).parts[:-1]
            if not any(_LEFT_OUT.fullmatch(folder) for folder in folders) and not _LEFT_OUT.fullmatch(path.stem):
                names = [*folders, path.stem] if path.stem != "__init__" or not folders else list(folders)
                name = ".".join(names)
                if all(map(str.isidentifier, names)) and name not in seen:
                    seen.add(name)
                    yield names[0], name, path


def _build(
    found: _Found, seed: int, pairs: int, undocumented: float, test: float, dev: float, unseen: float
) -> RetrievalDataset:
    asked = _documented(found)
    if not asked:
        raise DataError("no installed function has a docstring that could be asked for: install packages with some")
    order = np.random.Generator(np.random.PCG64(_CHOICE_SEED)).permutation(len(found.ids)).tolist()
    chosen = _choose([place for place in order if place in asked], found.packages, pairs)
    wanted = round(len(chosen) * undocumented / (1 - undocumented))
    others = _choose([place for place in order if not found.functions[place].sentence], found.packages, wanted)
    rows = sorted([*chosen, *others])
    queries: dict[str, str] = {}
    answers: dict[str, list[int]] = {}
    for row, place in enumerate(rows):
        if place in asked:
            sentence = found.functions[place].sentence
            queries.setdefault(_key(sentence), sentence)
            answers.setdefault(_key(sentence), []).append(row)
    corpus = TextTable.from_columns(
        [found.ids[place] for place in rows], [found.functions[place].code for place in rows]
    )
    table = TextTable.from_columns([f"q{number:05d}" for number in range(len(queries))], list(queries.values()))
    packages = [found.packages[place] for place in rows]
    return RetrievalDataset(
        corpus, table, split_judgements(list(answers.values()), seed, test, dev, unseen, packages), "code"
    )


def _choose(places: list[int], packages: list[int], count: int) -> list[int]:
    """The first ``count``, with no package above its share unless the others have too few."""
    most = max(1, int(_MOST_OF_A_PACKAGE * count))
    taken = Counter[int]()
    within: list[int] = []
    above: list[int] = []
    for place in places:
        taken[packages[place]] += 1
        (within if taken[packages[place]] <= most else above).append(place)
    return [*within, *above][:count]


def _documented(found: _Found) -> set[int]:
    """Places of the functions whose sentence can be asked for."""
    by_sentence: dict[str, list[int]] = {}
    for place, function in enumerate(found.functions):
        if function.sentence:
            by_sentence.setdefault(_key(function.sentence), []).append(place)
    return {
        place
        for sentence, places in by_sentence.items()
        if len(places) <= _MOST_FUNCTIONS and len({found.packages[place] for place in places}) == 1
        for place in places
        if _is_query(found.functions[place], sentence)
    }


def _is_query(function: Function, sentence: str) -> bool:
    if len(sentence.split()) < _FEWEST_WORDS or len(function.sentence) > _MOST_CHARACTERS:
        return False
    return f" {sentence} " not in f" {_key(function.code)} "


def _key(text: str) -> str:
    """A text's words: neither case, punctuation nor a comment's marks tell two apart."""
    return " ".join(_WORD.findall(text.casefold()))
