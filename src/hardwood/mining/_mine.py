"""Finding hard negatives: one pass over the corpus, then choice among each query's best targets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._divided_ranking import best_of_all, queries_together, rows_dealt_out
from hardwood._ragged import RaggedRows
from hardwood._ranking import TargetBlocks, pairs_in_block, rank_vectors
from hardwood.encoding import BLOCK, encode_targets, similarity_of
from hardwood.negatives.margin import MarginFilter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import Judgements, RetrievalDataset, TextTable
    from hardwood.ranks import Ranks

ROOM = 100  # candidates beyond those asked for, so that margins may reject some
_CANDIDATES_AT_A_TIME = 1 << 21
_PAIRS_AT_A_TIME = 8192
_ALIKE = 5e-3  # equal texts score alike to within what half precision leaves of a cosine


@dataclass(frozen=True, eq=False)
class MinedNegatives:
    """Negatives by entry, where an entry is a query with all its positives, or a (query, positive) pair.

    Attributes:
        queries: ``(e,)`` int64, the entries' query rows, in the split's order.
        positives: ``e`` rows of target rows; one each where pairs were mined.
        positive_scores: ``(len(positives.values),)`` float32, the similarity of each positive to its query.
        negatives: ``(e, K)`` int64 target rows, hardest first; -1 fills up where fewer were found.
        scores: ``(e, K)`` float32, their similarities; ``-inf`` where there is none.
        cut_short: how many entries have fewer than ``K`` although targets deeper down were left unseen: a
            larger ``depth`` may fill them.
    """

    queries: NDArray[np.int64]
    positives: RaggedRows
    positive_scores: NDArray[np.float32]
    negatives: NDArray[np.int64]
    scores: NDArray[np.float32]
    cut_short: int = 0

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.queries)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many negatives each entry has, ``(e,)``."""
        return (self.negatives >= 0).sum(axis=1)


def mine(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str = "train",
    num_negatives: int = 8,
    *,
    per: Literal["query", "pair"] = "query",
    margin: float | None = None,
    relative_margin: float | None = None,
    skip_top: int = 0,
    depth: int | None = None,
    sampling: Literal["top", "random"] = "top",
    seed: int = 0,
    batch_size: int | None = None,
    block: int = BLOCK,
    similarity: str | None = None,
    progress: bool | None = None,
    ranks: Ranks | None = None,
) -> MinedNegatives:
    """The hardest targets of each query that aren't its positives.

    The corpus is encoded once, block by block. Of each query its ``depth`` best targets are kept, known
    positives left out exactly: those of any split of the dataset, and targets whose text equals one's. Of
    these candidates the first ``skip_top`` are skipped, then those that break a margin, and of what remains
    ``num_negatives`` are taken. An entry may end with fewer; the writers say what becomes of it.

    Args:
        model: any ``SentenceTransformer``.
        dataset: corpus, queries and judgements.
        split: its queries are mined for.
        num_negatives: ``K``, how many an entry.
        per: "query" for one entry a query, whose margins are held against the lowest-scoring of its
            positives, so against all; "pair" for one entry a positive, with margins to that one.
        margin: keep only negatives with ``score <= positive - margin``.
        relative_margin: keep only negatives with ``score <= positive - relative_margin * |positive|``; for
            positive scores that is ``positive * (1 - relative_margin)``.
        skip_top: how many of the best candidates to skip, as likely false negatives.
        depth: how many candidates a query; ``num_negatives + skip_top + 100`` when None. Memory for 12 bytes
            a candidate is taken.
        sampling: "top" for the hardest, "random" for a uniform draw from all the candidates that remain.
        seed: of the draw, which depends on nothing but it and the rows drawn from.
        batch_size, block, similarity, progress, ranks: as in ``hardwood.evaluation.evaluate``.

    Returns:
        Entries in the split's order; those without a single negative are there too.

    Raises:
        ValueError: for an unknown or empty split, a setting out of range, or a similarity that isn't an inner
            product.
    """
    depth = check_mining(num_negatives, skip_top, depth, seed, per=per, sampling=sampling)
    margins = MarginFilter(margin, relative_margin)
    judgements = dataset.split(split).with_positives()
    if not len(judgements):
        raise ValueError(f"the split {split!r} of {dataset.name} has no queries to mine for")
    if num_negatives >= len(dataset.corpus):
        raise ValueError(
            f"num_negatives is {num_negatives}, but {dataset.name} has only {len(dataset.corpus):,} targets, each "
            "query's positive among them: ask for fewer"
        )
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "block": block,
        "similarity": similarity_of(model, similarity),
        "progress": progress,
    }
    known = dataset.never_negatives(*dataset.splits).take(judgements.queries)
    vectors = queries_together(model, dataset.queries, judgements.queries, ranks, **settings)
    known_scores = np.zeros(len(known.values), dtype=np.float32)
    dealt = rows_dealt_out(len(dataset.corpus), block, ranks)
    blocks = _scoring(encode_targets(model, dataset.corpus, dealt, **settings), vectors, known, known_scores)
    depth = min(depth, len(dataset.corpus))
    own_best = rank_vectors(vectors, blocks, depth, exclude=known, device=model.device)
    rows, scores = best_of_all(*own_best, ranks)
    known_scores = _scores_of_all(known_scores, known.values // block, ranks)
    deeper = (rows[:, -1] >= 0) & (depth + known.counts < len(dataset.corpus))

    usable = rows >= 0
    step = max(1, _CANDIDATES_AT_A_TIME // depth)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        _drop_copies(
            dataset.corpus,
            rows[part],
            scores[part],
            usable[part],
            known=known.take(np.arange(len(rows))[part]),
            known_scores=known_scores[known.offsets[start] : known.offsets[min(start + step, len(rows))]],
        )
        usable[part] &= np.cumsum(usable[part], axis=1) > skip_top

    positive_scores = _scores_of(judgements, known, known_scores, len(dataset.corpus))
    places, positives = _entries(judgements, per)
    negatives = np.full((len(places), num_negatives), -1, dtype=np.int64)
    negative_scores = np.full((len(places), num_negatives), -np.inf, dtype=np.float32)
    reference = np.minimum.reduceat(positive_scores, positives.offsets[:-1])
    ceiling = _ceiling(margins, reference)
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        of, found = places[part], rows[places[part]]
        ok = usable[of] & (scores[of] <= ceiling[part, None])
        if sampling == "random":
            salt = positives.values[part] if per == "pair" else np.zeros(len(of), dtype=np.int64)
            ok = _draw(ok, found, queries=judgements.queries[of], salt=salt, seed=seed, k=num_negatives)
        chosen = np.argsort(~ok, axis=1, kind="stable")[:, :num_negatives]  # candidates are hardest first
        taken = np.take_along_axis(ok, chosen, axis=1)
        width = chosen.shape[1]  # fewer than K where the corpus is that small
        negatives[part, :width] = np.where(taken, np.take_along_axis(found, chosen, axis=1), -1)
        negative_scores[part, :width] = np.where(taken, np.take_along_axis(scores[of], chosen, axis=1), -np.inf)
    if (negatives < 0).all():
        warnings.warn(
            f"none of the {len(places):,} entries has a negative: lower the margins or skip_top, or raise depth",
            stacklevel=2,
        )
    short = (negatives < 0).any(axis=1)
    return MinedNegatives(
        judgements.queries[places],
        positives,
        positive_scores,
        negatives,
        negative_scores,
        int((short & deeper[places]).sum()),
    )


def check_mining(
    num_negatives: int, skip_top: int, depth: int | None, seed: int, *, per: str = "query", sampling: str = "top"
) -> int:
    """The depth in force of `mine`; ``ValueError`` for a setting that is out of range."""
    _checks.at_least(1, num_negatives, "num_negatives")
    _checks.at_least(0, skip_top, "skip_top")
    depth = num_negatives + skip_top + ROOM if depth is None else depth
    if depth < skip_top + num_negatives:
        raise ValueError(
            f"depth is {depth}, but skip_top and num_negatives together need {skip_top + num_negatives}; raise it"
        )
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    _checks.one_of(("query", "pair"), per, "per")
    _checks.one_of(("top", "random"), sampling, "sampling")
    return depth


def _scoring(
    blocks: TargetBlocks, queries: NDArray[np.float32], known: RaggedRows, out: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Pass blocks on, and fill ``out`` with the score of each of ``known.values`` as its target comes by."""
    order = np.argsort(known.values, kind="stable")
    targets, owners = known.values[order], known.row_ids()
    for rows, vectors in blocks:
        found, places = pairs_in_block(targets, order, rows)
        for start in range(0, len(found), _PAIRS_AT_A_TIME):
            some = found[start : start + _PAIRS_AT_A_TIME]
            y = vectors[places[start : start + _PAIRS_AT_A_TIME]]
            out[some] = np.einsum("pd,pd->p", queries[owners[some]], y)
        yield rows, vectors


def _scores_of_all(scores: NDArray[np.float32], blocks: NDArray[np.int64], ranks: Ranks | None) -> NDArray[np.float32]:
    """The score of each known positive by the process that has encoded its block, ``blocks`` ``(p,)``."""
    import torch

    if ranks is None or ranks.is_alone:
        return scores
    everyone = np.stack([found.numpy() for (found,) in ranks.gather([torch.from_numpy(scores)])])
    return np.asarray(everyone[blocks % ranks.size, np.arange(len(blocks))])


def _drop_copies(
    corpus: TextTable,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    usable: NDArray[np.bool_],
    *,
    known: RaggedRows,
    known_scores: NDArray[np.float32],
) -> None:
    """Clear ``usable`` ``(q, depth)`` where a candidate's text is a known positive's, or the own document's.

    Equal texts have equal scores but for rounding, so only candidates that score like a positive are read.
    """
    owners = known.row_ids()
    for start in range(0, len(owners), step := max(1, _CANDIDATES_AT_A_TIME // rows.shape[1])):
        of = owners[start : start + step]
        s = known_scores[start : start + step, None]
        near = (np.abs(scores[of] - s) <= _ALIKE * np.maximum(1, np.abs(s))) & usable[of]
        pair, place = np.nonzero(near)
        if not len(pair):
            continue
        candidates, positives = rows[of[pair], place], known.values[start + pair]
        distinct, inverse = np.unique(np.concatenate([candidates, positives]), return_inverse=True)
        texts = np.unique(np.array(corpus.texts(distinct), dtype=object), return_inverse=True)[1][inverse]
        same = texts[: len(pair)] == texts[len(pair) :]
        usable[of[pair[same]], place[same]] = False


def _scores_of(
    judgements: Judgements, known: RaggedRows, known_scores: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """The scores of the split's own positives among those of all known ones; both are in ascending order."""
    keys = known.row_ids() * size + known.values
    wanted = judgements.positives.row_ids() * size + judgements.positives.values
    return known_scores[np.searchsorted(keys, wanted)]


def _entries(judgements: Judgements, per: str) -> tuple[NDArray[np.int64], RaggedRows]:
    """The entries' places in the split, and their positives."""
    positives = judgements.positives
    if per == "query":
        return np.arange(len(judgements), dtype=np.int64), positives
    one_each = RaggedRows(np.arange(len(positives.values) + 1, dtype=np.int64), positives.values)
    return positives.row_ids(), one_each


def _ceiling(margins: MarginFilter, reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest score that a negative may have, for each entry."""
    import torch

    ceiling = margins.ceiling(torch.from_numpy(reference))
    return np.full_like(reference, np.inf) if ceiling is None else ceiling.numpy()


def _draw(
    ok: NDArray[np.bool_],
    rows: NDArray[np.int64],
    *,
    queries: NDArray[np.int64],
    salt: NDArray[np.int64],
    seed: int,
    k: int,
) -> NDArray[np.bool_]:
    """Keep ``k`` of each row's candidates at random: those with the least hash of (seed, query, salt,
    target).

    A hash needs no order of drawing, so the answer is the same in any chunking.
    """
    state = _mix(_mix(_mix(np.full(len(queries), seed, dtype=np.uint64)) ^ queries.astype(np.uint64)))
    state = _mix(state ^ salt.astype(np.uint64))
    lots = _mix(state[:, None] ^ rows.astype(np.uint64))
    lots[~ok] = np.iinfo(np.uint64).max
    kept = np.zeros_like(ok)
    np.put_along_axis(kept, np.argsort(lots, axis=1, kind="stable")[:, :k], values=True, axis=1)
    return kept & ok


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); unsigned integers wrap around."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
