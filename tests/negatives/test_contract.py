"""What every source promises, put to every source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from hardwood._ragged import RaggedRows
from hardwood.losses import shared_log_weights
from hardwood.negatives import Cost, NegativeSource, Request, make_source
from hardwood.negatives.options import parameters_of
from hardwood.negatives.records import NO_TARGET

from .conftest import BATCH, FLAT, KINDS, NUM_TARGETS, ArrayTargets, allowed_mask, made

ALL = pytest.mark.parametrize("name", KINDS)
DRAWING = pytest.mark.parametrize("name", [name for name in KINDS if name != "in-batch"])

Attached = Callable[..., NegativeSource]
RequestFor = Callable[..., Request]


@pytest.fixture(params=["alike", "prior"])
def log_prior(request: pytest.FixtureRequest) -> NDArray[np.float32] | None:
    """Everything holds with a prior over targets too: here of three sizes."""
    return None if request.param == "alike" else np.log([1, 0.1, 0.3])[np.arange(NUM_TARGETS) % 3].astype(np.float32)


@ALL
def test_shapes_and_dtypes(name: str, attached: Attached, request_for: RequestFor) -> None:
    draw = attached(name).sample(request_for())
    k = BATCH if name == "in-batch" else 8
    assert draw.ids.shape == draw.log_q.shape == draw.log_weights.shape == (BATCH, k)
    assert draw.log_z.shape == (BATCH,)
    assert draw.ids.dtype == torch.int64
    assert {draw.log_q.dtype, draw.log_z.dtype, draw.log_weights.dtype} == {torch.float32}
    drawn = draw.ids != NO_TARGET
    assert torch.isfinite(draw.log_q[drawn]).all()
    assert (draw.log_weights[~drawn] == -torch.inf).all()


@ALL
def test_known_positives_never_appear(name: str, attached: Attached, request_for: RequestFor) -> None:
    source = attached(name)
    allowed = allowed_mask(request_for())
    seen = 0
    for seed in range(60):
        ids = source.sample(request_for(seed=seed)).ids.numpy()
        for query, row in zip(*np.nonzero(ids != NO_TARGET), strict=True):
            assert allowed[query, ids[query, row]]
            seen += 1
    assert seen > 500


@ALL
def test_log_q_is_what_log_proposal_says_and_sums_to_one(
    name: str, attached: Attached, request_for: RequestFor
) -> None:
    # The tree estimates the mass of leaves it does not open: with all of them open it must agree as the others do.
    source = attached(name, **({"probes": 100} if name == "dynamic" else {}))
    request = request_for()
    draw = source.sample(request)
    log_proposal = source.log_proposal(request, draw, torch.arange(NUM_TARGETS))
    drawn = draw.ids != NO_TARGET
    expected = log_proposal.gather(1, draw.ids.clamp(min=0))
    torch.testing.assert_close(draw.log_q[drawn], expected[drawn], atol=1e-5, rtol=0)
    torch.testing.assert_close(log_proposal.exp().sum(dim=1), torch.ones(BATCH))


@ALL
def test_log_proposal_is_nil_exactly_where_a_query_cannot_draw(
    name: str, attached: Attached, request_for: RequestFor
) -> None:
    source = attached(name)
    draws = [source.sample(request_for(seed=seed)) for seed in range(300)]
    log_proposal = source.log_proposal(request_for(seed=299), draws[-1], torch.arange(NUM_TARGETS))
    assert (log_proposal[torch.from_numpy(~allowed_mask(request_for()))] == -torch.inf).all()
    ids = torch.cat([draw.ids for draw in draws], dim=1)
    assert torch.isfinite(log_proposal.gather(1, ids.clamp(min=0))[ids != NO_TARGET]).all()


@ALL
@pytest.mark.parametrize("num_negatives", [8, NUM_TARGETS])
def test_log_proposal_is_a_function_of_its_arguments(
    name: str, num_negatives: int, attached: Attached, request_for: RequestFor
) -> None:
    """Another draw in between, of fewer queries with other exclusions and another filter, changes nothing."""
    source = attached(name)
    ceiling = torch.full((BATCH,), 0.6)  # false negatives, which the tree excludes as it draws
    request = request_for(num_negatives=num_negatives, ceiling=ceiling)
    draw = source.sample(request)
    everything = torch.arange(NUM_TARGETS)
    wanted = source.log_proposal(request, draw, everything)
    most = RaggedRows.from_pairs(np.repeat([0, 1], 30), np.tile(np.arange(30), 2), 2)
    further = request_for(
        queries=-request.queries[:2], positives=torch.tensor([38, 37]), exclude=most, ceiling=None, seed=9
    )
    other = source.sample(further)
    assert torch.equal(source.log_proposal(request, draw, everything), wanted)
    assert (source.log_proposal(further, other, everything)[:, :30] == -torch.inf).all()


@DRAWING
def test_draws_are_in_proportion_to_prior_and_score(
    name: str, attached: Attached, request_for: RequestFor, vectors: Tensor, log_prior: NDArray[np.float32] | None
) -> None:
    source = attached(name, **({"probes": 100} if name == "dynamic" else {}))
    for step in range(1, 7):  # whatever is refreshed or replaced meanwhile
        source.begin_step(source.start_step + step)
    request = request_for()
    log_q = source.log_proposal(request, source.sample(request), torch.arange(NUM_TARGETS))
    wanted = torch.zeros(BATCH, NUM_TARGETS) if name == "uniform" else request.scale * request.queries @ vectors.T
    wanted = wanted + (0 if log_prior is None else torch.from_numpy(log_prior))
    for row in range(BATCH):
        held = torch.isfinite(log_q[row])
        assert held.sum() > 10
        torch.testing.assert_close(log_q[row][held], torch.log_softmax(wanted[row][held], 0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["uniform", "exact", "dynamic", FLAT])
def test_draws_are_as_frequent_as_they_say(name: str, attached: Attached, request_for: RequestFor) -> None:
    # Null: 60,000 draws have the probabilities of log_proposal (exact with every leaf open). Chi-squared over some 38
    # targets of two queries; false alarms: 2e-4.
    source = attached(name, **({"probes": 100} if name == "dynamic" else {}))
    draws = [source.sample(request_for(num_negatives=39, seed=seed)) for seed in range(1540)]
    ids = torch.cat([draw.ids for draw in draws], dim=1).numpy()
    chances = source.log_proposal(request_for(), draws[0], torch.arange(NUM_TARGETS)).exp().double().numpy()
    for query in (0, 2):
        expected = chances[query] * ids.shape[1]
        drawable = expected > 0
        assert expected[drawable].min() > 5
        observed = np.bincount(ids[query], minlength=NUM_TARGETS)
        assert (observed[~drawable] == 0).all()
        statistic = ((observed - expected)[drawable] ** 2 / expected[drawable]).sum()
        assert stats.chi2.sf(statistic, drawable.sum() - 1) > 1e-4


@DRAWING
def test_same_seed_same_draws(name: str, attached: Attached, request_for: RequestFor) -> None:
    first, again = (attached(name).sample(request_for(seed=5)) for _ in range(2))
    other = attached(name).sample(request_for(seed=6))
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.log_q, again.log_q)
    assert not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize("name", ["uniform", "static", "periodic", "exact", "dynamic", FLAT])
def test_weights_estimate_the_partition_function_without_bias(
    name: str, attached: Attached, request_for: RequestFor, vectors: Tensor
) -> None:
    # Null: the mean over 400 seeds of sum_j exp(s_j + w_j) is Z over what each query may be given. Rejected at 4.5
    # standard errors; five queries at a two-sided 7e-6 each: false alarm 3e-5. (Exact sampling has no variance at all.)
    source = attached(name)
    request = request_for()
    scores = request.scale * request.queries @ vectors.T
    truth = (scores.exp() * torch.from_numpy(allowed_mask(request))).sum(dim=1)
    estimates = []
    for seed in range(400):
        draw = source.sample(request_for(seed=seed))
        estimates.append((scores.gather(1, draw.ids) + draw.log_weights).exp().sum(dim=1))
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 20
    assert ((mean - truth).abs() <= 4.5 * error + 1e-4 * truth).all()


@pytest.mark.parametrize("name", ["uniform", "static", "dynamic", FLAT])
def test_shared_weights_estimate_the_partition_function_without_bias(
    name: str, attached: Attached, request_for: RequestFor, vectors: Tensor
) -> None:
    # Null: the mean over 400 seeds of sum_c w_c exp(s_c), with candidates shared over the batch, is Z over all targets
    # (each is within some query's reach). Five queries at 4.5 standard errors, two-sided 7e-6 each: false alarm 3e-5.
    source = attached(name)
    request = request_for()
    scores = request.scale * request.queries @ vectors.T
    estimates, differences = [], []
    for seed in range(400):
        draw = source.sample(request_for(seed=seed))
        log_proposals = source.log_proposal(request, draw, torch.arange(NUM_TARGETS))
        differences.append((log_proposals.gather(1, draw.ids) - draw.log_q).abs().max())
        log_weights = shared_log_weights(draw.ids, draw.log_weights, log_proposals)
        estimates.append((scores + log_weights).exp().sum(dim=1))
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 20
    assert ((mean - scores.exp().sum(dim=1)).abs() <= 4.5 * error).all()
    assert (max(differences) > 0.05) == (name == "dynamic")  # two leaves open: its proposals are not its probabilities


@DRAWING
def test_more_negatives_than_targets(name: str, attached: Attached, request_for: RequestFor) -> None:
    draw = attached(name).sample(request_for(num_negatives=NUM_TARGETS + 3))
    if name in ("cache", "pool"):  # never the whole corpus: it goes on sampling
        assert draw.ids.shape == (BATCH, NUM_TARGETS + 3)
        return
    assert draw.exhaustive
    assert draw.ids.shape == (BATCH, NUM_TARGETS)
    allowed = torch.from_numpy(allowed_mask(request_for()))
    assert torch.equal(draw.ids != NO_TARGET, allowed)
    assert (draw.log_weights[allowed] == 0).all()


@ALL
def test_a_query_that_may_be_given_nothing(name: str, attached: Attached, request_for: RequestFor) -> None:
    every_row = RaggedRows.from_pairs(np.repeat(np.arange(BATCH), NUM_TARGETS), np.tile(np.arange(40), BATCH), BATCH)
    source = attached(name)
    request = request_for(exclude=every_row)
    draw = source.sample(request)
    assert (draw.ids == NO_TARGET).all()
    assert (draw.log_z == -torch.inf).all()
    assert (draw.log_weights == -torch.inf).all()
    assert (source.log_proposal(request, draw, torch.arange(5)) == -torch.inf).all()


@ALL
def test_one_target(name: str, request_for: RequestFor) -> None:
    cost = Cost()
    source = made(name)
    source.attach(ArrayTargets(torch.ones(1, 6), cost), cost)
    source.begin_step(source.start_step)
    free = RaggedRows.empty(BATCH)
    draw = source.sample(request_for(exclude=free, positives=torch.zeros(BATCH, dtype=torch.int64)))
    assert set(draw.ids.flatten().tolist()) == {0}
    torch.testing.assert_close(draw.log_q.exp(), torch.ones_like(draw.log_q))


@ALL
def test_state_goes_through_a_checkpoint(
    name: str, attached: Attached, request_for: RequestFor, tmp_path: Path
) -> None:
    source = attached(name)
    resumed = made(name, **source.settings())
    assert source.targets is not None
    resumed.attach(source.targets, Cost())
    source.save_state(tmp_path)
    resumed.load_state(tmp_path)
    for step in range(source.start_step + 1, source.start_step + 6):
        draws = []
        for each in (source, resumed):
            each.begin_step(step)
            request = request_for(seed=step)
            draws.append(each.sample(request))
            each.observe(request, draws[-1], torch.tensor([2, 5]), torch.eye(6)[[step % 6, 1]])
        assert torch.equal(draws[0].ids, draws[1].ids)
        torch.testing.assert_close(draws[0].log_q, draws[1].log_q, rtol=0, atol=0)
        assert source.diagnostics() == resumed.diagnostics()


@ALL
def test_a_state_saved_before_the_first_draw(name: str, request_for: RequestFor, tmp_path: Path) -> None:
    options = {} if name == "in-batch" else {"start_step": 3}  # there it is no option
    sources = [made(name, **options) for _ in range(2)]
    for source in sources:
        source.attach(ArrayTargets(torch.eye(6).repeat(4, 1), Cost()), Cost())
    sources[0].begin_step(2)
    sources[0].save_state(tmp_path)
    sources[1].load_state(tmp_path)
    for source in sources:
        source.begin_step(3)
    free = RaggedRows.empty(BATCH)
    ours, theirs = (
        source.sample(request_for(exclude=free, positives=torch.zeros(5, dtype=torch.int64))) for source in sources
    )
    assert torch.equal(ours.ids, theirs.ids)


@ALL
def test_settings_make_the_same_source(name: str) -> None:
    source = made(name)
    assert made(name, **source.settings()).settings() == source.settings()
    assert all(f"{key}=" in repr(source) for key in parameters_of(type(source)))


@ALL
def test_an_empty_corpus_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="no targets"):
        made(name).attach(ArrayTargets(torch.zeros(0, 3), Cost()), Cost())


def test_unknown_sources_and_options_are_errors() -> None:
    with pytest.raises(ValueError, match=r"'excat'.*there are in-batch, uniform"):
        make_source("excat")
    with pytest.raises(ValueError, match="'exact' negatives have no option 'cache_size'; they have refresh_every"):
        make_source("exact", cache_size=3)
