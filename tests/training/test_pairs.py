"""Training pairs that are not those of the loss's dataset."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from hardwood.data import RetrievalDataset
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback
from hardwood.training._pairs import other_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def _train(pairs: Any, dataset: RetrievalDataset, model: Any, folder: Path) -> None:
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=2)
    arguments = SentenceTransformerTrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = SentenceTransformerTrainer(model, arguments, pairs, loss=loss, callbacks=[NegativesCallback(loss)])
    trainer.train()


def test_pairs_of_another_dataset_are_told(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    other = datasets.Dataset.from_dict({"anchor": ["one", "two"] * 5, "positive": ["three", "four"] * 5})
    pairs = RetrievalDataset.from_pairs(other).training_pairs()
    with pytest.warns(UserWarning, match=r"of 2 training pairs .* none has the anchor that its label names: row 0 is"):
        _train(pairs, dataset, make_static(), tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training pairs.*")
        _train(dataset.training_pairs(), dataset, make_static(), tmp_path)


def test_fault_is_found_only_where_no_text_is_right(dataset: RetrievalDataset) -> None:
    pairs, tables = dataset.training_pairs(), (dataset.queries, dataset.corpus)
    assert other_pairs(pairs, *tables) is None
    assert other_pairs(pairs.shuffle(seed=0), *tables) is None
    shifted = pairs.map(lambda row: {"label": [row["label"][0], (row["label"][1] + 1) % len(dataset.corpus)]})
    assert "none has the positive that its label names" in (other_pairs(shifted, *tables) or "")
    some = pairs.map(lambda row, i: {"anchor": row["anchor"] if i == 0 else "x"}, with_indices=True)
    assert other_pairs(some, *tables) is None
    prefixed = pairs.map(lambda row: {"anchor": "query: " + row["anchor"], "positive": row["positive"] + "."})
    assert other_pairs(prefixed, *tables) is None
    for labels in ([7] * len(pairs), [None] * len(pairs), [[1, 2, 3]] * len(pairs)):  # the loss has errors for these
        assert other_pairs(pairs.remove_columns("label").add_column("label", labels), *tables) is None
    for unknown in (None, pairs.to_iterable_dataset(), pairs.remove_columns("label"), pairs.select([])):
        assert other_pairs(unknown, *tables) is None
