"""What a loss asks of a source, and what it gets: plain records of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood._ragged import RaggedRows

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NO_TARGET = -1
"""Stands in ``Draw.ids`` where a source had nothing (more) to give."""


class Targets(Protocol):
    """The corpus as a source sees it: a number of targets that the *current* model can encode.

    Ids are rows, ``0 .. num_targets - 1``. Whoever implements this counts what was encoded and how long it took.

    Attributes:
        num_targets: n.
        log_prior: ``(n,)`` float32, ``log π_i`` in ``Z = sum_i π_i exp(s_i)``; ``None``: all targets count alike.
            Sources draw in proportion to ``π_i exp(s_i)``, so that no draw is spent on what counts little; the loss
            adds ``log π_i`` to the weights of what was drawn.
    """

    num_targets: int
    log_prior: Floats | None

    @property
    def has_dropout(self) -> bool:
        """Whether encodings of a training step may differ from those made here by dropout, now or later."""
        ...

    @property
    def dimension(self) -> int:
        """Length of an encoding."""
        ...

    @property
    def device(self) -> torch.device:
        """Where encodings are made, and where a source that keeps them on the accelerator puts them."""
        ...

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Encode ``rows`` (``(m,)`` int64, default all) with the current model, without gradient.

        Yields blocks ``(rows (b,) int64, vectors (b, d) float32)``, both on the CPU; together they cover ``rows`` once,
        in any order. Vectors are normalised if the similarity in use is the cosine.
        """
        ...


@dataclass(frozen=True)
class Request:
    """One step's question: negatives for these queries.

    Attributes:
        queries: ``(B, d)`` float32 current query encodings, detached (unit length if similarity is the cosine).
        positives: ``(B,)`` int64 rows of the positives being trained on.
        num_negatives: draws a query, ``k >= 1``.
        scale: inverse temperature; scores are ``scale * queries @ targets.T``.
        exclude: for each of the B queries, the rows it must not be given: its known positives, and itself.
        ceiling: ``(B,)`` similarities; a target above it is taken for a false negative. ``None``: no filter.
        seed: all randomness of the answer comes from here.
    """

    queries: Tensor
    positives: Tensor
    num_negatives: int
    scale: float
    exclude: RaggedRows
    ceiling: Tensor | None = None
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A fresh generator on the queries' device, seeded for this request."""
        return torch.Generator(device=self.queries.device).manual_seed(self.seed)


@dataclass(frozen=True)
class Draw:
    """Negatives for B queries, k each, drawn independently with replacement unless the source says otherwise.

    Attributes:
        ids: ``(B, k)`` int64 rows of targets; ``NO_TARGET`` where there was none to draw.
        log_q: ``(B, k)`` float32, the log-probability of each draw under the proposal, after exclusion and filter.
        log_z: ``(B,)`` float32, the log-normaliser of the proposal: the source's estimate of ``log Z``, prior and all,
            over the targets it may draw. For a source that knows no scores (uniform, in-batch) it counts targets, as if
            all scores were 0.
        log_weights: ``(B, k)`` float32 such that ``sum_j f(j) exp(log_weights_j)`` is an unbiased estimate of the sum
            of any ``f`` over what may be drawn: of ``Z`` with ``f = π exp(s)``; ``-log k - log_q`` for plain draws,
            minus infinity beside ``NO_TARGET``.
        log_share: log of the share of the drawable targets that the proposal covers; 0 unless a source holds but a part
            of the corpus (the cache), in which case each draw stands for ``exp(-log_share)`` times as much mass. It is
            ``(B, k)`` where the shards of a divided corpus differ in it.
        exhaustive: the draw is no sample but every target that each query may be given, once, with weight 1.
        exclude: for each of the B queries, the rows that this draw left out, where they are more than the request's
            own (a source that searches for false negatives); ``None``: those of the request.
    """

    ids: Tensor
    log_q: Tensor
    log_z: Tensor
    log_weights: Tensor = field(repr=False)
    log_share: float | Tensor = 0.0
    exhaustive: bool = False
    exclude: RaggedRows | None = field(default=None, repr=False)

    @classmethod
    def plain(cls, ids: Tensor, log_q: Tensor, log_z: Tensor, log_share: float = 0.0) -> Draw:
        """A draw with replacement: the weights follow from ``log_q``."""
        log_weights = -log_q - float(np.log(ids.shape[1])) - log_share if ids.shape[1] else -log_q
        return cls(ids, log_q, log_z, log_weights.masked_fill(ids == NO_TARGET, -torch.inf), log_share)

    @classmethod
    def everything(cls, log_q: Tensor, log_z: Tensor) -> Draw:
        """All n targets, where so many draws were asked for: ``log_q`` is ``(B, n)``, ``log_z`` ``(B,)``."""
        ids = torch.arange(log_q.shape[1], device=log_q.device).expand(len(log_z), -1)
        ids = ids.masked_fill(torch.isinf(log_q), NO_TARGET)
        log_weights = torch.zeros_like(log_q).masked_fill(ids == NO_TARGET, -torch.inf)
        return cls(ids, log_q, log_z, log_weights, exhaustive=True)

    @classmethod
    def nothing(cls, batch_size: int, device: torch.device) -> Draw:
        """No draws at all, ``k = 0``."""
        none = torch.zeros(batch_size, 0, device=device)
        return cls(none.long(), none, torch.full((batch_size,), -torch.inf, device=device), none)


def log_prior_of(targets: Targets, rows: Tensor | None = None) -> Tensor | None:
    """``log π`` of ``rows`` ``(m,)`` int64 on their device, default: of all targets on the CPU; ``None``: 0 for all."""
    if targets.log_prior is None:
        return None
    if rows is None:
        return torch.from_numpy(targets.log_prior)
    return torch.from_numpy(targets.log_prior[rows.cpu().numpy()]).to(rows.device)


def seen_mask(rows: RaggedRows, ids: Tensor) -> Tensor:
    """Which of ``ids`` (``(m,)``, any order, repeats allowed) each row holds: ``(len(rows), m)`` bool."""
    mask = np.zeros((len(rows), len(ids)), dtype=bool)
    if len(ids) and len(rows.values):
        unique, inverse = np.unique(ids.cpu().numpy(), return_inverse=True)
        position = np.minimum(np.searchsorted(unique, rows.values), len(unique) - 1)
        held = unique[position] == rows.values
        unique_mask = np.zeros((len(rows), len(unique)), dtype=bool)
        unique_mask[rows.row_ids()[held], position[held]] = True
        mask = unique_mask[:, inverse]
    return torch.from_numpy(mask).to(ids.device)


def masked_log_proposal(
    scores: Tensor, log_mass: Tensor, request: Request, ids: Tensor, log_prior: Tensor | None
) -> Tensor:
    """``scores + log_prior - log_mass`` with minus infinity where exclusion or the filter forbids a draw.

    Args:
        scores: ``(B, m)`` of the targets ``ids`` ``(m,)``.
        log_mass: ``(B,)``, the log of the sum over whatever is drawn from.
        request: whose exclusions and ceiling count.
        ids: ``(m,)`` int64.
        log_prior: ``(m,)``, of the same targets; ``None``: 0.
    """
    forbidden = seen_mask(request.exclude, ids) | torch.isinf(log_mass)[:, None]
    if request.ceiling is not None:
        forbidden |= scores > request.scale * request.ceiling[:, None]
    if log_prior is not None:
        scores = scores + log_prior
    return (scores - log_mass[:, None]).masked_fill(forbidden, -torch.inf)


def encoded_rows(targets: Targets, rows: Ints) -> Floats:
    """Current encodings of some targets.

    Args:
        targets: the corpus.
        rows: ``(m,)``, each once.

    Returns:
        ``(m, d)`` float32, in the order of ``rows``.
    """
    encodings = np.empty((len(rows), targets.dimension), dtype=np.float32)
    order = np.argsort(rows)
    for block, vectors in targets.encode(torch.from_numpy(rows)):
        encodings[order[np.searchsorted(rows[order], block.numpy())]] = vectors.numpy()
    return encodings
