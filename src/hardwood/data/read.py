"""A dataset from whatever it is in: a BEIR folder or zip file, a table of pairs, a ``datasets`` folder, the hub."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hardwood import _checks
from hardwood._hub import why_unreachable
from hardwood.data._columns import CORPUS_NAMES, POSITIVE_NAMES, QUERY_NAMES, choose_column
from hardwood.data._dataset import RetrievalDataset
from hardwood.data.beir import OWNER, read_beir
from hardwood.data.files.left_out import NO_PAIR_TEXT, NO_TARGET_TEXT
from hardwood.data.files.tables import ENDINGS, kind_of, read_columns, schema_of, stem_of
from hardwood.data.records.pairs import LABELS, is_number
from hardwood.data.unseen import split_unseen
from hardwood.errors import DataError

TEST_SHARE = 0.1
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_PART = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00001.parquet
_SAVED = ("dataset_dict.json", "state.json")  # of `datasets.save_to_disk`


def read_dataset(
    source: str | Path,
    *,
    query: str | None = None,
    positive: str | None = None,
    corpus: str | Path | None = None,
    corpus_column: str | None = None,
    test_share: float = TEST_SHARE,
    train_split: str = "train",
    lenient: bool = False,
    unjudged: Literal["error", "ignore"] = "error",
    announce: Callable[[str], None] | None = None,
    mapped: bool | None = None,
    cache: str | Path | None = None,
) -> RetrievalDataset:
    """A dataset from a file, a folder or a name on the Hugging Face hub.

    ``source`` is one of these:

    - a BEIR folder, as `RetrievalDataset.load` reads it, or what else `read_beir` reads: a zip file of one, a folder
      ``NAME`` beside ``NAME-qrels``, the hub's ``BeIR/NAME``
    - a table with a pair of texts in each row: ``.csv``, ``.tsv``, ``.jsonl`` (lines of JSON) or ``.parquet``. It
      becomes the split "train".
    - a folder of such tables, each the split that it is named after: ``train.csv``, ``test.csv``
    - a folder that ``datasets`` wrote with ``save_to_disk``
    - a name on the hub, ``OWNER/NAME`` or ``OWNER/NAME:CONFIGURATION``

    Pairs become a dataset as `RetrievalDataset.from_pairs` makes it. Their columns are guessed where exactly one is
    called anchor, query or question, and one positive, answer, passage or document. A numeric column ``label`` or
    ``score`` of 0 and 1 says which pairs are positives.

    Where the training split is the only one, a test is made: `split_unseen` holds out a tenth of the targets, always
    the same ones, as the split "test".

    Args:
        source: what to read; what exists on the disk goes before the hub.
        query: the column of query texts.
        positive: the column of target texts.
        corpus: a table of all targets, those that no pair names among them.
        corpus_column: its column of texts; guessed where it is alone or has the name of ``positive`` or a usual one.
        test_share: of the targets with a training query, held out where there is no other split; 0: none.
        train_split: the split that the test is made from.
        lenient: leave out what is broken and count it in ``left_out``, see `RetrievalDataset.load`; pairs without a
            query or positive, too.
        unjudged: see `RetrievalDataset.load`.
        announce: is called with a line for each thing that was guessed or made; by default they go to stderr.
        mapped, cache: see `RetrievalDataset.load`, which reads BEIR folders; pairs are always read into memory.

    Raises:
        DataError: for anything wrong with the data, naming the file; for columns it lists those that there are.
        ValueError: columns or a corpus given for a set in BEIR's form, or ``test_share`` outside [0, 1).
    """
    _checks.share(test_share, "test_share")
    check_source(source)
    say = _to_stderr if announce is None else announce
    dataset = _read_beir_form(source, lenient=lenient, unjudged=unjudged, mapped=mapped, cache=cache)
    if dataset is None:
        dataset = _Pairs(str(source), query, positive, lenient, say).read(corpus, corpus_column)
    else:
        given = {"query": query, "positive": positive, "corpus": corpus, "corpus_column": corpus_column}
        if named := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{source} is a set in BEIR's form, which has no columns to name: leave out {named[0]}")
    has_others = dataset.answers is not None and bool(dataset.answers.splits)
    if test_share and list(dataset.splits) == [train_split] and not has_others:
        return _with_test(dataset, test_share, train_split, say)
    return dataset


def check_source(source: str | Path) -> None:
    """Check the name of a dataset, without reading anything.

    Raises:
        DataError: for a file of an unknown kind, or what is neither here nor a name on the hub.
    """
    path = Path(source)
    if path.is_file() and kind_of(path) is None and not _is_zip(path):
        raise DataError(
            f"this is a file of an unknown kind; tables end in {', '.join(ENDINGS)}, zipped BEIR sets in .zip", path
        )
    is_name = _HUB_NAME.fullmatch(str(source)) and not path.parent.exists() and kind_of(path) is None
    if not path.exists() and not is_name:
        raise DataError("there is no such file or folder; a name on the hub is OWNER/NAME", source)


def _is_zip(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".zip"


def _read_beir_form(source: str | Path, **settings: Any) -> RetrievalDataset | None:
    """A set in one of BEIR's forms; None for others. The settings are those of `read_beir`."""
    path = Path(source)
    if path.is_dir():
        if not (path / "qrels").is_dir() and path.with_name(f"{path.resolve().name}-qrels").is_dir():
            return read_beir(source, **settings)
        if any((path / name).exists() for name in ("qrels", "corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl")):
            return RetrievalDataset.load(source, **settings)
        if any(path.glob("*/qrels")):
            return read_beir(source, **settings)
        return None
    if _is_zip(path) or (not path.exists() and str(source).startswith(f"{OWNER}/")):
        return read_beir(source, **settings)
    return None


def _with_test(
    dataset: RetrievalDataset, share: float, train_split: str, say: Callable[[str], None]
) -> RetrievalDataset:
    way_out = "--test-share 0 (test_share=0) holds out none"
    try:
        made = split_unseen(dataset, share, train_split=train_split, name="test")
    except DataError as error:
        raise DataError(f"{dataset.name} has no test split, and none could be made: {error}; {way_out}") from error
    targets = len(np.unique(made.split("test").positives.values))
    say(
        f"{dataset.name} has no test split, so one was made: {targets:,} targets and all "
        f"{len(made.split('test')):,} queries that ask for them; {len(made.split(train_split)):,} queries are left to "
        f"train on ({way_out})"
    )
    return made


class _Pairs:
    """Reads pairs; says what it guessed."""

    def __init__(
        self, source: str, query: str | None, positive: str | None, lenient: bool, say: Callable[[str], None]
    ) -> None:
        self.source, self.query, self.positive, self.lenient, self.say = source, query, positive, lenient, say
        self.left_out: Counter[str] = Counter()

    def read(self, corpus: str | Path | None, corpus_column: str | None) -> RetrievalDataset:
        if corpus is None and corpus_column is not None:
            raise ValueError(f"corpus_column={corpus_column!r} is of a corpus, and none was given (corpus, --corpus)")
        files = self._splits()
        columns = self._choose(next(iter(files.values())))
        splits = {name: self._table_of(rows, *columns) for name, rows in files.items()}
        targets = None if corpus is None else self._corpus(Path(corpus), corpus_column, columns[1])
        path = Path(self.source)
        name = stem_of(path) if path.is_file() else path.resolve().name if path.is_dir() else self.source
        try:
            dataset = RetrievalDataset.from_pairs(splits, *columns, corpus=targets, name=name)
        except DataError as error:
            hint = (
                "" if self.lenient or "empty" not in str(error) else "; --lenient (lenient=True) leaves such rows out"
            )
            raise DataError(f"{error}{hint}", self.source) from error
        if targets is not None:
            distinct = len(pc.unique(pc.utf8_trim_whitespace(targets.with_format("arrow")[:].column(0))))
            if added := len(dataset.corpus) - distinct:
                self.say(f"{corpus}: {added:,} targets of pairs are not in it word for word, and were added")
        if self.lenient:
            dataset.left_out = {kind: count for kind, count in self.left_out.items() if count}
        return dataset

    def _splits(self) -> dict[str, list[Path] | Any]:
        """By split: the files of a table, or a ``datasets.Dataset``."""
        path = Path(self.source)
        if path.is_file():
            return {"train": [path]}
        if not path.is_dir():
            return self._from_hub()
        if any((path / name).is_file() for name in _SAVED):
            import datasets

            loaded = datasets.load_from_disk(str(path))
            return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
        splits: dict[str, list[Path]] = {}
        for file in sorted(path.iterdir()):
            if file.is_file() and kind_of(file) is not None:
                splits.setdefault(_PART.sub("", stem_of(file)), []).append(file)
        if not splits:
            raise DataError(
                "this folder holds no dataset: neither corpus.jsonl, queries.jsonl and qrels/ (BEIR), nor a folder of "
                "datasets.save_to_disk, nor tables named after their split such as train.csv",
                path,
            )
        return splits

    def _from_hub(self) -> dict[str, Any]:
        source = self.source
        import datasets

        name, _, configuration = source.partition(":")
        missing = f"there is no file or folder {source!r} here, and it can't be had from the Hugging Face hub"
        ways = "a configuration is named OWNER/NAME:CONFIGURATION; HF_HUB_OFFLINE=1 uses what was downloaded before"
        is_offline = datasets.config.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE")
        # Asked once; `datasets` would for minutes.
        if not is_offline and (reason := why_unreachable(name, "dataset")) is not None:
            raise DataError(f"{missing}: {reason} ({ways}; HF_HUB_ETAG_TIMEOUT is how many seconds to wait)")
        try:
            loaded = datasets.load_dataset(name, configuration or None)
        except Exception as error:  # from many libraries, below and beside the hub's
            raise DataError(f"{missing}: {' '.join(str(error).split())[:300]} ({ways})") from error
        return dict(loaded)

    def _choose(self, rows: list[Path] | Any) -> tuple[str, str]:
        """The columns of queries and positives."""
        where, names, numbers = self._columns_of(rows)
        query = choose_column(where, names, self.query, QUERY_NAMES, "--query NAME (query=)")
        positive = choose_column(where, names, self.positive, POSITIVE_NAMES, "--positive NAME (positive=)")
        if query == positive:
            raise DataError(f"the column {query!r} can't be both query and positive: name two", where)
        guessed = {"query": query} if self.query is None else {}
        guessed |= {"positive": positive} if self.positive is None else {}
        self._say_columns(where, names, guessed, [query, positive], numbers)
        return query, positive

    def _table_of(self, rows: list[Path] | Any, query: str, positive: str) -> Any:
        """Queries, positives and labels of a split."""
        where, names, numbers = self._columns_of(rows)
        for column in (query, positive):
            choose_column(where, names, column, (), "--query and --positive, alike in all splits")
        labels = [name for name in numbers if name not in (query, positive)]
        if not isinstance(rows, list):
            return self._without_blanks(
                rows.select_columns([query, positive, *labels]), [query, positive], NO_PAIR_TEXT
            )
        for other in rows[1:]:
            if missing := {query, positive, *labels}.difference(schema_of(other).names):
                raise DataError(f"there is no column {sorted(missing)[0]!r}, which {where} has", other)
        tables = [read_columns(path, [query, positive], labels) for path in rows]
        table = pa.concat_tables(tables, promote_options="permissive")
        return self._without_blanks(_as_dataset(table), [query, positive], NO_PAIR_TEXT)

    def _columns_of(self, rows: list[Path] | Any) -> tuple[str, list[str], list[str]]:
        """Where a split is, its columns, and those that may hold labels."""
        where = str(rows[0]) if isinstance(rows, list) else self.source
        schema = schema_of(rows[0]) if isinstance(rows, list) else rows.features.arrow_schema
        return where, schema.names, [field.name for field in schema if field.name in LABELS and is_number(field.type)]

    def _say_columns(
        self, where: str, names: list[str], guessed: dict[str, str], used: list[str], labels: Sequence[str] = ()
    ) -> None:
        """What was guessed, by option, and which columns are not used."""
        if names == used and not guessed:
            return
        takes = ", ".join(f"{name!r} as --{option}" for option, name in guessed.items())
        parts = [f"takes {takes}"] if guessed else []
        parts += [f"{name!r} says which pairs are positives" for name in labels if name not in used]
        if unused := [name for name in names if name not in (*used, *labels)]:
            parts.append(f"does not use {', '.join(map(repr, unused))}")
        if parts:
            self.say(f"{where}: {'; '.join(parts)}")

    def _corpus(self, path: Path, given: str | None, positive: str) -> Any:
        if not path.is_file() or kind_of(path) is None:
            what = "is no table" if path.exists() else "there is no such file"
            raise DataError(f"{what}; a corpus is one file that ends in {', '.join(ENDINGS)}", path)
        names = schema_of(path).names
        column = names[0] if given is None and len(names) == 1 else given
        if column is None and positive in names:
            column = positive
        column = choose_column(str(path), names, column, CORPUS_NAMES, "--corpus-column NAME (corpus_column=)")
        self._say_columns(str(path), names, {"corpus-column": column} if given is None else {}, [column])
        table = read_columns(path, [column]).rename_columns([positive])
        return self._without_blanks(_as_dataset(table), [positive], NO_TARGET_TEXT)

    def _without_blanks(self, rows: Any, columns: list[str], kind: str) -> Any:
        """A lenient reader's rows: those with a text in each of the columns."""
        if not self.lenient:
            return rows
        keep = np.ones(len(rows), dtype=bool)
        for name in columns:
            values = rows.with_format("arrow")[:][name]
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True)
                keep &= ~np.asarray(blank, dtype=bool)
        self.left_out[kind] += int((~keep).sum())
        return rows if keep.all() else rows.select(np.flatnonzero(keep))


def _as_dataset(table: pa.Table) -> Any:
    import datasets

    # left to itself, datasets would hash every byte for a fingerprint that only caches on disk need
    return datasets.Dataset(table, fingerprint=uuid.uuid4().hex[:16])


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
