"""The filter against false negatives: targets that come too near the positive are probably right answers too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardwood import _checks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MarginFilter:
    """Takes a target for a false negative when its similarity is above a ceiling set by the positive's.

    ``ceiling = positive - margin`` and/or ``positive - relative_margin * |positive|``, whichever is lower; similarities
    are those of the model (cosine or dot product), before the scale. (For a positive similarity the relative form is
    sentence-transformers' ``positive * (1 - relative_margin)``; written so, it also tightens for a negative one.)

    Args:
        margin: 0 or more; 0 drops whatever outranks the positive. ``None``: no such limit.
        relative_margin: at least 0, below 1. ``None``: no such limit.

    Raises:
        ValueError: for a margin out of range.
    """

    margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None:
            _checks.not_negative(self.margin, "margin")
        if self.relative_margin is not None:
            _checks.not_negative(self.relative_margin, "relative_margin")
            if self.relative_margin >= 1:
                raise ValueError(
                    "relative_margin is a share of the positive's similarity, below 1, such as 0.05 for 5 %, got "
                    f"{self.relative_margin:g}: it would drop every negative that is like the query at all"
                )

    def __bool__(self) -> bool:
        return self.margin is not None or self.relative_margin is not None

    def ceiling(self, positive_similarities: Tensor) -> Tensor | None:
        """The highest similarity a negative may have, ``(B,)`` from ``(B,)``; ``None`` if there is no filter."""
        if not self:
            return None
        relative = (self.relative_margin or 0.0) * positive_similarities.abs()
        return positive_similarities - relative.clamp(min=self.margin or 0.0)
