"""Queries that are in the corpus themselves: under their own id, under another, with their text alone."""

from __future__ import annotations

import warnings

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood._ragged import RaggedRows
from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.data.records.own import left_out_of_rankings
from hardwood.data.records.twins import MOST


def make(
    queries: dict[str, str], targets: dict[str, str], *splits: list[tuple[int, int]], names: str = "train test"
) -> RetrievalDataset:
    """Texts by id, and judged pairs of rows."""
    judged = {}
    for name, pairs in zip(names.split(), splits, strict=False):
        rows = np.array(pairs, dtype=np.int64)
        judged[name] = Judgements.from_triples(rows[:, 0], rows[:, 1], np.ones(len(rows), dtype=np.int32))
    tables = [TextTable.from_columns(list(texts), list(texts.values())) for texts in (targets, queries)]
    return RetrievalDataset(*tables, judged)


def lists(rows: RaggedRows) -> list[list[int]]:
    return [row.tolist() for row in rows]


def test_a_query_is_no_negative_of_itself_by_id_or_text() -> None:
    data = make({"a": "oak", "b": "pine", "c": "ash"}, {"b": "Pinus", "x": "oak", "y": "elm", "z": "oak"}, [(0, 2)])
    assert lists(data.own_documents("id")) == [[], [0], []]
    assert lists(data.own_documents("text")) == [[1, 3], [], []]
    assert lists(data.never_negatives("train")) == [[1, 2, 3], [0], []]
    assert lists(data.known_positives("train")) == [[2], [], []]
    with pytest.raises(ValueError, match="by must be one of id, text, got 'title'"):
        data.own_documents("title")  # type: ignore[arg-type]


def test_pairs_in_both_directions() -> None:
    pairs = {"anchor": ["oak", "Quercus"], "positive": ["Quercus", "oak"]}
    data = RetrievalDataset.from_pairs(datasets.Dataset.from_dict(pairs))
    assert lists(data.never_negatives("train")) == [[0, 1], [0, 1]]


def test_a_filler_is_nobodys_own() -> None:
    data = make({"a": "N/A"}, {f"t{row}": "N/A" for row in range(MOST + 1)}, [(0, 0)])
    with pytest.warns(UserWarning, match="101 targets have the same text"):
        assert lists(data.never_negatives("train")) == [[0]]


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("abcd"), min_size=1))
def test_own_texts_are_those_of_a_naive_search(queries: list[str], targets: list[str]) -> None:
    texts = [{f"{side}{row}": text for row, text in enumerate(some)} for side, some in (("q", queries), ("t", targets))]
    want = [[row for row, text in enumerate(targets) if text == query] for query in queries]
    assert lists(make(*texts, [(0, 0)]).own_documents("text")) == want


def test_what_is_left_out_of_rankings() -> None:
    data = make({"a": "oak", "b": "pine"}, {"a": "oak", "b": "pine", "x": "oak"}, [(1, 1), (0, 2)], [(0, 1)])
    with pytest.warns(UserWarning, match=r"own text of 1 of 1 queries of the split 'test' .* \(the first is 'x'\)"):
        by_id = left_out_of_rankings(data, ["train", "test"], "own-id")
    # Places of the split, not query rows: "train" judges query 1 first. A positive stays, though it has the id.
    assert [lists(rows) for rows in by_id] == [[[], [0]], [[0]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lists(left_out_of_rankings(data, ["test"], "own-text")[0]) == [[0, 2]]
        assert lists(left_out_of_rankings(data, ["test"], "nothing")[0]) == [[]]
    with pytest.raises(ValueError, match="leave_out must be one of own-id, own-text, nothing, got 'id'"):
        left_out_of_rankings(data, ["test"], "id")  # type: ignore[arg-type]
