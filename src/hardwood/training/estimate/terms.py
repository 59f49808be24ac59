"""What the loss hands to the trainer."""

from __future__ import annotations

import torch
from torch import Tensor


class LossTerms(dict[str, Tensor]):
    """What a loss returns to the trainer: terms that add up to it, and figures that are only logged.

    ``SentenceTransformerTrainer`` takes the sum of a loss dictionary's ``values()`` for the loss and logs its
    ``items()``. Here the logged figures are among the items but not among the values.
    """

    def __init__(self, terms: dict[str, Tensor], figures: dict[str, float]) -> None:
        device = next(iter(terms.values())).device
        super().__init__({**terms, **{name: torch.tensor(value, device=device) for name, value in figures.items()}})
        self._terms = list(terms.values())

    def values(self) -> list[Tensor]:  # type: ignore[override]
        """The terms of the loss alone."""
        return self._terms
