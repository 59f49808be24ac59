"""Both directions, and uniform draws mixed with the source's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact_softmax import NUM_TARGETS, batch_of, exact_loss, gradient_of
from hardwood import losses
from hardwood.data import RetrievalDataset
from hardwood.negatives import SOURCES, Draw, make_source
from hardwood.training import CorpusSoftmaxLoss, train
from hardwood.training.batch.candidates import Candidates
from hardwood.training.estimate.weights import Strategy, tempering_of, weigh_draws

from .conftest import small_run

OPTIONS: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "uniform": {},
    "static": {"start_step": 0},
    "periodic": {"start_step": 0, "refresh_every": 1},
    "cache": {"start_step": 0, "cache_size": 20},
    "pool": {"start_step": 0, "share": 0.4},
    "exact": {"start_step": 0},
    "dynamic": {"leaf_size": 8, "probes": 2},
}


def _moved(model: Any, seed: int) -> None:
    """Make stored encodings stale."""
    with torch.no_grad():
        weight = model[0].embedding.weight
        weight.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("weighting", ["shared", "own"])
@pytest.mark.parametrize("negatives", SOURCES)
def test_the_mixture_has_no_bias(
    negatives: str, weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    # Null: exp(log_z) of each query has the mean Z, with stale proposals too. 400 seeds, four queries; two-sided at 4.5
    # standard errors each: a false alarm in 3e-5 of the runs of a case.
    model = make_static()
    loss = CorpusSoftmaxLoss(
        model, dataset, make_source(negatives, **OPTIONS[negatives]), num_negatives=3, scale=2.0, weighting=weighting,
        uniform_negatives=2,
    )  # fmt: skip
    loss.begin_step(0)
    _moved(model, 0)
    model.eval()
    features, labels = batch_of(model, dataset, range(0, 40, 10))
    estimates = _log_z_by_seed(loss, features, labels, 400).double().exp()
    exact = torch.stack([_exact_z(model, dataset, labels[i : i + 1]) for i in range(len(labels))]).double()
    assert (estimates.std(dim=0) > 0).all()
    assert ((estimates.mean(dim=0) - exact).abs() < 4.5 * estimates.std(dim=0) / 400**0.5).all()


def _log_z_by_seed(loss: CorpusSoftmaxLoss, features: Any, labels: torch.Tensor, seeds: int) -> torch.Tensor:
    """``(seeds, B)``"""
    found: list[torch.Tensor] = []
    original = losses.corpus_cross_entropy

    def kept(*arguments: Any) -> Any:
        positive, log_z = original(*arguments)
        found.append(log_z)
        return positive, log_z

    with torch.no_grad(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(losses, "corpus_cross_entropy", kept)
        for seed in range(seeds):
            loss.seed = seed
            loss(features, labels)
    return torch.stack(found)


def _exact_z(model: Any, dataset: RetrievalDataset, label: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        queries, positives = (
            torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=1)
            for texts in (dataset.queries.texts(label[:, 0]), dataset.corpus.texts(label[:, 1]))
        )
        return (exact_loss(model, dataset, label, 2.0) + 2.0 * (queries * positives).sum()).exp()


@pytest.mark.parametrize("weighting", ["shared", "tempered", "own", "uncorrected"])
@pytest.mark.parametrize("negatives", ["in-batch", "cache", "exact"])
def test_with_every_target_drawn_uniformly_it_is_the_full_softmax(
    negatives: str, weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    source = make_source(negatives, **OPTIONS[negatives])
    loss = CorpusSoftmaxLoss(
        model, dataset, source, num_negatives=3, scale=7.0, weighting=weighting, uniform_negatives=NUM_TARGETS
    )
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    total = sum(loss(features, labels).values())
    exact = exact_loss(model, dataset, labels, 7.0)
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-6, rtol=1e-4)


def test_tempering_leaves_uniform_draws_alone(make_static: Callable, dataset: RetrievalDataset) -> None:
    # A source that draws nothing yet: what is left are uniform draws, whose weights are those of "shared".
    found = []
    for weighting in ("shared", "tempered"):
        model = make_static()
        source = make_source("exact", start_step=5)
        loss = CorpusSoftmaxLoss(model, dataset, source, scale=7.0, weighting=weighting, uniform_negatives=4)
        found.append(loss(*batch_of(model, dataset, range(20)))["log_partition"].detach())
    assert found[0] == found[1]
    # With draws of the source tempered weights are others, and no more than uniform draws alone would give.
    found = []
    for weighting in ("shared", "tempered"):
        model = make_static()
        loss = CorpusSoftmaxLoss(
            model, dataset, make_source("exact", start_step=0), scale=7.0, weighting=weighting, uniform_negatives=4,
            num_negatives=4,
        )  # fmt: skip
        found.append(loss(*batch_of(model, dataset, range(20)))["log_partition"].detach())
    assert found[0] != found[1]
    assert abs(found[0] - found[1]) < 0.5


def test_both_directions(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=NUM_TARGETS, scale=7.0, symmetric=True)
    rows = [0, 3, 6, 6, 9]  # one pair is there twice: its query is no negative of itself
    pairs = dataset.training_pairs()[rows]
    features = [model.preprocess(pairs[name]) for name in ("anchor", "positive")]
    labels = torch.tensor(pairs["label"])
    terms = loss(features, labels)
    assert set(terms) == {"log_partition", "positive_score", "query_log_partition"}
    total = sum(terms.values())
    queries, targets = (
        torch.nn.functional.normalize(model(model.preprocess(pairs[name]))["sentence_embedding"], dim=1)
        for name in ("anchor", "positive")
    )
    scores = 7.0 * targets @ queries.T
    for i, j in ((2, 3), (3, 2)):
        scores[i, j] = -torch.inf
    backward = torch.nn.functional.cross_entropy(scores, torch.arange(5))
    expected = (exact_loss(model, dataset, labels, 7.0) + backward) / 2
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, expected), atol=1e-6, rtol=1e-4)


def test_a_run_has_them_as_settings(dataset: RetrievalDataset, tmp_path: Path) -> None:
    settings = small_run(
        tmp_path / "run", negatives="dynamic", uniform_negatives=3, symmetric=True, steps=3, device="cpu",
        matryoshka_dims=[16, 8], matryoshka_weights=[1, 0.5], negatives_options={"leaf_size": 8},
    )  # fmt: skip
    result = train(settings, quiet=True, dataset=dataset)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert '"uniform_negatives": 3' in card
    assert '"symmetric": true' in card
    assert result.metrics["training"]["steps"] == 3
    with pytest.raises(ValueError, match="uniform_negatives must be 0 or more, got -1"):
        small_run(tmp_path, uniform_negatives=-1)
    with pytest.raises(ValueError, match="matryoshka_dims must be positive numbers"):
        small_run(tmp_path, matryoshka_dims=[16, "8"])


def _strategies() -> tuple[list[Strategy], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two queries, three draws each by q and two uniform ones of ten targets; q, draws and uniform draws too."""
    generator = torch.Generator().manual_seed(0)
    q = torch.softmax(torch.randn(2, 10, generator=generator), dim=1)
    drawn, uniform = torch.tensor([[0, 1, 1], [1, 2, 3]]), torch.tensor([[1, 4], [4, 4]])
    log_q, log_u = q.log(), torch.full((2, 10), 0.1).log()
    strategies = [
        Strategy(Draw.plain(ids, log.gather(1, ids), torch.zeros(2)), lambda wanted, log=log: log[:, wanted])
        for ids, log in ((drawn, log_q), (uniform, log_u))
    ]
    return strategies, q, drawn, uniform


def test_a_candidate_weighs_its_draws_over_all_that_were_expected() -> None:
    strategies, q, drawn, uniform = _strategies()
    ids = torch.arange(5)
    weights = weigh_draws(strategies, ids, "shared").log_weights.exp()
    own = weigh_draws(strategies, ids, "own").log_weights.exp()
    for c in range(5):
        times = float((drawn == c).sum() + (uniform == c).sum())
        assert float(weights[c]) == pytest.approx(times / float(3 * q[:, c].sum() + 2 * 0.2), rel=1e-5)
        for b in range(2):
            times = float((drawn[b] == c).sum() + (uniform[b] == c).sum())
            assert float(own[b, c]) == pytest.approx(times / float(3 * q[b, c] + 2 * 0.1), rel=1e-5)


def test_what_uniform_draws_hold_of_a_weight_is_not_tempered() -> None:
    strategies, q, drawn, uniform = _strategies()
    ids, scores = torch.arange(5), torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    found = weigh_draws(strategies, ids, "tempered")
    log_weights = found.log_weights.expand(2, -1)
    candidates = Candidates(ids, ids, torch.zeros(2, dtype=torch.long), torch.zeros(5, 1))
    tempered = (log_weights + tempering_of(found, strategies, candidates, scores, log_weights))[0].exp()
    weights = found.log_weights.exp()
    share = (weights * scores.exp() / (weights * scores.exp()).sum(dim=1, keepdim=True)).sum(dim=0)
    for c in range(5):
        of_source, of_uniform = float((drawn == c).sum()), float((uniform == c).sum())
        expected = float(3 * q[:, c].sum() + 0.4)
        if not of_source:
            assert float(tempered[c]) == pytest.approx(of_uniform / expected, rel=1e-5)
            continue
        # What the source's draws hold, as if they were all: over the share that was expected of them.
        held = float(share[c]) * of_source / (of_source + of_uniform) / (float(3 * q[:, c].sum()) / expected)
        ratio = held / (of_source / 3)
        assert float(tempered[c]) == pytest.approx((of_source * ratio**-0.5 + of_uniform) / expected, rel=1e-4)
