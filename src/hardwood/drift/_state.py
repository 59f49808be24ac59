"""Whether the tensors of a checkpoint are those of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hardwood._checkpoint_tensors import Size, Wanted, expect

Layout = Mapping[str, tuple[Size, ...]]
"""Shapes by name, as in `hardwood._checkpoint_tensors`; ``"d"`` is the dimension."""

GENERATOR = "order"
"""The one tensor that holds no numbers of the model, but the state of a random generator."""

_EITHER = (torch.float32, torch.float64)


def checked(name: str, state: dict[str, Tensor], layout: Layout) -> tuple[list[int] | None, dict[str, Tensor]]:
    """``([d, is_unit, has_moved], parameters)`` of a state; ``(None, {})`` of an empty one.

    Raises:
        ValueError: names missing, left over, or of a wrong shape or type.
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
    if parameters:
        wanted: dict[str, Wanted] = {key: (_EITHER, shape) for key, shape in layout.items()}
        if GENERATOR in layout:
            wanted[GENERATOR] = ((torch.uint8,), layout[GENERATOR])
        expect(parameters, wanted, way_out, d=int(fitted[0]))
    kinds = {value.dtype for key, value in parameters.items() if key not in (GENERATOR, "chosen")}
    if len(kinds) > 1:
        raise ValueError(f"the state's numbers are of {' and '.join(sorted(map(str, kinds)))}: {way_out}")
    return [int(number) for number in fitted], parameters
