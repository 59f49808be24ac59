"""The dataset of everything in Hardwood: a corpus of targets, queries, and splits of judgements."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._ragged import RaggedRows
from hardwood.data.files.answers import Answers, read_answers
from hardwood.data.files.beir_lines import check_all_used
from hardwood.data.files.left_out import UNJUDGED
from hardwood.data.files.lines import find_file
from hardwood.data.files.mapped import text_table
from hardwood.data.files.qrels import find_qrels, read_qrels
from hardwood.data.files.write import write_folder
from hardwood.data.records.given import judged_negatives
from hardwood.data.records.judgements import Judgements
from hardwood.data.records.labels import labelled
from hardwood.data.records.own import targets_of_same_text
from hardwood.data.records.pairs import tables_from_pairs
from hardwood.data.records.table import TextTable
from hardwood.data.records.twins import Twins, first_rows, twins_of, with_twins
from hardwood.errors import DataError

if TYPE_CHECKING:
    import datasets

_PAIR_BLOCK = 1 << 18


class RetrievalDataset:
    """Targets, queries, and which targets answer which queries, by split.

    Attributes:
        corpus: the targets; "target row" means a row of this table.
        queries: the queries of all splits; "query row" means a row of this table.
        splits: judgements by split name ("train", "dev", "test" by custom).
        name: for reports and file names.
        left_out: the counts of what a lenient reader left out, by kind; None where it was strict.
        answers: short answers of queries (``answers.jsonl``), for `hardwood.evaluate`; None where there are none.
    """

    def __init__(
        self,
        corpus: TextTable,
        queries: TextTable,
        splits: Mapping[str, Judgements],
        name: str = "dataset",
        left_out: Mapping[str, int] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.corpus = corpus
        self.queries = queries
        self.splits = dict(splits)
        self.name = name
        self.left_out = None if left_out is None else dict(left_out)
        self.answers = answers

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(split):,}" for name, split in self.splits.items())
        return f"RetrievalDataset({self.name!r}, {len(self.corpus):,} targets, queries by split: {splits})"

    @classmethod
    def load(
        cls,
        folder: str | Path,
        splits: Sequence[str] | None = None,
        unjudged: Literal["error", "ignore"] = "error",
        lenient: bool = False,
        mapped: bool | None = None,
        cache: str | Path | None = None,
    ) -> RetrievalDataset:
        """Read a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and a ``qrels/SPLIT.tsv`` for every split.

        Files are read line by line, so memory is what the texts take; each may be gzipped
        (``corpus.jsonl.gz``). A line of the corpus is an object with ``_id`` (a string or integer; integers
        become strings), ``text`` and, if it has one, ``title``; a query has ``_id`` and ``text``. Qrels
        have three tab-separated columns, query id, target id and an integer score, with or without a
        header, which may name them in another order; scores of 0 and below are no positives (see
        `training_pairs`). Blank lines, a byte order mark and Windows line ends do no harm.

        A corpus or queries of 256 MiB and more are copied to an Arrow file in a cache folder, which is mapped into
        memory: the next load takes seconds, texts take no memory of the process's own, and all processes of a machine
        share them. A copy is held against a hash of the file that it was made of and against a checksum of its own; one
        that does not fit is made anew.

        Args:
            folder: the dataset's folder; its name becomes the dataset's.
            splits: the splits to read; all when None.
            unjudged: whether a query that no split judges is an error (looked for only when all splits are
                read) or stays in ``queries`` unused.
            mapped: whether corpus and queries are copied and mapped; None: each if its file is large.
            cache: the folder for such copies; None: ``$HARDWOOD_CACHE``, or ``~/.cache/hardwood``.
            lenient: leave out what is broken in many public sets, and count it in ``left_out``: empty texts, judgements
                of queries and targets that are not there, repeats, queries without a score above 0 or any judgement.
                A positive that is not there counts nevertheless: for measures it is one that was not found.

        Raises:
            DataError: for anything wrong with the files, naming file and line.
            OSError: with ``mapped=True``, if no copy can be written. (By default a warning says so, and the texts are
                read into memory.)
        """
        _checks.one_of(("error", "ignore"), unjudged, "unjudged")
        if isinstance(splits, str):
            raise TypeError(f"splits must be a list of names; write splits=[{splits!r}]")
        folder = Path(folder)
        if not folder.is_dir():
            problem = (
                "this is a file; hardwood.data.read_dataset reads it" if folder.exists() else "there is no such folder"
            )
            raise DataError(problem, folder)
        corpus_file, queries_file = find_file(folder, "corpus.jsonl"), find_file(folder, "queries.jsonl")
        qrels = find_qrels(folder, splits)
        left_out: Counter[str] | None = Counter() if lenient else None
        corpus = text_table(corpus_file, "target", True, left_out, mapped, cache)
        queries = text_table(queries_file, "query", False, left_out, mapped, cache)
        judgements = {name: read_qrels(path, queries, corpus, left_out) for name, path in qrels.items()}
        name = folder.resolve().name
        answers = read_answers(folder, queries, left_out)
        used = [members.queries for members in judgements.values()]
        if answers is not None:
            used.append(answers.unjudged())
        if left_out is None:
            if splits is None and unjudged == "error":
                check_all_used(queries, used, queries_file)
            return cls(corpus, queries, judgements, name, answers=answers)
        if splits is None:
            left_out[UNJUDGED] = len(queries) - len(np.unique(np.concatenate(used)))
        counts = {kind: count for kind, count in left_out.items() if count}
        return cls(corpus, queries, judgements, name, counts, answers)

    @classmethod
    def from_pairs(
        cls,
        data: datasets.Dataset | Mapping[str, datasets.Dataset],
        anchor: str = "anchor",
        positive: str = "positive",
        *,
        evaluation: datasets.Dataset | Mapping[str, datasets.Dataset] | None = None,
        corpus: Sequence[str] | datasets.Dataset | None = None,
        name: str = "pairs",
    ) -> RetrievalDataset:
        """A dataset from rows of (query text, target text), such as sentence-transformers trains on.

        The corpus is every distinct text of the column ``positive``, over all splits, and of ``corpus``; equal texts,
        once stripped, are one target. Likewise the queries: an anchor that several rows have is one query with
        several positives. Ids are ``t0``, ``t1``, … and ``q0``, ``q1``, …, by first appearance.

        A column ``label``, ``labels``, ``score`` or ``scores`` of 0 and 1 says which rows are positives: the text of a
        row of 0 is a target, but it answers nothing. Columns that are not used are named in a warning.

        Args:
            data: a ``Dataset``, which becomes the split "train", or a ``DatasetDict``, each key a split. Streams
                (``IterableDataset``) are read to their end; mappings and transforms are applied.
            anchor: the column of query texts.
            positive: the column of target texts.
            evaluation: further splits; a ``Dataset`` becomes "dev".
            corpus: all targets, those that no pair names among them: texts, or a dataset with the column ``positive``
                or a single one.
            name: the dataset's name.

        Raises:
            DataError: for a missing column, one that doesn't hold strings, an empty text, a label that is neither 0
                nor 1, or a split without rows or positives.
            TypeError: for splits that are no datasets.
        """
        splits = dict(data) if isinstance(data, Mapping) else {"train": data}
        if evaluation is not None:
            further = dict(evaluation) if isinstance(evaluation, Mapping) else {"dev": evaluation}
            if twice := sorted(splits.keys() & further.keys()):
                raise DataError(f"both data and evaluation have a split {twice[0]!r}; rename one")
            splits.update(further)
        for split, rows in splits.items():
            if not hasattr(rows, "select_columns"):
                raise TypeError(
                    f"split {split!r} must be a datasets.Dataset, got a {type(rows).__name__}; make one with its "
                    "from_dict, from_list or from_pandas"
                )
        if not splits:
            raise DataError("there are no splits; give at least one dataset")
        return cls(*tables_from_pairs(splits, anchor, positive, corpus), name)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the dataset as a BEIR folder that ``load`` reads back.

        Everything is written to a folder beside it, then renamed, so ``folder`` is there whole or not at all.

        Args:
            folder: where to; new or empty.
            overwrite: whether a dataset that is there may be replaced. A folder that holds anything else
                never is.

        Raises:
            DataError: when the folder isn't free, or a split's name can't be a file's.
        """
        write_folder(Path(folder), self.corpus, self.queries, self.splits, overwrite, self.answers)

    def split(self, name: str) -> Judgements:
        """The judgements of a split; ``ValueError`` naming the splits that exist where it doesn't."""
        if name not in self.splits:
            raise ValueError(f"there is no split {name!r}; {self.name} has {', '.join(self.splits) or 'none'}")
        return self.splits[name]

    def without_queries(self, rows: NDArray[np.int64]) -> RetrievalDataset:
        """The dataset without some queries, rows that no split has (``ValueError`` for one that a split does)."""
        keep = np.ones(len(self.queries), dtype=bool)
        keep[rows] = False
        if keep.all():
            return self
        for name, judgements in self.splits.items():
            if not keep[judgements.queries].all():
                raise ValueError(f"the split {name!r} judges some of these queries, so they can't be left out")
        kept, place = np.flatnonzero(keep), np.cumsum(keep) - 1
        queries = TextTable.from_columns(self.queries.ids(kept), self.queries.text_array(kept))
        splits = {
            name: dataclasses.replace(judgements, queries=place[judgements.queries])
            for name, judgements in self.splits.items()
        }
        answers = self.answers
        if answers is not None:
            if not keep[answers.unjudged()].all():
                raise ValueError("splits that have answers alone have some of these queries, so they can't be left out")
            answers = answers.renumbered(np.where(keep, place, -1))
        return RetrievalDataset(self.corpus, queries, splits, self.name, self.left_out, answers)

    def training_pairs(self, split: str = "train", given_negatives: int = 0) -> datasets.Dataset:
        """The positive pairs of a split as rows for sentence-transformers' trainer, in the split's order.

        Columns: ``anchor`` (query text), ``positive`` (target text), and ``label``, the two int64
        ``[query row, target row]``. The texts are copied once, in Arrow memory.

        Args:
            split: name of a split.
            given_negatives: m columns ``negative``, ``negative_1``, ... of targets that were judged 0 or below for the
                query: its first m in the file's order, repeated where it has fewer (a target counts once however often
                it is given), with a warning. Their rows follow in ``label``.

        Raises:
            ValueError: ``given_negatives`` below 0, or no such split.
            DataError: queries without a target that is judged 0 or below, with their count.
        """
        import datasets

        judgements = self.split(split)
        query_rows, target_rows = judgements.pairs()
        columns = {"anchor": (self.queries, query_rows), "positive": (self.corpus, target_rows)}
        if given_negatives != 0:
            chosen = judged_negatives(judgements, self.never_negatives(split), self.queries, split, given_negatives)
            for i, rows in enumerate(chosen[judgements.positives.row_ids()].T):
                columns[f"negative_{i}" if i else "negative"] = (self.corpus, rows)
        blocks = [slice(start, start + _PAIR_BLOCK) for start in range(0, len(query_rows), _PAIR_BLOCK)]
        texts = {
            name: pa.chunked_array([table.text_array(rows[block]) for block in blocks])
            for name, (table, rows) in columns.items()
        }
        labels = np.stack([rows for _, rows in columns.values()], axis=1)
        table = pa.table({**texts, "label": pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), len(columns))})
        # left to itself, datasets would hash every byte for a fingerprint that only caches on disk need
        return datasets.Dataset(table, fingerprint=uuid.uuid4().hex[:16])

    def label_pairs(self, pairs: datasets.Dataset, columns: Sequence[str] | None = None) -> datasets.Dataset:
        """Training pairs of one's own, with given negatives or without, as a loss takes them.

        Each text is looked up: queries among the queries, positives and negatives in the corpus, by their texts
        (`TextTable.texts`, without white space at the ends).

        Args:
            pairs: rows of (query, positive, negative, ...), such as ``mine_hard_negatives`` of sentence-transformers
                gives as n-tuples.
            columns: of the query, the positive and the negatives, in this order. Default: ``anchor``, ``positive`` (or
                the first two), ``negative`` and all that begin with ``negative_``. Others are left out.

        Returns:
            These columns and ``label``, int64 ``[query row, target row, a row for each negative]``.

        Raises:
            DataError: texts that are not in the dataset, or rows labelled 0, with a count; an empty text, or a column
                that is missing or holds no strings.
        """
        return labelled(pairs, self.queries, self.corpus, self.never_negatives(*self.splits), columns)

    def known_positives(self, split: str = "train") -> RaggedRows:
        """The targets to leave out when negatives are drawn, by query row (not by place in the split).

        Targets of equal text count as one here, and queries too: a copy of a positive under another id is no negative,
        nor is what answers the same query under another id. (Measures go by ids, as the judgements do.) Only a text
        that more than 100 rows have is not followed up, with a warning.

        Returns:
            ``len(self.queries)`` rows; those of queries without a positive in the split are empty.
        """
        query_twins, target_twins, _ = self._by_text
        same_query = first_rows(query_twins, len(self.queries))
        query_rows, target_rows = with_twins(*self.split(split).pairs(), same_query, target_twins)
        return RaggedRows.from_pairs(query_rows, target_rows, num_rows=len(self.queries))

    def own_documents(self, by: Literal["id", "text"]) -> RaggedRows:
        """The targets that are each query itself, by query row: those with its id, or with its text (under any id).

        Items that are searched by themselves, duplicate questions, and pairs in both directions have such targets. A
        text that more than 100 targets have is a filler, and no query's own.

        Raises:
            ValueError: for another ``by``.
        """
        _checks.one_of(("id", "text"), by, "by")
        return self._same_id if by == "id" else self._by_text[2]

    def never_negatives(self, *splits: str) -> RaggedRows:
        """The targets that are no negatives of a query, by query row: its `known_positives` in any of ``splits``, and
        its `own_documents`, by id and by text.

        A query's own document would be its hardest negative, from which no encoder can tell it apart.
        """
        parts = [*(self.known_positives(name) for name in splits), self._same_id, self._by_text[2]]
        return RaggedRows.from_pairs(
            np.concatenate([part.row_ids() for part in parts]),
            np.concatenate([part.values for part in parts]),
            num_rows=len(self.queries),
        )

    def seen_and_unseen(self, split: str, train_split: str = "train") -> dict[str, NDArray[np.int64]]:
        """The places of a split's queries by whether training asks for what they ask for.

        A target is seen if it, or one of equal text, has a positive judgement in ``train_split``. A query is
        ``"unseen"`` if none of its positives is seen, and ``"seen"`` if at least one is: a ranking that finds that one
        does not show that unseen targets are found.

        Returns:
            ``"seen"`` and ``"unseen"``, both int64, ascending, together all places of ``split(split).queries`` but for
            queries none of whose positives the corpus has (a lenient load keeps these): nothing is known of them.
        """
        judgements = self.split(split)
        _, asked = self.split(train_split).pairs()
        is_seen = np.zeros(len(self.corpus), dtype=bool)
        is_seen[asked] = True
        if not is_seen[judgements.positives.values].all():  # texts are compared only where ids don't say it
            same = self.same_text[1]
            is_seen[same[asked]] = True
            is_seen = is_seen[same]
        hits = np.bincount(
            judgements.positives.row_ids(), weights=is_seen[judgements.positives.values], minlength=len(judgements)
        )
        return {"seen": np.flatnonzero(hits), "unseen": np.flatnonzero((hits == 0) & (judgements.positives.counts > 0))}

    @property
    def same_text(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each query, and for each target, the first row of its text."""
        query_twins, target_twins, _ = self._by_text
        return first_rows(query_twins, len(self.queries)), first_rows(target_twins, len(self.corpus))

    @cached_property
    def _by_text(self) -> tuple[Twins, Twins, RaggedRows]:
        """The twins of queries and targets, and the targets of each query's text: from one hash of each text."""
        queries, targets = self.queries.text_hashes(), self.corpus.text_hashes()
        return (
            twins_of(self.queries, "queries", queries),
            twins_of(self.corpus, "targets", targets),
            targets_of_same_text(self.queries, self.corpus, queries, targets),
        )

    @cached_property
    def _same_id(self) -> RaggedRows:
        found = self.corpus.find(self.queries.id_array())
        query_rows = np.flatnonzero(found >= 0)
        return RaggedRows.from_pairs(query_rows, found[query_rows], num_rows=len(self.queries))
