"""Which losses of a training have a `NegativesCallback`: all of them, or none."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from torch import nn

_LOSSES: WeakKeyDictionary[nn.Module, WeakSet[nn.Module]] = WeakKeyDictionary()
"""By the model in training, which all losses of a trainer share, those whose steps a callback announces."""


def announce(model: nn.Module, loss: nn.Module, *, is_first: bool) -> None:
    """A training of ``model`` begins in which a callback announces the steps of ``loss``.

    Args:
        model: the loss's.
        loss: the loss.
        is_first: whether this is the training's first callback: what an earlier training has left is forgotten.
    """
    if is_first:
        _LOSSES.pop(model, None)
    _LOSSES.setdefault(model, WeakSet()).add(loss)


def training_ended(model: nn.Module) -> None:
    """No callback announces steps of ``model`` any more."""
    _LOSSES.pop(model, None)


def check_announced(model: nn.Module, loss: nn.Module) -> None:
    """``ValueError`` where other losses of ``model`` have a callback and ``loss``, which trains now, has none: its
    state would be missing in checkpoints that count as whole."""
    others = _LOSSES.get(model)
    if others and loss not in others:
        raise ValueError(
            f"{len(others)} of the trainer's losses have a NegativesCallback, and a {type(loss).__name__} has none: "
            "its state would be missing in checkpoints, and a resumed run would go on without it. Give the trainer "
            "NegativesCallback(loss) for each of these losses"
        )
