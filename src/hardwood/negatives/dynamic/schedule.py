"""When a moving index is refreshed, and when it is made anew."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hardwood.negatives.checkpoint_tensors import INTEGERS, Wanted
from hardwood.negatives.dynamic.staleness import Staleness

_LEAST_NOISE = 1e-4
STEPS_AVERAGED = 10
"""Of the running staleness: one step's batch is small, and a spike is no drift."""


class RefreshSchedule:
    """By the clock, by the staleness that is measured in every step, or by both.

    Fresh encodings are those of training steps, and an encoder with dropout is off by its noise before it has moved at
    all. It is measured after each build, and where there is any after each refresh (`noise_measured`), since it grows
    where an encoder learns from scratch. It is looked for again 1, 2, 4, 8, ... steps after the build of an encoder
    that has dropout, since LoRA's does nothing at first: a thousand steps look ten times. Errors count from there on.
    (Of what is written back it is taken out: `hardwood.negatives.dynamic.staleness.settled`.)

    Args:
        every: steps between two refreshes; ``None``: none by the clock.
        when: refresh when the running cosine error passes this; ``None``: none by need.
        spacing: steps at least between two refreshes by need, beside
        growth: this share of the steps since the first build.
        rebuild_when: build anew when the running cosine error passes this; ``None``: never.

    Attributes:
        staleness: a running mean over about ten steps; a refresh makes what was measured before it void.
        noise: what `noise_measured` was told, 0 before.
        wants_noise: whether the encoder's noise is to be measured in this step.
    """

    layout: ClassVar[dict[str, Wanted]] = {
        "staleness": ((torch.float64,), (3,)),
        "schedule": (INTEGERS, (4,)),
        "noise": ((torch.float64,), (2,)),
    }
    """What `state_dict` gives, for `hardwood.negatives.checkpoint_tensors.expect`."""

    def __init__(
        self, *, every: int | None, when: float | None, spacing: int, growth: float, rebuild_when: float | None
    ) -> None:
        for option, count in (("refresh_every", every), ("refresh_spacing", spacing)):
            if count is not None and count < 1:
                raise ValueError(f"{option} must be at least 1, got {count}")
        for option, error in (("refresh_when", when), ("rebuild_when", rebuild_when)):
            if error is not None and not error > 0:
                raise ValueError(f"{option} is a cosine error above 0, such as 0.02, got {error}")
        if not 0 <= growth < float("inf"):
            raise ValueError(f"refresh_growth is a share of the steps so far, 0 or more, such as 0.1, got {growth}")
        self._every, self._when, self._spacing, self._rebuild_when = every, when, spacing, rebuild_when
        self._growth = growth
        self.staleness = Staleness()
        self._first_build = self._last_build = self._last_refresh = -1
        self._measures = 0
        self.noise, self.wants_noise = 0.0, False

    def built(self, step: int) -> None:
        """All encodings are of this step."""
        self._last_build = step
        if self._first_build < 0:
            self._first_build = step
        self.refreshed(step)
        self.noise, self.wants_noise = 0.0, True

    def refreshed(self, step: int) -> None:
        """All encodings were predicted for this step. `staleness` keeps, for the log, what it was until it is measured
        again."""
        self._last_refresh, self._measures = step, 0
        self.wants_noise = self.noise > 0

    def begin_step(self, step: int) -> None:
        """Look for noise again, where none was found, if it is time. It follows from ``step``: no state keeps it."""
        since = step - self._last_build
        self.wants_noise |= self.noise <= 0 and since > 0 and since & (since - 1) == 0  # a power of two

    def noise_measured(self, cosine: float) -> None:
        """What the encoder's noise alone is: mean of 1 - cosine between encodings of the same weights with and without
        it. Rounding is none."""
        self.noise, self.wants_noise = cosine if cosine > _LEAST_NOISE else 0.0, False

    @property
    def last_refresh(self) -> int:
        """The step of the last refresh or build."""
        return self._last_refresh

    def observe(self, staleness: Staleness, *, is_refreshing: bool = False) -> None:
        """What one step has measured; while the tree ``is_refreshing`` for the log alone: it decides nothing, as little
        as what was measured before."""
        if is_refreshing:
            self.staleness = self.staleness.blended(staleness, share=1 / STEPS_AVERAGED)
            return
        self._measures += 1
        self.staleness = self.staleness.blended(staleness, share=max(1 / STEPS_AVERAGED, 1 / self._measures))

    def rebuild_is_due(self, step: int) -> bool:
        """Whether refreshes no longer help. Not before as many steps have passed as there were before the last build:
        an encoder that is far off soon after still moves fast, and a run of any length has few builds."""
        if self._rebuild_when is None or not self._measures:
            return False
        spacing = max(self._spacing, self._last_build - self._first_build)
        return step - self._last_build >= spacing and self._error > self._rebuild_when

    def refresh_is_due(self, step: int) -> bool:
        """Whether it is time, or the running error asks for it."""
        since = step - self._last_refresh
        if self._every is not None and since >= self._every:
            return True
        by_need = self._when is not None and self._measures > 0 and self._error > self._when
        return by_need and since >= self._spacing_at(step)

    def shares(self, step: int) -> int:
        """In how many steps a refresh that begins at ``step`` may be done: half of those to the next at least."""
        clock = [] if self._every is None else [self._every]
        return max(1, min([*clock, self._spacing_at(step)] if self._when is not None else clock, default=1) // 2)

    @property
    def _error(self) -> float:
        return self.staleness.cosine - self.noise

    def _spacing_at(self, step: int) -> int:
        # A share of the run so far: the encoder moves ever less, and predicting everybody costs what it costs.
        return max(self._spacing, int(self._growth * (step - self._first_build)))

    def state_dict(self) -> dict[str, Tensor]:
        """Where it stands."""
        steps = [self._first_build, self._last_build, self._last_refresh, self._measures]
        return {
            "staleness": torch.tensor(self.staleness.astuple(), dtype=torch.float64),
            "schedule": torch.tensor(steps, dtype=torch.int64),
            "noise": torch.tensor([self.noise, self.wants_noise], dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave; other names are passed over."""
        self.staleness = Staleness(*state["staleness"].tolist())
        self._first_build, self._last_build, self._last_refresh, self._measures = state["schedule"].tolist()
        noise, wanted = state["noise"].tolist()
        self.noise, self.wants_noise = noise, bool(wanted)
