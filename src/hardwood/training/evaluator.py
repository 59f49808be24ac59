"""Exact retrieval as an evaluator of ``SentenceTransformerTrainer``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from hardwood._waiting import waiting
from hardwood.evaluation import evaluate

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset
    from hardwood.data.records.own import LeaveOut

_BASE = "base"


class RetrievalEvaluator(SentenceEvaluator):
    """Measures a split by exact retrieval over the whole corpus; give it to the trainer as ``evaluator``.

    The measures are in the model card that the model is saved with. If the model was measured before its training too,
    by a call of one's own or by ``eval_on_start=True``, the card has both, the base model's as ``dev_base``.

    Args:
        dataset: corpus, queries and judgements.
        split: its queries are measured.
        leave_out: as for `hardwood.evaluate`.
        name: what the measures' names begin with, and the card's column; ``None``: ``split``.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        split: str = "dev",
        leave_out: LeaveOut = "own-id",
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.split = split
        self.leave_out = leave_out
        self.shows_waiting = True
        self.name = split if name is None else name
        self.primary_metric = f"{self.name}_mrr@10"
        self._base: WeakKeyDictionary[Any, tuple[RetrievalEvaluator, dict[str, float]]] = WeakKeyDictionary()

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict:
        """Measures by name, such as ``"dev_mrr@10"``; ``output_path`` is not written to."""
        was_training = model.training
        with waiting(f"Measuring on {self.split}", show=self.shows_waiting):
            measures = evaluate(model, self.dataset, self.split, leave_out=self.leave_out, progress=False)
        model.train(was_training)
        return self.store(model, measures, epoch, steps)

    def store(self, model: Any, measures: dict[str, float], epoch: float = -1, steps: int = -1) -> dict[str, float]:
        """Put ``measures`` into the model's card.

        Args:
            model: its card is written.
            measures: what `hardwood.evaluate` gives.
            epoch: when they were measured, -1 outside of training.
            steps: likewise.

        Returns:
            The measures, by the names that trainer and card have for them.
        """
        card = model.model_card_data
        named = self.prefix_name_to_metrics(measures, self.name)
        if steps <= 0 and not _is_trained(card):
            base = copy.copy(self)  # the card has a column for each evaluator
            base.name, base.primary_metric = f"{self.name}_{_BASE}", f"{self.name}_{_BASE}_mrr@10"
            self._base[model] = base, {f"{base.name}_{name}": value for name, value in measures.items()}
        elif (found := self._base.get(model)) is not None:
            card.eval_results_dict[found[0]] = found[1]  # their row in the training log is there already
        self.store_metrics_in_model_card_data(model, named, epoch, steps)
        return named

    def get_config_dict(self) -> dict[str, Any]:
        """How it was measured, for the model card, which has one table for splits that were measured alike."""
        return {"leave_out": self.leave_out}


def _is_trained(card: Any) -> bool:
    """Whether the model's card knows of any training step."""
    return any(line["Step"] > 0 for line in card.training_logs)
