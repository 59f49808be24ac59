"""The loss at several widths of the encodings (Matryoshka), from one draw."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardwood import losses
from hardwood.training.batch.candidates import Candidates

_WRAPPERS = {"matryoshka": "MatryoshkaLoss", "adaptive_layer": "AdaptiveLayerLoss"}


def checked_widths(
    dims: Sequence[int] | None, weights: Sequence[float] | None, dimension: int
) -> list[tuple[int, float]]:
    """Widths, the largest first, and what the loss counts at each; without ``dims`` the full one.

    Args:
        dims: leading numbers of an encoding that are used.
        weights: one a width; ``None``: 1 each.
        dimension: of the model's encodings.

    Raises:
        ValueError: a width out of range or twice, or weights that don't fit.
    """
    if dims is None:
        if weights is not None:
            raise ValueError(f"matryoshka_weights are {list(weights)}, but there are no matryoshka_dims")
        return [(dimension, 1.0)]
    widths = [int(width) for width in dims]
    if not widths or len(set(widths)) != len(widths) or not all(1 <= width <= dimension for width in widths):
        raise ValueError(
            f"matryoshka_dims must be different widths from 1 to the model's {dimension}, got {list(dims)}"
        )
    counts = [1.0] * len(widths) if weights is None else [float(weight) for weight in weights]
    if len(counts) != len(widths) or not all(0 < count < float("inf") for count in counts):
        raise ValueError(
            f"matryoshka_weights must be positive, one for each of {len(widths)} widths, got {list(weights or [])}"
        )
    if dimension not in widths:
        warnings.warn(
            f"matryoshka_dims {widths} are without the model's full width of {dimension}: negatives are drawn with it, "
            "and nothing trains it",
            stacklevel=3,
        )
    return sorted(zip(widths, counts, strict=True), reverse=True)


def narrowed(encodings: Tensor, width: int, similarity: str) -> Tensor:
    """The first ``width`` numbers of encodings ``(n, d)``; of unit length with the cosine."""
    if width == encodings.shape[1]:
        return encodings
    cut = encodings[:, :width]
    return torch.nn.functional.normalize(cut, dim=1) if similarity == "cosine" else cut


def terms_at_widths(
    widths: Sequence[tuple[int, float]],
    queries: Tensor,
    candidates: Candidates,
    scores: Tensor,
    log_weights: Tensor,
    known: Tensor | None,
    *,
    scale: float,
    similarity: str,
    taught: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The terms of the loss, which add up to it: the sum over widths, each with what it counts.

    Args:
        widths: of `checked_widths`.
        queries: ``(B, d)`` with gradient.
        candidates: of all queries.
        scores: ``(B, C)`` at full width.
        log_weights: ``(B, C)``. They are those of the draw, and so the same at every width: ``Z`` of each is estimated
            without bias.
        known: ``(B, B)``, which queries (rows) the positives (columns) of the batch are known to answer; given, the
            loss is the mean of both directions, the second one without these.
        scale: inverse temperature.
        similarity: ``"cosine"`` or ``"dot"``.
        taught: gives a teacher's term for scores ``(B, C)``, at each width.
    """
    terms = dict.fromkeys(("log_partition", "positive_score"), scores.new_zeros(()))
    for width, weight in widths:
        if width < queries.shape[1]:
            narrow = (narrowed(encodings, width, similarity) for encodings in (queries, candidates.encodings))
            scores = losses.scores(next(narrow), next(narrow), scale)
        positive_scores, log_z = losses.corpus_cross_entropy(scores, candidates.positive_columns, log_weights)
        found = {"log_partition": weight * log_z.mean(), "positive_score": -weight * positive_scores.mean()}
        if known is not None:
            of_targets = scores[:, candidates.positive_columns].T
            not_right = torch.zeros_like(of_targets).masked_fill(known.T, -torch.inf)
            own = torch.arange(len(of_targets), device=of_targets.device)
            _, query_log_z = losses.corpus_cross_entropy(of_targets, own, not_right)
            found["log_partition"] = found["log_partition"] / 2
            found["query_log_partition"] = weight * query_log_z.mean() / 2
        if taught is not None:
            found["teacher"] = weight * taught(scores)
        terms = {name: terms.get(name, 0.0) + term for name, term in found.items()}
    return terms


def refuse_wrappers(*models: Any) -> None:
    """``ValueError`` if sentence-transformers' Matryoshka or layer losses have put themselves around the model.

    They run a loss several times a step on altered encodings. This one draws once a step, encodes what it draws, and
    hands its source the encodings: each run would be a step of its own.
    """
    found = []
    for model in models:
        forward = vars(model).get("forward")
        while type(forward).__name__ == "ForwardDecorator":
            found.append(type(forward).__module__.rpartition(".")[2])
            forward = getattr(forward, "fn", None)
    names = {_WRAPPERS[name] for name in found if name in _WRAPPERS}
    if not names:
        return
    name = "Matryoshka2dLoss" if len(names) == 2 else names.pop()
    way_out = (
        "give the loss itself matryoshka_dims=[...] (and matryoshka_weights), which has all widths from one draw"
        if name == "MatryoshkaLoss"
        else "layers can't be trained with it; for widths, give the loss itself matryoshka_dims=[...]"
    )
    raise ValueError(f"CorpusSoftmaxLoss can't be wrapped in sentence-transformers' {name}: {way_out}")
