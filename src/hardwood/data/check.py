"""What is in a dataset, and what in it a user should mend before training on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hardwood.data._dataset import RetrievalDataset
from hardwood.data.records.table import TextTable

_BATCH = 8192
_NO_LETTERS = re.compile(r"[\W_]+")


class Fact(NamedTuple):
    """One line of a report.

    Attributes:
        name: what was looked for.
        value: a count, or several figures in words.
        example: the first case, where there is one.
        advice: what to do about it; "" where nothing needs to be done.
    """

    name: str
    value: str
    example: str = ""
    advice: str = ""


@dataclass(frozen=True)
class DataReport:
    """All that `check_dataset` found, in the order in which it looks."""

    facts: tuple[Fact, ...]

    @property
    def findings(self) -> list[Fact]:
        """The facts that a user should do something about."""
        return [fact for fact in self.facts if fact.advice]


def check_dataset(
    dataset: RetrievalDataset,
    count_tokens: Callable[[list[str]], Sequence[int]] | None = None,
    train_split: str = "train",
) -> DataReport:
    """Counts, lengths, copies, and how the splits hang together.

    Findings are what makes training or measures worse than they look: judgements that were left out or whose target is
    missing, equal and nearly equal targets (alike but for case, spaces and punctuation), queries that stand word for
    word in two splits, and queries that are their own answer. Targets that no split asks for are
    none: a corpus has them.

    Args:
        dataset: best read with ``lenient=True``, so that what is broken is counted.
        count_tokens: the lengths of some texts in tokens; None: words are counted.
        train_split: the split that others are held against.
    """
    return DataReport(tuple(_facts(dataset, count_tokens, train_split)))


def _facts(
    dataset: RetrievalDataset, count_tokens: Callable[[list[str]], Sequence[int]] | None, train_split: str
) -> Iterator[Fact]:
    unit = "words" if count_tokens is None else "tokens"
    count = _count_words if count_tokens is None else count_tokens
    yield Fact("targets", f"{len(dataset.corpus):,}")
    for name, split in dataset.splits.items():
        pairs = len(split.positives.values)
        yield Fact(
            f"queries of {name}", f"{len(split):,}", f"{pairs:,} pairs, {pairs / max(len(split), 1):.2f} a query"
        )
    for what, table in (("queries", dataset.queries), ("targets", dataset.corpus)):
        lengths = np.concatenate([np.asarray(count(texts)) for texts in table.iter_texts(_BATCH)])
        median, most_are_below = np.quantile(lengths, [0.5, 0.95])
        yield Fact(
            f"{unit} of {what}", f"median {median:,.0f}, 95 % up to {most_are_below:,.0f}, most {lengths.max():,}"
        )
    for kind, number in (dataset.left_out or {}).items():
        yield Fact(kind, f"{number:,}", "", "mend them, or pass --lenient to leave them out")
    asked = np.zeros(len(dataset.corpus), dtype=bool)
    for name, split in dataset.splits.items():
        asked[split.positives.values] = True
        if name == train_split:
            yield Fact(f"targets that {name} never asks for", _share(int((~asked).sum()), len(asked)))
    yield Fact("targets that no split asks for", _share(int((~asked).sum()), len(asked)))
    yield from _copies(dataset)
    yield from _overlaps(dataset, train_split)
    yield _own_answers(dataset)


def _copies(dataset: RetrievalDataset) -> Iterator[Fact]:
    for what, table in (("targets", dataset.corpus), ("queries", dataset.queries)):
        texts = _hashes(table, str.strip)
        equal, example = _repeats(texts, table)
        advice = f"give equal {what} one id: measures go by ids"
        yield Fact(f"{what} whose text another has", f"{equal:,}", example, advice if equal else "")
        if what == "targets":
            first = np.sort(np.unique(texts, return_index=True)[1])
            alike, example = _repeats(_hashes(table, _normalised)[first], table, first)
            advice = "likely copies, which would be drawn as negatives of each other: remove all but one"
            name = "targets alike but for case, spaces and punctuation"
            yield Fact(name, f"{alike:,}", example, advice if alike else "")


def _overlaps(dataset: RetrievalDataset, train_split: str) -> Iterator[Fact]:
    if train_split not in dataset.splits:
        return
    hashes = _hashes(dataset.queries, _normalised)
    trained = hashes[dataset.split(train_split).queries]
    for name, split in dataset.splits.items():
        if name != train_split:
            both = np.flatnonzero(np.isin(hashes[split.queries], trained))
            example = _shown(dataset.queries, split.queries[both[0]]) if both.size else ""
            advice = f"what was trained on is no test: remove them from {name} or {train_split}" if both.size else ""
            yield Fact(f"queries of {name} that {train_split} has too", _share(both.size, len(split)), example, advice)


def _own_answers(dataset: RetrievalDataset) -> Fact:
    queries, targets = _hashes(dataset.queries, _normalised), _hashes(dataset.corpus, _normalised)
    found = 0
    example = advice = ""
    for split in dataset.splits.values():
        query_rows, target_rows = split.pairs()
        own = np.flatnonzero(queries[query_rows] == targets[target_rows])
        if own.size and not found:
            example = _shown(dataset.queries, query_rows[own[0]])
            advice = "they teach nothing: remove these pairs"
        found += own.size
    return Fact("pairs whose query is its target's text", f"{found:,}", example, advice)


def _repeats(hashes: np.ndarray, table: TextTable, rows: np.ndarray | None = None) -> tuple[int, str]:
    """How many come after another of the same hash, and the first such text; ``hashes`` are of the table's ``rows``."""
    _, first = np.unique(hashes, return_index=True)
    later = np.setdiff1d(np.arange(len(hashes)), first)
    if not later.size:
        return 0, ""
    row = later[0] if rows is None else rows[later[0]]
    return later.size, _shown(table, row)


def _hashes(table: TextTable, change: Callable[[str], str]) -> np.ndarray:
    values = (hash(change(text)) for texts in table.iter_texts(_BATCH) for text in texts)
    return np.fromiter(values, dtype=np.int64, count=len(table))


def _normalised(text: str) -> str:
    """Letters and digits in small letters; the text itself where there are none."""
    return _NO_LETTERS.sub(" ", text.casefold()).strip() or text


def _count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _share(number: int, of: int) -> str:
    return f"{number:,} ({number / max(of, 1):.1%})"


def _shown(table: TextTable, row: np.int64) -> str:
    (text,) = table.texts([int(row)])
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
