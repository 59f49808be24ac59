"""Motion as a small network of where a target is, trained on pairs of stale and fresh encodings."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hardwood import _checks
from hardwood.drift import _state
from hardwood.drift._arrays import Vectors, agreement, are_unit, pair_of
from hardwood.drift.base import DriftModel, Parameters

FEWEST_TO_HOLD_OUT = 10
"""With fewer landmarks `CorrectorDrift.fit` learns nothing: a network would only learn them by heart."""

BATCH = 256
LOOK_EVERY = 5  # epochs between two looks at the held-out landmarks

_WEIGHTS = ("weight_in", "bias_in", "weight_out", "bias_out")


class CorrectorDrift(DriftModel):
    """A residual network ``ŷ = y + W₂ gelu(W₁ y + b₁) + b₂`` (Monath et al., 2024, arXiv:2409.01890).

    It is made for learning online: `observe` takes one gradient step on the pairs of stale and fresh encodings that a
    training step yields, with the optimiser's memory kept from step to step. `fit` is the same on landmarks: it goes
    on from the weights there are, finds on every fifth landmark, held out, how many epochs help (none, if none does),
    and then takes so many on all landmarks.

    Args:
        hidden: units of the hidden layer.
        epochs: passes over the landmarks in a `fit`, at most.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        seed: of the first weights and the order of the pairs.
        normalize: bring predictions to length 1. ``None``: if the landmarks are of length 1 before and after.
    """

    name: ClassVar[str] = "corrector"

    def __init__(
        self,
        *,
        hidden: int = 256,
        epochs: int = 100,
        learning_rate: float = 1e-3,
        weight_decay: float = 1.0,
        seed: int = 0,
        normalize: bool | None = None,
    ) -> None:
        super().__init__(normalize=normalize)
        for option, value in (("hidden", hidden), ("epochs", epochs)):
            _checks.at_least(1, value, option)
        _checks.positive(learning_rate, "learning_rate")
        _checks.not_negative(weight_decay, "weight_decay")
        self.hidden, self.epochs, self.learning_rate = hidden, epochs, learning_rate
        self.weight_decay, self.seed = weight_decay, seed

    def observe(self, old: Vectors, new: Vectors) -> None:
        """One gradient step a 256 pairs, on pairs that a training step has yielded. No pairs: nothing happens.

        Args:
            old: ``(m, d)`` floats, stored encodings.
            new: ``(m, d)`` floats, fresh ones of the same targets.

        Raises:
            ValueError: as `fit`.
        """
        start, end = pair_of(old, new)
        if not len(start):
            return
        parameters = self._trained(self._start(start), start, end - start, epochs=1)
        if self._dimension is None or not self._has_moved:
            self._is_unit = are_unit(start) and are_unit(end)
            self._has_moved = self._has_moved or not torch.equal(start, end)
        self._parameters, self._dimension = parameters, start.shape[1]

    def _fit(self, old: Tensor, motion: Tensor) -> Parameters:
        parameters = self._start(old)
        if len(old) < FEWEST_TO_HOLD_OUT:
            return parameters
        out = torch.arange(len(old)) % 5 == 2
        new = old[out] + motion[out]
        unit = are_unit(old) and are_unit(old + motion)

        def quality(candidate: Parameters) -> float:
            return agreement(old[out] + self._motion(old[out], candidate), new, unit=unit)

        candidate, best, most = parameters, 0, quality(parameters)
        for epoch in range(0, self.epochs, LOOK_EVERY):
            more = min(LOOK_EVERY, self.epochs - epoch)
            candidate = self._trained(candidate, old[~out], motion[~out], more)
            found = quality(candidate)
            if found > most:
                best, most = epoch + more, found
        return self._trained(parameters, old, motion, best) if best else parameters

    def _motion(self, old: Tensor, parameters: Parameters) -> Tensor:
        scale = parameters["scale"].to(old.dtype)
        weights = [parameters[key].to(old.dtype) for key in _WEIGHTS]
        return _network(old / scale, weights) * scale

    def _row_bytes(self) -> int:
        return super()._row_bytes() + 16 * self.hidden

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        parameters = _state.checked(self.name, dict(state), self._layout())[1]
        if parameters:
            try:
                torch.Generator().set_state(parameters["order"])
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"'order' is not the state of a random generator ({error})") from None
            if parameters["scale"].dtype != torch.float32:
                raise ValueError(f"a corrector's numbers are float32, got {parameters['scale'].dtype}")
            if not (parameters["scale"] > 0 and parameters["steps"] >= 0):
                raise ValueError(f"'scale' and 'steps' are {parameters['scale']} and {parameters['steps']}")
        super().load_state_dict(state)

    def _layout(self) -> _state.Layout:
        shapes: dict[str, tuple[str | int, ...]] = {
            "weight_in": (self.hidden, "d"),
            "bias_in": (self.hidden,),
            "weight_out": ("d", self.hidden),
            "bias_out": ("d",),
        }
        memory = {f"{kind}_{key}": shapes[key] for kind in ("mean", "square") for key in _WEIGHTS}
        return {**shapes, **memory, "scale": (), "steps": (), "order": ("order",)}

    def _start(self, old: Tensor) -> Parameters:
        """The parameters there are, or new ones that predict no motion."""
        if self._parameters:
            known = self._parameters["bias_out"].shape[0]
            if known != old.shape[1]:
                raise ValueError(
                    f"the corrector has learnt in {known} dimensions and goes on from there, but old is "
                    f"{tuple(old.shape)}: make a new one"
                )
            return self._parameters
        dimension = old.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        weight_in = torch.randn(self.hidden, dimension, generator=generator) / dimension**0.5
        weights = {
            "weight_in": weight_in,
            "bias_in": torch.zeros(self.hidden),
            "weight_out": torch.zeros(dimension, self.hidden),  # it begins by predicting no motion
            "bias_out": torch.zeros(dimension),
        }
        memory = {
            f"{kind}_{key}": torch.zeros_like(value) for kind in ("mean", "square") for key, value in weights.items()
        }
        # Inside, coordinates are about 1, whatever the length of encodings.
        scale = old.square().mean().sqrt().clamp(min=1e-30).float()
        return {**weights, **memory, "scale": scale, "steps": torch.zeros(()), "order": generator.get_state()}

    def _trained(self, start: Parameters, old: Tensor, motion: Tensor, epochs: int) -> Parameters:
        """Parameters after so many passes; ``start`` stays as it is."""
        weights = [start[key].clone().requires_grad_() for key in _WEIGHTS]
        optimizer = torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=self.weight_decay)
        for key, weight in zip(_WEIGHTS, weights, strict=True):
            optimizer.state[weight] = {
                "step": start["steps"].clone(),
                "exp_avg": start[f"mean_{key}"].clone(),
                "exp_avg_sq": start[f"square_{key}"].clone(),
            }
        generator = torch.Generator()
        generator.set_state(start["order"])
        inputs, wanted = (old / start["scale"]).float(), (motion / start["scale"]).float()
        with torch.enable_grad():
            for _ in range(epochs):
                for batch in torch.randperm(len(inputs), generator=generator).split(BATCH):
                    loss = (_network(inputs[batch], weights) - wanted[batch]).square().sum(dim=1).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        after: Parameters = {"scale": start["scale"], "order": generator.get_state()}
        for key, weight in zip(_WEIGHTS, weights, strict=True):
            memory = optimizer.state[weight]
            after |= {key: weight.detach(), f"mean_{key}": memory["exp_avg"], f"square_{key}": memory["exp_avg_sq"]}
            after["steps"] = memory["step"]
        if not all(bool(torch.isfinite(after[key]).all()) for key in _WEIGHTS):
            raise ValueError(
                f"the corrector has diverged with learning_rate {self.learning_rate:g}: give a smaller one; it stays "
                "as it was before these pairs"
            )
        return after


def _network(inputs: Tensor, weights: list[Tensor]) -> Tensor:
    weight_in, bias_in, weight_out, bias_out = weights
    inner = torch.nn.functional.gelu(torch.nn.functional.linear(inputs, weight_in, bias_in))
    return torch.nn.functional.linear(inner, weight_out, bias_out)
