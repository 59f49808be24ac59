"""Hardwood trains dual encoders against the whole corpus.

The public names live here; everything heavy is imported when first used, so that ``import hardwood`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardwood._lazy import lazily
from hardwood._version import __version__

if TYPE_CHECKING:
    from hardwood._processors import set_threads
    from hardwood.data import RetrievalDataset, read_dataset
    from hardwood.encoders import load_encoder
    from hardwood.errors import DataError
    from hardwood.evaluation import evaluate
    from hardwood.mining import mine
    from hardwood.negatives import DynamicNegatives, MarginFilter
    from hardwood.training import (
        CachedCorpusSoftmaxLoss,
        CorpusSoftmaxLoss,
        NegativesCallback,
        RetrievalEvaluator,
        RunConfig,
        encoder_arguments,
        last_checkpoint,
        train,
    )
    from hardwood.tree import TargetIndex, warmup

_MODULES = {
    "CachedCorpusSoftmaxLoss": "hardwood.training",
    "CorpusSoftmaxLoss": "hardwood.training",
    "DataError": "hardwood.errors",
    "DynamicNegatives": "hardwood.negatives",
    "MarginFilter": "hardwood.negatives",
    "NegativesCallback": "hardwood.training",
    "RetrievalDataset": "hardwood.data",
    "RetrievalEvaluator": "hardwood.training",
    "RunConfig": "hardwood.training",
    "TargetIndex": "hardwood.tree",
    "encoder_arguments": "hardwood.training",
    "evaluate": "hardwood.evaluation",
    "last_checkpoint": "hardwood.training",
    "load_encoder": "hardwood.encoders",
    "mine": "hardwood.mining",
    "read_dataset": "hardwood.data",
    "set_threads": "hardwood._processors",
    "train": "hardwood.training",
    "warmup": "hardwood.tree",
}

__all__ = [
    "CachedCorpusSoftmaxLoss",
    "CorpusSoftmaxLoss",
    "DataError",
    "DynamicNegatives",
    "MarginFilter",
    "NegativesCallback",
    "RetrievalDataset",
    "RetrievalEvaluator",
    "RunConfig",
    "TargetIndex",
    "__version__",
    "encoder_arguments",
    "evaluate",
    "last_checkpoint",
    "load_encoder",
    "mine",
    "read_dataset",
    "set_threads",
    "train",
    "warmup",
]

__getattr__, __dir__ = lazily(__name__, _MODULES)
