"""What mini-batches must not change, whatever is done with the loss; sentence-transformers asks the same of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from exact_softmax import NUM_TARGETS, batch_of, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss

ALL_DRAWN: dict[str, Any] = {"num_negatives": NUM_TARGETS, "scale": 5.0}


@pytest.fixture
def transformer(transformer_folder: Path) -> SentenceTransformer:
    """In training mode, without dropout."""
    model = load_encoder(str(transformer_folder), device="cpu").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_two_forward_passes_before_one_backward_pass(
    transformer: SentenceTransformer, dataset: RetrievalDataset
) -> None:
    first, second = (batch_of(transformer, dataset, rows) for rows in (range(0, 20, 2), range(11, 31, 3)))
    loss = CachedCorpusSoftmaxLoss(transformer, dataset, "uniform", mini_batch_size=4, **ALL_DRAWN)
    together = gradient_of(transformer, sum(loss(*first).values()) + sum(loss(*second).values()))
    separate = []
    for batch in (first, second):
        loss = CachedCorpusSoftmaxLoss(transformer, dataset, "uniform", mini_batch_size=4, **ALL_DRAWN)
        separate.append(gradient_of(transformer, sum(loss(*batch).values())))
    assert min(float(gradient.abs().max()) for gradient in separate) > 1e-3
    torch.testing.assert_close(together, sum(separate), atol=1e-6, rtol=1e-4)


def test_under_autocast_encodings_in_half_precision(
    transformer: SentenceTransformer, dataset: RetrievalDataset
) -> None:
    # A last module that is linear: the encodings themselves come in bfloat16, and so do their gradients.
    dimension = transformer.get_embedding_dimension()
    assert dimension is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer.append(Dense(dimension, 16, activation_function=torch.nn.Tanh()))
    gradients = []
    for kind, options in ((CorpusSoftmaxLoss, {}), (CachedCorpusSoftmaxLoss, {"mini_batch_size": 4})):
        loss = kind(transformer, dataset, "uniform", **ALL_DRAWN, **options)
        with torch.autocast("cpu", torch.bfloat16):
            features, labels = batch_of(transformer, dataset, range(0, 20, 2))
            assert transformer(dict(features[0]))["sentence_embedding"].dtype == torch.bfloat16
            total = sum(loss(features, labels).values())
        assert total.dtype == torch.float32
        gradients.append(gradient_of(transformer, total))
    plain, cached = gradients
    assert torch.isfinite(cached).all()
    assert torch.nn.functional.cosine_similarity(plain, cached, dim=0) > 0.99


@pytest.mark.parametrize("backward", [True, False])
def test_a_loss_that_is_dropped_frees_its_batch(
    backward: bool, transformer: SentenceTransformer, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A trainer that keeps a detached number of each step must not keep its batches.
    loss = CachedCorpusSoftmaxLoss(transformer, dataset, "uniform", mini_batch_size=4, **ALL_DRAWN)
    held: list[weakref.ref[torch.Tensor]] = []
    embed: Callable = loss._embed

    def noting(features: dict[str, Any]) -> torch.Tensor:
        encodings = embed(features)
        held.extend(weakref.ref(one) for one in (features["input_ids"], encodings))
        return encodings

    monkeypatch.setattr(loss, "_embed", noting)
    total = sum(loss(*batch_of(transformer, dataset, range(0, 20, 2))).values())
    if backward:
        total.backward()
    kept = total.detach()
    gc.collect()
    assert backward or any(ref() is not None for ref in held)  # the backward pass frees what it has used
    del total
    gc.collect()
    assert held
    assert not any(ref() is not None for ref in held)
    assert torch.isfinite(kept)
