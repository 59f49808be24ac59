"""Each query's best targets, block by block, in bounded memory: the ranking behind evaluation and mining.

Knows vectors and rows. Must not know texts, models or judgements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._ragged import RaggedRows

if TYPE_CHECKING:
    import torch

_SCORES_AT_A_TIME = 1 << 24  # 64 MB of float32: queries x targets scored in one matrix
_LOW = 0xFFFF_FFFF
_NOTHING = -(1 << 63)  # the lowest key: no target

TargetBlocks = Iterable[tuple[NDArray[np.int64], NDArray[Any]]]


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
        raise ValueError(f"queries must have the shape (Q, d), got {queries.shape}")
    _checks.at_least(1, k, "k")
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


def best_of(
    rankings: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One ranking of several over different targets, ordered as `rank_vectors` orders them.

    Args:
        rankings: what `rank_vectors` gave for each, ``(Q, k)``, as tensors on the CPU.
    """
    import torch

    keys = [_keys(scores, _LOW - rows) for rows, scores in rankings]  # nothing found scores minus infinity
    return _decode(torch.topk(torch.cat(keys, dim=1), rankings[0][0].shape[1]).values)


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
