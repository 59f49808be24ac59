"""Targets that no training query asks for: their share of the softmax, and of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from exact_softmax import NUM_TARGETS, batch_of, exact_loss, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss
from hardwood.training._limits import DEFAULT_UNASKED_PRIOR


@pytest.mark.parametrize("source", ["uniform", "exact", "dynamic"])
@pytest.mark.parametrize("unasked_prior", [1.0, 0.3, 0.01])
def test_the_prior_weighs_what_no_training_query_asks_for(
    source: str, unasked_prior: float, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    options = {"start_step": 0} if source == "exact" else {}
    loss = CorpusSoftmaxLoss(
        model,
        dataset,
        make_source(source, **options),
        num_negatives=NUM_TARGETS,
        scale=7.0,
        weighting="shared",
        unasked_prior=unasked_prior,
        unasked_push=1.0,
        split="dev",  # which asks for few of the targets
    )
    loss.begin_step(0)
    features, labels = batch_of(model, dataset, range(0, 15, 2), "dev")
    total = sum(loss(features, labels).values())
    exact = exact_loss(model, dataset, labels, 7.0, unasked_prior, "dev", unasked_push=1.0)
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-6, rtol=1e-4)
    plain = exact_loss(model, dataset, labels, 7.0, 1.0, "dev")
    assert (plain - exact > 1e-3) == (unasked_prior < 1)  # there are such targets, and they count


@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
@pytest.mark.parametrize("push", [0.0, 0.25, 1.0])
def test_targets_that_no_training_query_asks_for_are_moved_by_a_share_of_the_gradient(
    kind: type[CorpusSoftmaxLoss], push: float, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    options = {} if kind is CorpusSoftmaxLoss else {"mini_batch_size": 7}
    loss = kind(model, dataset, "uniform", num_negatives=NUM_TARGETS, split="dev", unasked_push=push, **options)
    features, labels = batch_of(model, dataset, range(0, 15, 2), "dev")
    total = sum(loss(features, labels).values())
    exact = exact_loss(model, dataset, labels, 20.0, DEFAULT_UNASKED_PRIOR, "dev", unasked_push=push)
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    gradient = gradient_of(model, total)
    torch.testing.assert_close(gradient, gradient_of(model, exact), atol=1e-6, rtol=1e-4)
    all_moved = exact_loss(model, dataset, labels, 20.0, DEFAULT_UNASKED_PRIOR, "dev", unasked_push=1.0)
    assert torch.allclose(gradient, gradient_of(model, all_moved), atol=1e-6) == (push == 1)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["own", "shared"])
@pytest.mark.parametrize("source", ["uniform", "exact"])
def test_with_a_prior_few_draws_estimate_its_softmax(
    source: str, weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    # Null: exp(log_z) has the mean Z. One pair a batch, 400 seeds; at 4.5 standard errors: 7e-6.
    model = make_static()
    features, labels = batch_of(model, dataset, range(5, 6), "dev")
    estimates = []
    for seed in range(400):
        made = make_source(source, **({"start_step": 0} if source == "exact" else {}))
        options = {"num_negatives": 6, "scale": 2.0, "seed": seed, "weighting": weighting, "unasked_prior": 0.2}
        loss = CorpusSoftmaxLoss(model, dataset, made, split="dev", **options)
        loss.begin_step(0)
        estimates.append(loss(features, labels)["log_partition"].detach().exp())
    values = torch.stack(estimates)
    log_z = exact_loss(model, dataset, labels, 2.0, 0.2, "dev") - loss(features, labels)["positive_score"]
    assert abs(values.mean() - log_z.exp()) < 4.5 * values.std() / 20 + 1e-4 * log_z.exp()


def test_what_the_batch_brings_along_counts_and_is_moved_asked_for_or_not(
    make_static: Callable, dataset: RetrievalDataset
) -> None:
    pairs = dataset.training_pairs("train")[list(range(20))]
    negatives = [(target + 7) % NUM_TARGETS for _, target in pairs["label"]]
    labels = torch.tensor([[*label, negative] for label, negative in zip(pairs["label"], negatives, strict=True)])
    found = []
    for prior, push in ((0.1, 0.0), (1.0, 1.0)):
        model = make_static()
        texts = [pairs["anchor"], pairs["positive"], dataset.corpus.texts(negatives)]
        options = {"split": "dev", "unasked_prior": prior, "unasked_push": push}
        loss = CorpusSoftmaxLoss(model, dataset, "in-batch", **options)  # dev asks for few of these
        total = sum(loss([model.preprocess(column) for column in texts], labels).values())
        found.append((total.detach(), gradient_of(model, total)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert found[0][1].abs().max() > 1e-3


def test_an_unasked_prior_out_of_range_is_an_error(make_static: Callable, dataset: RetrievalDataset) -> None:
    for value in (0.0, -1.0, 1e-50, 1.5, float("nan")):
        with pytest.raises(ValueError, match="unasked_prior must be above 0 and at most 1, got"):
            CorpusSoftmaxLoss(make_static(), dataset, unasked_prior=value)
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="unasked_push must be from 0 to 1, got"):
            CorpusSoftmaxLoss(make_static(), dataset, unasked_push=value)
