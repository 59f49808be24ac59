"""The filter against false negatives: targets that come too near the positive are probably right answers too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MarginFilter:
    """Takes a target for a false negative when its similarity is above a ceiling set by the positive's.

    ``ceiling = positive - absolute`` and/or ``positive - relative * |positive|``, whichever is lower; similarities are
    those of the model (cosine or dot product), before the scale. (For a positive similarity the relative form is
    sentence-transformers' ``positive * (1 - relative_margin)``; written so, it also tightens for a negative one.)

    Args:
        absolute: at least 0; 0 drops whatever outranks the positive.
        relative: at least 0, below 1.

    Raises:
        ValueError: for a margin out of range.
    """

    absolute: float | None = None
    relative: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("absolute", self.absolute), ("relative", self.relative)):
            if value is not None and not value >= 0:
                raise ValueError(f"the {name} margin must be 0 or more, got {value}")
        if self.relative is not None and self.relative >= 1:
            raise ValueError(
                f"the relative margin is a share of the positive's similarity, below 1, such as 0.05 for 5 %, got "
                f"{self.relative:g}: it would drop every negative that is like the query at all"
            )

    def __bool__(self) -> bool:
        return self.absolute is not None or self.relative is not None

    def ceiling(self, positive_similarities: Tensor) -> Tensor | None:
        """The highest similarity a negative may have, ``(B,)`` from ``(B,)``; ``None`` if there is no filter."""
        if not self:
            return None
        loss_of_absolute = self.absolute or 0.0
        loss_of_relative = (self.relative or 0.0) * positive_similarities.abs()
        return positive_similarities - loss_of_relative.clamp(min=loss_of_absolute)
