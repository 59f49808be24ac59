"""Motion as a small network of where a target is, trained on pairs of stale and fresh encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardwood.drift.base import Doubles, DriftModel, _checked

if TYPE_CHECKING:
    import torch


class CorrectorDrift(DriftModel):
    """A residual network ``y' = y + W₂ gelu(W₁ y + b₁) + b₂`` (Monath et al., 2024, arXiv:2409.01890).

    `fit` goes on from the weights that the last `fit` or `observe` left, so that it can be trained online, on the
    pairs that every training step yields.

    Args:
        hidden: units of the hidden layer.
        epochs: passes over the landmarks in a `fit`.
        learning_rate: of Adam.
        seed: of the first weights and the order of the pairs.
    """

    name: ClassVar[str] = "corrector"

    def __init__(self, *, hidden: int = 256, epochs: int = 100, learning_rate: float = 2e-3, seed: int = 0) -> None:
        super().__init__()
        for option, value in (("hidden", hidden), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        self.hidden, self.epochs, self.learning_rate, self.seed = hidden, epochs, learning_rate, seed
        self._network: torch.nn.Sequential | None = None

    def observe(self, old: ArrayLike, new: ArrayLike) -> None:
        """One gradient step on pairs that a training step has yielded.

        Args:
            old: ``(m, d)``, stored encodings.
            new: ``(m, d)``, fresh ones of the same targets.

        Raises:
            ValueError: as `fit`.
        """
        start, end = _checked("old", old), _checked("new", new)
        if start.shape != end.shape:
            raise ValueError(f"old and new must have the same shape, got {start.shape} and {end.shape}")
        if not len(start):
            return
        if self._dimension is None:
            self.fit(start, end)
        else:
            self._has_moved = True
            self._train(start, end - start, epochs=1)

    def _fit(self, old: Doubles, motion: Doubles) -> None:
        self._train(old, motion, self.epochs)

    def _train(self, old: Doubles, motion: Doubles, epochs: int) -> None:
        import torch

        inputs, wanted = torch.from_numpy(old).float(), torch.from_numpy(motion).float()
        if self._network is None:
            self._network = self._new_network(old.shape[1])
            self._optimizer = torch.optim.Adam(self._network.parameters(), lr=self.learning_rate)
            self._generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            for _ in range(epochs):
                for batch in torch.randperm(len(inputs), generator=self._generator).split(256):
                    loss = (self._network(inputs[batch]) - wanted[batch]).square().sum(dim=1).mean()
                    self._optimizer.zero_grad()
                    loss.backward()
                    self._optimizer.step()

    def _new_network(self, dimension: int) -> torch.nn.Sequential:
        import torch

        with torch.random.fork_rng(devices=[]):  # the training run's own random stream stays as it is
            torch.manual_seed(self.seed)
            last = torch.nn.Linear(self.hidden, dimension)
            torch.nn.init.zeros_(last.weight)  # it begins by predicting no motion
            torch.nn.init.zeros_(last.bias)
            return torch.nn.Sequential(torch.nn.Linear(dimension, self.hidden), torch.nn.GELU(), last)

    def _motion(self, old: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        if self._network is None:
            return np.zeros_like(old)
        with torch.no_grad():
            motion: NDArray[Any] = self._network(torch.from_numpy(old)).numpy()
        return motion
