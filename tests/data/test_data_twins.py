"""Equal texts under different ids: no negatives of each other."""

from __future__ import annotations

import warnings
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood._ragged import RaggedRows
from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.data.records import equal as equal_module
from hardwood.data.records.twins import MOST, first_rows, twins_of


def _table(texts: list[str], titles: list[str] | None = None) -> TextTable:
    return TextTable.from_columns([f"i{row}" for row in range(len(texts))], texts, titles)


def _dataset(queries: list[str], targets: list[str], pairs: list[tuple[int, int]]) -> RetrievalDataset:
    rows = np.array(pairs, dtype=np.int64)
    judgements = Judgements.from_triples(rows[:, 0], rows[:, 1], np.ones(len(rows), dtype=np.int32))
    return RetrievalDataset(_table(targets), _table(queries), {"train": judgements})


def _first(table: TextTable) -> list[int]:
    return first_rows(twins_of(table, "targets"), len(table)).tolist()


def _lists(known: RaggedRows) -> list[list[int]]:
    return [row.tolist() for row in known]


def test_a_copy_of_a_positive_is_no_negative() -> None:
    dataset = _dataset(["hard", "soft"], ["oak", "pine", "oak", "ash", " oak "], [(0, 2), (1, 1)])
    assert _lists(dataset.known_positives()) == [[0, 2, 4], [1]]
    assert dataset.split("train").positives.values.tolist() == [2, 1]  # what is measured goes by ids


def test_equal_queries_share_their_positives() -> None:
    dataset = _dataset(["hard", "soft", "hard", "hard"], ["oak", "pine", "ash", "oak"], [(0, 0), (1, 1), (2, 2)])
    assert _lists(dataset.known_positives()) == [[0, 2, 3], [1], [0, 2, 3], []]  # the last has no pair in the split


def test_title_and_text_count_as_encoders_get_them() -> None:
    table = _table(["a hardwood", "Oak a hardwood", "a hardwood"], ["Oak", "", ""])
    assert _first(table) == [0, 0, 2]


def test_a_text_of_very_many_rows_is_not_followed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_module, "_BLOCK", 7)
    texts = ["N/A"] * (MOST + 1) + ["oak", "oak"]
    dataset = _dataset(["hard", "soft"], texts, [(0, 3), (1, MOST + 1)])
    with pytest.warns(UserWarning, match=r"101 targets have the same text 'N/A' \(the first is 'i0'; 1 such texts\)"):
        known = dataset.known_positives()
    assert _lists(known) == [[3], [MOST + 1, MOST + 2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _lists(dataset.known_positives()) == _lists(known)  # warned about once
        assert _first(_table(["N/A"] * MOST)) == [0] * MOST


_WORDS = st.sampled_from("abcd")


@settings(deadline=None)
@given(
    queries=st.lists(_WORDS, min_size=1, max_size=8),
    targets=st.lists(_WORDS, min_size=1, max_size=8),
    data=st.data(),
)
def test_known_positives_are_those_of_the_texts(queries: list[str], targets: list[str], data: st.DataObject) -> None:
    pair = st.tuples(st.integers(0, len(queries) - 1), st.integers(0, len(targets) - 1))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=12, unique=True))
    answers = defaultdict(set)
    for query, target in pairs:
        answers[queries[query]].add(targets[target])
    judged = {query for query, _ in pairs}
    expected = [
        [row for row, text in enumerate(targets) if row_query in judged and text in answers[queries[row_query]]]
        for row_query in range(len(queries))
    ]
    assert _lists(_dataset(queries, targets, pairs).known_positives()) == expected


def test_a_copy_of_a_seen_target_is_seen() -> None:
    corpus = TextTable.from_columns(["a", "b", "c"], ["oak", "oak", "pine"])
    queries = TextTable.from_columns(["q0", "q1", "q2", "q3"], ["hard?", "harder?", "soft?", "both?"])

    def judge(*pairs: tuple[int, int]) -> Judgements:
        rows, targets = np.array(pairs).T
        return Judgements.from_triples(rows, targets, np.ones(len(pairs), dtype=np.int32))

    dataset = RetrievalDataset(corpus, queries, {"train": judge((0, 0)), "test": judge((1, 1), (2, 2), (3, 2), (3, 1))})
    groups = dataset.seen_and_unseen("test")
    assert {name: places.tolist() for name, places in groups.items()} == {"seen": [0, 2], "unseen": [1]}
