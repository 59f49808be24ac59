"""Exact softmax sampling over a matrix of vectors, streamed in chunks: the brute force to hold others against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hardwood._ragged import RaggedRows

SCORES_IN_FLIGHT = 2**24
"""How many scores (queries x targets) are alive at once on an accelerator: 64 MiB in float32, whatever the corpus."""

_SCORES_IN_CACHE = 2**20
"""The same on a CPU, where passes over more than its caches hold wait for memory."""

_NUMBERS_GATHERED = 2**24
"""How many numbers of the vectors that draws choose among are copied at a time."""

_BLOCK = 256


class SoftmaxIndex:
    """``P(i|x) = π_i exp(scale x.y_i) / Z`` over the rows of one matrix, on its device.

    Args:
        vectors: ``(n, d)``, float32 or bfloat16. Kept, not copied; callers may overwrite rows between calls.
        log_prior: ``(n,)`` float32, ``log π_i``; ``None``: 0. Kept likewise, on the device of the vectors.
    """

    def __init__(self, vectors: Tensor, log_prior: Tensor | None = None) -> None:
        self.vectors = vectors
        self.log_prior = None if log_prior is None else log_prior.to(vectors.device)

    def __len__(self) -> int:
        return len(self.vectors)

    def replace(self, slots: Tensor, vectors: Tensor, log_prior: Tensor | None) -> None:
        """Put other targets into ``slots`` ``(m,)``: their vectors ``(m, d)`` and, if the index has one, prior."""
        slots = slots.to(self.vectors.device)
        self.vectors[slots] = vectors.to(self.vectors.device, self.vectors.dtype)
        if self.log_prior is not None and log_prior is not None:
            self.log_prior[slots] = log_prior.to(self.log_prior.device)

    def sample(
        self,
        queries: Tensor,
        num_draws: int,
        *,
        scale: float,
        exclude: RaggedRows,
        ceiling: Tensor | None,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw with replacement from the softmax, exactly.

        One pass over the targets sums the mass of each block of 256; a draw chooses a block, and one of its targets. So
        there is no cumulative sum over n, hence none of its rounding. Where all scores are no more than
        `SCORES_IN_FLIGHT` they are kept from the one to the other; else the blocks that were chosen are scored once
        more, and memory is a chunk's scores and a number for each query and block.

        Args:
            queries: ``(B, d)``.
            num_draws: k.
            scale: inverse temperature.
            exclude: slots left out, ascending, for each query.
            ceiling: ``(B,)`` similarities above which targets are left out, or ``None``.
            generator: on the device of the vectors.

        Returns:
            slots ``(B, k)`` int64 (-1 where a query has no target left), their log-probabilities ``(B, k)`` and
            ``log Z`` ``(B,)``, both float32.
        """
        kept = self._room(queries)
        masses = []
        for begin, scores in self._chunks(queries, scale, exclude, ceiling):
            masses.append(_block_log_masses(scores))
            if kept is not None:
                kept[:, begin : begin + scores.shape[1]] = scores
        log_masses = torch.cat(masses, dim=1)
        log_z = torch.logsumexp(log_masses, dim=1)
        shares = (log_masses - log_z.nan_to_num(neginf=0.0)[:, None]).exp()
        blocks = invert(shares.cumsum(dim=1), num_draws, generator)
        # Of scores that are kept a number each is copied, else a vector.
        numbers = 1 if kept is not None else self.vectors.shape[1]
        at_a_time = max(1, _NUMBERS_GATHERED // (max(len(queries), 1) * _BLOCK * numbers))
        parts = []
        for part in blocks.split(at_a_time, dim=1):
            if kept is not None:
                slots, scores = _kept_blocks(kept, part)
            else:
                slots, scores = self._block_scores(queries, part, scale, exclude, ceiling)
            parts.append(_draw_one(slots, scores, generator))
        held, held_scores = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
        log_z = log_z.float()
        return held, held_scores - log_z.nan_to_num(neginf=0.0)[:, None], log_z

    def top(
        self, queries: Tensor, count: int, *, scale: float, exclude: RaggedRows, ceiling: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The slots of the highest scores of each query, prior and all, exactly.

        Args:
            queries: ``(B, d)``.
            count: k, at most n.
            scale, exclude, ceiling: as for `sample`.

        Returns:
            slots ``(B, k)`` int64, best first, -1 where a query has fewer left, and their scores, float32; minus
            infinity there.
        """
        values = torch.full((len(queries), 0), -torch.inf, device=self.vectors.device)
        slots = torch.zeros_like(values, dtype=torch.int64)
        for begin, scores in self._chunks(queries, scale, exclude, ceiling):
            here, places = torch.topk(scores, min(count, scores.shape[1]), dim=1)
            values, slots = torch.cat([values, here], dim=1), torch.cat([slots, begin + places], dim=1)
            values, order = torch.topk(values, min(count, values.shape[1]), dim=1)
            slots = slots.gather(1, order)
        return slots.masked_fill(torch.isinf(values), -1), values

    def scores(self, queries: Tensor, slots: Tensor, scale: float) -> Tensor:
        """``scale * queries @ vectors[slots].T``, ``(B, m)`` float32, as `sample` sees them but for the prior."""
        return scale * _products(queries.to(self.vectors.device), self.vectors[slots])

    def _room(self, queries: Tensor) -> Tensor | None:
        """Room for the scores of all targets ``(B, n)``, in whole blocks; minus infinity beyond the last target.
        ``None``: they would be too many."""
        size = -(-len(self) // _BLOCK) * _BLOCK
        if len(queries) * size > SCORES_IN_FLIGHT:
            return None
        kept = torch.empty(len(queries), size, dtype=queries.dtype, device=self.vectors.device)
        kept[:, len(self) :] = -torch.inf
        return kept

    def _chunks(
        self, queries: Tensor, scale: float, exclude: RaggedRows, ceiling: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        scaled = queries.to(self.vectors.device) * scale
        alive = _SCORES_IN_CACHE if scaled.device.type == "cpu" else SCORES_IN_FLIGHT
        size = max(_BLOCK, alive // max(len(queries), 1) // _BLOCK * _BLOCK)
        excluded_slots = torch.from_numpy(exclude.values).to(self.vectors.device)
        excluded_rows = torch.from_numpy(exclude.row_ids()).to(self.vectors.device)
        for begin in range(0, len(self), size):
            scores = _products(scaled, self.vectors[begin : begin + size])
            if ceiling is not None:
                scores.masked_fill_(scores > scale * ceiling[:, None].to(scores.device), -torch.inf)
            if self.log_prior is not None:
                scores += self.log_prior[begin : begin + size]
            here = (excluded_slots >= begin) & (excluded_slots < begin + scores.shape[1])
            scores[excluded_rows[here], excluded_slots[here] - begin] = -torch.inf
            yield begin, scores

    def _block_scores(
        self, queries: Tensor, blocks: Tensor, scale: float, exclude: RaggedRows, ceiling: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Slots and scores ``(B, p, 256)`` of each query's ``blocks`` ``(B, p)``: minus infinity for what it must not
        be given, and beyond the last target."""
        slots = blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=blocks.device)
        beyond = slots >= len(self)
        vectors = self.vectors[slots.clamp(max=len(self) - 1).flatten(1)]
        scaled = queries.to(self.vectors.device) * scale
        with torch.autocast(scaled.device.type, enabled=False):
            scores = (vectors.to(scaled.dtype) @ scaled[:, :, None]).view(slots.shape)
        if ceiling is not None:
            scores.masked_fill_(scores > scale * ceiling[:, None, None].to(scores.device), -torch.inf)
        if self.log_prior is not None:
            scores += self.log_prior[slots.clamp(max=len(self) - 1)]
        row, slot = (torch.from_numpy(part).to(blocks.device) for part in (exclude.row_ids(), exclude.values))
        pair, place = (blocks[row] == (slot // _BLOCK)[:, None]).nonzero(as_tuple=True)
        scores[row[pair], place, slot[pair] % _BLOCK] = -torch.inf
        return slots, scores.masked_fill_(beyond, -torch.inf)


def _kept_blocks(kept: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Slots and scores ``(B, p, 256)`` of each query's ``blocks`` ``(B, p)``, out of all its scores."""
    slots = blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=blocks.device)
    return slots, kept.gather(1, slots.flatten(1)).view(slots.shape)


def _products(queries: Tensor, vectors: Tensor) -> Tensor:
    """``queries @ vectors.T`` in the queries' precision, also within autocast, which would round every score."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ vectors.to(queries.dtype).T


def _block_log_masses(scores: Tensor) -> Tensor:
    """``log sum exp`` of each 256 columns of ``scores`` ``(B, n)``, the last ones fewer: ``(B, ceil(n / 256))``
    float64."""
    blocks = torch.nn.functional.pad(scores, (0, -scores.shape[1] % _BLOCK), value=-torch.inf)
    blocks = blocks.view(len(scores), -1, _BLOCK)
    peak = blocks.amax(dim=2, keepdim=True).nan_to_num_(neginf=0.0)
    return (blocks - peak).exp_().sum(dim=2).double().log_() + peak[:, :, 0]


def _draw_one(slots: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of each last axis of ``slots`` and ``scores`` ``(B, p, m)`` by its softmax, ``(B, p)`` both; -1 and minus
    infinity where there is none."""
    peak = scores.amax(dim=2, keepdim=True).nan_to_num(neginf=0.0)
    cumulative = (scores - peak).double().exp_().cumsum(dim=2)
    place = invert(cumulative.flatten(0, 1), 1, generator).view(len(scores), -1, 1)
    drawn, score = slots.gather(2, place)[:, :, 0], scores.gather(2, place)[:, :, 0]
    return drawn.masked_fill(torch.isinf(score), -1), score


def invert(cumulative: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Indices drawn in proportion to the steps of ``cumulative`` ``(rows, m)`` float64: ``(rows, num_draws)``."""
    uniform = torch.rand(
        (len(cumulative), num_draws), generator=generator, device=cumulative.device, dtype=torch.float64
    )
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return drawn.clamp_(max=cumulative.shape[1] - 1)
