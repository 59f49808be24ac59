"""Exact softmax sampling over a matrix of vectors, streamed in chunks: the brute force to hold others against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hardwood._ragged import RaggedRows

SCORES_IN_FLIGHT = 2**24
"""How many scores (queries x targets) are alive at once: 64 MiB in float32, whatever the corpus."""

_BLOCK = 256


class SoftmaxIndex:
    """``P(i|x) = exp(scale x.y_i) / Z`` over the rows of one matrix, on its device.

    Args:
        vectors: ``(n, d)``, float32 or bfloat16. Kept, not copied; callers may overwrite rows between calls.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

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

        One pass over the targets: each chunk draws for itself, and its draw displaces the one held so far with the
        probability of the chunk's mass among all mass seen (so memory is one chunk's scores, whatever n).

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
        batch = len(queries)
        device = self.vectors.device
        log_z = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
        held = torch.full((batch, num_draws), -1, dtype=torch.int64, device=device)
        held_scores = torch.full((batch, num_draws), -torch.inf, device=device)
        for begin, scores in self._chunks(queries, scale, exclude, ceiling):
            slots, slot_scores, log_mass = _draw_from_block(scores, num_draws, generator)
            log_z = torch.logaddexp(log_z, log_mass)
            displaced = torch.rand(held.shape, generator=generator, device=device, dtype=torch.float64)
            takes = displaced < (log_mass - log_z).exp()[:, None]
            held = torch.where(takes, slots + begin, held)
            held_scores = torch.where(takes, slot_scores, held_scores)
        log_z = log_z.float()
        return held, held_scores - log_z.nan_to_num(neginf=0.0)[:, None], log_z

    def scores(self, queries: Tensor, slots: Tensor, scale: float) -> Tensor:
        """``scale * queries @ vectors[slots].T``, ``(B, m)`` float32, as `sample` sees them."""
        return scale * _products(queries.to(self.vectors.device), self.vectors[slots])

    def _chunks(
        self, queries: Tensor, scale: float, exclude: RaggedRows, ceiling: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        scaled = queries.to(self.vectors.device) * scale
        size = max(_BLOCK, SCORES_IN_FLIGHT // max(len(queries), 1) // _BLOCK * _BLOCK)
        excluded_slots = torch.from_numpy(exclude.values).to(self.vectors.device)
        excluded_rows = torch.from_numpy(exclude.row_ids()).to(self.vectors.device)
        for begin in range(0, len(self), size):
            scores = _products(scaled, self.vectors[begin : begin + size])
            if ceiling is not None:
                scores.masked_fill_(scores > scale * ceiling[:, None].to(scores.device), -torch.inf)
            here = (excluded_slots >= begin) & (excluded_slots < begin + scores.shape[1])
            scores[excluded_rows[here], excluded_slots[here] - begin] = -torch.inf
            yield begin, scores


def _products(queries: Tensor, vectors: Tensor) -> Tensor:
    """``queries @ vectors.T`` in the queries' precision, also within autocast, which would round every score."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ vectors.to(queries.dtype).T


def _draw_from_block(scores: Tensor, num_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw columns of ``scores`` ``(B, n)`` by their softmax: ``(B, k)`` columns, their scores, ``(B,)`` log-mass.

    In two levels, first a block of columns and then a column within: no cumulative sum over n, hence none of its
    rounding, and a fraction of its time.
    """
    batch, columns = scores.shape
    peak = scores.amax(dim=1, keepdim=True).nan_to_num(neginf=0.0)
    mass = torch.nn.functional.pad((scores - peak).exp_(), (0, -columns % _BLOCK)).view(batch, -1, _BLOCK)
    block_mass = mass.sum(dim=2, dtype=torch.float64)
    total = block_mass.sum(dim=1)
    block = _invert(block_mass.cumsum(dim=1), num_draws, generator)
    row = torch.arange(batch, device=scores.device)[:, None]
    # A few draws at a time: each gathers a block of columns.
    at_a_time = max(1, SCORES_IN_FLIGHT // (8 * batch * _BLOCK))
    offsets = [
        _invert(mass[row, part].double().cumsum(dim=2).flatten(0, 1), 1, generator).view(batch, -1)
        for part in block.split(at_a_time, dim=1)
    ]
    slots = (block * _BLOCK + torch.cat(offsets, dim=1)).clamp_(max=columns - 1)
    return slots, scores.gather(1, slots), total.log() + peak[:, 0].double()


def _invert(cumulative: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Indices drawn in proportion to the steps of ``cumulative`` ``(rows, m)`` float64: ``(rows, num_draws)``."""
    uniform = torch.rand(
        (len(cumulative), num_draws), generator=generator, device=cumulative.device, dtype=torch.float64
    )
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return drawn.clamp_(max=cumulative.shape[1] - 1)
