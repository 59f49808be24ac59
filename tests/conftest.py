"""Small real things: a dataset of a few dozen concepts, and encoders made on the spot."""

from __future__ import annotations

import os

# Two cores and other load: with more threads, OpenMP's spinning makes everything crawl. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardwood.data import Judgements, RetrievalDataset, TextTable

ORGANS = ("heart", "kidney", "liver", "lung", "brain", "retina", "skin", "bone", "ear", "tongue")
FINDINGS = ("enlarged", "absent", "inflamed", "calcified", "duplicated", "displaced")
SYNONYMS = {
    "enlarged": ("big", "swollen"),
    "absent": ("missing", "lacking"),
    "inflamed": ("sore", "irritated"),
    "calcified": ("hardened", "chalky"),
    "duplicated": ("double", "twofold"),
    "displaced": ("shifted", "moved"),
}


def make_dataset() -> RetrievalDataset:
    """60 concepts (an organ and what ails it), two synonyms each: one to train on, one for test or dev."""
    concepts = [(organ, finding) for organ in ORGANS for finding in FINDINGS]
    corpus = TextTable.from_columns(
        [f"c{row}" for row in range(len(concepts))],
        [f"the {organ} is {finding}, a condition of the {organ}" for organ, finding in concepts],
        [f"{finding} {organ}" for organ, finding in concepts],
    )
    queries = [f"{word} {organ}" for organ, finding in concepts for word in SYNONYMS[finding]]
    targets = [row for row in range(len(concepts)) for _ in range(2)]
    table = TextTable.from_columns([f"q{row}" for row in range(len(queries))], queries)
    rows = {
        "train": list(range(0, len(queries), 2)),
        "dev": list(range(1, len(queries), 8)),
        "test": [row for row in range(1, len(queries), 2) if row % 8 != 1],
    }
    splits = {
        name: Judgements.from_triples(np.array(split), np.array(targets)[split], np.ones(len(split), dtype=np.int32))
        for name, split in rows.items()
    }
    return RetrievalDataset(corpus, table, splits, name="ailments")


@pytest.fixture(scope="session")
def dataset() -> RetrievalDataset:
    return make_dataset()


@pytest.fixture(scope="session")
def dataset_folder(dataset: RetrievalDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "ailments"
    dataset.save(folder)
    return folder


@pytest.fixture
def make_static(dataset: RetrievalDataset) -> Callable:
    """A small static encoder, from scratch."""
    from hardwood.encoders import load_encoder

    def make(**options: object):  # type: ignore[no-untyped-def]
        return load_encoder("static", dataset, **{"dimension": 16, "vocabulary_size": 300, "device": "cpu", **options})

    return make


@pytest.fixture(scope="session")
def transformer_folder(dataset: RetrievalDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 32 dimensions with dropout and prompts, random, saved as any model on the hub is."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from hardwood.encoders import train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(dataset.corpus.texts(), 300)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.1,
    )
    BertModel(config).save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension())],
        prompts={"query": "find: ", "document": "entry: "},
        device="cpu",
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def cross_encoder_folder(transformer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random cross-encoder of two layers, saved as any model on the hub is."""
    from sentence_transformers import SentenceTransformer

    from tiny_models import make_cross_encoder

    tokenizer = SentenceTransformer(str(transformer_folder), device="cpu").tokenizer
    return make_cross_encoder(tmp_path_factory.mktemp("cross-encoder"), tokenizer)
