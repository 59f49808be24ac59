"""Whether the tensors of a checkpoint are those of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Layout = Mapping[str, tuple["str | int", ...]]
"""Shapes by name; a size is a number, ``"d"`` for the dimension, or another letter that must be the same throughout."""


def checked(name: str, state: dict[str, Tensor], layout: Layout) -> tuple[list[int] | None, dict[str, Tensor]]:
    """``([d, is_unit, has_moved], parameters)`` of a state; ``(None, {})`` of an empty one.

    Raises:
        ValueError: names missing, left over, or of a wrong shape.
    """
    if not state:
        return None, {}
    way_out = f"load what state_dict() of a {name!r} drift model with the same options gave"
    parameters = {key: value.detach().cpu().clone() for key, value in state.items()}
    fitted = parameters.pop("fitted", None)
    if fitted is None or fitted.shape != (3,) or fitted.is_floating_point() or int(fitted[0]) < 1:
        raise ValueError(f"the state lacks a valid 'fitted' (it holds {sorted(state)}): {way_out}")
    if not set(fitted[1:].tolist()) <= {0, 1} or (bool(fitted[2]) and layout and not parameters):
        raise ValueError(f"the state's 'fitted' is {fitted.tolist()}, which no model has: {way_out}")
    if parameters and set(parameters) != set(layout):
        raise ValueError(f"the state holds {sorted(parameters)} where {sorted(layout)} are needed: {way_out}")
    kinds = {value.dtype for key, value in parameters.items() if value.is_floating_point() and key != "chosen"}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise ValueError(f"the state's numbers are of {', '.join(sorted(map(str, kinds)))}: {way_out}")
    sizes: dict[str | int, int] = {"d": int(fitted[0])}
    for key, value in parameters.items():
        wanted = layout[key]
        fits = len(wanted) == value.ndim
        for size, found in zip(wanted, value.shape, strict=False):
            fits = fits and found == (size if isinstance(size, int) else sizes.setdefault(size, found))
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key!r} holds NaN or infinite numbers: {way_out}")
        if not value.is_floating_point() and value.dtype != torch.uint8:  # the state of a generator
            raise ValueError(f"{key!r} is of {value.dtype}, which no parameter is: {way_out}")
        if not fits:
            raise ValueError(f"{key!r} has the shape {tuple(value.shape)} where {wanted} fits: {way_out}")
    return [int(number) for number in fitted], parameters
