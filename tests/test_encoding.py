"""Encoding in blocks: the model's own prompts and tasks, its mode kept, bad vectors refused."""

from __future__ import annotations

import numpy as np
import pytest

from hardwood.data import TextTable
from hardwood.encoding import (
    encode_queries,
    encode_targets,
    progress_bar,
    query_vectors,
    similarity_of,
    target_vectors,
)
from tiny_models import WORDS, make_bert, make_static


@pytest.fixture(scope="module")
def static():
    return make_static()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def table():
    return TextTable.from_columns([f"d{i}" for i in range(23)], [f"{w} {w[::-1]}" for w in WORDS[:23]])


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_are_the_model_s_own_encodings(bert, table, block):
    blocks = list(encode_targets(bert, table, block=block, batch_size=4))
    assert [len(rows) for rows, _ in blocks] == [min(block, 23 - s) for s in range(0, 23, block)]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in blocks]), np.arange(23))
    want = bert.encode_document(table.texts(), normalize_embeddings=True)
    got = np.concatenate([vectors for _, vectors in blocks])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_static_embeddings_have_larger_batches_by_default_and_the_same_encodings(static, bert, table, monkeypatch):
    asked = []
    for model in (static, bert):
        encode = model.encode_document
        spy = lambda texts, encode=encode, **how: asked.append(how["batch_size"]) or encode(texts, **how)  # noqa: E731
        monkeypatch.setattr(model, "encode_document", spy)
    larger = target_vectors(static, table)
    target_vectors(bert, table)
    assert asked == [2048, 128]
    np.testing.assert_array_equal(larger, target_vectors(static, table, batch_size=2))
    assert asked[2] == 2


def test_rows_in_any_order_with_repeats(static, table):
    rows = np.array([5, 0, 5, 22])
    everything = target_vectors(static, table)
    np.testing.assert_allclose(target_vectors(static, table, rows, block=3), everything[rows], atol=1e-7)
    got_rows = np.concatenate([r for r, _ in encode_targets(static, table, rows, block=3)])
    np.testing.assert_array_equal(got_rows, rows)
    np.testing.assert_allclose(target_vectors(static, table.texts(), rows), everything[rows], atol=1e-7)
    assert target_vectors(static, table, []).shape == (0, 16)


def test_prompts_of_queries_and_documents_are_used(tmp_path, table):
    model = make_bert(tmp_path, prompts={"query": "find : ", "document": "text : "})
    queries, targets = query_vectors(model, table), target_vectors(model, table)
    assert np.abs(queries - targets).max() > 1e-3
    prompted = model.encode([f"find : {text}" for text in table.texts()], normalize_embeddings=True)
    np.testing.assert_allclose(queries, prompted, atol=1e-6)


def test_a_router_sends_queries_and_documents_to_their_towers(table):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    one, two = make_static(seed=1), make_static(seed=2)
    model = SentenceTransformer(modules=[Router.for_query_document([one[0]], [two[0]])], device="cpu")
    np.testing.assert_allclose(query_vectors(model, table), query_vectors(one, table), atol=1e-6)
    np.testing.assert_allclose(target_vectors(model, table), target_vectors(two, table), atol=1e-6)


def test_every_module_s_mode_is_put_back_even_between_blocks(tmp_path, table):
    model = make_bert(tmp_path)
    model.train()
    model[0].auto_model.embeddings.eval()  # a frozen part
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    blocks = encode_targets(model, table, block=10)
    next(blocks)
    assert [module.training for module in model.modules()] == before
    blocks.close()
    assert [module.training for module in model.modules()] == before


def test_dot_keeps_lengths_and_cosine_makes_them_one(static, table):
    raw = static.encode_document(table.texts())
    np.testing.assert_allclose(target_vectors(static, table, similarity="dot"), raw, atol=1e-7)
    lengths = np.linalg.norm(target_vectors(static, table), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    half = target_vectors(static, table, dtype="float16")
    assert half.dtype == np.float16


def test_similarity_is_the_model_s_unless_told():
    model = make_static()
    assert similarity_of(model) == "cosine"
    model.similarity_fn_name = "dot"
    assert similarity_of(model) == "dot"
    assert similarity_of(model, "cosine") == "cosine"
    model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match=r"'euclidean' is no inner product"):
        similarity_of(model)


def test_a_vector_that_is_not_finite_names_its_text(table):
    import torch

    model = make_static()
    token = model.tokenizer.encode(WORDS[12], add_special_tokens=False).ids[0]
    with torch.no_grad():
        model[0].embedding.weight[token] = float("nan")
    with pytest.raises(ValueError, match=r"target 'd12' \(row 12\) is not finite"):
        target_vectors(model, table, block=5)
    with pytest.raises(ValueError, match=r"query number 12 \(row 12\)"):
        query_vectors(model, table.texts(), block=5)


def test_float16_that_overflows_is_refused(table):
    model = make_static(scale=1e6)
    with pytest.raises(ValueError, match="float16"):
        target_vectors(model, table, similarity="dot", dtype="float16")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"block": 0}, ValueError, "block must be at least 1, got 0"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1, got -1"),
        ({"dtype": "int8"}, ValueError, "got 'int8'"),
        ({"rows": [23]}, IndexError, "row 23 is outside of 23 texts"),
        ({"rows": [-1]}, IndexError, "row -1"),
        ({"rows": [0.5]}, TypeError, "float64"),
        ({"similarity": "manhattan"}, ValueError, "manhattan"),
    ],
)
def test_bad_settings_are_refused_at_the_call(static, table, settings, error, message):
    with pytest.raises(error, match=message):
        encode_queries(static, table, **settings)


def test_one_string_is_not_a_list_of_texts(static):
    with pytest.raises(TypeError, match="put it in a list"):
        encode_queries(static, "heart")


def test_progress_is_silent_off_a_terminal_and_shows_a_rate_when_asked(capfd, static, table):
    target_vectors(static, table)
    assert capfd.readouterr() == ("", "")
    target_vectors(static, table, progress=True, block=5)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Encoding targets" in err
    assert "23/23" in err
    with progress_bar("Nothing", 3, show=False) as advance:
        advance(3)
    assert capfd.readouterr().err == ""
