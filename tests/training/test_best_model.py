"""Best models and early stops by ``eval_loss``, where draws begin in mid-run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import EarlyStoppingCallback, TrainerState

from hardwood.data import RetrievalDataset
from hardwood.negatives import ExactNegatives
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, RetrievalEvaluator
from hardwood.training.checkpoint.best_model import compare_anew

FORGOTTEN = r"the best loss so far, .* \(step 6\), counts no drawn negatives, which begin now, in step 7"


def run(
    folder: Path, model: Any, dataset: RetrievalDataset, *, start_step: int, stopping_first: bool, **changes: Any
) -> TrainerState:
    """Twelve steps with an evaluation every three; the state at the end."""
    loss = CorpusSoftmaxLoss(model, dataset, ExactNegatives(start_step=start_step, refresh_every=1), num_negatives=8)
    settings: dict[str, Any] = {"eval_steps": 3, "save_steps": 3, "max_steps": 12, "per_device_train_batch_size": 4}
    settings |= {"eval_strategy": "steps", "save_strategy": "steps", "per_device_eval_batch_size": 4}
    settings |= {"learning_rate": 0.05, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 0}
    args = SentenceTransformerTrainingArguments(str(folder), load_best_model_at_end=True, **settings | changes)
    callbacks = [NegativesCallback(loss), EarlyStoppingCallback(2)]
    trainer = SentenceTransformerTrainer(
        model,
        args,
        dataset.training_pairs(),
        eval_dataset=dataset.training_pairs("dev"),
        loss=loss,
        evaluator=RetrievalEvaluator(dataset, "dev"),
        callbacks=callbacks[::-1] if stopping_first else callbacks,
    )
    trainer.train()
    return trainer.state


def losses(state: TrainerState) -> dict[int, float]:
    return {record["step"]: record["eval_loss"] for record in state.log_history if "eval_loss" in record}


@pytest.mark.parametrize("stopping_first", [False, True])
def test_losses_from_before_the_draws_are_forgotten(
    stopping_first: bool, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=FORGOTTEN):
        state = run(tmp_path, make_static(), dataset, start_step=6, stopping_first=stopping_first)
    measured = losses(state)
    assert list(measured) == [3, 6, 9, 12]  # it was not stopped
    assert measured[6] < measured[12] < measured[9]  # drawn negatives count from here on: no encoder got worse
    assert Path(state.best_model_checkpoint).name == "checkpoint-12"


@pytest.mark.parametrize(
    ("start_step", "changes"),
    [(0, {}), (6, {"metric_for_best_model": "eval_dev_mrr@10", "greater_is_better": True})],
    ids=["draws from the start", "by a measure"],
)
def test_what_can_be_compared_is_kept(
    start_step: int, changes: dict[str, Any], make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the best")
        run(tmp_path, make_static(), dataset, start_step=start_step, stopping_first=False, **changes)


def test_a_plateau_of_the_loss_begins_anew() -> None:
    args = SentenceTransformerTrainingArguments(
        "out", metric_for_best_model="eval_loss", use_cpu=True, report_to="none"
    )
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([torch.zeros(1)], lr=1.0), patience=1)
    for loss in (0.1, 0.9):
        schedule.step(loss)
    compare_anew(args, TrainerState(), schedule)
    for loss in (0.9, 0.8, 0.7, 0.6):
        schedule.step(loss)
    assert schedule.get_last_lr() == [1.0]
