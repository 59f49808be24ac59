"""When a moving index is refreshed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hardwood._checkpoint_tensors import INTEGERS, Wanted
from hardwood.negatives.dynamic.policy import RefreshPolicy
from hardwood.negatives.dynamic.staleness import Staleness

STEPS_AVERAGED = 10
"""Of the running staleness: one step's batch is small, and a spike is no drift."""


class RefreshSchedule:
    """By the clock, by the staleness that is measured in every step, or by both.

    Args:
        policy: the user's.
        num_targets: of the corpus.

    Attributes:
        staleness: a running mean over about ten steps; a refresh makes what was measured before it void.
    """

    layout: ClassVar[dict[str, Wanted]] = {"staleness": ((torch.float64,), (3,)), "schedule": (INTEGERS, (3,))}
    """What `state_dict` gives, for `hardwood._checkpoint_tensors.expect`."""

    def __init__(self, policy: RefreshPolicy, num_targets: int) -> None:
        self._policy, self._num_targets = policy, num_targets
        self.staleness = Staleness()
        self._build = self._last_refresh = -1
        self._measures = 0

    def built(self, step: int) -> None:
        """All encodings are of this step."""
        self._build = step
        self.refreshed(step)

    def refreshed(self, step: int) -> None:
        """All encodings were predicted for this step. `staleness` keeps, for the log, what it was until it is measured
        again."""
        self._last_refresh, self._measures = step, 0

    def steps_since_build(self, step: int) -> int:
        """How long ago the corpus was encoded."""
        return step - self._build

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

    def refresh_is_due(self, step: int, noise: float = 0.0) -> bool:
        """Whether it is time, or the running error asks for it.

        Args:
            step: about to begin.
            noise: cosine error of fresh encodings that is no motion (`hardwood.negatives.dynamic.noise`).
        """
        since, policy = step - self._last_refresh, self._policy
        if policy.every is not None and since >= policy.every:
            return True
        by_need = policy.when is not None and self._measures > 0 and self.staleness.cosine - noise > policy.when
        return by_need and since >= self._steps_apart(step)

    def shares(self, step: int) -> int:
        """In how many steps a refresh that begins at ``step`` may be done: half of those to the next at least."""
        clock = [] if self._policy.every is None else [self._policy.every]
        need = [] if self._policy.when is None else [self._steps_apart(step)]
        return max(1, min([*clock, *need], default=1) // 2)

    def _steps_apart(self, step: int) -> int:
        return self._policy.steps_apart(self.steps_since_build(step), self._num_targets)

    def state_dict(self) -> dict[str, Tensor]:
        """Where it stands."""
        steps = [self._build, self._last_refresh, self._measures]
        return {
            "staleness": torch.tensor(self.staleness.astuple(), dtype=torch.float64),
            "schedule": torch.tensor(steps, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; other names are passed over."""
        self.staleness = Staleness(*state["staleness"].tolist())
        self._build, self._last_refresh, self._measures = state["schedule"].tolist()
