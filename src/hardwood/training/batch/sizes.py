"""How many pairs and draws a step has where the user says neither.

Steps of all these sizes encode as many texts: two for a pair, and one for a draw. Which of them trains better depends
on how often training comes round to a pair: in the first pass a fresh pair says more than draws for one that was seen,
and later, the more often the less (docs/results/unasked.md).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from hardwood.negatives.registry import IN_BATCH
from hardwood.training.batch.columns import sets_of

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hardwood.training.softmax_loss import CorpusSoftmaxLoss


class Sizes(NamedTuple):
    """Of a step.

    Attributes:
        pairs: (query, positive) pairs a forward pass.
        draws: negatives drawn for each query.
    """

    pairs: int
    draws: int


USUAL = Sizes(128, 8)
FRESH, FRESH_EPOCHS = Sizes(256, 3), 2.0
"""Where the user says neither how long nor how large: as many steps and texts as one epoch of `USUAL` batches, and
better (docs/results/unasked.md)."""
BELOW = ((1.0, Sizes(427, 1)), (2.0, FRESH))
"""What trains better where `USUAL` batches would come round to each pair less often than that."""


def passes(steps: int, batch: int, num_pairs: int) -> float:
    """How often training comes round to a pair.

    Args:
        steps: of the optimiser.
        batch: pairs a step, of all processes, and of all forward passes that are accumulated.
        num_pairs: that there are to train on.
    """
    return steps * batch / max(num_pairs, 1)


def sizes_for(steps: int, batch: int, num_pairs: int) -> Sizes:
    """The sizes that suit the length of a run; arguments as of `passes`, for `USUAL` batches."""
    found = passes(steps, batch, num_pairs)
    return next((sizes for limit, sizes in BELOW if found < limit), USUAL)


def announcement(steps: int, batch: int, num_pairs: int, chosen: Sizes) -> str:
    """What the user reads of sizes that were chosen by the number of passes; arguments as of `sizes_for`."""
    return (
        f"{steps:,} steps of {batch:,} pairs would see {steps * batch:,} pairs, and there are {num_pairs:,}: batches "
        f"of {chosen.pairs} pairs with {_draws(chosen.draws)} encode as many texts as {USUAL.pairs} with "
        f"{USUAL.draws}, and train better while pairs are fresh (give batch_size or num_negatives to have others)"
    )


def announcement_of_epochs() -> str:
    """What the user reads who says neither how long nor how large."""
    return (
        f"{FRESH_EPOCHS:g} epochs of batches of {FRESH.pairs} pairs with {_draws(FRESH.draws)} (give steps or epochs, "
        "batch_size or num_negatives to have others)"
    )


def advice_on_epochs(epochs: float) -> str:
    """What the user reads who asks for fewer than two epochs, and says nothing of sizes."""
    return (
        f"an epoch of batches of {USUAL.pairs} pairs with {_draws(USUAL.draws)} encodes as many texts as "
        f"{FRESH_EPOCHS:g} of {FRESH.pairs} with {FRESH.draws}, which usually train better: leave epochs out for "
        f"these, or give epochs={FRESH_EPOCHS * epochs:g}, batch_size={FRESH.pairs} and num_negatives={FRESH.draws}"
    )


def advice(steps: int, batch: int, draws: int, num_pairs: int) -> str | None:
    """What the user of a script may read, whose sizes are the script's; ``None``: nothing.

    Args:
        steps: as of `passes`.
        batch: as of `passes`.
        draws: of a query.
        num_pairs: as of `passes`.
    """
    better = sizes_for(steps, batch, num_pairs)
    if draws <= better.draws or better == USUAL:
        return None
    as_many_texts = round(batch * (2 + draws) / (2 + better.draws))
    return (
        f"{steps:,} steps of {batch:,} pairs see {steps * batch:,} pairs, and there are {num_pairs:,}: as long as "
        f"pairs are fresh, as many steps of {as_many_texts:,} pairs with num_negatives={better.draws} encode as many "
        f"texts as these with {_draws(draws)}, and usually train better"
    )


def _draws(number: int) -> str:
    return f"{number} draw{'s' if number > 1 else ''} a query"


def log_advice(loss: CorpusSoftmaxLoss, steps: int, args: TrainingArguments, dataloader: Any) -> None:
    """Log `advice`, if there is any, where a script's training begins.

    Args:
        loss: that trains.
        steps: of the optimiser.
        args: the trainer's.
        dataloader: the trainer's, for training; of several datasets nothing is said.
    """
    sets = sets_of(dataloader)
    if len(sets) != 1 or loss.source.name == IN_BATCH:
        return
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    if (line := advice(steps, batch, loss.num_negatives, len(sets[0][1]))) is not None:
        logging.getLogger("hardwood").warning(line)
