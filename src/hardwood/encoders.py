"""The encoders that can be trained: sentence-transformers models, or static embeddings made for the corpus."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hardwood import _checks
from hardwood._hub import asked_once, check_model, is_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from torch import nn

    from hardwood.data import RetrievalDataset

__all__ = [
    "load_encoder",
    "separate_towers",
    "static_encoder",
    "train_tokenizer",
]

STATIC = "static"
Towers = Literal["shared", "separate"]
TOWERS: tuple[str, ...] = get_args(Towers)


def load_encoder(
    name: str,
    dataset: RetrievalDataset | None = None,
    *,
    towers: Towers = "shared",
    dimension: int | None = None,
    vocabulary_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """The encoder to train.

    Args:
        name: ``"static"`` for `static_encoder` on the texts of ``dataset``, else a sentence-transformers model: its
            name on the hub or a local folder.
        dataset: needed for ``"static"``.
        towers: ``"shared"``: queries and targets through the same weights; ``"separate"``: a copy for each, behind
            sentence-transformers' ``Router``. A model that has a ``Router`` already is taken as it is.
        dimension: of static embeddings, ``None``: 128. Other encoders have their own.
        vocabulary_size: of static embeddings, ``None``: 8192. Other encoders have their own.
        max_length: tokens of a text that a transformer reads, what is beyond is cut off; ``None``: its own number.
        seed: initial static embeddings.
        device: where to put it; ``None``: an accelerator if there is one.
        trust_remote_code: run code that comes with a model, on the hub or in a folder. Off unless you trust it.

    Raises:
        ValueError: nothing loadable goes by that name, or the options don't fit together.
    """
    _checks.one_of(TOWERS, towers, "towers")
    if name == STATIC:
        if dataset is None:
            raise ValueError("the static encoder is made from a corpus: pass the dataset")
        sizes = {"dimension": dimension, "vocabulary_size": vocabulary_size}
        given: dict[str, int] = {option: size for option, size in sizes.items() if size is not None}
        model = static_encoder(dataset, **given, seed=seed, device=device)
    else:
        check_static_only(name, dimension=dimension, vocabulary_size=vocabulary_size)
        model = _load_sentence_transformer(name, device=device, trust_remote_code=trust_remote_code)
    if max_length is not None:
        _cut_texts(model, max_length, name)
    return separate_towers(model) if towers == "separate" and not has_router(model) else model


def check_encoder_name(name: str) -> None:
    """Refuse an encoder that can't be had, in seconds and without torch: no such folder, or a hub out of reach.

    Raises:
        ValueError: with what was tried, and the ways out.
    """
    if name != STATIC:
        check_model(name, "encoder")


def check_static_only(name: str, **sizes: int | None) -> None:
    """``ValueError`` where sizes of static embeddings, by option, are given (not ``None``) to another encoder."""
    for option, size in sizes.items():
        if name != STATIC and size is not None:
            raise ValueError(
                f"{option} is {size}, but the encoder {name!r} has its own: leave it out, it is for the static encoder"
            )


def static_encoder(
    dataset: RetrievalDataset,
    *,
    dimension: int = 128,
    vocabulary_size: int = 8192,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """A bag of learned word-piece embeddings, from scratch, with a tokenizer trained on the corpus.

    Nothing is downloaded, and it trains on a CPU in minutes: 128 numbers a piece, averaged
    (sentence-transformers' ``StaticEmbedding``).

    Args:
        dataset: its target texts and training queries make the vocabulary.
        dimension: length of an encoding.
        vocabulary_size: at most so many pieces of words.
        seed: initial embeddings, normal with unit variance.
        device: where to put it.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    _checks.at_least(1, dimension, "dimension")
    tokenizer = train_tokenizer(_texts_for_vocabulary(dataset), vocabulary_size)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tokenizer.get_vocab_size(), dimension, generator=generator)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device=device)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 8192) -> Tokenizer:
    """A lower-casing, accent-stripping byte-pair tokenizer for these texts.

    Byte pairs without word-start or word-end marks, since ``tokenizers`` breaks ties between those, and numbers word
    pieces, by the order of a hash table that differs from process to process: the same texts must give the same model.

    Raises:
        ValueError: a vocabulary too small for an alphabet and the unknown piece.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    _checks.at_least(256, vocabulary_size, "vocabulary_size")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def separate_towers(model: SentenceTransformer) -> SentenceTransformer:
    """A query and a document tower, both starting from ``model`` (its prompts, similarity and device are kept)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    modules = list(model.children())
    router = Router.for_query_document(query_modules=modules, document_modules=[copy.deepcopy(m) for m in modules])
    return SentenceTransformer(
        modules=[router],
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        device=str(model.device),
    )


def check_device(device: str | None) -> None:
    """``ValueError`` for a CUDA device where PyTorch finds none, with the way to one."""
    if device is None or not device.startswith("cuda"):
        return
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        raise ValueError(
            f"the device is {device!r}, but this PyTorch ({torch.__version__}) is built for CPUs: install one for your "
            "GPU (https://pytorch.org/get-started/locally), or leave the device out"
        )
    if not torch.cuda.is_available():
        raise ValueError(
            f"the device is {device!r}, but PyTorch finds no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or "
            "leave the device out"
        )


def is_static(model: SentenceTransformer) -> bool:
    """Whether all weights of the model are static embeddings, in one tower or two."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tables = [module for module in model.modules() if isinstance(module, StaticEmbedding)]
    embeddings = {id(weight) for table in tables for weight in table.parameters()}
    return bool(tables) and all(id(weight) in embeddings for weight in model.parameters())


def has_router(model: SentenceTransformer) -> bool:
    """Whether queries and targets take different routes through the model."""
    from sentence_transformers.sentence_transformer.modules import Router

    return any(isinstance(module, Router) for module in model.children())


def document_prompt(model: SentenceTransformer) -> str | None:
    """The prompt that ``encode_document`` puts before a target, ``None`` without one."""
    return _prompt(model, ("document", "passage", "corpus"))


def query_prompt(model: SentenceTransformer) -> str | None:
    """The prompt that ``encode_query`` puts before a query, ``None`` without one."""
    return _prompt(model, ("query",))


def _prompt(model: SentenceTransformer, names: tuple[str, ...]) -> str | None:
    # As encode_query and encode_document resolve them: the first name the model has, else its default prompt.
    name = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return (model.prompts.get(name) or None) if name is not None else None


def _load_sentence_transformer(name: str, *, device: str | None, trust_remote_code: bool) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    a_folder = is_folder(name)
    path = str(Path(name).expanduser()) if a_folder else name
    with asked_once(name, "encoder"):
        if a_folder and not (Path(path) / "modules.json").exists() and (Path(path) / "run.yaml").is_file():
            inside = Path(name) / "model"
            raise ValueError(f"{name!r} is the folder of a run: its encoder is {str(inside)!r}")
        if a_folder and (kind := _saved_as(Path(path))) != SentenceTransformer.__name__:
            raise ValueError(
                f"the encoder {name!r} was saved by a {kind}, which is no SentenceTransformer: its texts have no "
                "single dense vector. Give the folder of a SentenceTransformer"
            )
        try:
            return SentenceTransformer(path, device=device, trust_remote_code=trust_remote_code)
        except Exception as error:  # a folder can be wrong in more ways than its loader foresees
            if not trust_remote_code and "trust_remote_code" in str(error):
                raise ValueError(
                    f"the encoder {name!r} comes with code of its own, which is not run unless you say so: read it, "
                    "and if you trust it, pass trust_remote_code=True (--trust-remote-code). The loader said: "
                    f"{error}"
                ) from error
            raise ValueError(
                f"could not load the encoder {name!r}: give 'static', a local sentence-transformers folder, or the "
                "name of a model on the hub (needs a connection, or a copy in the cache). The loader said: "
                f"{error}"
            ) from error


def _saved_as(folder: Path) -> str:
    """The class that sentence-transformers' own file in a model's folder names; without one, it would make a
    ``SentenceTransformer``."""
    path = folder / "config_sentence_transformers.json"
    try:
        return str(json.loads(path.read_bytes()).get("model_type", "SentenceTransformer"))
    except (OSError, ValueError, AttributeError):  # the loader has an error for what is damaged
        return "SentenceTransformer"


def _cut_texts(model: SentenceTransformer, max_length: int, name: str) -> None:
    """Have its transformers read ``max_length`` tokens of a text; the model says so itself when it is saved."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    towers = [module for module in model.modules() if isinstance(module, Transformer)]
    if not towers:
        raise ValueError(
            f"max_length is {max_length}, but the encoder {name!r} reads texts of any length: leave it out, it is for "
            "transformers"
        )
    least = max(_special_tokens(tower.tokenizer) for tower in towers) + 1
    most = min(_positions(tower.auto_model) for tower in towers)
    if not least <= max_length <= most:
        upper = f"to {most:.0f}, the positions that the encoder {name!r} has" if most < float("inf") else "or more"
        raise ValueError(f"max_length must be from {least} (a token beside the special ones) {upper}, got {max_length}")
    for tower in towers:
        tower.max_seq_length = max_length


def _special_tokens(tokenizer: Any) -> int:
    """How many tokens a tokenizer puts around every text."""
    return int(tokenizer.num_special_tokens_to_add()) if hasattr(tokenizer, "num_special_tokens_to_add") else 0


def _positions(transformer: nn.Module) -> float:
    """How many tokens a transformer has positions for; infinity: any number."""
    from torch import nn

    for module in transformer.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            padding = getattr(module, "padding_idx", None)  # RoBERTa and its kin count from there
            return table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0)
    config = getattr(transformer, "config", None)
    return getattr(config, "max_position_embeddings", None) or float("inf")


def _texts_for_vocabulary(dataset: RetrievalDataset) -> Iterable[str]:
    for texts in dataset.corpus.iter_texts(batch_size=4096):
        yield from texts
    if "train" in dataset.splits:  # never the other splits: their words must stay unseen
        yield from dataset.queries.texts(dataset.splits["train"].queries)
