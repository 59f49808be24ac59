"""Hashes of a model's weights, and of the data that a loss is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hardwood._ragged import RaggedRows

if TYPE_CHECKING:
    from hardwood.data import TextTable


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of all parameters and buffers, names and values: the same for the same weights, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def data_fingerprint(tables: Iterable[TextTable], never_negatives: RaggedRows) -> str:
    """A hash of corpus and queries, and of what is no negative of each query."""
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        digest.update(table.fingerprint().encode())
    for array in (never_negatives.offsets, never_negatives.values):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
