"""Hardwood trains dual encoders against the whole corpus.

The public names live here; everything heavy is imported when first used, so that ``import hardwood`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from hardwood._version import __version__
from hardwood.errors import DataError

_LAZY: dict[str, str] = {
    "CachedCorpusSoftmaxLoss": "hardwood.training",
    "CorpusSoftmaxLoss": "hardwood.training",
    "MarginFilter": "hardwood.negatives",
    "NegativesCallback": "hardwood.training",
    "RetrievalDataset": "hardwood.data",
    "RetrievalEvaluator": "hardwood.training",
    "RunConfig": "hardwood.training",
    "encoder_arguments": "hardwood.training",
    "evaluate": "hardwood.evaluation",
    "load_encoder": "hardwood.encoders",
    "mine": "hardwood.mining",
    "read_dataset": "hardwood.data",
    "train": "hardwood.training",
    "Draw": "hardwood.tree",
    "Hits": "hardwood.tree",
    "LogPartition": "hardwood.tree",
    "TargetIndex": "hardwood.tree",
    "warmup": "hardwood.tree",
}

__all__ = ["DataError", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hardwood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
