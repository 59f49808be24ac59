"""The estimated cross entropy against the exact one, and its weights against what theory says of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardwood import losses


def full_softmax_loss(queries: Tensor, targets: Tensor, positives: Tensor, scale: float) -> Tensor:
    """The naive twin: float64 cross entropy over all targets."""
    return torch.nn.functional.cross_entropy(scale * queries.double() @ targets.double().T, positives)


def random_problem(seed: int, batch: int = 4, num_targets: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, 5, generator=generator)
    targets = torch.randn(num_targets, 5, generator=generator)
    return queries, targets, torch.randint(num_targets, (batch,), generator=generator)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 20.0, 300.0]))
@settings(max_examples=40, deadline=None)
def test_with_every_target_value_and_gradient_are_those_of_the_full_softmax(seed: int, scale: float) -> None:
    queries, targets, positives = random_problem(seed)
    ours = [tensor.clone().requires_grad_() for tensor in (queries, targets)]
    twin = [tensor.double().requires_grad_() for tensor in (queries, targets)]
    scores = losses.scores(ours[0], ours[1], scale)
    positive_scores, log_z = losses.corpus_cross_entropy(scores, positives, torch.zeros(len(targets)))
    loss = (log_z - positive_scores).mean()
    exact = full_softmax_loss(twin[0], twin[1], positives, scale)
    loss.backward()
    exact.backward()
    torch.testing.assert_close(loss.double(), exact, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(ours, twin, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-4 * max(scale, 1), rtol=1e-3)


def test_the_loss_is_never_negative_and_the_positive_always_counts() -> None:
    queries, targets, positives = random_problem(0)
    scores = losses.scores(queries, targets, 20.0)
    positive_scores, log_z = losses.corpus_cross_entropy(scores, positives, torch.full((30,), -torch.inf))
    torch.testing.assert_close(log_z, positive_scores)


def test_what_is_left_out_gets_no_gradient() -> None:
    queries, targets, positives = random_problem(1)
    targets.requires_grad_()
    weights = torch.zeros(4, 30)
    weights[:, 7] = -torch.inf
    positives[positives == 7] = 8
    scores = losses.scores(queries, targets, 20.0)
    positive_scores, log_z = losses.corpus_cross_entropy(scores, positives, weights)
    (log_z - positive_scores).sum().backward()
    assert targets.grad is not None
    assert (targets.grad[7] == 0).all()
    assert torch.isfinite(targets.grad).all()
    assert (targets.grad[8] != 0).any()


def test_scores_stay_float32_under_autocast() -> None:
    queries, targets, _ = random_problem(2)
    with torch.autocast("cpu", torch.bfloat16):
        half = losses.scores(queries.bfloat16(), targets.bfloat16(), 20.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, 20 * queries.bfloat16().float() @ targets.bfloat16().float().T)


def draw_batch(seed: int, num_draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``(B, n)``, a proposal's ``log_q`` ``(B, n)`` that is not the softmax, and draws from it ``(B, k)``."""
    queries, targets, _ = random_problem(3)
    scores = losses.scores(queries, targets, 0.8)
    log_q = torch.log_softmax(0.5 * scores + 0.3 * torch.sin(torch.arange(30.0)), dim=1)
    draws = torch.multinomial(log_q.exp(), num_draws, replacement=True, generator=torch.Generator().manual_seed(seed))
    return scores, log_q, draws


def shared(draws: Tensor, log_q: Tensor, log_proposals: Tensor) -> Tensor:
    log_weights = -log_q.gather(1, draws) - torch.tensor(float(draws.shape[1])).log()
    return losses.shared_log_weights(draws, log_weights, log_proposals)


@pytest.mark.parametrize("weighting", ["own", "shared", "shared, proposals all wrong"])
def test_weighted_candidates_estimate_z_without_bias(weighting: str) -> None:
    # Null: the mean over 1 500 batches of sum_c w_c exp(s_c) is Z for each of 4 queries; rejected at 4.5 standard
    # errors: false alarm 3e-5. The draws are independent by their seeds.
    estimates = []
    for seed in range(1500):
        scores, log_q, draws = draw_batch(seed, num_draws=3)
        if weighting == "own":
            log_weights = losses.own_log_weights(draws, -log_q.gather(1, draws) - torch.tensor(3.0).log(), 30)
        elif weighting == "shared":
            log_weights = shared(draws, log_q, log_proposals=log_q)
        else:
            log_weights = shared(draws, log_q, log_proposals=torch.sin(7.0 * torch.arange(120.0)).view(4, 30))
        estimates.append((scores + log_weights).exp().sum(dim=1))
    truth = scores.exp().sum(dim=1)
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 1500**0.5
    assert ((mean - truth).abs() <= 4.5 * error).all()


def stale_batch(seed: int, staleness: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch whose draws were made with encodings that are out of date: targets, their scores ``(B, n)``, the drawn
    ones and how often, the shared log-weights ``(B, C)``, and ``E_P[y]``."""
    generator = torch.Generator().manual_seed(seed)
    queries, targets, moved = (torch.randn(size, 16, generator=generator) for size in (16, 300, 300))
    queries, targets = (torch.nn.functional.normalize(rows, dim=1) for rows in (queries, targets))
    stored = torch.nn.functional.normalize(targets + staleness * moved / 4, dim=1)
    scores, log_q = losses.scores(queries, targets, 6.0), losses.scores(queries, stored, 6.0).log_softmax(dim=1)
    draws = torch.multinomial(log_q.exp(), 2, replacement=True, generator=generator)
    drawn, columns = torch.unique(draws, return_inverse=True)
    weights = losses.shared_log_weights(columns, -log_q.gather(1, draws) - torch.tensor(2.0).log(), log_q[:, drawn])
    times = torch.bincount(columns.flatten())
    return targets, scores, drawn, times, weights.expand(16, -1), scores.softmax(dim=1) @ targets


@given(seed=st.integers(0, 10_000), power=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_tempering_is_its_naive_twin(seed: int, power: float) -> None:
    _, scores, drawn, times, weights, _ = stale_batch(seed, staleness=1.0)
    scores, weights, times = scores[:, drawn], weights.clone(), times.clone()
    weights[:5, 3] = -torch.inf  # left out for some queries
    weights[:, 2] = -torch.inf  # for all
    times[0] = 0  # stands for itself
    got = losses.tempering(scores, weights, times, 2, power)
    held = (scores + weights).double().softmax(dim=1).sum(dim=0)
    for column in range(len(drawn)):
        if column in (0, 2):
            assert got[column] == 0
        else:
            ratio = held[column] * 2 / times[column]
            torch.testing.assert_close(got[column].double(), (power - 1) * ratio.log(), atol=1e-4, rtol=1e-4)
    if power == 0.0:  # taken for draws from the softmax, each holds what it would hold then
        log_z = (scores + weights).logsumexp(dim=1, keepdim=True)
        now = (scores + weights + got - log_z).exp().sum(dim=0)
        torch.testing.assert_close(now[4:], times[4:] / 2)


def test_a_query_that_nothing_counts_for_has_no_say_in_tempering() -> None:
    _, scores, drawn, times, weights, _ = stale_batch(0, staleness=1.0)
    scores, weights = scores[:, drawn], weights.clone()
    weights[0] = -torch.inf
    got = losses.tempering(scores, weights, times, 2)
    assert (got != 0).all()
    torch.testing.assert_close(got, losses.tempering(scores[1:], weights[1:], times, 2))


@pytest.mark.parametrize("staleness", [0.6, 2.0])
def test_tempering_lowers_the_error_of_the_gradient_where_draws_are_stale(staleness: float) -> None:
    # E_P[y] is the query's side of the gradient of log Z. Null: the squared error is no smaller with the weights
    # tempered; its mean over 200 batches must lie 4.5 standard errors below: false alarm 3e-6. (Here it is some 20.)
    differences = []
    for seed in range(200):
        targets, scores, drawn, times, weights, truth = stale_batch(seed, staleness)
        some = scores[:, drawn]
        both = (weights, weights + losses.tempering(some, weights, times, 2))
        plain, tempered = (
            (((some + each).softmax(dim=1) @ targets[drawn] - truth) ** 2).sum(dim=1).mean() for each in both
        )
        differences.append(plain - tempered)
    gain = torch.stack(differences)
    assert gain.mean() > 4.5 * gain.std() / 200**0.5


def test_sharing_a_batch_lowers_the_variance() -> None:
    # 400 seeds; with 4 queries of 3 draws the deviations differ by a third or more, far outside their errors (5 %).
    own, together = [], []
    for seed in range(400):
        scores, log_q, draws = draw_batch(seed, num_draws=3)
        own_weights = losses.own_log_weights(draws, -log_q.gather(1, draws) - torch.tensor(3.0).log(), 30)
        own.append((scores + own_weights).exp().sum(dim=1))
        together.append((scores + shared(draws, log_q, log_proposals=log_q)).exp().sum(dim=1))
    assert torch.stack(together).std(0).mean() < 0.8 * torch.stack(own).std(0).mean()


def test_own_weights_are_those_of_a_loop() -> None:
    columns = torch.tensor([[2, 2, 0], [1, 3, 1]])
    log_weights = torch.tensor([[0.5, 0.5, -1.0], [60.0, -70.0, 60.0]])
    expected = torch.full((2, 4), -torch.inf)
    expected[0, 2], expected[0, 0] = 0.5 + torch.tensor(2.0).log(), -1.0
    expected[1, 1], expected[1, 3] = 60 + torch.tensor(2.0).log(), -70.0
    torch.testing.assert_close(losses.own_log_weights(columns, log_weights, 4), expected)
    none = torch.full_like(log_weights, -torch.inf)
    assert (losses.own_log_weights(columns, none, 4) == -torch.inf).all()


@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 1.0, 300.0]))
@settings(max_examples=40, deadline=None)
def test_shared_weights_are_those_of_a_loop(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randint(7, (5, 4), generator=generator)
    log_weights = spread * torch.randn(5, 4, generator=generator)
    log_weights[torch.rand(5, 4, generator=generator) < 0.2] = -torch.inf
    proposals = spread * torch.randn(5, 7, generator=generator)
    expected = torch.full((7,), -torch.inf, dtype=torch.float64)
    for query in range(5):
        for column, log_weight in zip(columns[query].tolist(), log_weights[query].tolist(), strict=True):
            share = torch.log_softmax(proposals[:, column].double(), dim=0)[query]
            expected[column] = torch.logaddexp(expected[column], share + log_weight)
    got = losses.shared_log_weights(columns, log_weights, proposals)
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)


def test_with_the_true_proposals_shared_weights_are_the_balance_heuristic() -> None:
    log_q = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.9, 0.0]]).log()
    got = shared(torch.tensor([[0, 1], [1, 1]]), log_q, log_proposals=log_q + 3.0)
    torch.testing.assert_close(got[:2], torch.tensor([1 / (2 * 0.6), 3 / (2 * 1.15)]).log())
    assert got[2] == -torch.inf


def test_a_candidate_that_no_query_can_draw_has_no_weight() -> None:
    never = torch.full((2, 1), -torch.inf)
    got = losses.shared_log_weights(torch.zeros(2, 1, dtype=torch.int64), never, never)
    assert got.tolist() == [-torch.inf]
