"""Training: the one place that knows data, encoders, sources of negatives and losses, and joins them.

`CorpusSoftmaxLoss` and `NegativesCallback` are for people with their own trainer script; `train` is the whole job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardwood._lazy import lazily

if TYPE_CHECKING:
    from hardwood.training.cached_loss import CachedCorpusSoftmaxLoss
    from hardwood.training.callback import NegativesCallback
    from hardwood.training.checkpoint.seal import last_checkpoint
    from hardwood.training.evaluator import RetrievalEvaluator
    from hardwood.training.job.assembly import encoder_arguments
    from hardwood.training.job.config import RunConfig
    from hardwood.training.job.run import RunResult, train
    from hardwood.training.second_model.guide import Guide
    from hardwood.training.second_model.teacher import Teacher, TeacherScores
    from hardwood.training.softmax_loss import CorpusSoftmaxLoss

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
        "Guide": "hardwood.training.second_model.guide",
        "NegativesCallback": "hardwood.training.callback",
        "RetrievalEvaluator": "hardwood.training.evaluator",
        "RunConfig": "hardwood.training.job.config",
        "RunResult": "hardwood.training.job.run",
        "Teacher": "hardwood.training.second_model.teacher",
        "TeacherScores": "hardwood.training.second_model.teacher",
        "encoder_arguments": "hardwood.training.job.assembly",
        "last_checkpoint": "hardwood.training.checkpoint.seal",
        "train": "hardwood.training.job.run",
    },
)
