"""What settings may be, apart from the code that uses them: a bad one is refused before torch is loaded."""

from __future__ import annotations

from typing import Literal, get_args

from hardwood import _checks
from hardwood.negatives.margin import MarginFilter

Weighting = Literal["shared", "tempered", "own", "uncorrected"]
"""How drawn candidates are weighed: see `hardwood.losses`."""

WEIGHTINGS: tuple[str, ...] = get_args(Weighting)

TeacherForm = Literal["kl", "margin-mse"]
TEACHER_FORMS: tuple[str, ...] = get_args(TeacherForm)

Shards = Literal["divided", "replicated"]
"""What several processes do with the corpus: each keeps a part of it, or each a copy."""

SHARDS: tuple[str, ...] = get_args(Shards)

DEFAULT_WITHIN = 0.1
"""How far below the positive a guide judges."""

DEFAULT_UNASKED_PRIOR = 0.2
DEFAULT_UNASKED_PUSH = 0.0

_LEAST_PRIOR = 1e-40
"""What a tree can hold (`hardwood.tree.arrays.prior.LARGEST`), and far less than makes a difference."""


def check_unasked(prior: float, push: float) -> None:
    """Refuse what is no prior, or no share.

    Raises:
        ValueError: ``prior`` is not above 0 and at most 1, or ``push`` is not from 0 to 1.
    """
    if not _LEAST_PRIOR <= prior <= 1:
        raise ValueError(
            f"unasked_prior must be above 0 and at most 1, got {prior}: 1 counts all targets alike, and 0.001 all but "
            "leaves out those that no training query asks for"
        )
    if not 0 <= push <= 1:
        raise ValueError(
            f"unasked_push must be from 0 to 1, got {push}: 1 moves all targets alike, and 0 only those that a "
            "training query asks for"
        )


def check_draws(num_negatives: int, uniform_negatives: int, hardest: int | None) -> None:
    """``ValueError`` for numbers of draws a query that are out of range, or ``hardest`` draws that are none or all."""
    _checks.at_least(1, num_negatives, "num_negatives")
    check_hardest(hardest, num_negatives)
    _checks.at_least(0, uniform_negatives, "uniform_negatives")


def check_margin_filter(margin: object) -> None:
    """``TypeError`` for what is neither a `MarginFilter` nor ``None``."""
    if margin is not None and not isinstance(margin, MarginFilter):
        raise TypeError(f"margin must be a MarginFilter, such as MarginFilter(margin={margin!r}), got {margin!r}")


def check_hardest(hardest: int | None, num_negatives: int) -> None:
    """``ValueError`` for a number of hardest draws that is none, or that leaves all of them."""
    if hardest is not None and not 1 <= hardest < num_negatives:
        raise ValueError(
            f"hardest must be at least 1 and below num_negatives ({num_negatives}), of which it keeps so many, got "
            f"{hardest}"
        )


def check_guide(margin: float | None, within: float) -> None:
    """``ValueError`` for a guide's setting that is out of range."""
    if margin == float("inf"):
        raise ValueError("the guide's margin must be finite, got inf: it would reject everything that it judges")
    MarginFilter(margin)
    if not 0 <= within < float("inf"):
        raise ValueError(
            f"what the guide judges must be within a distance of 0 or more from the positive, and a finite one, got "
            f"{within}: 0 for what outranks the positive, 2 for everything with cosines"
        )


def check_teacher(form: str, weight: float, temperature: float | None) -> None:
    """``ValueError`` for a teacher's setting that is out of range."""
    _checks.one_of(TEACHER_FORMS, form, "the teacher's form")
    _checks.positive(weight, "the teacher's weight")
    if temperature is not None:
        _checks.positive(temperature, "the teacher's temperature")


def check_shards(shards: Shards, num_shards: int | None) -> Shards:
    """``ValueError`` for what is not one of `SHARDS`, or no number of shards; else ``shards``."""
    _checks.one_of(SHARDS, shards, "shards")
    if num_shards is not None:
        _checks.at_least(1, num_shards, "num_shards")
    if num_shards is not None and shards == "replicated":
        raise ValueError(f"num_shards is {num_shards}, but a corpus that is replicated has no shards: leave one out")
    return shards
