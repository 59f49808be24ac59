"""Whether the model that a trainer trains is the one that the loss encodes the corpus with."""

from __future__ import annotations

from torch import nn


def check_same_model(trained: nn.Module, encoding: nn.Module) -> None:
    """``ValueError`` where the two have no weights in common: negatives would be drawn by a model that stands still.

    Wrappers (of torch.compile, of several processes) share the weights of what they wrap.

    Args:
        trained: what the trainer has put into the loss.
        encoding: what the loss was made for.
    """
    if trained is encoding:
        return
    own = {id(parameter) for parameter in encoding.parameters()}
    if not any(id(parameter) in own for parameter in trained.parameters()):
        raise ValueError(
            "the trainer trains another model than the loss was made for, and negatives would be drawn with the "
            "encodings of the latter. A trainer with model_init makes a new model for each run: leave model_init out "
            "and give the trainer the loss's model, or make model, loss and trainer anew for each run"
        )
