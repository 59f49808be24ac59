"""What a model's card says of its measures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from hardwood.data import RetrievalDataset
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, RetrievalEvaluator, train

from .conftest import small_run


def trained(model: Any, dataset: RetrievalDataset, evaluator: RetrievalEvaluator, folder: Path, **changes: Any) -> str:
    """The card after six steps."""
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=4)
    settings: dict[str, Any] = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 0.2}
    args = SentenceTransformerTrainingArguments(
        str(folder / "out"), use_cpu=True, report_to="none", save_strategy="no", **settings | changes
    )
    model.model_card_data.widget = [{"text": "a"}]
    SentenceTransformerTrainer(
        model, args, dataset.training_pairs(), loss=loss, evaluator=evaluator, callbacks=[NegativesCallback(loss)]
    ).train()
    model.save_pretrained(str(folder / "model"))
    return (folder / "model" / "README.md").read_text()


def row_of(card: str, measure: str) -> list[str]:
    """A measure's values, column by column, of the one table that has it."""
    (row,) = re.findall(rf"^\| \**{measure}\** +\|(.*)\|$", card, re.MULTILINE)
    return [value.strip(" *") for value in row.split("|")]


@pytest.mark.parametrize("on_start", [False, True])
def test_base_model_and_trained_stand_beside_each_other(
    on_start: bool, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model, evaluator = make_static(), RetrievalEvaluator(dataset, "dev")
    before = RetrievalEvaluator(dataset, "dev")(make_static()) if on_start else evaluator(model)
    card = trained(model, dataset, evaluator, tmp_path, eval_on_start=on_start)
    after = RetrievalEvaluator(dataset, "dev")(model)
    assert after["dev_mrr@10"] != before["dev_mrr@10"]
    assert re.search(r"^\| Metric +\| dev_base +\| dev +\|$", card, re.MULTILINE) or re.search(
        r"^\| Metric +\| dev +\| dev_base +\|$", card, re.MULTILINE
    )
    for name in ("mrr@10", "recall@100", "ndcg@10"):
        values = sorted([round(before[f"dev_{name}"], 4), round(after[f"dev_{name}"], 4)])
        assert sorted(float(value) for value in row_of(card, name)) == values


def test_a_model_that_was_not_measured_before_has_its_own_measures(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    card = trained(model, dataset, RetrievalEvaluator(dataset, "dev", name="ails"), tmp_path)
    after = RetrievalEvaluator(dataset, "dev")(model)
    assert row_of(card, "mrr@10") == [f"{after['dev_mrr@10']:.4f}".rstrip("0")]
    assert "_base" not in card
    assert "Retrieval on `ails`" in card or "Dataset: `ails`" in card


def test_the_card_of_a_run_has_the_measures_of_its_splits(dataset: RetrievalDataset, tmp_path: Path) -> None:
    config = small_run(tmp_path / "run", steps=6, evaluate_every=3, device="cpu", negatives="uniform")
    some = dataset.split("train").take(np.arange(30))  # so that some targets are unseen
    dataset = RetrievalDataset(dataset.corpus, dataset.queries, {**dataset.splits, "train": some})
    metrics = train(config, dataset=dataset, quiet=True).metrics
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    splits = [name for name in metrics if name not in ("cost", "training")]
    assert {"test", "test/seen", "test/unseen"} <= set(splits)
    values = [f"{metrics[name]['recall@10']:.4f}" for name in splits]
    assert [f"{float(value):.4f}" for value in row_of(card, "recall@10")] == values
    assert row_of(card, "Metric") == splits
