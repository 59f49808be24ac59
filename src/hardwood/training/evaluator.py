"""Exact retrieval as an evaluator of ``SentenceTransformerTrainer``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from hardwood.evaluation import evaluate

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset
    from hardwood.data._own import LeaveOut


class RetrievalEvaluator(SentenceEvaluator):
    """Measures a split by exact retrieval over the whole corpus; give it to the trainer as ``evaluator``.

    Args:
        dataset: corpus, queries and judgements.
        split: whose queries are measured.
        leave_out: as for `hardwood.evaluate`.
    """

    def __init__(self, dataset: RetrievalDataset, split: str = "dev", leave_out: LeaveOut = "own-id") -> None:
        super().__init__()
        self.dataset = dataset
        self.split = split
        self.leave_out = leave_out
        self.primary_metric = f"{split}_mrr@10"

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict:
        """Measures by name, such as ``"dev_mrr@10"``; ``output_path`` is not written to."""
        was_training = model.training
        measures = evaluate(model, self.dataset, self.split, leave_out=self.leave_out, progress=False)
        model.train(was_training)
        return {f"{self.split}_{name}": value for name, value in measures.items()}
