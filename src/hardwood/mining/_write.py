"""Mined negatives as other trainers read them; every file is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._files import folder_written_whole, temporary_beside, written_whole
from hardwood.errors import DataError

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset
    from hardwood.mining._mine import MinedNegatives

FORMATS = ("triplets", "tevatron", "flagembedding")
_ENTRIES_AT_A_TIME = 1024
_JSON_LINES = (".jsonl", ".json")
_OTHER_FILES = (".csv", ".tsv", ".parquet", ".arrow")

Record = dict[str, Any]


class Written(NamedTuple):
    """How many rows were written, and how many entries dropped for having too few negatives."""

    rows: int
    dropped: int


def write_negatives(
    mined: MinedNegatives,
    dataset: RetrievalDataset,
    path: str | Path,
    format: Literal["triplets", "tevatron", "flagembedding"] = "triplets",
    *,
    scores: bool = True,
    overwrite: bool = False,
) -> Written:
    """Write mined negatives with their texts.

    - "triplets", for sentence-transformers: a row for each (entry, positive) with the columns ``anchor``,
      ``positive``, ``negative_1`` ... ``negative_K`` and ``scores``, ``[positive, negative_1, ...]`` as
      ``MarginMSELoss`` wants them. A ``datasets`` folder for ``load_from_disk``, or JSON lines where ``path``
      ends in ``.jsonl`` or ``.json``. Every row must have ``K`` negatives, so entries with fewer are dropped.
    - "tevatron": JSON lines of ``query_id``, ``query``, ``positive_passages`` and ``negative_passages``, the
      passages with ``docid``, ``title``, ``text`` and ``score``.
    - "flagembedding": JSON lines of ``query``, ``pos``, ``neg``, ``pos_scores`` and ``neg_scores``.

    The last two keep entries with fewer than ``K`` negatives, shorter, and drop those with none, which their
    trainers can't use.

    Args:
        mined: the negatives of this dataset; ``mine(per="pair")`` suits triplets, ``per="query"`` the other
            two.
        dataset: where the texts are.
        path: the file or folder to write.
        format: one of the three above.
        scores: whether to write similarities.
        overwrite: whether what is there may be replaced: a file, or a ``datasets`` folder and nothing else.

    Returns:
        How many rows were written and how many entries dropped.

    Raises:
        DataError: when the path isn't free, or not a file name that fits the format; nothing is written.
        ValueError: for an unknown format, or when no entry has negatives enough.
    """
    path = Path(path)
    _checks.one_of(FORMATS, format, "format")
    folder = format == "triplets" and path.suffix not in _JSON_LINES
    _check_free(path, folder, overwrite)
    k = mined.negatives.shape[1]
    enough = mined.counts >= (k if format == "triplets" else 1)
    entries = np.flatnonzero(enough)
    if not len(entries):
        raise ValueError(
            f"none of the {len(mined):,} entries has {k if format == 'triplets' else 'any'} negatives; "
            f"lower the margins or skip_top, or raise depth"
        )
    make = {"triplets": _triplets, "tevatron": _tevatron, "flagembedding": _flagembedding}[format]
    batches = (
        make(mined, dataset, entries[start : start + _ENTRIES_AT_A_TIME], scores)
        for start in range(0, len(entries), _ENTRIES_AT_A_TIME)
    )
    rows = _write_folder(path, batches, k, scores) if folder else _write_lines(path, batches)
    return Written(rows, len(mined) - len(entries))


class _Batch:
    """The rows and texts of some entries, each text fetched once."""

    def __init__(self, mined: MinedNegatives, entries: NDArray[np.int64]) -> None:
        self.queries = mined.queries[entries]
        self.positives = mined.positives.take(entries)
        offsets, starts = self.positives.offsets, mined.positives.offsets[entries]
        at = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], self.positives.counts)
        self.positive_scores = mined.positive_scores[at]
        self.negatives, self.negative_scores = mined.negatives[entries], mined.scores[entries]
        used = np.concatenate([self.positives.values, self.negatives[self.negatives >= 0]])
        self.targets = np.unique(used)

    def each(self) -> Iterator[tuple[list[int], list[float], list[int], list[float]]]:
        """Positives, their scores, negatives and their scores, by entry."""
        for i, (negatives, scores) in enumerate(zip(self.negatives, self.negative_scores, strict=True)):
            found = negatives >= 0
            positive_scores = self.positive_scores[self.positives.offsets[i] : self.positives.offsets[i + 1]]
            yield (
                self.positives[i].tolist(),
                _plain(positive_scores),
                negatives[found].tolist(),
                _plain(scores[found]),
            )


def _in_texts(
    mined: MinedNegatives, dataset: RetrievalDataset, entries: NDArray[np.int64]
) -> Iterator[tuple[str, list[str], list[float], list[str], list[float]]]:
    """Query, positives, their scores, negatives and their scores, by entry: texts instead of rows."""
    batch = _Batch(mined, entries)
    texts = dict(zip(batch.targets.tolist(), dataset.corpus.texts(batch.targets), strict=True))
    for query, found in zip(dataset.queries.texts(batch.queries), batch.each(), strict=True):
        positives, positive_scores, negatives, negative_scores = found
        yield (
            query,
            [texts[row] for row in positives],
            positive_scores,
            [texts[row] for row in negatives],
            negative_scores,
        )


def _triplets(
    mined: MinedNegatives, dataset: RetrievalDataset, entries: NDArray[np.int64], scores: bool
) -> list[Record]:
    records = []
    for query, positives, positive_scores, negatives, negative_scores in _in_texts(mined, dataset, entries):
        for positive, score in zip(positives, positive_scores, strict=True):
            record: Record = {"anchor": query, "positive": positive}
            record |= {f"negative_{j}": text for j, text in enumerate(negatives, start=1)}
            if scores:
                record["scores"] = [score, *negative_scores]
            records.append(record)
    return records


def _tevatron(
    mined: MinedNegatives, dataset: RetrievalDataset, entries: NDArray[np.int64], scores: bool
) -> list[Record]:
    batch = _Batch(mined, entries)
    fields = dict(zip(batch.targets.tolist(), dataset.corpus.fields(batch.targets), strict=True))

    def passages(rows: list[int], values: list[float]) -> list[Record]:
        made = []
        for row, value in zip(rows, values, strict=True):
            field = fields[row]
            passage: Record = {"docid": field["id"], "title": field["title"], "text": field["text"]}
            made.append(passage | {"score": value} if scores else passage)
        return made

    ids, queries = dataset.queries.ids(batch.queries), dataset.queries.texts(batch.queries)
    return [
        {
            "query_id": query_id,
            "query": query,
            "positive_passages": passages(*found[:2]),
            "negative_passages": passages(*found[2:]),
        }
        for query_id, query, found in zip(ids, queries, batch.each(), strict=True)
    ]


def _flagembedding(
    mined: MinedNegatives, dataset: RetrievalDataset, entries: NDArray[np.int64], scores: bool
) -> list[Record]:
    records = []
    for query, positives, positive_scores, negatives, negative_scores in _in_texts(mined, dataset, entries):
        record: Record = {"query": query, "pos": positives, "neg": negatives}
        if scores:
            record |= {"pos_scores": positive_scores, "neg_scores": negative_scores}
        records.append(record)
    return records


def _plain(scores: NDArray[np.float32]) -> list[float]:
    """Python floats with the digits that a float32 has, and no more."""
    return [float(f"{score:.7g}") for score in scores.tolist()]


def _check_free(path: Path, folder: bool, overwrite: bool) -> None:
    if path.suffix in _OTHER_FILES:
        raise DataError(f"{path.suffix} is not written; give a name that ends in .jsonl", path)
    if not path.exists():
        return
    if not folder and path.is_dir():
        raise DataError("this is a folder, and the format is a file; name a file in it", path)
    if folder and not path.is_dir():
        raise DataError("this is a file; give a folder's name, or one that ends in .jsonl", path)
    content = {entry.name for entry in path.iterdir()} if folder else {path.name}
    if not content:
        return
    if not overwrite:
        raise DataError("this is there already; choose another name, or allow overwrite=True", path)
    if folder and not {"dataset_info.json", "state.json"} <= content:
        raise DataError("the folder holds something other than a dataset; not overwritten", path)


def _write_lines(path: Path, batches: Iterator[list[Record]]) -> int:
    rows = 0
    with written_whole(path.resolve()) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        for batch in batches:
            handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in batch)
            rows += len(batch)
    return rows


def _write_folder(path: Path, batches: Iterator[list[Record]], k: int, scores: bool) -> int:
    """A ``datasets`` folder, by way of an Arrow file on disk, so that memory holds one batch."""
    import datasets

    texts = ["anchor", "positive", *(f"negative_{j}" for j in range(1, k + 1))]
    columns = [(name, pa.large_string()) for name in texts]
    schema = pa.schema([*columns, ("scores", pa.list_(pa.float32()))] if scores else columns)
    path, rows = path.resolve(), 0
    # The library refuses to write into the folder that it reads from.
    with temporary_beside(path.with_name(f"{path.name}.rows")) as arrow, folder_written_whole(path) as fresh:
        with pa.OSFile(str(arrow), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            for batch in batches:
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                rows += len(batch)
        with _quiet(datasets):
            datasets.Dataset.from_file(str(arrow)).save_to_disk(fresh)
    return rows


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's own progress bars, which are shown off terminals too."""
    was_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            datasets.enable_progress_bars()
