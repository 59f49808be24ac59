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


def make_cross_encoder(folder: Path, tokenizer: Any, num_labels: int = 1) -> Path:
    """A random cross-encoder of two layers, saved to a folder as transformers does it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        settings = BertConfig(vocab_size=len(tokenizer), num_labels=num_labels, initializer_range=0.5, **shape)
        BertForSequenceClassification(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_qwen(folder: Path, corpus_texts: list[str], seed: int = 0, **config: Any) -> Path:
    """A random decoder of two layers as Qwen3-Embedding is made, saved to a folder: padded on the left, pooled at the
    last token, with an instruction before queries.

    Args:
        folder: where to; new.
        corpus_texts: texts of which the tokenizer is trained.
        seed: of the weights.
        config: further settings of ``Qwen3Config``.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    from hardwood.encoders import train_tokenizer

    tokenizer = train_tokenizer(corpus_texts, 300)
    end = tokenizer.token_to_id("[UNK]")  # what stands for the end: the tokenizer has no token of its own for it
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [UNK]", special_tokens=[("[UNK]", end)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="left", model_max_length=64
    )
    settings: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": fast.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": end,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen3Model(Qwen3Config(**settings | config)).save_pretrained(folder / "transformer")
    fast.save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    SentenceTransformer(
        modules=[transformer, pooling, Normalize()],
        prompts={"query": "Instruct: find what it is called\nQuery: ", "document": ""},
        device="cpu",
    ).save_pretrained(str(folder / "model"))
    return folder / "model"
