"""Whether the texts that reach the loss are what it would encode for the same rows as drawn targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from hardwood.data import TextTable
    from hardwood.training.corpus.tokens import TargetFeatures

_AT_FIRST, _LATER = 4, 2
"""Texts of a batch that are compared: tokenising them once more costs some 50 µs each."""


class ArrivalCheck:
    """Compares tokens: a positive must be, token by token, what its row is as a drawn target.

    It sees what a look at the datasets can't show (streams, several sets, no callback): prompts that the trainer puts
    before positives alone, and pairs of another dataset. Of features in another layout than rows of ``input_ids`` or
    bags of them it says nothing.

    Args:
        features: what drawn targets are encoded from.
        corpus: the targets.
    """

    def __init__(self, features: TargetFeatures, corpus: TextTable) -> None:
        self._features, self._corpus = features, corpus
        self._is_first = True

    def start_over(self) -> None:
        """The next batch is the first one again."""
        self._is_first = True

    def check(self, features: dict[str, Any], rows: NDArray[np.int64]) -> None:
        """Compare some texts of a batch, and all of them where one of these differs.

        Args:
            features: of positives (or given negatives), as the trainer's collator made them.
            rows: ``(B,)`` the rows of the corpus that they are.

        Raises:
            ValueError: how many are not what their rows are as drawn targets, with an example and the way out.
        """
        places = np.unique(np.linspace(0, len(rows) - 1, _AT_FIRST if self._is_first else _LATER).astype(np.int64))
        wrong = self._differing(features, rows, places) if len(rows) else []
        self._is_first = False
        if not wrong:
            return
        wrong = self._differing(features, rows, np.arange(len(rows)))
        arrived, drawn, bare = (
            _tokens(batch, place)
            for batch, place in (
                (features, wrong[0]),
                (self._features.of(rows[wrong[:1]]), 0),
                (self._features.without_prompt(rows[wrong[:1]]), 0),
            )
        )
        row = int(rows[wrong[0]])
        example = (
            f"{len(wrong):,} of {len(rows):,} positives of a batch are not encoded from what drawn targets are encoded "
            f"from: target {self._corpus.ids([row])[0]!r} (row {row}) arrives as {self._words(arrived)}, and is "
            f"{self._words(drawn)} where it is drawn. "
        )
        if _holds(arrived, bare):
            raise ValueError(
                f"{example}What stands before positives must stand before drawn targets too: give prompts by the "
                "trainer's arguments and add NegativesCallback(loss), which hands them on, or give the loss the same "
                "target_prompt"
            )
        raise ValueError(
            f"{example}If the pairs are another dataset's (one loss for two datasets, say), give each dataset a loss "
            "of its own; if texts were edited, make a dataset of them (RetrievalDataset.from_pairs) and train on its "
            "training_pairs()"
        )

    def _differing(self, features: dict[str, Any], rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[int]:
        if _tokens(features, 0) is None:
            return []
        drawn = self._features.of(rows[places])
        pairs = [(_tokens(features, int(place)), _tokens(drawn, i)) for i, place in enumerate(places)]
        return [
            int(place)
            for place, (one, other) in zip(places, pairs, strict=True)
            if one is not None and other is not None and one != other
        ]

    def _words(self, tokens: list[int] | None) -> str:
        text = self._features.decode(tokens or [])
        return f"{len(tokens or [])} tokens" if text is None else repr(text[:80])


def _tokens(features: dict[str, Any], place: int) -> list[int] | None:
    """The token ids of one text of a batch, without padding; ``None`` in a layout of another kind."""
    ids = features.get("input_ids")
    if not isinstance(ids, Tensor):
        return None
    if (offsets := features.get("offsets")) is not None and ids.ndim == 1:
        end = int(offsets[place + 1]) if place + 1 < len(offsets) else len(ids)
        return ids[int(offsets[place]) : end].tolist()
    mask = features.get("attention_mask")
    if ids.ndim != 2 or not isinstance(mask, Tensor) or mask.shape != ids.shape:
        return None
    return ids[place][mask[place].to(torch.bool)].tolist()


def _holds(tokens: list[int] | None, text: list[int] | None) -> bool:
    """Whether a text's tokens, but for some at its two ends (special ones, or cut off), are among others in a row."""
    if not tokens or not text:
        return False
    inner = text[2:-2] or text
    inner = inner[: max(1, len(inner) // 2)]
    return any(tokens[i : i + len(inner)] == inner for i in range(len(tokens) - len(inner) + 1))
