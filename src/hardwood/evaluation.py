"""Exact retrieval in bounded memory, and the field's measures of it.

What it is for: which targets a model ranks first for each query, over a whole corpus, and how good that
ranking is. The corpus is encoded and scored block by block and never kept. What it knows: models, datasets,
rankings. What it must not know: training, indexes that approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardwood._divided_ranking import best_of_all, queries_together, rows_dealt_out
from hardwood._ragged import RaggedRows
from hardwood._ranking import rank_vectors
from hardwood.answer_recall import answered_alone, measure_answers
from hardwood.data.records.own import left_out_of_rankings
from hardwood.encoding import BLOCK, Texts, encode_targets, similarity_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import Judgements, RetrievalDataset
    from hardwood.data.records.own import LeaveOut
    from hardwood.ranks import Ranks

__all__ = [
    "MEASURES",
    "evaluate",
    "evaluate_splits",
    "measure",
    "measure_each",
    "rank_vectors",
    "retrieve",
]

MEASURES = {
    "recall@1": ("R", 1),
    "recall@10": ("R", 10),
    "recall@100": ("R", 100),
    "mrr@10": ("RR", 10),
    "ndcg@10": ("nDCG", 10),
}
"""The measures reported: what ``ir_measures`` calls them, and their cutoffs."""

DEPTH = 100  # the deepest cutoff above

OWN_LEFT_OUT = "own_left_out"
"""Beside the measures of a split: from how many queries' rankings their own document was left out, if from any."""

_MEASURED_AT_A_TIME = 4096  # queries; ir_measures wants a dictionary of dictionaries


def evaluate(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str = "test",
    *,
    leave_out: LeaveOut = "own-id",
    batch_size: int | None = None,
    block: int = BLOCK,
    similarity: str | None = None,
    progress: bool | None = None,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """How well a model retrieves the positives of a split from the whole corpus.

    Every query is ranked against every target exactly. Host memory holds the texts, the query vectors, one
    block of target vectors and the 100 best targets of each query, whatever the size of the corpus.

    Args:
        model: any ``SentenceTransformer``; used on the device it is on, its training mode is kept.
        dataset: corpus, queries and judgements.
        split: its queries and positives are used.
        leave_out: what is left out of a query's ranking, if it is no positive of it: ``"own-id"``, the target that has
            the query's own id, as BEIR does it (which drops positives, too); ``"own-text"``, the targets that have its
            text as well; ``"nothing"``. Where the corpus holds the queries themselves any model ranks them first.
        batch_size: texts in one forward pass; 128 when None, and 2,048 for static embeddings.
        block: targets encoded and scored at a time. It changes neither ranking nor measures but by rounding.
        similarity: "cosine" or "dot"; the model's own when None.
        progress: whether to show a bar on stderr; None for only on a terminal.
        ranks: processes that all call this, and divide the blocks among them (`hardwood.ranks`); ``None``: this one
            does it all. The answer is the same to the byte, and all have it.

    Returns:
        The mean over the queries of ``recall@1``, ``recall@10``, ``recall@100`` (share of a query's positives
        among the first), ``mrr@10`` and ``ndcg@10`` (gains are the judgements' grades), as plain floats. Where
        anything was left out, ``own_left_out`` is the number of queries that it was left out for. Where queries have
        answers (``answers.jsonl``), also ``answer_recall@1``, ``@5``, ``@10``, ``@20`` and ``@100``
        (`hardwood.answer_recall`), over those that have; a split without judgements has these alone.

    Raises:
        ValueError: for an unknown or empty split, another ``leave_out``, or a similarity that isn't an inner product.
        TypeError: for a model that is no ``SentenceTransformer``.
    """
    settings: dict[str, Any] = {
        "leave_out": leave_out,
        "batch_size": batch_size,
        "block": block,
        "similarity": similarity,
        "progress": progress,
        "ranks": ranks,
    }
    return evaluate_splits(model, dataset, [split], train_split=None, **settings)[split]


def evaluate_splits(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    splits: Sequence[str],
    *,
    leave_out: LeaveOut = "own-id",
    train_split: str | None = "train",
    observe: Callable[[str, NDArray[np.int64], Judgements], None] | None = None,
    **settings: Any,
) -> dict[str, dict[str, float]]:
    """What `evaluate` gives for each of ``splits``, by name, with the corpus encoded once for all of them.

    A split whose queries ask for seen and for unseen targets has two further entries, ``"SPLIT/seen"`` and
    ``"SPLIT/unseen"`` (see `RetrievalDataset.seen_and_unseen`), which also say their number of ``"queries"``.

    Args:
        model: as for `evaluate`.
        dataset: as for `evaluate`.
        splits: names of splits; none: an empty answer, and nothing is encoded.
        leave_out: as for `evaluate`.
        train_split: the split whose targets are seen; ``None``, or one that the dataset lacks: nothing is divided
            apart.
        observe: is called with each split's name, its ranking (as `measure_each` takes it) and its judgements.
        settings: ``batch_size``, ``block``, ``similarity``, ``progress`` and ``ranks`` of `evaluate`.

    Raises:
        ValueError: as `evaluate`, before anything is encoded.
    """
    unjudged = {name: answered_alone(dataset, name) for name in splits}
    judged = {name: dataset.split(name) for name in splits if name in dataset.splits or not len(unjudged[name])}
    for name, judgements in judged.items():
        if not len(judgements):
            raise ValueError(f"the split {name!r} of {dataset.name} has no queries to measure")
    if not unjudged:
        return {}
    own = dict(zip(judged, left_out_of_rankings(dataset, list(judged), leave_out), strict=True))
    rows = {name: np.concatenate([judged[name].queries if name in judged else [], unjudged[name]]) for name in unjudged}
    rows = {name: of_split.astype(np.int64) for name, of_split in rows.items()}
    nothing = {name: RaggedRows.empty(len(unjudged[name])) for name in unjudged}
    exclude = [part for name in unjudged for part in (own.get(name), nothing[name]) if part is not None]
    settings |= {"query_rows": np.concatenate(list(rows.values())), "exclude": RaggedRows.stacked(exclude)}
    ranking, _ = retrieve(model, dataset.corpus, dataset.queries, DEPTH, **settings)
    ends = np.cumsum([len(of_split) for of_split in rows.values()])
    found: dict[str, dict[str, float]] = {}
    for name, part in zip(rows, np.split(ranking, ends[:-1]), strict=True):
        if name in judged:
            own_part = part[: len(judged[name])]
            if observe is not None:
                observe(name, own_part, judged[name])
            found[name] = {**measure(own_part, judged[name]), **_own_left_out(own[name])}
        found[name] = {**found.get(name, {}), **measure_answers(part, rows[name], dataset)}
        if name not in judged or train_split not in dataset.splits:
            continue
        groups = dataset.seen_and_unseen(name, train_split)
        if all(len(places) for places in groups.values()):
            for group, places in groups.items():  # no split has a slash in its name
                values = measure(own_part[places], judged[name].take(places))
                counts = {"queries": len(places), **_own_left_out(own[name].take(places))}
                found[f"{name}/{group}"] = {**counts, **values}
    return found


def _own_left_out(rows: RaggedRows) -> dict[str, float]:
    count = np.count_nonzero(rows.counts)
    return {OWN_LEFT_OUT: float(count)} if count else {}


def measure(ranking: ArrayLike, judgements: Judgements) -> dict[str, float]:
    """The mean over queries of what ``measure_each`` gives; the same for any order of the queries."""
    each = measure_each(ranking, judgements)
    return {name: math.fsum(values.tolist()) / max(len(values), 1) for name, values in each.items()}


def measure_each(ranking: ArrayLike, judgements: Judgements) -> dict[str, NDArray[np.float64]]:
    """The measures of each query, for tests of significance and for looking at the worst.

    Args:
        ranking: ``(m, k)`` integers, row ``i`` the target rows retrieved for ``judgements.queries[i]``, best
            first; -1 fills up where fewer were. The order counts, not the scores that led to it.
        judgements: ``m`` queries with their positives and grades.

    Returns:
        For each name of ``MEASURES``, ``(m,)`` float64. A cutoff deeper than ``k`` sees ``k`` targets.

    Raises:
        ValueError: when the ranking isn't ``(m, k)``, or names a target twice for one query.
    """
    rows = np.asarray(ranking)
    if rows.ndim != 2 or len(rows) != len(judgements) or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"ranking must be integers of shape ({len(judgements)}, k), one row a judged query, "
            f"got {rows.dtype} of shape {rows.shape}"
        )
    by_row = np.sort(rows, axis=1)
    if ((by_row[:, 1:] == by_row[:, :-1]) & (by_row[:, 1:] >= 0)).any():
        raise ValueError("the ranking names a target twice for one query; each may be retrieved once")
    each = {name: np.zeros(len(rows)) for name in MEASURES}
    for start in range(0, len(rows), _MEASURED_AT_A_TIME):
        _measure_block(rows, judgements, start, min(start + _MEASURED_AT_A_TIME, len(rows)), each)
    return each


def _measure_block(
    rows: NDArray[Any], judgements: Judgements, start: int, stop: int, out: dict[str, NDArray[np.float64]]
) -> None:
    import ir_measures

    # Not by its parser of names, which asks for what Python 3.14 no longer has.
    measures = {getattr(ir_measures, kind) @ cutoff: name for name, (kind, cutoff) in MEASURES.items()}
    positives, offsets = judgements.positives, judgements.positives.offsets
    run, qrels = {}, {}
    # The measures' own implementations sort by score and break ties by name; a score of minus the rank
    # leaves them no choice.
    scores = [float(-rank) for rank in range(rows.shape[1])]
    for i in range(start, stop):
        query = str(i)
        pairs = zip(rows[i].tolist(), scores, strict=True)
        run[query] = {str(row): score for row, score in pairs if row >= 0}
        grades = judgements.grades[offsets[i] : offsets[i + 1]].tolist()
        qrels[query] = {str(row): grade for row, grade in zip(positives[i].tolist(), grades, strict=True)}
        missing = judgements.missing.grades_of(i)  # no search can find them
        qrels[query].update({f"missing {number}": grade for number, grade in enumerate(missing)})
    for result in ir_measures.iter_calc(list(measures), qrels, run):
        out[measures[result.measure]][int(result.query_id)] = result.value


def retrieve(
    model: SentenceTransformer,
    corpus: Texts | Sequence[str],
    queries: Texts | Sequence[str],
    k: int,
    *,
    query_rows: ArrayLike | None = None,
    exclude: RaggedRows | None = None,
    batch_size: int | None = None,
    block: int = BLOCK,
    similarity: str | None = None,
    progress: bool | None = None,
    ranks: Ranks | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` best targets of each query by the model's similarity, exactly.

    Args:
        model: any ``SentenceTransformer``.
        corpus: the targets, a table or texts.
        queries: the queries, a table or texts.
        k: how many targets a query.
        query_rows: ``(Q,)`` the queries to search for; all when None.
        exclude: ``Q`` rows of target rows that each query must not be given.
        batch_size, block, similarity, progress, ranks: as in ``evaluate``.

    Returns:
        ``(rows, scores)``, int64 and float32, both ``(Q, k)``; see ``rank_vectors``.
    """
    similarity = similarity_of(model, similarity)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "block": block,
        "similarity": similarity,
        "progress": progress,
    }
    vectors = queries_together(model, queries, query_rows, ranks, **settings)
    blocks = encode_targets(model, corpus, rows_dealt_out(len(corpus), block, ranks), **settings)
    return best_of_all(*rank_vectors(vectors, blocks, k, exclude=exclude, device=model.device), ranks)
