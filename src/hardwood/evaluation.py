"""Exact retrieval in bounded memory, and the field's measures of it.

What it is for: which targets a model ranks first for each query, over a whole corpus, and how good that
ranking is. The corpus is encoded and scored block by block and never kept. What it knows: models, datasets,
rankings. What it must not know: training, indexes that approximate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardwood._ragged import RaggedRows
from hardwood.data._own import left_out_of_rankings
from hardwood.encoding import BATCH_SIZE, BLOCK, Texts, encode_targets, query_vectors, similarity_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from hardwood.data import Judgements, RetrievalDataset
    from hardwood.data._own import LeaveOut
    from hardwood.ranks import Ranks

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

_SCORES_AT_A_TIME = 1 << 24  # 64 MB of float32: queries x targets scored in one matrix
_MEASURED_AT_A_TIME = 4096  # queries; ir_measures wants a dictionary of dictionaries
_LOW = 0xFFFF_FFFF
_NOTHING = -(1 << 63)  # the lowest key: no target

TargetBlocks = Iterable[tuple[NDArray[np.int64], NDArray[Any]]]


def evaluate(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str = "test",
    *,
    leave_out: LeaveOut = "own-id",
    batch_size: int = BATCH_SIZE,
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
        split: whose queries and positives.
        leave_out: what is left out of a query's ranking, if it is no positive of it: ``"own-id"``, the target that has
            the query's own id, as BEIR does it (which drops positives, too); ``"own-text"``, the targets that have its
            text as well; ``"nothing"``. Where the corpus holds the queries themselves any model ranks them first.
        batch_size: texts in one forward pass.
        block: targets encoded and scored at a time. It changes neither ranking nor measures but by rounding.
        similarity: "cosine" or "dot"; the model's own when None.
        progress: whether to show a bar on stderr; None for only on a terminal.
        ranks: processes that all call this, and divide the blocks among them (`hardwood.ranks`); ``None``: this one
            does it all. The answer is the same to the byte, and all have it.

    Returns:
        The mean over the queries of ``recall@1``, ``recall@10``, ``recall@100`` (share of a query's positives
        among the first), ``mrr@10`` and ``ndcg@10`` (gains are the judgements' grades), as plain floats. Where
        anything was left out, ``own_left_out`` is the number of queries that it was left out for.

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
        settings: ``batch_size``, ``block``, ``similarity``, ``progress`` and ``ranks`` of `evaluate`.

    Raises:
        ValueError: as `evaluate`, before anything is encoded.
    """
    judged = {name: dataset.split(name) for name in splits}
    for name, judgements in judged.items():
        if not len(judgements):
            raise ValueError(f"the split {name!r} of {dataset.name} has no queries to measure")
    if not judged:
        return {}
    query_rows = np.concatenate([judgements.queries for judgements in judged.values()])
    own = dict(zip(judged, left_out_of_rankings(dataset, list(judged), leave_out), strict=True))
    settings |= {"query_rows": query_rows, "exclude": RaggedRows.stacked(own.values())}
    ranking, _ = retrieve(model, dataset.corpus, dataset.queries, DEPTH, **settings)
    ends = np.cumsum([len(judgements) for judgements in judged.values()])
    parts = np.split(ranking, ends[:-1])
    found: dict[str, dict[str, float]] = {}
    for name, part in zip(judged, parts, strict=True):
        found[name] = {**measure(part, judged[name]), **_own_left_out(own[name])}
        groups = dataset.seen_and_unseen(name, train_split) if train_split in dataset.splits else {}
        if all(len(places) for places in groups.values()):
            for group, places in groups.items():  # no split has a slash in its name
                values = measure(part[places], judged[name].take(places))
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
            f"not {rows.dtype} of shape {rows.shape}"
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
    batch_size: int = BATCH_SIZE,
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


def rows_dealt_out(count: int, block: int, ranks: Ranks | None) -> NDArray[np.int64] | None:
    """The rows of this process's blocks of ``0 .. count - 1``; ``None``: all.

    Whole blocks are dealt out in turn, so that each text is padded and each product shaped as on a single process.
    """
    if ranks is None or ranks.is_alone:
        return None
    rows = np.arange(count, dtype=np.int64)
    return rows[rows // block % ranks.size == ranks.number]


def queries_together(
    model: SentenceTransformer,
    queries: Texts | Sequence[str],
    rows: ArrayLike | None,
    ranks: Ranks | None,
    **settings: Any,
) -> NDArray[Any]:
    """`query_vectors`, with the blocks divided among processes."""
    import torch

    if ranks is None or ranks.is_alone:
        return query_vectors(model, queries, rows, **settings)
    wanted = np.arange(len(queries), dtype=np.int64) if rows is None else np.asarray(rows)
    places = rows_dealt_out(len(wanted), settings["block"], ranks)
    own = query_vectors(model, queries, wanted[places], **settings)
    everyone = ranks.gather([torch.from_numpy(np.asarray(places)), torch.from_numpy(own)])
    order = np.argsort(np.concatenate([found.numpy() for found, _ in everyone]))
    return np.concatenate([vectors.numpy() for _, vectors in everyone])[order]


def best_of_all(
    rows: NDArray[np.int64], scores: NDArray[np.float32], ranks: Ranks | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best of what each process has found among its own targets, as `rank_vectors` orders them."""
    import torch

    if ranks is None or ranks.is_alone:
        return rows, scores
    everyone = ranks.gather([torch.from_numpy(rows), torch.from_numpy(scores)])
    keys = [_keys(values, _LOW - found) for found, values in everyone]  # nothing found scores minus infinity
    return _decode(torch.topk(torch.cat(keys, dim=1), rows.shape[1]).values)


def rank_vectors(
    queries: NDArray[Any],
    target_blocks: TargetBlocks,
    k: int,
    *,
    exclude: RaggedRows | None = None,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` largest inner products of each query over targets that come in blocks.

    Only one block, the running best, and a few times 64 MB for scores are in memory. Equal scores are ordered
    by target row, the lower first, also where the last place is contested, so the answer is the same for
    every order and size of the blocks, as far as a matrix product rounds alike.

    Args:
        queries: ``(Q, d)`` floats, finite.
        target_blocks: pairs of target rows ``(b,)``, in [0, 2^32) and none twice, and vectors ``(b, d)``,
            finite floats.
        k: how many targets a query, at least 1.
        exclude: ``Q`` rows of target rows left out of each query's ranking.
        device: where to multiply; anything but CPU and CUDA falls back to the CPU.

    Returns:
        ``(rows, scores)``: int64 and float32 ``(Q, k)``, best first; -1 and ``-inf`` fill up where a query
        has fewer targets.

    Raises:
        ValueError: for shapes that don't fit, a ``k`` below 1, or a vector that isn't finite.
    """
    import torch

    queries = np.asarray(queries)
    if queries.ndim != 2:
        raise ValueError(f"queries must have the shape (Q, d), not {queries.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if exclude is not None and len(exclude) != len(queries):
        raise ValueError(f"exclude has {len(exclude)} rows for {len(queries)} queries; one each is needed")
    _check_finite(queries, "query")
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):  # 64-bit integers, which the ranking needs, are rare elsewhere
        device = torch.device("cpu")
    # a trainer's autocast would round the scores
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        x = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device)
        best = torch.full((len(x), k), _NOTHING, dtype=torch.int64, device=device)
        excluded = None if exclude is None else _ByTarget(exclude)
        for rows, vectors in target_blocks:
            if vectors.ndim != 2 or len(rows) != len(vectors) or vectors.shape[1] != x.shape[1]:
                raise ValueError(
                    f"a block of {len(rows)} target rows has vectors of shape {vectors.shape} for queries "
                    f"of shape {queries.shape}"
                )
            if len(rows):
                _check_finite(vectors, "target")
                _merge_block(x, rows, vectors, best, excluded)
        return _decode(best)


class _ByTarget:
    """The pairs (query, excluded target) in the order of their targets, to be found block by block."""

    def __init__(self, exclude: RaggedRows) -> None:
        order = np.argsort(exclude.values, kind="stable")
        self.targets, self.queries = exclude.values[order], exclude.row_ids()[order]

    def in_block(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Queries and places in the block of the pairs whose target the block has, by ascending query."""
        return pairs_in_block(self.targets, self.queries, rows)


def pairs_in_block(
    targets: NDArray[np.int64], owners: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the pairs (owner, target) have their target in a block.

    Args:
        targets: ``(p,)`` int64, ascending.
        owners: ``(p,)`` int64.
        rows: ``(b,)`` the block's target rows, in any order, none twice.

    Returns:
        ``(owners, places)``, both ``(f,)`` int64, by ascending owner; ``rows[places]`` are the targets.
    """
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(targets, rows[order], side="left")
    counts = np.searchsorted(targets, rows[order], side="right") - starts
    offsets = np.cumsum(counts) - counts
    found = np.arange(counts.sum()) + np.repeat(starts - offsets, counts)
    places = np.repeat(order, counts)
    by_owner = np.argsort(owners[found], kind="stable")
    return owners[found][by_owner], places[by_owner]


def _merge_block(
    x: torch.Tensor,
    rows: NDArray[np.int64],
    vectors: NDArray[Any],
    best: torch.Tensor,
    excluded: _ByTarget | None,
) -> None:
    """Take the best of a block into ``best`` ``(Q, k)``, a slice of the queries at a time, in place."""
    import torch

    y = torch.from_numpy(np.ascontiguousarray(vectors)).to(x.device, dtype=torch.float32)
    low = torch.from_numpy(_LOW - np.asarray(rows, dtype=np.int64)).to(x.device)
    owners, places = excluded.in_block(rows) if excluded is not None else (np.zeros(0, np.int64),) * 2
    step = max(1, _SCORES_AT_A_TIME // len(y))
    for start in range(0, len(x), step):
        scores = x[start : start + step] @ y.T
        lo, hi = np.searchsorted(owners, [start, start + len(scores)])
        if hi > lo:
            index = (torch.from_numpy(owners[lo:hi] - start), torch.from_numpy(places[lo:hi]))
            scores[index[0].to(x.device), index[1].to(x.device)] = -torch.inf
        mine = best[start : start + step]
        mine.copy_(torch.topk(torch.cat([mine, _block_best(scores, low, best.shape[1])], 1), best.shape[1]).values)


def _block_best(scores: torch.Tensor, low: torch.Tensor, k: int) -> torch.Tensor:
    """Keys ``(q, min(k, b))`` of each query's best targets of a block with scores ``(q, b)``.

    The best by float alone are quick to find, and right unless the last place is contested by an equal score;
    only the queries where it is are ranked by whole keys.
    """
    import torch

    width = scores.shape[1]
    if width <= k:
        return _keys(scores, low)
    values, places = torch.topk(scores, k + 1)
    keys = _keys(values[:, :k], low[places[:, :k]])
    contested = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
    if bool(contested.any()):
        step = max(1, _SCORES_AT_A_TIME // (16 * width))  # keys take more memory than scores
        for some in contested.nonzero().flatten().split(step):
            keys[some] = torch.topk(_keys(scores[some], low), k).values
    return keys


def _keys(scores: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """64-bit integers that order as (score, -row): the score's bits above, ``2^32 - 1 - row`` below.

    The bits of a float order as integers do, but for negative ones, whose order is turned around.
    """
    import torch

    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0, which it equals
    ordered = torch.where(bits < 0, bits ^ 0x7FFF_FFFF, bits).to(torch.int64)
    keys = (ordered << 32) | low
    return torch.where(scores == -torch.inf, _NOTHING, keys)


def _decode(keys: torch.Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    import torch

    nothing = keys == _NOTHING
    rows = torch.where(nothing, -1, _LOW - (keys & _LOW))
    ordered = (keys >> 32).to(torch.int32)
    scores = torch.where(ordered < 0, ordered ^ 0x7FFF_FFFF, ordered).view(torch.float32)
    return rows.cpu().numpy(), torch.where(nothing, -torch.inf, scores).cpu().numpy()


def _check_finite(vectors: NDArray[Any], kind: str) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ValueError(f"the {kind} vector at {int(bad[0])} is not finite, and can't be ranked")
