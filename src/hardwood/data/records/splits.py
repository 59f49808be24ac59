"""The splits of the demo sets: queries at random, and some targets held out with all their queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hardwood.data.records.judgements import Judgements


def split_judgements(
    answers: Sequence[Sequence[int]],
    seed: int,
    test: float,
    dev: float,
    unseen: float,
    together: Sequence[int] | None = None,
) -> dict[str, Judgements]:
    """Judgements by split from the target rows that answer each query; empty splits are left out.

    ``test_unseen`` has all queries of a random set of targets, none of which answers a query of another split.
    The other queries are divided at random into ``train``, ``dev`` and ``test``.

    Args:
        answers: for each query row the target rows that answer it, at least one.
        seed: of the splits.
        test: share of the queries not in ``test_unseen`` that go to ``test``.
        dev: share of the same that go to ``dev``.
        unseen: share of the targets with queries that are held out.
        together: for each target row the number of its group; groups are held out whole, and no more of them than
            ``unseen`` allows. No query may have answers in two.

    Raises:
        ValueError: for fractions below 0 or that leave nothing to train on.
    """
    members = _split_queries(answers, seed, test, dev, unseen, together)
    return {name: _judge(rows, answers) for name, rows in members.items()}


def _split_queries(
    answers: Sequence[Sequence[int]],
    seed: int,
    test: float,
    dev: float,
    unseen: float,
    together: Sequence[int] | None,
) -> Mapping[str, NDArray[np.int64]]:
    if min(test, dev, unseen) < 0 or test + dev >= 1 or unseen >= 1:
        raise ValueError(f"fractions must leave queries to train on, got test {test}, dev {dev}, unseen {unseen}")
    random = np.random.Generator(np.random.PCG64(seed))
    groups = list(groups_sharing_queries(answers) if together is None else _groups_of(answers, together))
    wanted = unseen * sum(map(len, groups))
    held_out: set[int] = set()
    for index in random.permutation(len(groups)):
        if len(held_out) >= wanted:
            break
        if together is None or len(held_out) + len(groups[index]) <= wanted:  # one may be most of the set
            held_out.update(groups[index])
    # a group is closed under shared queries, so a query's first answer decides for all of them
    is_unseen = np.array([answer[0] in held_out for answer in answers], dtype=bool)
    rest = random.permutation(np.flatnonzero(~is_unseen))
    num_test, num_dev = round(test * len(rest)), round(dev * len(rest))
    members = {
        "train": rest[num_test + num_dev :],
        "dev": rest[num_test : num_test + num_dev],
        "test": rest[:num_test],
        "test_unseen": np.flatnonzero(is_unseen),
    }
    return {name: np.sort(rows).astype(np.int64) for name, rows in members.items() if len(rows)}


def groups_sharing_queries(answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Concepts with queries, grouped so that no query has answers in two groups, by smallest concept."""
    parent = {concept: concept for answer in answers for concept in answer}

    def root(concept: int) -> int:
        while parent[concept] != concept:
            parent[concept] = parent[parent[concept]]
            concept = parent[concept]
        return concept

    for answer in answers:
        for concept in answer[1:]:
            first, second = sorted((root(answer[0]), root(concept)))
            parent[second] = first
    groups: dict[int, list[int]] = {}
    for concept in sorted(parent):
        groups.setdefault(root(concept), []).append(concept)
    yield from groups.values()


def _groups_of(answers: Sequence[Sequence[int]], together: Sequence[int]) -> Iterator[list[int]]:
    """Targets with queries by the number of their group, in its order."""
    groups: dict[int, list[int]] = {}
    for target in sorted({target for answer in answers for target in answer}):
        groups.setdefault(together[target], []).append(target)
    yield from (groups[number] for number in sorted(groups))


def _judge(rows: NDArray[np.int64], answers: Sequence[Sequence[int]]) -> Judgements:
    queries = np.repeat(rows, [len(answers[row]) for row in rows])
    targets = np.array([target for row in rows for target in answers[row]], dtype=np.int64)
    return Judgements.from_triples(queries, targets, np.ones(len(targets), dtype=np.int32))
