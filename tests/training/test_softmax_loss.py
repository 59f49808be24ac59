"""The loss module: against the full softmax, in pieces, and in every situation a trainer puts it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from exact_softmax import NUM_TARGETS, batch_of, exact_loss, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.encoders import document_prompt, load_encoder, query_prompt
from hardwood.negatives import MarginFilter, make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss


@pytest.mark.parametrize("weighting", ["shared", "tempered", "own", "uncorrected"])
@pytest.mark.parametrize("negatives", ["uniform", "exact"])
def test_with_every_target_drawn_it_is_the_full_softmax(
    negatives: str, weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    source = make_source(negatives, start_step=0) if negatives == "exact" else negatives
    loss = CorpusSoftmaxLoss(model, dataset, source, num_negatives=NUM_TARGETS, scale=7.0, weighting=weighting)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    components = loss(features, labels)
    exact = exact_loss(model, dataset, labels, 7.0)
    total = components["log_partition"] + components["positive_score"]
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-6, rtol=1e-4)


def test_draws_are_weighed_as_their_source_says_unless_told_otherwise(
    make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    assert CorpusSoftmaxLoss(model, dataset, "exact").weighting == "shared"
    assert CorpusSoftmaxLoss(model, dataset, "dynamic").weighting == "tempered"
    assert CorpusSoftmaxLoss(model, dataset, "dynamic", weighting="shared").weighting == "shared"


def test_tempered_weights_are_for_training_alone(make_static: Callable, dataset: RetrievalDataset) -> None:
    found = {}
    for weighting in ("shared", "tempered"):
        for training in (True, False):
            model = make_static()
            source = make_source("exact", start_step=0)
            loss = CorpusSoftmaxLoss(model, dataset, source, num_negatives=3, scale=7.0, weighting=weighting)
            loss.begin_step(0)
            model.train(training)
            features, labels = batch_of(model, dataset, range(0, 50, 3))
            found[weighting, training] = loss(features, labels)["log_partition"].detach()
    assert found["tempered", True] != found["shared", True]
    assert found["tempered", False] == found["shared", False]


def test_several_positives_a_query_do_not_count_against_each_other(make_static: Callable) -> None:
    import datasets

    pairs = datasets.Dataset.from_dict(
        {"anchor": ["a b", "a b", "c", "d"], "positive": ["one", "two", "three", "four five"]}
    )
    dataset = RetrievalDataset.from_pairs(pairs)
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=4, scale=3.0)
    features, labels = batch_of(model, dataset, range(4))
    components = loss(features, labels)
    torch.testing.assert_close(sum(components.values()), exact_loss(model, dataset, labels, 3.0))


def test_a_query_does_not_count_against_itself(make_static: Callable) -> None:
    """Pairs in both directions: each query is a target, in the batch and drawn. Only other texts count."""
    import datasets

    texts = ["heart", "big heart", "lung", "sore lung"]
    pairs = datasets.Dataset.from_dict({"anchor": texts, "positive": [texts[i ^ 1] for i in range(4)]})
    dataset = RetrievalDataset.from_pairs(pairs)
    model = make_static()
    for training in (True, False):
        model.train(training)
        loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=4, scale=3.0)
        features, labels = batch_of(model, dataset, range(4))
        x = torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=1)
        scores = (3.0 * x @ x.T).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
        expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0, 3, 2]))
        torch.testing.assert_close(sum(loss(features, labels).values()), expected)
    suspected = {tuple(pair[:2]) for pair in loss.suspects.most_often(at_least=1)}
    assert not suspected & {(q, t) for q in range(4) for t in range(4) if dataset.corpus.texts([t]) == [texts[q]]}


@pytest.mark.slow
def test_weighted_draws_estimate_the_full_softmax(make_static: Callable, dataset: RetrievalDataset) -> None:
    # Null: exp(log_z) has the mean Z. One pair a batch, uniform draws, 300 seeds; at 4.5 standard errors: 7e-6.
    model = make_static()
    features, labels = batch_of(model, dataset, range(5, 6))
    estimates = []
    for seed in range(300):
        loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=6, scale=2.0, seed=seed)
        estimates.append(loss(features, labels)["log_partition"].detach().exp())
    log_z = exact_loss(model, dataset, labels, 2.0) - loss(features, labels)["positive_score"]
    values = torch.stack(estimates)
    assert abs(values.mean() - log_z.exp()) < 4.5 * values.std() / 300**0.5


@pytest.mark.parametrize("encoder", ["static", "transformer", "separate"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_cached_loss_equals_the_plain_one(
    encoder: str, size: int, make_static: Callable, dataset: RetrievalDataset, transformer_folder: Path
) -> None:
    towers = "separate" if encoder == "separate" else "shared"
    model = make_static() if encoder == "static" else load_encoder(str(transformer_folder), towers=towers, device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # masks would differ between one forward pass and many; dropout has its own test
    model.train()
    results = []
    for kind, options in ((CorpusSoftmaxLoss, {}), (CachedCorpusSoftmaxLoss, {"mini_batch_size": size})):
        loss = kind(model, dataset, make_source("exact", start_step=0), num_negatives=3, **options)
        results.append((loss, *_loss_and_gradient(loss, model, dataset)))
    (_, plain, plain_gradient), (_, cached, cached_gradient) = results
    torch.testing.assert_close(cached, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached_gradient, plain_gradient, atol=2e-5, rtol=1e-3)
    assert plain_gradient.abs().max() > 1e-3  # not vacuous


def _loss_and_gradient(
    loss: CorpusSoftmaxLoss, model: SentenceTransformer, dataset: RetrievalDataset
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = dataset.training_pairs()[list(range(0, 40, 2))]
    tasks = ("query", "document") if hasattr(model[0], "sub_modules") else (None, None)
    features = []
    for column, task in zip(("anchor", "positive"), tasks, strict=True):
        options = {} if task is None else {"task": task}
        prompt = query_prompt(model) if column == "anchor" else document_prompt(model)
        features.append({**model.preprocess(pairs[column], prompt=prompt, **options), **options})
    total = sum(loss(features, torch.tensor(pairs["label"])).values())
    return total.detach(), gradient_of(model, total)


def test_the_cached_loss_replays_dropout(dataset: RetrievalDataset, transformer_folder: Path) -> None:
    # If the recomputed forward pass drew other masks, the gradient would not be that of the value: compare it with the
    # difference quotient along itself, the random state fixed.
    model = load_encoder(str(transformer_folder), device="cpu").train()
    loss = CachedCorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=3, mini_batch_size=5, scale=5.0)
    parameter = model[0].auto_model.embeddings.word_embeddings.weight
    features, labels = batch_of(model, dataset, range(0, 30, 2))

    def value() -> torch.Tensor:
        torch.manual_seed(3)
        loss._step = -1  # the same draws each time
        return sum(loss(features, labels).values())

    gradient_of(model, value())
    direction = parameter.grad / parameter.grad.norm()
    slope = float(parameter.grad.norm())
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * 2e-2 * direction)
        ends.append(float(value().detach()))
        with torch.no_grad():
            parameter.sub_(sign * 2e-2 * direction)
    assert slope > 0.01
    assert (ends[0] - ends[1]) / 4e-2 == pytest.approx(slope, rel=0.05)


def test_each_drawn_target_is_encoded_once(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=0), num_negatives=16, scale=100.0)
    features, labels = batch_of(model, dataset, range(30))
    encoded: list[int] = []
    model.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0]["offsets"])))
    model.train()
    before = loss.cost.targets_reencoded
    loss(features, labels)
    assert loss.cost.targets_reencoded - before == NUM_TARGETS
    assert encoded[:2] == [30, 30] or encoded[-3:-1] == [30, 30]
    assert encoded[-1] <= NUM_TARGETS - 30  # 480 draws, but only so many targets are no positive of the batch
    assert loss.cost.texts_encoded == 60 + encoded[-1]


def test_the_margin_drops_what_is_near_the_positive(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    features, labels = batch_of(model, dataset, range(20))
    everything = {"num_negatives": NUM_TARGETS, "scale": 5.0}
    free = CorpusSoftmaxLoss(model, dataset, "uniform", **everything)(features, labels)
    strict = CorpusSoftmaxLoss(model, dataset, "uniform", margin=MarginFilter(margin=1.99), **everything)
    with pytest.warns(UserWarning, match="drops every negative of batch 1"):
        components = strict(features, labels)
    assert components["dropped_by_margin"] == 1
    assert components["log_partition"] < free["log_partition"]
    # No cosine here is 1.99 below another: nothing is left but the positive itself.
    torch.testing.assert_close(components["log_partition"], -components["positive_score"])


def test_in_evaluation_nothing_is_drawn_anew_or_counted(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=4)
    train_batch, dev_batch = batch_of(model, dataset, range(8)), batch_of(model, dataset, range(8), "dev")
    loss(*train_batch)
    counted = loss.cost.texts_encoded
    model.eval()
    with torch.no_grad():
        first, again = loss(*dev_batch), loss(*dev_batch)
    assert first == again
    assert loss.cost.texts_encoded == counted
    assert loss._step == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_near_the_float32_one(
    dtype: torch.dtype, dataset: RetrievalDataset, transformer_folder: Path
) -> None:
    model = load_encoder(str(transformer_folder), device="cpu").eval()
    values = []
    for enabled in (False, True):
        loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=8)
        with torch.autocast("cpu", dtype, enabled=enabled):
            total = sum(loss(*batch_of(model, dataset, range(16))).values())
        assert total.dtype == torch.float32
        assert torch.isfinite(gradient_of(model, total)).all()
        values.append(float(total.detach()))
    assert values[0] == pytest.approx(values[1], rel=0.05)


def test_a_batch_of_one_pair(make_static: Callable, dataset: RetrievalDataset) -> None:
    for name in ("in-batch", "uniform"):
        model = make_static()
        total = sum(CorpusSoftmaxLoss(model, dataset, name)(*batch_of(model, dataset, range(1))).values())
        assert torch.isfinite(gradient_of(model, total)).all()


def test_wrong_input_is_explained(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform")
    features, labels = batch_of(model, dataset, range(4))
    with pytest.raises(ValueError, match=r"received no labels: train on dataset.training_pairs\(\)"):
        loss(features, None)
    with pytest.raises(ValueError, match=r"labels of shape \(4,\)"):
        loss(features, labels[:, 0])
    for labelled, message in (
        (labels + torch.tensor([0, 60]), r"names target row \d+, but the loss was given a dataset of 60: train on"),
        (labels - torch.tensor([1000, 0]), r"names query row -\d+, but the loss"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(features, labelled)
    with pytest.raises(ValueError, match=r"of 3 columns of texts the last 1 are given negatives"):
        loss([*features, features[1]], labels)
    for options, message in (
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"encode_batch_size": 0}, "encode_batch_size must be at least 1, got 0"),
        ({"scale": -1.0}, "scale must be positive and finite, got -1"),
        ({"weighting": "best"}, "weighting must be one of shared, tempered, own, uncorrected, got 'best'"),
        ({"negatives": "hard"}, "no source of negatives is called 'hard'"),
    ):
        with pytest.raises(ValueError, match=message):
            CorpusSoftmaxLoss(model, dataset, **options)
    with pytest.raises(TypeError, match=r"margin must be a MarginFilter, such as MarginFilter\(margin=0.0\)"):
        CorpusSoftmaxLoss(model, dataset, margin=0.0)
    with pytest.raises(ValueError, match="mini_batch_size must be at least 1, got 0"):
        CachedCorpusSoftmaxLoss(model, dataset, mini_batch_size=0)
    with pytest.raises(ValueError, match=r"has no split|there is no split|'nosuch'"):
        CorpusSoftmaxLoss(model, dataset, split="nosuch")


def test_a_diverged_encoder_is_named(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=0))
    with torch.no_grad():
        model[0].embedding.weight.fill_(np.nan)
    with pytest.raises(ValueError, match=r"c0|finite"):
        loss.begin_step(0)


def test_scores_that_overflow_are_no_loss(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    model.similarity_fn_name = "dot"
    loss = CorpusSoftmaxLoss(model, dataset, "in-batch")
    assert torch.isfinite(sum(loss(*batch_of(model, dataset, range(6))).values()))
    with torch.no_grad():
        model[0].embedding.weight.mul_(1e25)
    with pytest.raises(ValueError, match=r"the scores of step 2 overflow .* with scale 20 the encodings are too long"):
        loss(*batch_of(model, dataset, range(6)))


def test_truncated_and_half_precision_encoders(make_static: Callable, dataset: RetrievalDataset) -> None:
    for change in ("truncate", "half"):
        model = make_static()
        if change == "truncate":
            model.truncate_dim = 8
        else:
            model.bfloat16()
        loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=0))
        components = loss(*batch_of(model, dataset, range(6)))
        assert components["log_partition"].dtype == torch.float32
        assert loss.targets.dimension == (8 if change == "truncate" else 16)


def test_targets_are_encoded_so_many_at_a_time(
    dataset: RetrievalDataset, transformer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_encoder(str(transformer_folder), device="cpu")
    loss = CorpusSoftmaxLoss(model, dataset, "static", encode_batch_size=7)
    passes = []
    monkeypatch.setattr(type(model[0]), "forward", _counting(type(model[0]).forward, passes))
    encoded = sum(len(rows) for rows, _ in loss.targets.encode())
    assert encoded == len(dataset.corpus) == sum(passes)
    assert max(passes) == 7
    assert len(passes) == -(-encoded // 7)


def _counting(forward: Callable, passes: list[int]) -> Callable:
    def counted(self: torch.nn.Module, features: dict, *arguments: Any, **options: Any) -> Any:
        passes.append(len(features["input_ids"]))
        return forward(self, features, *arguments, **options)

    return counted
