"""A folder in which the documentation's examples find what they name: pairs, a demo set, and models by their names on
the hub, all tiny and made on the spot."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from doc_blocks import ROOT
from hardwood.data import RetrievalDataset, split_unseen


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, dataset: RetrievalDataset) -> Path:
    """What each page's folder begins as."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "examples").mkdir()
    for name in ("examples/pairs.csv", "pairs.csv"):
        shutil.copyfile(ROOT / "examples" / "pairs.csv", folder / name)
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as handle:
        texts = [text for row in csv.DictReader(handle) for text in row.values()]
    split_unseen(dataset, count=6).save(folder / "data" / "hpo")
    save_bert(texts, folder / "sentence-transformers" / "all-MiniLM-L6-v2")
    save_cross_encoder(texts, folder / "cross-encoder" / "ms-marco-MiniLM-L6-v2")
    save_qwen(texts, folder / "Qwen" / "Qwen3-Embedding-0.6B")
    return folder


@pytest.fixture
def page_folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a page's examples."""
    import datasets

    folder = tmp_path / "page"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def save_bert(texts: list[str], folder: Path) -> None:
    """A random BERT of two layers and 32 dimensions, as a sentence-transformers model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertModel

    parts = folder.with_name("parts")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(_bert(texts, parts)).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(folder))
    shutil.rmtree(parts)


def save_cross_encoder(texts: list[str], folder: Path) -> None:
    """A random cross-encoder of two layers."""
    import torch
    from transformers import BertForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(_bert(texts, folder, num_labels=1)).save_pretrained(folder)


def save_qwen(texts: list[str], folder: Path) -> None:
    """A random decoder, as Qwen3-Embedding is made."""
    from tiny_models import make_qwen

    parts = folder.with_name("parts")
    parts.mkdir(parents=True)
    shutil.move(make_qwen(parts, texts), folder)
    shutil.rmtree(parts)


def _bert(texts: list[str], folder: Path, **settings: Any) -> Any:
    """Settings of a small BERT for these texts, whose tokenizer is saved into ``folder``."""
    from transformers import BertConfig, PreTrainedTokenizerFast

    from hardwood.encoders import train_tokenizer

    tokenizer = train_tokenizer(texts, 300)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=128, **shape, **settings)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pages speak of the whole repository: its sources, and what CI runs. An unpacked sdist has neither."""
    if all((ROOT / name).exists() for name in (".ci/run", "src/hardwood")):
        return
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason="needs the whole repository"))
