"""How far what was drawn from is from the softmax of the encodings as they are now, by the draws of one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardwood.negatives.records import NO_TARGET, Draw


@dataclass(frozen=True)
class Divergence:
    """Between three distributions over targets, means over the queries of one step.

    The proposal ``Q`` is what was drawn from, ``S`` the softmax of the stored encodings, ``P`` that of fresh ones. Each
    total variation is half the sum of absolute differences, between 0 and 1.

    Attributes:
        total: of ``Q`` and ``P``. A gradient that took the draws for draws from ``P`` would be off by
            ``2 ε β M`` at most, with ε this figure, β the scale and M the longest gradient of a similarity (Monath et
            al., AISTATS 2023, proposition 5). Weighing the draws by fresh scores, as the loss does, takes this bias out
            but for the estimate of ``Z``.
        tree: of ``Q`` and ``S``: leaves that were not opened.
        staleness: of ``S`` and ``P``: encodings that are out of date, or kept in fewer dimensions.
        effective_share: the effective sample size (Kish, 1965) of a query's draws when weighed for ``P``, as a share of
            their number; 1 where ``Q`` is ``P``.
    """

    total: float
    tree: float
    staleness: float
    effective_share: float

    def figures(self) -> dict[str, float]:
        """By the names that the log has."""
        return {
            "total_variation": self.total,
            "total_variation_of_tree": self.tree,
            "total_variation_of_staleness": self.staleness,
            "effective_draws": self.effective_share,
        }


def measure_divergence(draw: Draw, old: Tensor, new: Tensor, log_prior: Tensor | None) -> Divergence | None:
    """Estimate the total variations from draws with replacement, with no further encoding.

    With ``j`` drawn from ``Q``, ``TV(Q, P) = E|P_j / Q_j - 1| / 2``. The normaliser of ``P`` is taken from the same
    ``k`` draws, which makes the mean of k deviations too small by ``sqrt((k - 1) / k)``; that is put right.

    Args:
        draw: of the step.
        old: ``(B, k)`` scores of the draws by the stored encodings, times the scale; NaN where they are unknown.
        new: ``(B, k)`` the same by fresh encodings.
        log_prior: ``(B, k)`` of the draws; ``None``: 0.

    Returns:
        ``None`` where nothing can be said: fewer than two draws a query, or draws that are no sample.
    """
    return divergence_of(*log_ratios(draw, old, new, log_prior))


def log_ratios(draw: Draw, old: Tensor, new: Tensor, log_prior: Tensor | None) -> tuple[Tensor, Tensor]:
    """What `measure_divergence` needs to know of each draw, from the same arguments.

    Of a draw of one of several shards both are what they are of the whole corpus's draw: its probability and its
    normaliser change by the same share.

    Returns:
        ``log S / Q`` and the difference between new and old score, ``(B, k)``; NaN where they are unknown. ``(B, 0)``
        for draws that are no sample.
    """
    if draw.exhaustive:
        nothing = old.new_zeros(len(old), 0)
        return nothing, nothing
    prior = torch.zeros_like(old) if log_prior is None else log_prior
    log_stored = (old + prior - draw.log_z[:, None] - draw.log_q).masked_fill(draw.ids == NO_TARGET, torch.nan)
    return log_stored.masked_fill(torch.isinf(old), torch.nan), new - old


def merged_ratios(of_shards: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
    """`log_ratios` of all shards, at each place those of the shard whose draw was kept; NaN where none knows it."""
    if len(of_shards) == 1:
        return of_shards[0]
    if len({part.shape for ratios in of_shards for part in ratios}) > 1:
        return of_shards[0][0][:, :0], of_shards[0][1][:, :0]
    parts = [torch.stack(part) for part in zip(*of_shards, strict=True)]  # (V, B, k) each
    known = torch.isfinite(parts[0]).any(dim=0)
    return [part.nan_to_num(0.0, 0.0, 0.0).sum(dim=0).masked_fill(~known, torch.nan) for part in parts]


def divergence_of(log_stored: Tensor, moved: Tensor) -> Divergence | None:
    """`measure_divergence`, from `log_ratios`."""
    num_draws = log_stored.shape[1]
    whole = torch.isfinite(log_stored).all(dim=1)
    if num_draws < 2 or not bool(whole.any()):
        return None
    log_stored = log_stored[whole].double()  # log S / Q
    log_fresh = log_stored + moved[whole].double()  # log P / Q, but for the normaliser of P
    # By the same draws, once so that their weights have the mean 1 and once by their ratio: the second has no noise
    # where all scores have moved alike, the first needs no normaliser of S.
    log_mass = torch.logsumexp(log_fresh, dim=1, keepdim=True)
    fresh = (log_fresh - log_mass + math.log(num_draws)).exp()
    beside_stored = (log_fresh - log_mass + torch.logsumexp(log_stored, dim=1, keepdim=True)).exp()
    stored, unbiased = log_stored.exp(), math.sqrt(num_draws / (num_draws - 1))
    return Divergence(
        total=min(1.0, float((fresh - 1).abs().mean()) / 2 * unbiased),
        tree=min(1.0, float((stored - 1).abs().mean()) / 2),
        staleness=min(1.0, float((beside_stored - stored).abs().mean()) / 2 * unbiased),
        effective_share=float((fresh.sum(1) ** 2 / (fresh**2).sum(1)).mean()) / num_draws,
    )
