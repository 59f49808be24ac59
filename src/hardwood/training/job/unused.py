"""Settings that were given and that the run would not use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hardwood.negatives.registry import IN_BATCH

if TYPE_CHECKING:
    from hardwood.training.job.config import RunConfig

_UNIFORM = "uniform"
_OF_GUIDES = ("guide_margin", "guide_within")
_OF_TEACHERS = ("teacher_weight", "teacher_temperature")
_OF_REPORTS = ("report_base", "report_texts")
_OF_DRAWS = ("num_negatives", "weighting", "hardest")
_OF_UNASKED = ("unasked_prior", "unasked_push")


def refuse_unused(given: Iterable[str], config: RunConfig) -> None:
    """Refuse what has no effect under the other settings: its value would be passed over without a word.

    Args:
        given: names of the settings that were given, as against those that have their defaults.
        config: all settings.

    Raises:
        ValueError: names each of them, and why.
    """
    reasons: dict[str, str] = {}
    if config.negatives == IN_BATCH:
        reasons |= dict.fromkeys(_OF_DRAWS, "in-batch negatives draw nothing")
        if not config.uniform_negatives:
            reasons |= dict.fromkeys(_OF_UNASKED, "in-batch negatives draw nothing")
    if config.negatives in (IN_BATCH, _UNIFORM):
        names = ("encode_batch_size", "spool_encodings")
        reasons |= dict.fromkeys(names, f"{config.negatives} negatives have no target encoded")
    if config.guide is None:
        reasons |= dict.fromkeys(_OF_GUIDES, "there is no guide")
    if config.teacher is None:
        reasons |= dict.fromkeys(_OF_TEACHERS, "there is no teacher")
    if config.evaluate_every is None:
        reasons["curve_split"] = "it is for evaluations during training (evaluate_every)"
    if config.scheduler == "constant":
        reasons["warmup_ratio"] = "the constant schedule has no warm-up ('constant_with_warmup' has)"
    if not config.report:
        reasons |= dict.fromkeys(_OF_REPORTS, "there is no report")
    unused = [f"{name} {getattr(config, name)!r} ({reasons[name]})" for name in given if name in reasons]
    if unused:
        raise ValueError(f"this run would not use {'; '.join(unused)}: leave it out")
