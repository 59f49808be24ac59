"""Resuming from a run's very last step: nothing is left to train.

The trainer looks whether it has come to its end after each step, and not before the first. So from a checkpoint of the
last step it would go on by one more, unless an epoch ends there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from hardwood.training.callback import NegativesCallback

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformerTrainer


def train_on(trainer: SentenceTransformerTrainer, checkpoint: Path | None) -> None:
    """Train to the end: from the beginning, or from a checkpoint, be it that of the last step.

    Args:
        trainer: with a `NegativesCallback`.
        checkpoint: to go on from.
    """
    if checkpoint is None:
        trainer.train()
        return
    state, batches = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")), trainer.get_train_dataloader()
    if state.global_step < _steps_of(trainer.args, len(batches)):
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))
    # Of all callbacks ours alone has something to load: others expect an optimiser.
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, NegativesCallback):
            callback.on_train_begin(trainer.args, state, trainer.control, train_dataloader=batches)
            callback.on_train_end(trainer.args, state, trainer.control)


def _steps_of(arguments: Any, batches: int) -> int:
    """Optimiser steps of the whole run, as the trainer counts them. ``batches``: of an epoch, on this process."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    return math.ceil(arguments.num_train_epochs * max(1, math.ceil(batches / arguments.gradient_accumulation_steps)))
