"""Equal strings are found by hashes of 8 bytes, and hashes that agree by chance are settled by comparison."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardwood.data import RetrievalDataset, TextTable
from hardwood.data.records import equal as equal_module
from hardwood.data.records import table as table_module
from hardwood.data.records.equal import repeats, string_hashes
from hardwood.data.records.own import targets_of_same_text
from hardwood.data.records.table import TextTableBuilder


def _strings(texts: list[str]) -> pa.Array:
    return pa.array(texts, type=pa.large_string())


@settings(deadline=None)
@given(texts=st.lists(st.sampled_from(["oak", "pine", "ash", "", "é"])), num_hashes=st.integers(1, 3))
def test_repeats_whatever_the_hashes_say(texts: list[str], num_hashes: int) -> None:
    strings = _strings(texts)
    hashes = string_hashes([strings], len(texts)) % num_hashes  # equal texts have equal hashes, and others do too
    rows, firsts = repeats(hashes, lambda wanted: strings.take(pa.array(wanted)))
    expected = [(row, texts.index(text)) for row, text in enumerate(texts) if texts.index(text) != row]
    assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == expected


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done block by block takes several blocks for a handful of rows."""
    monkeypatch.setattr(equal_module, "_BLOCK", 2)
    monkeypatch.setattr(equal_module, "_STRINGS", 2)
    monkeypatch.setattr(table_module, "_PIECE_BYTES", 64)


def _in_chunks(texts: list[str]) -> TextTable:
    builder = TextTableBuilder(chunk_bytes=100)
    for row, text in enumerate(texts):
        builder.add([f"t{row}"], [""], [text])
    return builder.finish()


@pytest.mark.usefixtures("small_pieces")
def test_texts_that_share_a_hash_are_no_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(table: TextTable) -> np.ndarray:
        return np.array([len(text) for text in table.texts()], dtype=np.int64)

    monkeypatch.setattr(TextTable, "text_hashes", hashes)
    dataset = RetrievalDataset(
        _in_chunks(["oak", "ash", "pine", "oak", "elm", "ash"]), _in_chunks(["ash", "fir", "pine"]), {}
    )
    assert dataset.same_text[1].tolist() == [0, 1, 2, 0, 4, 1]
    assert [row.tolist() for row in dataset.own_documents("text")] == [[1, 5], [], [2]]
    everything = targets_of_same_text(
        dataset.queries, dataset.corpus, np.zeros(3, dtype=np.int64), np.zeros(6, dtype=np.int64)
    )
    assert [row.tolist() for row in everything] == [[1, 5], [], [2]]


@pytest.mark.usefixtures("small_pieces")
def test_lookups_go_over_all_pieces_and_give_the_first_row() -> None:
    texts = ["oak", "ash", "pine", "oak", "elm", "ash", "  fir "]
    table = _in_chunks(texts)
    assert len(list(table.iter_text_arrays())) > 3
    found = table.find_texts(pa.chunked_array([_strings(["ash", "yew"]), _strings(["oak", "fir", "ash"])]))
    assert found.tolist() == [1, -1, 0, 6, 1]
    assert table.rows(["t6", "t0", "t6"]).tolist() == [6, 0, 6]
    assert table.find(_strings(["t3", "none"])).tolist() == [3, -1]
    assert table.find(_strings([])).tolist() == []
    assert TextTable([]).find(_strings(["t3"])).tolist() == [-1]


def test_of_several_rows_in_one_piece_the_first_is_found() -> None:
    assert _in_chunks(["ash", "oak", "oak"]).find_texts(_strings(["oak"])).tolist() == [1]
    one_piece = TextTable.from_columns(["a", "b", "c"], ["ash", "oak", "oak"])
    assert one_piece.find_texts(_strings(["oak"])).tolist() == [1]
