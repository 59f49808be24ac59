"""Total variations that are estimated from draws, held against those that are summed over all targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from hardwood.negatives import Draw
from hardwood.negatives.dynamic.divergence import Divergence, measure_divergence
from hardwood.negatives.records import NO_TARGET

QUERIES, TARGETS = 4000, 50


def a_draw(num_draws: int, moved: float, bent: float, seed: int) -> tuple[Draw, Tensor, Tensor, Tensor, list[float]]:
    """Draws from a bent softmax of old scores, with both scores of each and its prior, and the true total variations:
    of proposal and new softmax, of proposal and old, of old and new."""
    rng = torch.Generator().manual_seed(seed)
    old = 2 * torch.randn(QUERIES, TARGETS, generator=rng, dtype=torch.float64)
    new = old + moved * torch.randn(QUERIES, TARGETS, generator=rng, dtype=torch.float64) + 0.3
    log_prior = torch.where(torch.arange(TARGETS) % 3 == 0, np.log(0.2), 0.0).double()
    softmaxes = [torch.softmax(scores + log_prior, dim=1) for scores in (old, new)]
    q = torch.softmax(old + log_prior + bent * torch.randn(QUERIES, TARGETS, generator=rng, dtype=torch.float64), dim=1)
    ids = torch.multinomial(q, num_draws, replacement=True, generator=rng)
    draw = Draw.plain(ids, q.gather(1, ids).log().float(), torch.logsumexp(old + log_prior, dim=1).float())
    truth = [
        float((a - b).abs().sum(1).mean()) / 2
        for a, b in ((q, softmaxes[1]), (q, softmaxes[0]), (softmaxes[0], softmaxes[1]))
    ]
    return draw, old.gather(1, ids).float(), new.gather(1, ids).float(), log_prior[ids].float(), truth


def measured(*arguments: object) -> Divergence:
    found = measure_divergence(*arguments)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("num_draws", [2, 8, 40])
@pytest.mark.parametrize(("moved", "bent"), [(0.2, 0.0), (0.0, 0.2), (0.1, 0.1)])
def test_estimates_agree_with_the_sums(num_draws: int, moved: float, bent: float) -> None:
    # Over 8,000 draws and more the standard error of each is about a hundredth of it: with 24 comparisons at more than
    # five of them a false alarm has a chance below one in a hundred thousand. Two draws leave a bias of a tenth, since
    # the deviations from their mean are not normal.
    draw, old, new, prior, truth = a_draw(num_draws, moved, bent, seed=num_draws)
    found = measured(draw, old, new, prior)
    for estimate, true in zip((found.total, found.tree, found.staleness), truth, strict=True):
        assert estimate == pytest.approx(true, rel=0.15 if num_draws == 2 else 0.06, abs=1e-6)


def test_nothing_moved_and_nothing_bent_is_no_divergence() -> None:
    draw, old, _, prior, _ = a_draw(8, 0.0, 0.0, seed=0)
    found = measured(draw, old, old, prior)
    assert found == Divergence(*(pytest.approx(value, abs=1e-5) for value in (0.0, 0.0, 0.0, 1.0)))


def test_one_that_all_draws_miss_by_far_is_at_most_one() -> None:
    draw, old, new, prior, _ = a_draw(2, 30.0, 0.0, seed=1)
    found = measured(draw, old, new, prior)
    assert 0.4 < found.total <= 1
    assert 0.5 <= found.effective_share < 0.7  # mostly one of two draws has all the weight


def test_queries_without_draws_are_left_out() -> None:
    draw, old, new, prior, _ = a_draw(8, 0.2, 0.1, seed=2)
    half = torch.arange(QUERIES) % 2 == 0
    alone = Draw.plain(draw.ids[half], draw.log_q[half], draw.log_z[half])
    expected = measured(alone, old[half], new[half], prior[half])
    ids = draw.ids.clone()
    ids[~half, 3] = NO_TARGET
    log_q = draw.log_q.masked_fill(ids == NO_TARGET, -torch.inf)
    assert measured(Draw.plain(ids, log_q, draw.log_z), old, new, prior) == expected


def test_no_sample_says_nothing() -> None:
    draw, old, new, prior, _ = a_draw(8, 0.2, 0.1, seed=3)
    assert measure_divergence(dataclasses.replace(draw, exhaustive=True), old, new, prior) is None
    one = Draw.plain(draw.ids[:, :1], draw.log_q[:, :1], draw.log_z)
    assert measure_divergence(one, old[:, :1], new[:, :1], prior[:, :1]) is None
    assert measure_divergence(draw, torch.full_like(old, torch.nan), new, prior) is None
