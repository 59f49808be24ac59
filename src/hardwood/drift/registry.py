"""Drift models by name."""

from __future__ import annotations

import inspect
from typing import Any

from hardwood.drift.base import DriftModel, StaleDrift
from hardwood.drift.corrector import CorrectorDrift
from hardwood.drift.kernel import NystromDrift
from hardwood.drift.linear import LinearDrift

DRIFT_MODELS: dict[str, type[DriftModel]] = {
    model.name: model for model in (StaleDrift, LinearDrift, NystromDrift, CorrectorDrift)
}


def make_drift(name: str, **options: Any) -> DriftModel:
    """The drift model of that name.

    Args:
        name: one of `DRIFT_MODELS`.
        options: its constructor's arguments.

    Raises:
        ValueError: no such model, or an option that it does not have.
    """
    if name not in DRIFT_MODELS:
        raise ValueError(f"no drift model is called {name!r}; there are {', '.join(DRIFT_MODELS)}")
    known = [key for key in inspect.signature(DRIFT_MODELS[name].__init__).parameters if key != "self"]
    for option in options:
        if option not in known:
            raise ValueError(f"the {name!r} drift model has no option {option!r}; it has {', '.join(known)}")
    return DRIFT_MODELS[name](**options)
