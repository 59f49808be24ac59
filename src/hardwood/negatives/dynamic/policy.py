"""What a user may say of refreshes: when they come, and how all others' motion is predicted in them."""

from __future__ import annotations

from dataclasses import dataclass

_MANY = 100_000
"""Targets from which on refreshes by need are rarer, unless ``growth`` is given."""


@dataclass(frozen=True)
class RefreshPolicy:
    """When the dynamic source refreshes its tree, and with what.

    In run files and on the command line each field is an option of its own, ``refresh_`` and its name:
    ``--source-option refresh_drift=linear``.

    Args:
        every: optimiser steps between two refreshes; ``None``: no refresh by the clock.
        when: refresh when the running cosine error of stored encodings passes this; ``None``: no refresh by need (and
            with ``every`` ``None`` too, none at all). What dropout alone does to encodings is measured (on 64 targets
            in each refresh), and subtracted.
        spacing: optimiser steps at least between two refreshes by need;
        growth: and this share of the steps since the corpus was encoded. ``None``: 0.1; from 100,000 targets on 0.5,
            since predicting so many takes as long as many steps.
        reencode: further targets encoded in a refresh beside the landmarks: those whose true encodings are the oldest.
        drift: name of a drift model (`hardwood.drift.DRIFT_MODELS`); ``"stale"`` predicts no motion.
        predict_below: a refresh predicts nothing if half of the landmarks predict the other half with a mean cosine
            error above this: so wrong a prediction is no better for training than the last true encoding, and costs
            time. ``None``: it always predicts.

    Raises:
        ValueError: for a field out of range.
    """

    every: int | None = None
    when: float | None = 0.02
    spacing: int = 10
    growth: float | None = None
    reencode: int = 0
    drift: str = "nystrom"
    predict_below: float | None = 0.25

    def __post_init__(self) -> None:
        from hardwood.drift import DRIFT_MODELS

        for name, count in (("every", self.every), ("spacing", self.spacing)):
            if count is not None and count < 1:
                raise ValueError(f"the refresh policy's {name} must be at least 1, got {count}")
        if self.reencode < 0:
            raise ValueError(f"the refresh policy's reencode must be 0 or more, got {self.reencode}")
        for name, error in (("when", self.when), ("predict_below", self.predict_below)):
            if error is not None and not error > 0:
                raise ValueError(
                    f"the refresh policy's {name} must be a cosine error above 0, such as 0.02, got {error}"
                )
        if self.growth is not None and not 0 <= self.growth < float("inf"):
            raise ValueError(
                "the refresh policy's growth must be a share of the steps so far, 0 or more, such as 0.1, got "
                f"{self.growth}"
            )
        if self.drift not in DRIFT_MODELS:
            raise ValueError(f"no drift model is called {self.drift!r}; there are {', '.join(DRIFT_MODELS)}")

    def steps_apart(self, steps_so_far: int, num_targets: int) -> int:
        """The steps at least between two refreshes by need.

        Args:
            steps_so_far: since the corpus was encoded. The encoder moves ever less, and a refresh costs what it costs.
            num_targets: of the corpus.
        """
        growth = (0.1 if num_targets < _MANY else 0.5) if self.growth is None else self.growth
        return max(self.spacing, int(growth * steps_so_far))
