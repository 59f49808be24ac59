"""Ids and texts of many queries or targets, in Arrow memory."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from hardwood import _checks
from hardwood.data.records.equal import repeats, string_hashes
from hardwood.errors import DataError

CHUNK_BYTES = 256 << 20  # few chunks make lookups quick; small ones make merging cheap in memory
COLUMNS = ("id", "title", "text")
_PIECE_BYTES = 32 << 20  # looked at together where all rows are: what is made of them is as large
TEXT_TYPE = pa.large_string()  # 64-bit offsets: a chunk may hold more than 2 GiB


class TextTable:
    """Ids, titles and texts of queries or targets; row ``i`` is the same thing in every method.

    Rows are given as int64 array-likes in any order, repeats allowed; ``None`` stands for all rows. A row
    outside the table is an ``IndexError``. Tables are never changed after they are made.
    """

    def __init__(self, chunks: Sequence[pa.RecordBatch]) -> None:
        """Wrap record batches with the columns ``id``, ``title`` and ``text`` (large strings, none null)."""
        self._chunks = [chunk for chunk in chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, self._chunks)], dtype=np.int64)

    @classmethod
    def from_columns(cls, ids: Sequence[str], texts: Sequence[str], titles: Sequence[str] | None = None) -> TextTable:
        """A table of Python strings or Arrow string arrays, all of one length.

        Args:
            ids: different from each other, not blank, without tabs and line breaks (qrels couldn't name
                them).
            texts: the texts; one may be empty where its title isn't.
            titles: all empty when left out.

        Raises:
            DataError: for an id or text that breaks these rules, naming its row.
        """
        if len(ids) != len(texts) or (titles is not None and len(titles) != len(ids)):
            raise DataError(f"{len(ids)} ids, {len(texts)} texts and {len(titles or texts)} titles: one each a row")
        builder = TextTableBuilder()
        builder.add(ids, [""] * len(ids) if titles is None else titles, texts)
        table = builder.finish()
        id_column = table.id_array()
        for name in COLUMNS:
            if (row := _first_true(pc.is_null(table._column(name, None)))) is not None:
                raise DataError(f"row {row} has no {name}")
        bad = pc.or_(pc.equal(pc.utf8_trim_whitespace(id_column), ""), pc.match_substring_regex(id_column, r"[\t\r\n]"))
        if (row := _first_true(bad)) is not None:
            raise DataError(f"row {row}: the id {table.ids([row])[0]!r} is blank, or has a tab or line break")
        if (row := _first_true(pc.equal(table.text_array(), ""))) is not None:
            raise DataError(f"row {row} (id {table.ids([row])[0]!r}) has neither text nor title")
        if (pair := table.first_duplicate()) is not None:
            raise DataError(f"rows {pair[0]} and {pair[1]} have the same id {table.ids([pair[0]])[0]!r}")
        return table

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"TextTable({len(self):,} rows, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes that ids and texts take, in memory or in the file that is mapped."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def ids(self, rows: ArrayLike | None = None) -> list[str]:
        """The ids of the given rows."""
        return self._column("id", rows).to_pylist()

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        """The texts as encoders get them: title and text joined by a space, stripped (BEIR's convention)."""
        return self.text_array(rows).to_pylist()

    def fields(self, rows: ArrayLike | None = None) -> list[dict[str, str]]:
        """Rows as dictionaries with the keys ``id``, ``title`` and ``text``, as they were read."""
        columns = (self._column(name, rows).to_pylist() for name in COLUMNS)
        return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The rows of the given ids, ``(len(ids),)`` int64.

        Every call goes over all ids of the table once, so ask for many at a time.

        Raises:
            DataError: naming the first id that the table doesn't have.
        """
        found = self.find(pa.array(ids, type=TEXT_TYPE))
        if (unknown := np.flatnonzero(found < 0)).size:
            counts = f"{unknown.size:,} of {len(found):,} ids are unknown"
            raise DataError(f"no row has the id {ids[int(unknown[0])]!r} ({counts})")
        return found

    def find(self, ids: Any) -> NDArray[np.int64]:
        """As ``rows``, from strings or an Arrow array of them, chunked or not; -1 where an id is unknown."""
        return _first_rows(ids, (chunk.column("id") for chunk in self._chunks))

    def find_texts(self, texts: Any) -> NDArray[np.int64]:
        """The first row with each of ``texts`` (as `texts` gives them), an Arrow string array or chunked array; -1
        where there is none."""
        return _first_rows(texts, self.iter_text_arrays())

    def iter_texts(self, batch_size: int = 1024) -> Iterator[list[str]]:
        """All texts in row order, ``batch_size`` at a time; only one batch is made into Python strings."""
        _checks.at_least(1, batch_size, "batch_size")
        return (self.texts(rows) for rows in self._batches(batch_size))

    def iter_text_arrays(self) -> Iterator[pa.Array]:
        """All texts in row order as Arrow arrays, some 32 MiB at a time."""
        return (_joined(piece.column("title"), piece.column("text")) for piece in self._pieces())

    def iter_fields(self, batch_size: int = 1024) -> Iterator[dict[str, str]]:
        """All rows in order as ``fields`` gives them, made ``batch_size`` at a time."""
        for rows in self._batches(batch_size):
            yield from self.fields(rows)

    def id_array(self) -> pa.ChunkedArray:
        """All ids, without a copy."""
        return pa.chunked_array([chunk.column("id") for chunk in self._chunks], type=TEXT_TYPE)

    def text_array(self, rows: ArrayLike | None = None) -> pa.Array | pa.ChunkedArray:
        """What ``texts`` gives, as an Arrow array of large strings (chunked for all rows)."""
        return _joined(self._column("title", rows), self._column("text", rows))

    def text_hashes(self) -> NDArray[np.int64]:
        """A number for each row's text, ``(n,)`` int64, equal for equal texts, in this process alone."""
        return string_hashes(self.iter_text_arrays(), len(self))

    def fingerprint(self) -> str:
        """A hash of all ids, titles and texts in their order: the same for the same rows, however they were read."""
        digest = hashlib.blake2b(digest_size=16)
        for name in COLUMNS:
            columns = [chunk.column(name) for chunk in self._chunks]
            for column in columns:
                digest.update(np.asarray(pc.binary_length(column), dtype=np.int64).data)
            for column in columns:
                digest.update(_bytes_of(column))
        return digest.hexdigest()

    def first_duplicate(self) -> tuple[int, int] | None:
        """The first two rows of an id that several rows have, or None where all ids differ."""
        hashes = string_hashes((piece.column("id") for piece in self._pieces()), len(self))
        rows, firsts = repeats(hashes, lambda rows: self._column("id", rows))
        if not len(rows):
            return None
        place = np.lexsort((rows, firsts))[0]
        return int(firsts[place]), int(rows[place])

    def _pieces(self) -> Iterator[pa.RecordBatch]:
        """All rows, without a copy."""
        for chunk in self._chunks:
            length = max(1, len(chunk) * _PIECE_BYTES // max(chunk.nbytes, 1))
            for start in range(0, len(chunk), length):
                yield chunk.slice(start, length)

    def _batches(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(self), batch_size):
            yield np.arange(start, min(start + batch_size, len(self)))

    def _column(self, name: str, rows: ArrayLike | None) -> pa.Array | pa.ChunkedArray:
        if rows is None:
            return pa.chunked_array([chunk.column(name) for chunk in self._chunks], type=TEXT_TYPE)
        wanted = self._checked(rows)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(owners, kind="stable")
        owners, by_owner = owners[order], wanted[order]
        cuts = np.flatnonzero(np.diff(owners, prepend=-1, append=-1)) if len(owners) else np.zeros(1, dtype=np.int64)
        pieces = []
        for begin, end in itertools.pairwise(cuts):
            owner = owners[begin]
            local = pa.array(by_owner[begin:end] - self._starts[owner])
            pieces.append(self._chunks[owner].column(name).take(local))
        if not pieces:
            return pa.array([], type=TEXT_TYPE)
        if len(pieces) == 1:  # the stable sort changed nothing
            return pieces[0]
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_arrays(pieces).take(pa.array(back))

    def _checked(self, rows: ArrayLike) -> NDArray[np.int64]:
        array = np.asarray(rows)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise TypeError(f"rows must be a flat list of integers, got {array.dtype} of shape {array.shape}")
        wanted = array.astype(np.int64, copy=False)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            outside = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise IndexError(f"row {outside} is outside a table of {len(self):,} rows")
        return wanted


class TextTableBuilder:
    """Makes a ``TextTable`` from batches of columns, merging them to chunks as it goes."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunks: list[pa.RecordBatch] = []
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def add(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> None:
        """Append rows; Arrow's own error for values that aren't strings or can't be UTF-8."""
        arrays = [_string_array(column) for column in (ids, titles, texts)]
        batch = pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= self._chunk_bytes:
            self._merge()

    def finish(self) -> TextTable:
        """The table of all rows added."""
        self._merge()
        return TextTable(self._chunks)

    def _merge(self) -> None:
        if self._waiting:
            arrays = [pa.concat_arrays([batch.column(name) for batch in self._waiting]) for name in COLUMNS]
            self._keep(pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS)))
        self._waiting, self._waiting_bytes = [], 0

    def _keep(self, chunk: pa.RecordBatch) -> None:
        self._chunks.append(chunk)


def _joined(titles: Any, texts: Any) -> Any:
    """Titles and texts as encoders get them."""
    return pc.utf8_trim_whitespace(pc.binary_join_element_wise(titles, texts, pa.scalar(" ", type=TEXT_TYPE)))


def _first_rows(strings: Any, pieces: Iterable[pa.Array]) -> NDArray[np.int64]:
    """The first row among all ``pieces`` that has each of ``strings``, -1 where none has: by a hash table of what is
    looked for, since it may be small beside the corpus."""
    strings = strings if isinstance(strings, (pa.Array, pa.ChunkedArray)) else pa.array(strings, type=TEXT_TYPE)
    wanted = pc.unique(strings).cast(TEXT_TYPE)
    found = np.full(len(wanted), -1, dtype=np.int64)
    start = 0
    for piece in pieces if len(wanted) else ():
        places = np.asarray(pc.fill_null(pc.index_in(piece, value_set=wanted), -1))
        rows = np.flatnonzero(places >= 0)[::-1]  # the first is written last
        rows = rows[found[places[rows]] < 0]
        found[places[rows]] = start + rows
        start += len(piece)
    return found[np.asarray(pc.index_in(strings.cast(TEXT_TYPE), value_set=wanted), dtype=np.int64)]


def _string_array(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    return column.cast(TEXT_TYPE) if isinstance(column, pa.Array) else pa.array(column, type=TEXT_TYPE)


def _bytes_of(column: pa.Array) -> Any:
    """All texts of a large-string array, one after another, without a copy."""
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return b"" if content is None else memoryview(content)[ends[0] : ends[-1]]


def _first_true(mask: Any) -> int | None:
    hits = np.flatnonzero(np.asarray(mask))
    return int(hits[0]) if hits.size else None
