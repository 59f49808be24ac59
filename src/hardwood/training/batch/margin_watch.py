"""A margin that leaves no negatives: the loss is 0 then, and the run would end as if all were well."""

from __future__ import annotations

import warnings

from torch import Tensor

from hardwood.negatives import MarginFilter

_PATIENCE = 20
"""Batches, from the first one on, without a single negative that the filter lets pass, after which a run is useless."""
_WIDEST_COSINE = 2.0
_OF_MARGINS = "lower margin or relative_margin (cosines differ little, so 0.05 is much), or leave them out"


def check_margin(margin: MarginFilter, similarity: str) -> None:
    """``ValueError`` for an absolute margin that no two cosines can keep."""
    if similarity == "cosine" and margin.margin is not None and margin.margin >= _WIDEST_COSINE:
        raise ValueError(
            f"margin is {margin.margin:g}, but no cosine is that far below another, and the filter "
            "would drop every negative: give one well below 1, such as 0.1"
        )


class MarginWatch:
    """Looks at what a filter drops in training, batch by batch, and speaks up where nothing is left.

    Args:
        name: of the filter, for its messages.
        advice: what to do about a filter that is too strict.

    Attributes:
        dropped: share of the last batch's candidates that the filter dropped, of those that are no known positives.
    """

    def __init__(self, name: str = "margin filter", advice: str = _OF_MARGINS) -> None:
        self._name, self._advice = name, advice
        self.dropped = 0.0
        self._batches = self._emptied = 0

    def observe(self, usable: Tensor, dropped: Tensor, was_drawn: bool) -> None:
        """Note a batch.

        Args:
            usable: ``(B, C)`` bool, the candidates that may count against a query, but for the filter.
            dropped: ``(B, C)`` bool, those above the query's ceiling.
            was_drawn: whether the source was asked for negatives; it gives none above the ceiling.

        Raises:
            ValueError: the filter has left none of the first 20 batches a single negative.
        """
        candidates, passed = int(usable.sum()), int((usable & ~dropped).sum())
        self.dropped = 1 - passed / candidates if candidates else float(was_drawn)
        self._batches += 1
        if passed or not (candidates or was_drawn):
            return
        self._emptied += 1
        if self._emptied == self._batches == _PATIENCE:
            raise ValueError(
                f"the {self._name} has dropped every negative of the first {_PATIENCE} batches, so that their loss is "
                f"0 and nothing is learned: {self._advice}"
            )
        if self._emptied == 1:
            warnings.warn(
                f"the {self._name} drops every negative of batch {self._batches}, so that its loss is 0 and nothing "
                f"is learned from it ({candidates:,} were dropped beside the draws it forbids): {self._advice}",
                stacklevel=2,
            )
