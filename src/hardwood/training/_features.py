"""Batches of tokenised texts: moving them, cutting them into mini-batches, and looking at what they are encoded to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hardwood.data import TextTable


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


def two_columns(sentence_features: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The features of queries and of positives; ``ValueError`` where there are more columns, or fewer."""
    columns = list(sentence_features)
    if len(columns) != 2:
        raise ValueError(
            f"the training set must have two text columns, the query and its positive, but it has {len(columns)}: "
            "use dataset.training_pairs(); negatives come from the source, not from a column"
        )
    return columns[0], columns[1]


def split_features(features: dict[str, Any], batch_size: int, size: int) -> list[dict[str, Any]]:
    """Cut features of ``batch_size`` texts into mini-batches of at most ``size``.

    Handles padded tensors (first dimension ``batch_size``; trailing padding that a whole piece shares is dropped) and
    the
    ``input_ids``/``offsets`` of embedding bags. Values that are no tensors go to every piece. Features in a layout of
    another kind are returned in one piece.
    """
    if batch_size <= size:
        return [features]
    if "offsets" in features:
        return [_bag_piece(features, begin, min(begin + size, batch_size)) for begin in range(0, batch_size, size)]
    tensors = [value for value in features.values() if isinstance(value, Tensor)]
    if any(value.ndim == 0 or value.shape[0] != batch_size for value in tensors):
        return [features]
    return [_padded_piece(features, begin, begin + size) for begin in range(0, batch_size, size)]


def _bag_piece(features: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    offsets, ids = features["offsets"], features["input_ids"]
    first = int(offsets[begin])
    last = int(offsets[end]) if end < len(offsets) else len(ids)
    return {**features, "offsets": offsets[begin:end] - first, "input_ids": ids[first:last]}


def _padded_piece(features: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    piece = {key: value[begin:end] if isinstance(value, Tensor) else value for key, value in features.items()}
    mask = piece.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.any():
        return piece
    width, used = mask.shape[1], int(mask.any(dim=0).nonzero().max()) + 1
    return {
        key: value[:, :used] if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == width else value
        for key, value in piece.items()
    }
