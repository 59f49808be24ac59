"""What is particular to each source: schedules, costs, filters, and the exactness of the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.negatives import Cost, MarginFilter, NegativeSource, Request, make_source, seen_mask, softmax_matrix
from hardwood.negatives.records import NO_TARGET

from .conftest import BATCH, NUM_TARGETS, ArrayTargets, allowed_mask, exact_probabilities

Attached = Callable[..., NegativeSource]
RequestFor = Callable[..., Request]


@pytest.mark.slow
@pytest.mark.parametrize("scores_in_flight", [1, 2**24], ids=["many chunks", "one chunk"])
def test_exact_draws_follow_the_softmax(
    scores_in_flight: int, monkeypatch: pytest.MonkeyPatch, request_for: RequestFor
) -> None:
    # Null: draws of each query are distributed as the float64 softmax over what it may be given. 5 queries x 40 000
    # draws each, chi-squared over cells with an expectation above 5, p < 1e-5 rejects: false alarm 5e-5 over the five.
    monkeypatch.setattr(softmax_matrix, "SCORES_IN_FLIGHT", scores_in_flight)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(700, 6, generator=generator)  # three chunks of 256 when scores are scarce
    source, cost = make_source("exact"), Cost()
    source.attach(ArrayTargets(vectors, cost), cost)
    source.begin_step(20)
    request = request_for(num_negatives=500, scale=1.5)
    ids = np.concatenate([source.sample(request_for(num_negatives=500, scale=1.5, seed=s)).ids for s in range(80)], 1)
    expected = exact_probabilities(vectors, request, allowed_mask(request, 700)) * ids.shape[1]
    for query in range(BATCH):
        counts = np.bincount(ids[query], minlength=700)
        assert counts[expected[query] == 0].sum() == 0
        big = expected[query] > 5
        observed = np.append(counts[big], counts[~big].sum())
        wanted = np.append(expected[query][big], expected[query][~big].sum())
        assert len(observed) > 50
        assert chisquare(observed, wanted).pvalue > 1e-5


def test_exact_log_z_and_log_q_are_those_of_the_naive_twin(
    attached: Attached, request_for: RequestFor, vectors: Tensor
) -> None:
    for scale in (1e-3, 4.0, 300.0):
        request = request_for(scale=scale)
        draw = attached("exact").sample(request)
        scores = scale * (request.queries.double() @ vectors.double().T)
        scores[torch.from_numpy(~allowed_mask(request))] = -torch.inf
        log_z = torch.logsumexp(scores, dim=1)
        torch.testing.assert_close(draw.log_z.double(), log_z, atol=2e-5 * max(scale, 1), rtol=1e-5)
        log_q = scores.gather(1, draw.ids) - log_z[:, None]
        torch.testing.assert_close(draw.log_q.double(), log_q, atol=2e-5 * max(scale, 1), rtol=1e-5)


@pytest.mark.parametrize("name", ["static", "periodic", "exact", "cache", "pool"])
def test_the_filter_keeps_draws_below_the_ceiling_and_renormalises(
    name: str, attached: Attached, request_for: RequestFor, vectors: Tensor
) -> None:
    source = attached(name)
    request = request_for(ceiling=torch.full((BATCH,), 0.1), num_negatives=32)
    similarities = request.queries @ vectors.T
    assert ((similarities > 0.1) & torch.from_numpy(allowed_mask(request))).any()
    draw = source.sample(request)
    assert (similarities.gather(1, draw.ids) <= 0.1 + 1e-6).all()
    log_proposal = source.log_proposal(request, draw, torch.arange(NUM_TARGETS))
    torch.testing.assert_close(log_proposal.exp().sum(dim=1), torch.ones(BATCH))
    assert (log_proposal[similarities > 0.1] == -torch.inf).all()


@pytest.mark.parametrize(
    ("name", "options", "refreshes"),
    [
        ("static", {"start_step": 3}, [3]),
        ("periodic", {"refresh_every": 4, "start_step": 2}, [2, 6, 10]),
        ("exact", {"refresh_every": 1, "start_step": 8}, [8, 9, 10, 11]),
    ],
)
def test_refreshes_happen_when_due_and_are_counted(
    name: str, options: dict[str, int], refreshes: list[int], vectors: Tensor
) -> None:
    cost = Cost()
    source = make_source(name, **options)
    source.attach(ArrayTargets(vectors, cost), cost)
    happened = []
    for step in range(12):
        before = cost.targets_reencoded
        source.begin_step(step)
        if cost.targets_reencoded > before:
            happened.append(step)
            assert cost.targets_reencoded - before == NUM_TARGETS
        assert source.is_ready(step) == (step >= options["start_step"])
    assert happened == refreshes


def test_a_refresh_replaces_every_encoding(attached: Attached, request_for: RequestFor, vectors: Tensor) -> None:
    source = attached("exact")
    stale = source.sample(request_for()).log_z
    vectors.neg_()  # the encoder moved
    torch.testing.assert_close(source.sample(request_for()).log_z, stale)
    source.begin_step(source.start_step + 20)
    request = request_for()
    scores = request.scale * request.queries @ vectors.T
    scores[torch.from_numpy(~allowed_mask(request))] = -torch.inf
    torch.testing.assert_close(source.sample(request).log_z, torch.logsumexp(scores, dim=1))


def test_the_cache_is_first_in_first_out_and_goes_round(vectors: Tensor) -> None:
    cost = Cost()
    source = make_source("cache", cache_size=10, refresh_size=2, start_step=0, seed=4)
    source.attach(ArrayTargets(vectors, cost), cost)
    entered: list[int] = []
    for step in range(30):
        source.begin_step(step)
        source.begin_step(step)  # announced twice, it moves once
        inside = source.state_dict()["row_of_slot"].tolist()
        new = [row for row in inside if row not in entered[-10:]]
        assert len(new) == (10 if step == 0 else 2)
        entered += new
        assert set(inside) == set(entered[-10:])
        assert len(set(inside)) == 10
    assert cost.targets_reencoded == 10 + 29 * 2
    assert set(entered) == set(range(NUM_TARGETS))  # 68 entries are more than a round of the 40 targets


def test_the_cache_holds_the_encodings_of_the_time_they_entered(vectors: Tensor) -> None:
    cost = Cost()
    source = make_source("cache", cache_size=10, refresh_size=3, start_step=0)
    source.attach(ArrayTargets(vectors, cost), cost)
    source.begin_step(0)
    original = vectors.clone()
    old = set(source.state_dict()["row_of_slot"].tolist())
    vectors.mul_(2)
    source.begin_step(1)
    state = source.state_dict()
    for slot, row in enumerate(state["row_of_slot"].tolist()):
        torch.testing.assert_close(state["vectors"][slot], original[row] * (1 if row in old else 2))


def test_a_pool_is_drawn_and_encoded_anew_when_it_is_due(vectors: Tensor) -> None:
    cost = Cost()
    source = make_source("pool", share=0.25, refresh_every=3, start_step=2)
    source.attach(ArrayTargets(vectors, cost), cost)
    pools = []
    for step in range(11):
        vectors.mul_(1.5)
        source.begin_step(step)
        source.begin_step(step)  # announced twice, it encodes once
        assert source.is_ready(step) == (step >= 2)
        if step in (2, 5, 8):
            pools.append(source.state_dict()["row_of_slot"].tolist())
            encoded = vectors.clone()
        if step >= 2:
            state = source.state_dict()
            assert state["row_of_slot"].tolist() == pools[-1]
            torch.testing.assert_close(state["vectors"], encoded[state["row_of_slot"]])
    assert cost.targets_reencoded == 3 * 10
    assert all(len(set(pool)) == 10 for pool in pools)
    assert len({tuple(pool) for pool in pools}) == 3


def test_pools_are_uniform_samples_of_the_corpus(vectors: Tensor) -> None:
    # Null: each target is in a pool of 10 of 40 with probability 1/4. Counts over 2000 pools are hypergeometric: their
    # scaled sum of squares is chi-squared with 39 degrees of freedom; p < 1e-5 rejects: false alarm 1e-5.
    source = make_source("pool", share=0.25, refresh_every=1, start_step=0, seed=6)
    source.attach(ArrayTargets(vectors, Cost()), Cost())
    counts = np.zeros(NUM_TARGETS)
    for step in range(2000):
        source.begin_step(step)
        counts[source.state_dict()["row_of_slot"].numpy()] += 1
    variance = 2000 * 0.25 * 0.75 * NUM_TARGETS / (NUM_TARGETS - 1)
    assert chi2.sf(((counts - 500) ** 2).sum() / variance, NUM_TARGETS - 1) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("cache", {"cache_size": 24}), ("pool", {"share": 0.6})])
def test_a_part_scales_its_mass_up_to_the_corpus(
    name: str, options: dict[str, object], request_for: RequestFor, vectors: Tensor
) -> None:
    # Null: over random parts the mean of the estimate exp(log_z) is Z (nothing excluded). 600 parts of 24 in 40,
    # rejected at 4.5 standard errors for any of 5 queries: false alarm 3e-5.
    request = request_for(exclude=RaggedRows.empty(BATCH))
    truth = (request.scale * request.queries @ vectors.T).exp().sum(dim=1)
    estimates = []
    for seed in range(600):
        cost = Cost()
        source = make_source(name, **options, start_step=0, seed=seed)
        source.attach(ArrayTargets(vectors, cost), cost)
        source.begin_step(0)
        estimates.append(source.sample(request).log_z.exp())
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 600**0.5
    assert ((mean - truth).abs() <= 4.5 * error).all()


def test_uniform_draws_are_uniform_over_what_is_allowed(attached: Attached, request_for: RequestFor) -> None:
    # Null: uniform over the allowed. 5 queries x 32 000 draws, p < 1e-5 rejects: false alarm 5e-5.
    source = attached("uniform")
    ids = np.concatenate([source.sample(request_for(num_negatives=32, seed=s)).ids for s in range(1000)], axis=1)
    for query, allowed in enumerate(allowed_mask(request_for())):
        counts = np.bincount(ids[query], minlength=NUM_TARGETS)
        assert counts[~allowed].sum() == 0
        assert chisquare(counts[allowed]).pvalue > 1e-5


def test_in_batch_gives_the_other_positives(attached: Attached, request_for: RequestFor) -> None:
    draw = attached("in-batch").sample(request_for())
    none = NO_TARGET
    assert draw.ids.tolist() == [
        [none, 9, 9, 0, 39],
        [3, none, none, 0, 39],
        [3, none, none, 0, 39],
        [3, 9, 9, none, 39],
        [3, 9, 9, 0, none],
    ]
    assert draw.log_q[0].exp().tolist() == pytest.approx([0, 0.5, 0.5, 0.25, 0.25])


def test_a_checkpoint_of_another_corpus_is_an_error(attached: Attached) -> None:
    for name in ("exact", "cache", "pool"):
        state = attached(name).state_dict()
        state["vectors"] = state["vectors"][:-1]
        with pytest.raises(ValueError, match="resume with"):
            attached(name).load_state_dict(state)
    with pytest.raises(ValueError, match="'uniform' negatives keep no state"):
        attached("uniform").load_state_dict({"vectors": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exact", {"refresh_every": 0}, "refresh_every must be at least 1, got 0"),
        ("exact", {"index_dtype": "int4"}, "index_dtype must be one of float32, bfloat16, got 'int4'"),
        ("static", {"start_step": -1}, "start_step must be 0 or more, got -1"),
        ("cache", {"cache_size": 0}, "cache_size must be at least 1, got 0"),
        ("cache", {"cache_size": 5, "refresh_size": 6}, "refresh_size must lie between 0 and cache_size"),
        ("cache", {"seed": -1}, "seed must be 0 or more, got -1"),
        ("pool", {"share": 0.0}, "share must be above 0 and at most 1, got 0"),
        ("pool", {"share": float("nan")}, "share must be above 0 and at most 1, got nan"),
        ("pool", {"share": 3}, "share must be above 0 and at most 1, got 3"),
        ("pool", {"refresh_every": 0}, "refresh_every must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_errors(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_source(name, **options)


def test_asking_too_early_is_an_error(request_for: RequestFor, vectors: Tensor) -> None:
    with pytest.raises(RuntimeError, match="attach"):
        make_source("uniform").sample(request_for())
    for name in ("exact", "cache", "pool"):
        source = make_source(name)
        source.attach(ArrayTargets(vectors, Cost()), Cost())
        assert not source.is_ready(source.start_step)
        with pytest.raises(RuntimeError, match="begin_step"):
            source.sample(request_for())


def test_a_bfloat16_index_is_near_the_float32_one(attached: Attached, request_for: RequestFor) -> None:
    full, half = (attached("exact", index_dtype=dtype).sample(request_for()) for dtype in ("float32", "bfloat16"))
    assert not torch.equal(full.log_z, half.log_z)
    torch.testing.assert_close(full.log_z, half.log_z, atol=4.0 * 2**-7, rtol=0)


def test_margin_filter() -> None:
    positives = torch.tensor([0.8, 0.5, -0.2])
    assert MarginFilter().ceiling(positives) is None
    assert not MarginFilter()
    torch.testing.assert_close(MarginFilter(margin=0.1).ceiling(positives), torch.tensor([0.7, 0.4, -0.3]))
    torch.testing.assert_close(MarginFilter(relative_margin=0.1).ceiling(positives), torch.tensor([0.72, 0.45, -0.22]))
    both = MarginFilter(margin=0.06, relative_margin=0.1).ceiling(positives)
    torch.testing.assert_close(both, torch.tensor([0.72, 0.44, -0.26]))
    with pytest.raises(ValueError, match="margin must be 0 or more and finite, got -1"):
        MarginFilter(margin=-1)
    with pytest.raises(ValueError, match="relative_margin must be 0 or more and finite, got nan"):
        MarginFilter(relative_margin=float("nan"))


def test_seen_mask_is_that_of_a_loop() -> None:
    rows = RaggedRows.from_pairs([0, 0, 2, 3], [5, 2, 2, 9], 4)
    ids = torch.tensor([2, 9, 5, 2, 7])
    expected = [[i in rows[r] for i in ids.tolist()] for r in range(4)]
    assert seen_mask(rows, ids).tolist() == expected
    assert seen_mask(rows, ids[:0]).shape == (4, 0)
    assert not seen_mask(RaggedRows.empty(4), ids).any()


@pytest.mark.parametrize("name", ["exact", "cache", "pool", "dynamic"])
def test_autocast_does_not_round_the_scores(name: str, attached: Attached, request_for: RequestFor) -> None:
    source, request = attached(name), request_for(scale=30.0)
    plain = source.sample(request)
    with torch.autocast("cpu", torch.bfloat16):
        cast = source.sample(request)
        proposal = source.log_proposal(request, cast, torch.arange(NUM_TARGETS))
    torch.testing.assert_close(cast.log_z, plain.log_z)
    torch.testing.assert_close(cast.log_q, plain.log_q)
    torch.testing.assert_close(proposal, source.log_proposal(request, plain, torch.arange(NUM_TARGETS)))
