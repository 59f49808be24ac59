"""The loss at several widths, from one draw; and sentence-transformers' wrappers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, Matryoshka2dLoss, MatryoshkaLoss

from exact_softmax import NUM_TARGETS, batch_of, exact_loss, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss


@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
def test_gradients_are_the_sum_of_separate_losses(kind: Any, make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    widths, weights = [4, 16, 8], [0.5, 1.0, 2.0]
    options: dict[str, Any] = {"num_negatives": NUM_TARGETS, "scale": 7.0}
    loss = kind(model, dataset, "uniform", matryoshka_dims=widths, matryoshka_weights=weights, **options)
    total = sum(loss(features, labels).values())
    gradient = gradient_of(model, total)
    value, expected = 0.0, torch.zeros_like(gradient)
    for width, weight in zip(widths, weights, strict=True):
        model.truncate_dim = width
        separate = kind(model, dataset, "uniform", **options)
        part = weight * sum(separate(features, labels).values())
        expected += gradient_of(model, part)
        value += float(part.detach())
    model.truncate_dim = None
    assert float(total.detach()) == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_one_draw_serves_all_widths(make_static: Callable, dataset: RetrievalDataset) -> None:
    # Drawn by the full width, weighed for it, and without bias at a smaller one: 300 seeds, 4.5 standard errors, 7e-6.
    model = make_static()
    features, labels = batch_of(model, dataset, range(5, 6))
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=0), num_negatives=6, scale=2.0)
    loss.begin_step(0)
    with pytest.warns(UserWarning, match=r"matryoshka_dims \[8\] are without the model's full width of 16"):
        narrow = CorpusSoftmaxLoss(model, dataset, loss.source, num_negatives=6, scale=2.0, matryoshka_dims=[8])
    narrow.begin_step(0)
    model.eval()
    drawn = []
    with torch.no_grad():
        for seed in range(300):
            narrow.seed = seed
            terms = narrow(features, labels)
            drawn.append(terms["log_partition"].double().exp())
        values = torch.stack(drawn)
        model.truncate_dim = 8
        full = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=NUM_TARGETS, scale=2.0)
        full.begin_step(0)
        exact = full(features, labels)["log_partition"].double().exp()
    assert values.std() > 0
    assert abs(values.mean() - exact) < 4.5 * values.std() / 300**0.5


def test_the_full_width_alone_is_the_plain_loss(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    features, labels = batch_of(model, dataset, range(10))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=NUM_TARGETS, scale=7.0, matryoshka_dims=[16])
    torch.testing.assert_close(sum(loss(features, labels).values()), exact_loss(model, dataset, labels, 7.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matryoshka_dims": [32, 16]}, r"different widths from 1 to the model's 16, got \[32, 16\]"),
        ({"matryoshka_dims": [8, 8]}, "different widths"),
        ({"matryoshka_dims": []}, "different widths"),
        ({"matryoshka_dims": [16, 8], "matryoshka_weights": [1]}, r"one for each of 2 widths, got \[1\]"),
        ({"matryoshka_dims": [16], "matryoshka_weights": [-1]}, "must be positive"),
        ({"matryoshka_weights": [1]}, "there are no matryoshka_dims"),
        ({"uniform_negatives": -1}, "uniform_negatives must be 0 or more, got -1"),
    ],
)
def test_options_out_of_range(
    options: dict[str, Any], message: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    with pytest.raises(ValueError, match=message):
        CorpusSoftmaxLoss(make_static(), dataset, "uniform", **options)


def test_wrappers_are_refused_by_name(dataset: RetrievalDataset, transformer_folder: Path) -> None:
    model = SentenceTransformer(str(transformer_folder), device="cpu")
    features, labels = batch_of(model, dataset, range(4))
    for kind in (CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss):
        loss = kind(model, dataset, "uniform", num_negatives=2)
        for wrapper, message in (
            (MatryoshkaLoss(model, loss, [32, 8]), r"sentence-transformers' MatryoshkaLoss: .* matryoshka_dims=\["),
            (AdaptiveLayerLoss(model, loss), "sentence-transformers' AdaptiveLayerLoss: layers can't be trained"),
            (Matryoshka2dLoss(model, loss, [32, 8]), "sentence-transformers' Matryoshka2dLoss: layers can't"),
        ):
            with pytest.raises(ValueError, match=message):
                wrapper(features, labels)
        loss(features, labels)  # the model is as it was
