"""Small models made on the spot: no network, no weights to fetch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

WORDS = ["".join(letters) for letters in itertools.product("bdgkmr", "aeiou", "lnst", "ou")]


def make_tokenizer() -> Any:
    """A word-level tokenizer trained on the words above and their mirror images."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator([*WORDS, *(word[::-1] for word in WORDS), "find text :"], trainer)
    return tokenizer


def make_static(seed: int = 0, dimension: int = 16, scale: float = 1.0) -> Any:
    """A static embedding with normally distributed rows: equal words have equal vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = make_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    weights = scale * torch.randn(tokenizer.get_vocab_size(), dimension, generator=generator)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.numpy())], device="cpu")


def make_bert(folder: Path, seed: int = 0, prompts: dict[str, str] | None = None) -> Any:
    """A random transformer of two layers, saved to a folder and loaded from it, dropout and all."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"))
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension())], prompts=prompts, device="cpu"
    )
    model.save(str(folder / "model"))
    return SentenceTransformer(str(folder / "model"), device="cpu")
