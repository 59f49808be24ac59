"""A query's own document: the target that has its id or its text, as duplicate questions and counter-arguments have."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._ragged import RaggedRows
from hardwood.data.records.equal import are_equal, rows_with
from hardwood.data.records.twins import MOST

if TYPE_CHECKING:
    from hardwood.data._dataset import RetrievalDataset
    from hardwood.data.records.table import TextTable

LeaveOut = Literal["own-id", "own-text", "nothing"]
LEAVE_OUT: tuple[str, ...] = get_args(LeaveOut)


def targets_of_same_text(
    queries: TextTable, corpus: TextTable, query_hashes: NDArray[np.int64], target_hashes: NDArray[np.int64]
) -> RaggedRows:
    """The targets that say what each query says; a text of more than `MOST` targets is a filler, of which the query
    gets none (`twins_of` warns of it). The hashes are `TextTable.text_hashes` of both."""
    rows = rows_with(target_hashes, np.unique(query_hashes))
    by_hash = target_hashes[rows]
    order = np.argsort(by_hash, kind="stable")
    rows, by_hash = rows[order], by_hash[order]
    starts = np.searchsorted(by_hash, query_hashes, side="left")
    counts = np.searchsorted(by_hash, query_hashes, side="right") - starts
    counts[counts > MOST] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found = rows[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)]
    query_rows = np.repeat(np.arange(len(queries)), counts)
    equal = are_equal(queries.text_array, query_rows, corpus.text_array, found)
    return RaggedRows.from_pairs(query_rows[equal], found[equal], len(queries))


def left_out_of_rankings(dataset: RetrievalDataset, splits: Sequence[str], leave_out: LeaveOut) -> list[RaggedRows]:
    """What is left out of each judged query's ranking, split by split; never a positive of the query in that split.

    Warns where a query's own text would be ranked: it is at the top of any model's ranking, and says nothing.

    Args:
        dataset: corpus, queries and judgements.
        splits: names of splits.
        leave_out: ``"own-id"``: the target with the query's own id, BEIR's rule; ``"own-text"``: those that have its
            text, too; ``"nothing"``.

    Raises:
        ValueError: for another ``leave_out``, or an unknown split.
    """
    _checks.one_of(LEAVE_OUT, leave_out, "leave_out")
    answers = []
    for name in splits:
        of_same_id = _not_judged(dataset, name, dataset.own_documents("id"))
        of_same_text = _not_judged(dataset, name, dataset.own_documents("text"))
        both = _union(of_same_id, of_same_text)
        chosen = {"own-id": of_same_id, "own-text": both, "nothing": RaggedRows.empty(len(both))}[leave_out]
        _warn_of_what_stays(dataset, name, of_same_text, chosen, leave_out)
        answers.append(chosen)
    return answers


def _not_judged(dataset: RetrievalDataset, split: str, own: RaggedRows) -> RaggedRows:
    """Those of ``own``, by query row, that are no positives of the split, by place in the split."""
    judgements = dataset.split(split)
    found = own.take(judgements.queries)
    size = len(dataset.corpus)
    positives = judgements.positives.row_ids() * size + judgements.positives.values
    keep = ~np.isin(found.row_ids() * size + found.values, positives)
    return RaggedRows.from_pairs(found.row_ids()[keep], found.values[keep], len(found))


def _union(one: RaggedRows, other: RaggedRows) -> RaggedRows:
    rows = np.concatenate([one.row_ids(), other.row_ids()])
    return RaggedRows.from_pairs(rows, np.concatenate([one.values, other.values]), len(one))


def _warn_of_what_stays(
    dataset: RetrievalDataset, split: str, of_same_text: RaggedRows, chosen: RaggedRows, leave_out: LeaveOut
) -> None:
    size = len(dataset.corpus)
    left_out = chosen.row_ids() * size + chosen.values
    stays = ~np.isin(of_same_text.row_ids() * size + of_same_text.values, left_out)
    count = len(np.unique(of_same_text.row_ids()[stays]))
    if count and leave_out != "nothing":
        warnings.warn(
            f"the own text of {count:,} of {len(chosen):,} queries of the split {split!r} is a target under another id "
            f"and no positive (the first is {dataset.corpus.ids(of_same_text.values[stays][:1])[0]!r}): any model "
            "ranks it first. leave_out='own-text' (--leave-out own-text) takes such targets out of the rankings, "
            "leave_out='nothing' keeps all without this warning",
            stacklevel=4,
        )
