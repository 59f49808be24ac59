"""Training: the one place that knows data, encoders, sources of negatives and losses, and joins them.

`CorpusSoftmaxLoss` and `NegativesCallback` are for people with their own trainer script; `train` is the whole job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardwood._lazy import lazily

if TYPE_CHECKING:
    from hardwood.training.assembly import encoder_arguments
    from hardwood.training.cached_loss import CachedCorpusSoftmaxLoss
    from hardwood.training.callback import NegativesCallback
    from hardwood.training.checkpoints import last_checkpoint
    from hardwood.training.config import RunConfig
    from hardwood.training.evaluator import RetrievalEvaluator
    from hardwood.training.guide import Guide
    from hardwood.training.run import RunResult, train
    from hardwood.training.softmax_loss import CorpusSoftmaxLoss
    from hardwood.training.teacher import Teacher, TeacherScores

__all__ = [
    "CachedCorpusSoftmaxLoss",
    "CorpusSoftmaxLoss",
    "Guide",
    "NegativesCallback",
    "RetrievalEvaluator",
    "RunConfig",
    "RunResult",
    "Teacher",
    "TeacherScores",
    "encoder_arguments",
    "last_checkpoint",
    "train",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CachedCorpusSoftmaxLoss": "hardwood.training.cached_loss",
        "CorpusSoftmaxLoss": "hardwood.training.softmax_loss",
        "Guide": "hardwood.training.guide",
        "NegativesCallback": "hardwood.training.callback",
        "RetrievalEvaluator": "hardwood.training.evaluator",
        "RunConfig": "hardwood.training.config",
        "RunResult": "hardwood.training.run",
        "Teacher": "hardwood.training.teacher",
        "TeacherScores": "hardwood.training.teacher",
        "encoder_arguments": "hardwood.training.assembly",
        "last_checkpoint": "hardwood.training.checkpoints",
        "train": "hardwood.training.run",
    },
)
