"""Batches of tokenised texts: moving them, cutting them into mini-batches, and looking at what they are encoded to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hardwood.data import TextTable

_MOST_PIECES = 32


def to_device(features: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same features with their tensors on ``device``."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in features.items()
    }


def check_finite(encodings: Tensor, rows: Tensor | np.ndarray, table: TextTable, kind: str, step: int) -> None:
    """``ValueError`` naming the first text whose encoding is not finite.

    Without it a model that has diverged goes on for as long as the run has steps: the trainer logs no NaN.

    Args:
        encodings: ``(n, d)``.
        rows: ``(n,)`` rows of ``table``.
        table: the texts.
        kind: ``"query"`` or ``"target"``.
        step: the optimiser step, from 0; below 0: before the first.
    """
    finite = torch.isfinite(encodings.detach())
    if finite.all():
        return
    bad = (~finite.all(dim=1)).nonzero().flatten().cpu()
    row = int(rows[int(bad[0])])
    others = f", and of {len(bad) - 1:,} more of its batch," if len(bad) > 1 else ""
    raise ValueError(
        f"the encoding of {kind} {table.ids([row])[0]!r} (row {row}){others} holds NaN or infinite numbers in step "
        f"{step + 1}: the model has diverged (lower the learning rate), or its precision is too small"
    )


def check_scores(scores: Tensor, scale: float, step: int) -> None:
    """``ValueError`` where encodings are finite and their scores are not: float32 ends at 3.4e38.

    Args:
        scores: ``(B, C)``.
        scale: what inner products were multiplied by.
        step: the optimiser step, from 0; below 0: before the first.
    """
    if not torch.isfinite(scores.detach()).all():
        raise ValueError(
            f"the scores of step {step + 1} overflow float32 though every encoding is finite: with scale {scale:g} the "
            "encodings are too long. Lower the scale or the learning rate, or give the model a Normalize module"
        )


def text_columns_of(sentence_features: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The features of queries, and of positives and given negatives; ``ValueError`` for fewer than two columns."""
    columns = list(sentence_features)
    if len(columns) < 2:
        raise ValueError(
            f"the training set must have a column of queries and one of positives, but it has {len(columns)} of texts: "
            "use dataset.training_pairs()"
        )
    return columns[0], columns[1:]


def pieces_of(
    features: dict[str, Any], batch_size: int, size: int | None = None, overhead: int = 0
) -> list[tuple[Tensor, dict[str, Any]]]:
    """Cut the features of a batch into pieces, padded texts by length: each is padded no further than its own longest.

    One long text would pad the whole batch to its length, and padding costs what text costs.

    Args:
        features: padded tensors (first dimension ``batch_size``), or the ``input_ids``/``offsets`` of embedding bags.
            Values that are no tensors go to every piece. Features in a layout of another kind stay in one piece.
        batch_size: number of texts.
        size: texts a piece at most; ``None``: as many pieces as are cheapest, for bags a single one.
        overhead: what a further forward pass costs besides its texts, in tokens; of use without ``size``.

    Returns:
        For each piece the places of its texts in the batch, ``(m,)`` int64 on the CPU, and its features.
    """
    everything = torch.arange(batch_size)
    if "offsets" in features:
        parts = everything.split(size or max(batch_size, 1))
        return [(rows, _bag_piece(features, int(rows[0]), int(rows[-1]) + 1)) for rows in parts if len(rows)]
    tensors = [value for value in features.values() if isinstance(value, Tensor)]
    if batch_size == 0 or any(value.ndim == 0 or value.shape[0] != batch_size for value in tensors):
        return [(everything, features)]
    mask = features.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return [(rows, _rows_of(features, rows)) for rows in everything.split(size or batch_size)]
    lengths, by_length = mask.sum(dim=1).cpu().sort(stable=True)
    parts = by_length.split(size or _cheapest(lengths.numpy(), overhead))
    return [(rows, _trimmed(_rows_of(features, rows))) for rows in (parts if len(parts) > 1 else [everything])]


def _cheapest(lengths: np.ndarray, overhead: int) -> list[int]:
    """Sizes of consecutive pieces of ``lengths`` (ascending) that make the fewest padded tokens and overheads."""
    cuts = np.unique(np.linspace(0, len(lengths), _MOST_PIECES + 1).astype(np.int64))
    cost, before = np.zeros(len(cuts)), np.zeros(len(cuts), dtype=np.int64)
    for end in range(1, len(cuts)):
        padded = (cuts[end] - cuts[:end]) * int(lengths[cuts[end] - 1])
        before[end] = np.argmin(cost[:end] + padded)
        cost[end] = cost[before[end]] + padded[before[end]] + overhead
    sizes, end = [], len(cuts) - 1
    while end:
        sizes.append(int(cuts[end] - cuts[before[end]]))
        end = before[end]
    return sizes[::-1]


def _bag_piece(features: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    offsets, ids = features["offsets"], features["input_ids"]
    first = int(offsets[begin])
    last = int(offsets[end]) if end < len(offsets) else len(ids)
    return {**features, "offsets": offsets[begin:end] - first, "input_ids": ids[first:last]}


def _rows_of(features: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    return {
        key: value[rows.to(value.device)] if isinstance(value, Tensor) else value for key, value in features.items()
    }


def _trimmed(features: dict[str, Any]) -> dict[str, Any]:
    """Without the padding that all texts share, on either side."""
    mask = features["attention_mask"]
    if not mask.any():
        return features
    used, width = mask.any(dim=0).nonzero(), mask.shape[1]
    columns = slice(int(used.min()), int(used.max()) + 1)
    return {
        key: value[:, columns] if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == width else value
        for key, value in features.items()
    }
