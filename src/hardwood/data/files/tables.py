"""CSV, TSV, JSON lines and Parquet files, read by pyarrow: texts stay what they are in the file."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from hardwood.data.files.lines import numbered_lines
from hardwood.errors import DataError

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_BLOCK_BYTES = 16 << 20  # no row may be longer
_LINES_LOOKED_AT = 1000  # of JSON, for the names of columns
_TEXT = pa.large_string()


def kind_of(path: Path) -> str | None:
    """The file's ending among `ENDINGS`, whatever its case and with or without ``.gz``; None for others."""
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    return ending if ending in ENDINGS else None


def stem_of(path: Path) -> str:
    """The file's name without its ending."""
    return path.name[: path.name.lower().rindex(kind_of(path) or "")]


def schema_of(path: Path) -> pa.Schema:
    """Names and types of the columns, as the file's beginning shows them; ``DataError`` for one that can't be read."""
    with _errors_of(path):
        if kind_of(path) == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_schema(path)
        if kind_of(path) in (".csv", ".tsv"):
            import pyarrow.csv

            with pyarrow.csv.open_csv(path, **_csv_options(path)) as reader:
                return reader.schema
        lines = itertools.islice(numbered_lines(path), _LINES_LOOKED_AT)
        head = "".join(f"{line}\n" for _, line in lines)
        if not head:
            raise DataError("the file is empty", path)
        import pyarrow.json

        options = pyarrow.json.ReadOptions(block_size=len(head.encode()) + 1)
        return pyarrow.json.read_json(io.BytesIO(head.encode()), read_options=options).schema


def read_columns(path: Path, texts: Sequence[str], numbers: Sequence[str] = ()) -> pa.Table:
    """Some columns: ``texts`` as strings, though they look like numbers, dates or NA, and ``numbers``.

    Raises:
        DataError: for a file that can't be read, and one that holds something else in these columns.
    """
    columns = [*texts, *numbers]
    with _errors_of(path):
        if kind_of(path) == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path, columns=columns)
            for place, field in enumerate(table.schema):
                if pa.types.is_dictionary(field.type):
                    table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
            return table
        if kind_of(path) in (".csv", ".tsv"):
            import pyarrow.csv

            convert = pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types={**dict.fromkeys(texts, _TEXT)}, strings_can_be_null=False
            )
            return pyarrow.csv.read_csv(path, convert_options=convert, **_csv_options(path))
        import pyarrow.json

        schema = pa.schema([*((name, _TEXT) for name in texts), *((name, pa.float64()) for name in numbers)])
        return pyarrow.json.read_json(
            path,
            read_options=pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).select(columns)


def _csv_options(path: Path) -> dict[str, Any]:
    import pyarrow.csv

    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    return {
        "read_options": pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    }


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        hint = {
            ".json": "; JSON is read as lines, an object with one pair of texts each",
            ".jsonl": "; each line must be an object with one pair of texts",
            ".ndjson": "; each line must be an object with one pair of texts",
        }.get(kind_of(path) or "", "")
        raise DataError(f"the file can't be read: {' '.join(str(error).split())[:300]}{hint}", path) from error
