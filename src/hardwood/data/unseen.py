"""A test of unseen targets for a dataset that has none: some leave training, with every query that names them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._ragged import RaggedRows
from hardwood.data._dataset import RetrievalDataset
from hardwood.data.records.splits import groups_sharing_queries
from hardwood.errors import DataError


def split_unseen(
    dataset: RetrievalDataset,
    share: float | None = None,
    count: int | None = None,
    seed: int = 0,
    *,
    train_split: str = "train",
    name: str = "test_unseen",
) -> RetrievalDataset:
    """A dataset whose split ``name`` asks for targets that its training split doesn't ask for.

    Targets are chosen at random among those with a training query. Targets of equal text count as one, and so do equal
    queries. All training queries that name a chosen target leave training, with all their judgements. They make up
    the new split, so none of its positives has a positive judgement in training any more. Corpus and other splits stay
    as they are; what they ask for may now be unseen too.

    Targets that share a query are chosen together. Where too few can be, because shared queries hold nearly all targets
    together, single ones are chosen. A query that names one of them beside a target that training still asks for is
    then left out of both splits, with a warning that counts them.

    Args:
        dataset: is not changed.
        share: of the targets with a training query, between 0 and 1; 0.1 where neither share nor count is given.
        count: their number, at least 1. About as many are chosen.
        seed: of the choice.
        train_split: the split to take from.
        name: of the new split.

    Raises:
        ValueError: share and count both given, or out of range; no split of that name.
        DataError: there is a split ``name`` already, or there are too few targets or queries to hold some out.
    """
    judgements = dataset.split(train_split)
    if name in dataset.splits:
        raise DataError(f"{dataset.name} has a split {name!r} already; give the new one another name")
    query_groups, target_groups = dataset.same_text
    pairs = RaggedRows.from_pairs(
        query_groups[judgements.queries[judgements.positives.row_ids()]],
        target_groups[judgements.positives.values],
        len(query_groups),
    )
    asking = np.flatnonzero(pairs.counts)
    answers = [pairs[row].tolist() for row in asking.tolist()]
    components = list(groups_sharing_queries(answers))
    wanted = _wanted(share, count, sum(map(len, components)))
    chosen = _choose(components, wanted, seed)
    is_chosen = np.zeros(len(target_groups), dtype=bool)
    is_chosen[chosen] = True
    moved = np.zeros(len(query_groups), dtype=bool)
    moved[[row for row, targets in zip(asking.tolist(), answers, strict=True) if is_chosen[targets].any()]] = True
    leaves = moved[query_groups[judgements.queries]]
    rest = judgements.take(np.flatnonzero(~leaves))
    still_asked = np.zeros(len(target_groups), dtype=bool)
    still_asked[target_groups[rest.positives.values]] = True
    seen = _any_of(judgements.positives, still_asked[target_groups])
    unseen = judgements.take(np.flatnonzero(leaves & ~seen))
    left_out = int((leaves & seen).sum())
    if not len(rest) or not len(unseen) or left_out > len(judgements) / 2:
        raise DataError(
            f"{wanted:,} unseen targets can't be had: of {len(judgements):,} queries of {train_split!r} "
            f"{len(rest):,} would be left to train on and {len(unseen):,} in {name!r}, because queries name several "
            "targets; choose fewer (share or count)"
        )
    if left_out:
        warnings.warn(
            f"{left_out:,} of {len(judgements):,} queries are left out of {train_split!r} and {name!r}: they name "
            "chosen targets beside others that training still asks for",
            stacklevel=2,
        )
    splits = {**dataset.splits, train_split: rest, name: unseen}
    judged = np.concatenate([members.queries for members in splits.values()])
    made = RetrievalDataset(dataset.corpus, dataset.queries, splits, dataset.name, dataset.left_out, dataset.answers)
    return made.without_queries(np.setdiff1d(judgements.queries, judged))


def _wanted(share: float | None, count: int | None, available: int) -> int:
    if share is not None and count is not None:
        raise ValueError(f"give share or count, not both (got {share} and {count})")
    if count is not None:
        _checks.at_least(1, count, "count")
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    wanted = count if count is not None else round((0.1 if share is None else share) * available)
    if not 0 < wanted < available:
        raise DataError(
            f"of {available:,} targets with a training query {wanted:,} can't be held out; at least one must be, and "
            "one must be left to train on"
        )
    return wanted


def _choose(components: list[list[int]], wanted: int, seed: int) -> list[int]:
    """About ``wanted`` targets: whole components in random order, and single targets if these give not even half."""
    random = np.random.Generator(np.random.PCG64(seed))
    most = wanted + wanted // 10
    chosen: list[int] = []
    rest: list[int] = []
    for index in random.permutation(len(components)).tolist():
        fits = len(chosen) < wanted and len(chosen) + len(components[index]) <= most
        (chosen if fits else rest).extend(components[index])
    if len(chosen) < wanted / 2:
        chosen += [rest[place] for place in random.permutation(len(rest))[: wanted - len(chosen)].tolist()]
    return chosen


def _any_of(rows: RaggedRows, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows hold a marked value."""
    return np.bincount(rows.row_ids(), weights=marked[rows.values], minlength=len(rows)) > 0
