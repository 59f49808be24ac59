"""Tables of ids and texts, over several chunks."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from hardwood import DataError
from hardwood.data import TextTable
from hardwood.data.records.table import TextTableBuilder


@pytest.fixture
def table() -> TextTable:
    builder = TextTableBuilder(chunk_bytes=1)  # every batch a chunk
    builder.add(["a", "b"], ["A", ""], ["one", " two\n"])
    builder.add([], [], [])
    builder.add(["c"], ["C "], [""])
    builder.add(["d", "é"], ["", "E"], ["four", "five"])
    return builder.finish()


TEXTS = ["A one", "two", "C", "four", "E five"]


def test_texts_join_title_and_text_and_strip(table: TextTable) -> None:
    assert len(table) == 5
    assert table.texts() == TEXTS
    assert table.ids() == ["a", "b", "c", "d", "é"]
    assert table.fields([1]) == [{"id": "b", "title": "", "text": " two\n"}]


@pytest.mark.parametrize("rows", [[], [3], [4, 0, 2, 2, 0, 1, 3], [1, 0], np.array([4, 4], dtype=np.uint8)])
def test_rows_come_in_the_order_asked_for(table: TextTable, rows: list[int]) -> None:
    assert table.texts(rows) == [TEXTS[row] for row in rows]
    assert table.ids(rows) == [table.ids()[row] for row in rows]
    assert table.rows(table.ids(rows)).tolist() == list(rows)


def test_random_rows_of_many_chunks_equal_a_plain_list() -> None:
    random = np.random.default_rng(0)
    ids = [f"id{row}" for row in range(1000)]
    builder = TextTableBuilder(chunk_bytes=700)
    for start in range(0, 1000, 13):
        part = ids[start : start + 13]
        builder.add(part, [""] * len(part), part)
    table = builder.finish()
    assert len(table._chunks) > 10
    for size in (1, 50, 5000):
        rows = random.integers(0, 1000, size)
        assert table.ids(rows) == [ids[row] for row in rows]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_iter_texts_gives_all_in_batches(table: TextTable, batch_size: int) -> None:
    batches = list(table.iter_texts(batch_size))
    assert [text for batch in batches for text in batch] == TEXTS
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_iter_texts_refuses_an_empty_batch(table: TextTable) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        table.iter_texts(0)


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_outside_is_an_index_error(table: TextTable, row: int) -> None:
    with pytest.raises(IndexError, match=rf"row {row} is outside a table of 5 rows"):
        table.texts([0, row])


@pytest.mark.parametrize("rows", [[0.5], [True], [[0]], 3])
def test_rows_must_be_integers(table: TextTable, rows: object) -> None:
    with pytest.raises(TypeError, match="rows must be a flat list of integers"):
        table.texts(rows)  # type: ignore[arg-type]


def test_unknown_id_is_named(table: TextTable) -> None:
    with pytest.raises(DataError, match=r"'x' \(2 of 4 ids are unknown\)"):
        table.rows(["a", "x", "c", "y"])
    assert table.rows([]).dtype == np.int64


def test_stripping_agrees_with_python() -> None:
    spaces = [chr(code) for code in range(0x3100) if chr(code).isspace()]
    assert len(spaces) > 20
    table = TextTable.from_columns([str(i) for i in range(len(spaces))], [f"{s}x{s}y{s}" for s in spaces])
    assert table.texts() == [f"x{space}y" for space in spaces]


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        (["a", "b", "a"], ["x"] * 3, "rows 0 and 2 have the same id 'a'"),
        (["a", " "], ["x"] * 2, "row 1: the id ' ' is blank"),
        (["a\tb"], ["x"], "tab or line break"),
        (["a", "b"], ["x", " \n"], "row 1 .* neither text nor title"),
        (["a", None], ["x", "y"], "row 1 has no id"),
        (["a", "b"], ["x"], "2 ids, 1 texts"),
    ],
)
def test_from_columns_names_the_bad_row(ids: list[str], texts: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TextTable.from_columns(ids, texts)


def test_arrow_columns_are_taken_too() -> None:
    ids = pa.chunked_array([pa.array(["a"]), pa.array(["b", "c"])])
    table = TextTable.from_columns(ids, pa.array(["x", "y", "z"]), ["", "t", ""])
    assert table.texts() == ["x", "t y", "z"]


def test_tables_travel_to_other_processes(table: TextTable) -> None:
    assert pickle.loads(pickle.dumps(table)).fields() == table.fields()  # noqa: S301
