"""A ranking of the whole corpus by several processes, each of which encodes some blocks: behind evaluation and mining.

For a process by itself, or without any ranks, all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardwood._ranking import best_of
from hardwood.encoding import Texts, query_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.ranks import Ranks


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
    if ranks is None or ranks.is_alone:
        return query_vectors(model, queries, rows, **settings)
    import torch

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
    if ranks is None or ranks.is_alone:
        return rows, scores
    import torch

    everyone = ranks.gather([torch.from_numpy(rows), torch.from_numpy(scores)])
    return best_of([(found, values) for found, values in everyone])
