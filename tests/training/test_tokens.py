"""Tokenised once, the features of targets are those that the model makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardwood.data import RetrievalDataset
from hardwood.encoders import document_prompt, load_encoder, separate_towers
from hardwood.negatives import Cost
from hardwood.training.corpus.targets import CorpusTargets
from hardwood.training.corpus.tokens import TargetFeatures


@pytest.mark.parametrize("encoder", ["static", "separate", "transformer"])
@pytest.mark.parametrize("kept_bytes", [0, 300, 2**20])
def test_features_are_those_of_the_model(
    encoder: str, kept_bytes: int, make_static: Callable, dataset: RetrievalDataset, transformer_folder: Path
) -> None:
    model = load_encoder(str(transformer_folder), device="cpu") if encoder == "transformer" else make_static()
    task = None
    if encoder == "separate":
        model, task = separate_towers(model), "document"
    features = TargetFeatures(model, dataset.corpus, "text: ", task, kept_bytes)
    generator = np.random.default_rng(0)
    for _ in range(6):
        rows = generator.permutation(len(dataset.corpus))[:23]
        options = {} if task is None else {"task": task}
        expected = {**model.preprocess(dataset.corpus.texts(rows), prompt="text: ", **options), **options}
        found = features.of(rows)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
            assert same, key


def test_each_text_is_tokenised_once(
    make_static: Callable, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_static()
    tokenised: list[str] = []
    preprocess = model.preprocess

    def counting(texts: list[str], **options: Any) -> dict[str, Any]:
        tokenised.extend(texts)
        return preprocess(texts, **options)

    monkeypatch.setattr(model, "preprocess", counting)
    features = TargetFeatures(model, dataset.corpus, None, None)
    for rows in ([3, 1, 2], [2, 5, 5, 3], [1]):
        assert len(features.of(np.array(rows))["offsets"]) == len(rows)
    assert tokenised == dataset.corpus.texts(np.array([1, 2, 3, 5]))


@pytest.mark.parametrize("encoder", ["static", "separate", "transformer"])
def test_encodings_from_kept_features_are_the_models_own(
    encoder: str, make_static: Callable, dataset: RetrievalDataset, transformer_folder: Path
) -> None:
    model = load_encoder(str(transformer_folder), device="cpu") if encoder == "transformer" else make_static()
    task = None
    if encoder == "separate":
        model, task = separate_towers(model), "document"
    model.train()
    features = TargetFeatures(model, dataset.corpus, document_prompt(model), task)
    assert features.are_kept() == (encoder != "transformer")
    cost = Cost()
    kept = CorpusTargets(model, dataset.corpus, cost, similarity="cosine", features=features, block_size=7)
    plain = CorpusTargets(model, dataset.corpus, Cost(), similarity="cosine", block_size=7)
    rows = torch.tensor([5, 0, 3, 11, 2, 7, 1, 9, 4])
    for (found, vectors), (expected, others) in zip(kept.encode(rows), plain.encode(rows), strict=True):
        assert torch.equal(found, expected)
        torch.testing.assert_close(vectors, others, rtol=0, atol=1e-6)
    assert cost.targets_reencoded == len(rows)
    assert model.training
