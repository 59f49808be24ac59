"""Hashes of a model's weights, and of the data that a loss is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hardwood._ragged import RaggedRows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import TextTable


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all parameters and buffers, names and values: the same for the same weights, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encoder_fingerprints(model: SentenceTransformer, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """What the same texts' encodings depend on, by words.

    Args:
        model: its weights, modules and the length to which it cuts texts count.
        tokens: what it is given for some texts, which tells its tokenizer and prompts from others.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted((name, value) for name, value in tokens.items() if isinstance(value, torch.Tensor)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # where an object lies says nothing
    return {
        "weights": weights_fingerprint(model),
        "modules": hashlib.blake2b(modules.encode(), digest_size=16).hexdigest(),
        "tokens": digest.hexdigest(),
        "length": str(getattr(model, "max_seq_length", None)),
    }


def data_fingerprint(tables: Iterable[TextTable], never_negatives: RaggedRows) -> str:
    """A hash of corpus and queries, and of what is no negative of each query."""
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        digest.update(table.fingerprint().encode())
    for array in (never_negatives.offsets, never_negatives.values):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
