"""Choosing a best model by ``eval_loss``: losses from before the first draws can't be compared with those after."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments


def compare_anew(args: TrainingArguments, state: TrainerState, lr_scheduler: Any) -> None:
    """Forget the best loss so far, since draws begin now and from here on the loss counts more negatives.

    An evaluation before the source's first draw has the negatives of its batch alone, and so a smaller loss than any
    after it. Left to itself the trainer would keep that model as the best, and early stopping would stop at it. What
    is forgotten is what they read: best metric and best checkpoint of the trainer's state (`EarlyStoppingCallback`
    counts from 0 where there is no best metric), and the best of a ``ReduceLROnPlateau``. A metric that is no loss is
    left as it is.

    Args:
        args: whose ``metric_for_best_model`` counts.
        state: the trainer's, changed in place.
        lr_scheduler: the trainer's, changed in place if it waits for a plateau.
    """
    if not (args.metric_for_best_model or "").endswith("loss"):
        return
    plateau = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate's wrapper
    if isinstance(plateau, ReduceLROnPlateau):
        plateau.best, plateau.num_bad_epochs = plateau.mode_worse, 0
    if state.best_metric is None:
        return
    warnings.warn(
        f"the best {args.metric_for_best_model} so far, {state.best_metric:.4g} (step {state.best_global_step}), "
        f"counts no drawn negatives, which begin now, in step {state.global_step + 1}: it can't be compared with the "
        "losses to come, and is forgotten. The best model, early stopping and plateaus of the loss count from here on. "
        "To compare all evaluations, give the source start_step=0, or choose by a measure "
        "(evaluator=RetrievalEvaluator(dataset), metric_for_best_model='dev_mrr@10', greater_is_better=True)",
        stacklevel=3,
    )
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None
