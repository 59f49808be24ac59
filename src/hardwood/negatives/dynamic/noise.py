"""The noise of fresh encodings: what dropout does to them, measured, kept, and left out of what is stored.

A training step encodes with dropout, so a fresh encoding is off before the encoder has moved at all. That is no motion:
the schedule subtracts it from the measured error, and write-back leaves it out of the tree.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hardwood._checkpoint_tensors import Wanted
from hardwood.negatives.dynamic.staleness import cosine_sums
from hardwood.negatives.records import Floats, Targets, encoded_rows

_MEASURED_ON = 64
"""Targets."""

_LEAST = 1e-4
"""A mean cosine error below this is rounding, and counts as none."""


class Noise:
    """How noisy fresh encodings are, and when to measure it.

    It is measured after the corpus is encoded and, if there is any, in each refresh, since it grows where an encoder
    learns from scratch. If the first measurement finds none, an encoder with dropout is measured again 1, 2, 4, 8, ...
    steps later, until some is found: LoRA's dropout has no effect at first.

    Attributes:
        level: mean of 1 - cosine between encodings of the same weights with and without dropout; 0 before it is
            measured.
        is_wanted: whether it is to be measured in this step.
    """

    layout: ClassVar[dict[str, Wanted]] = {"noise": ((torch.float64,), (2,))}
    """What `state_dict` gives, for `hardwood._checkpoint_tensors.expect`."""

    def __init__(self) -> None:
        self.level, self.is_wanted = 0.0, False

    def built(self) -> None:
        """The corpus has been encoded."""
        self.level, self.is_wanted = 0.0, True

    def refreshed(self) -> None:
        """The tree has been refreshed."""
        self.is_wanted = self.level > 0

    def begin_step(self, steps_since_build: int) -> None:
        """Look for noise again if it is time. It follows from the step, so no state keeps it."""
        is_power_of_two = steps_since_build > 0 and steps_since_build & (steps_since_build - 1) == 0
        self.is_wanted |= self.level <= 0 and is_power_of_two

    def measured(self, cosine: float) -> None:
        """Keep a measurement: the mean of 1 - cosine."""
        self.level, self.is_wanted = cosine if cosine > _LEAST else 0.0, False

    def state_dict(self) -> dict[str, Tensor]:
        """The level, and whether it is to be measured."""
        return {"noise": torch.tensor([self.level, self.is_wanted], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; other names are passed over."""
        level, wanted = state["noise"].tolist()
        self.level, self.is_wanted = level, bool(wanted)


def noise_sums(targets: Targets, ids: Tensor, fresh: Tensor) -> Tensor:
    """Compare a training step's encodings with those that the same weights give without dropout.

    Encodes some of them once more: their errors deviate by a third of the mean, so it is known to a twentieth.

    Args:
        targets: the corpus.
        ids: ``(m,)`` int64, each once; of a shard of the corpus there may be none.
        fresh: ``(m, d)`` float32, the step's encodings of ``ids``, on the CPU.

    Returns:
        ``(2,)`` float64: how many were compared, and the sum of their 1 - cosine.
    """
    if not len(ids):
        return torch.zeros(2, dtype=torch.float64)
    some = np.unique(np.linspace(0, len(ids) - 1, min(_MEASURED_ON, len(ids))).astype(np.int64))
    exact = torch.from_numpy(encoded_rows(targets, ids.numpy()[some]))
    return cosine_sums(exact, fresh[some])


def settled(stored: Floats, fresh: Floats, noise: float) -> Floats:
    """What to store of a training step's encodings, given what is stored already.

    A fresh encoding of an encoder with dropout is off by its noise; a stored one that has been averaged over several is
    not, but may be out of date. By the positive-part James-Stein rule (1961) the stored one moves towards the fresh one
    by the share of their difference that noise does not explain, ``max(0, 1 - noise / e)`` with ``e`` the cosine error
    between the two: all the way where it has moved far, not at all where there is nothing but noise.

    Args:
        stored: ``(m, d)`` float32.
        fresh: ``(m, d)`` float32.
        noise: mean cosine error of fresh encodings of the same weights; 0 leaves ``fresh`` as it is.

    Returns:
        ``(m, d)`` float32, of lengths between theirs.
    """
    if noise <= 0:
        return fresh
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in (stored, fresh)]
    both = np.maximum(lengths[0] * lengths[1], np.finfo(np.float32).tiny)
    error = np.maximum(1 - np.einsum("md,md->m", stored, fresh) / both, np.finfo(np.float32).tiny)
    share = np.maximum(0, 1 - noise / error)
    moved = stored + share[:, None] * (fresh - stored)
    wanted = lengths[0] + share * (lengths[1] - lengths[0])
    now = np.maximum(np.linalg.norm(moved, axis=1), np.finfo(np.float32).tiny)
    return np.asarray(moved * (wanted / now)[:, None], dtype=np.float32)
