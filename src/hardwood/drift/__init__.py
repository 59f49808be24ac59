"""Models of how a training encoder moves all encodings, fitted on the motion of a few.

Knows arrays: the stored and the fresh encodings of some landmarks, the stored ones of all others. Must not know texts,
models that encode, trees, or training.
"""

from hardwood.drift.base import DriftError, DriftModel, IllConditionedWarning, StaleDrift, cosine_error
from hardwood.drift.corrector import CorrectorDrift
from hardwood.drift.kernel import NystromDrift
from hardwood.drift.linear import LinearDrift
from hardwood.drift.registry import DRIFT_MODELS, make_drift

__all__ = [
    "DRIFT_MODELS",
    "CorrectorDrift",
    "DriftError",
    "DriftModel",
    "IllConditionedWarning",
    "LinearDrift",
    "NystromDrift",
    "StaleDrift",
    "cosine_error",
    "make_drift",
]
