"""Training: the one place that knows data, encoders, sources of negatives and losses, and joins them.

`CorpusSoftmaxLoss` and `NegativesCallback` are for people with their own trainer script; `train` is the whole job.
"""

from hardwood.training.cached_loss import CachedCorpusSoftmaxLoss
from hardwood.training.callback import NegativesCallback
from hardwood.training.checkpoints import last_checkpoint
from hardwood.training.config import RunConfig
from hardwood.training.evaluator import RetrievalEvaluator
from hardwood.training.guide import Guide
from hardwood.training.run import RunResult, encoder_arguments, train
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
