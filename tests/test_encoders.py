"""Encoders as they are loaded for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from hardwood.encoders import _positions, load_encoder
from tiny_models import WORDS, make_bert, make_static

LONG = " ".join(WORDS[:20])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    make_bert(folder)
    return str(folder / "model")


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_a_transformer_reads_as_many_tokens_as_it_is_told(towers: str, bert: str, tmp_path: Path) -> None:
    model = load_encoder(bert, towers=towers, max_length=7, device="cpu")
    assert load_encoder(bert, device="cpu").max_seq_length > 7
    model.save(str(tmp_path / "saved"))
    for found in (model, SentenceTransformer(str(tmp_path / "saved"), device="cpu")):
        for encode in (found.encode_query, found.encode_document):
            whole, cut, other = encode([LONG, " ".join(WORDS[:7]), " ".join(WORDS[:6])])
            np.testing.assert_allclose(whole, cut, atol=1e-6)
            assert np.abs(whole - other).max() > 1e-3


@pytest.mark.parametrize("max_length", [0, -1, 41])
def test_a_number_of_tokens_that_the_encoder_has_no_positions_for_is_an_error(max_length: int, bert: str) -> None:
    with pytest.raises(ValueError, match=rf"from 1 .* to 40, the positions that the encoder .* has, got {max_length}"):
        load_encoder(bert, max_length=max_length, device="cpu")
    assert load_encoder(bert, max_length=40, device="cpu").encode(LONG).shape == (32,)


def test_positions_that_are_for_padding_are_not_counted() -> None:
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel, T5Config, T5EncoderModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"max_position_embeddings": 34, "vocab_size": 10}
    assert _positions(BertModel(BertConfig(**sizes))) == 34
    mpnet = MPNetModel(MPNetConfig(**sizes))
    assert _positions(mpnet) == 32
    assert mpnet(input_ids=torch.full((1, 32), 5)).last_hidden_state.shape == (1, 32, 8)
    with pytest.raises((IndexError, RuntimeError)):
        mpnet(input_ids=torch.full((1, 33), 5))
    relative = T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=10))
    assert _positions(relative) == float("inf")


def test_one_tower_that_reads_all_is_left_as_it_is(bert: str, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Router

    document = list(SentenceTransformer(bert, device="cpu").children())
    query = list(make_static(dimension=32).children())
    SentenceTransformer(modules=[Router.for_query_document(query, document)], device="cpu").save(str(tmp_path / "two"))
    model = load_encoder(str(tmp_path / "two"), max_length=7, device="cpu")
    whole, cut = model.encode_document([LONG, " ".join(WORDS[:7])])
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    whole, cut = model.encode_query([LONG, " ".join(WORDS[:7])])
    assert np.abs(whole - cut).max() > 1e-3


def test_an_encoder_that_reads_all_cannot_be_cut(tmp_path: Path) -> None:
    make_static().save(str(tmp_path / "static"))
    with pytest.raises(ValueError, match=r"max_length is 7, but the encoder .* reads texts of any length"):
        load_encoder(str(tmp_path / "static"), max_length=7, device="cpu")
