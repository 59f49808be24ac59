"""Training pairs that are not those of the loss's dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from hardwood.data import RetrievalDataset
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback
from hardwood.training.batch.labels import misfits_of

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def _train(pairs: Any, dataset: RetrievalDataset, model: Any, folder: Path) -> None:
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=2)
    arguments = SentenceTransformerTrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = SentenceTransformerTrainer(model, arguments, pairs, loss=loss, callbacks=[NegativesCallback(loss)])
    trainer.train()


def test_pairs_of_another_dataset_are_refused(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    other = datasets.Dataset.from_dict({"anchor": ["one", "two"] * 5, "positive": ["three", "four"] * 5})
    pairs = RetrievalDataset.from_pairs(other).training_pairs()
    with pytest.raises(ValueError, match=r"of 2 training pairs .* 2 name other texts .* names anchor row 0, which is"):
        _train(pairs, dataset, make_static(), tmp_path)
    mixed = datasets.concatenate_datasets([dataset.training_pairs(), pairs])
    with pytest.raises(ValueError, match=r"of 62 training pairs that were checked 2 name other texts"):
        _train(mixed, dataset, make_static(), tmp_path)
    _train(dataset.training_pairs(), dataset, make_static(), tmp_path)


def test_other_texts_are_counted(dataset: RetrievalDataset) -> None:
    pairs, tables = dataset.training_pairs(), (dataset.queries, dataset.corpus)

    def count(changed: Any) -> int:
        misfits = misfits_of(changed, *tables)
        assert misfits is not None
        assert misfits.looked_at == len(pairs)
        assert bool(misfits.count) == bool(misfits.example)
        return misfits.count

    assert count(pairs) == count(pairs.shuffle(seed=0)) == 0
    assert count(pairs.rename_columns({"anchor": "question", "positive": "document"})) == 0
    shifted = pairs.map(lambda row: {"label": [row["label"][0], (row["label"][1] + 1) % len(dataset.corpus)]})
    assert count(shifted) == len(pairs)
    assert count(pairs.map(lambda row: {"label": [row["label"][0] + 1000, row["label"][1]]})) == len(pairs)
    some = pairs.map(lambda row, i: {"anchor": row["anchor"] if i % 3 else "x"}, with_indices=True)
    assert count(some) == len(pairs) // 3
    around = pairs.map(lambda row: {"anchor": "query: " + row["anchor"].upper(), "positive": row["positive"][:-3]})
    assert count(around) == 0
    for labels in ([7] * len(pairs), [None] * len(pairs), [[1]] * len(pairs)):  # the loss has errors for these
        assert misfits_of(pairs.remove_columns("label").add_column("label", labels), *tables) is None
    for unknown in (None, pairs.to_iterable_dataset(), pairs.remove_columns("label"), pairs.select([])):
        assert misfits_of(unknown, *tables) is None
