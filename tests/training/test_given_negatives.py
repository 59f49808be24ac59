"""Columns of given negatives: candidates that stand for themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from exact_softmax import NUM_TARGETS, exact_loss, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.errors import DataError
from hardwood.negatives import make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss, NegativesCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def with_negatives(dataset: RetrievalDataset, count: int = 2) -> datasets.Dataset:
    """Training pairs with the targets that come ``7`` and ``14`` rows after the positive."""
    pairs = dataset.training_pairs()[:]
    columns = {"anchor": pairs["anchor"], "positive": pairs["positive"]}
    positives = np.array(pairs["label"])[:, 1]
    for i in range(count):
        name = "negative" if i == 0 else f"negative_{i}"
        columns[name] = dataset.corpus.texts((positives + 7 * (i + 1)) % len(dataset.corpus))
    return dataset.label_pairs(datasets.Dataset.from_dict({**columns, "score": [0.5] * len(positives)}))


def _batch(model: Any, pairs: datasets.Dataset, rows: list[int]) -> tuple[list[dict[str, Any]], torch.Tensor]:
    chosen = pairs[rows]
    return [model.preprocess(chosen[name]) for name in pairs.column_names if name != "label"], torch.tensor(
        chosen["label"]
    )


def test_labels_name_the_rows(dataset: RetrievalDataset) -> None:
    pairs = with_negatives(dataset)
    assert pairs.column_names == ["anchor", "positive", "negative", "negative_1", "label"]
    rows = pairs[:]
    labels = np.array(rows["label"])
    assert rows["anchor"] == dataset.queries.texts(labels[:, 0])
    for i, name in enumerate(("positive", "negative", "negative_1"), 1):
        assert rows[name] == dataset.corpus.texts(labels[:, i])
    renamed = pairs.remove_columns("label").rename_columns({"anchor": "q", "positive": "d", "negative": "n"})
    again = dataset.label_pairs(renamed, ["q", "d", "n"])
    assert again.column_names == ["q", "d", "n", "label"]
    assert np.array_equal(np.array(again[:]["label"]), labels[:, :3])
    stream = renamed.to_iterable_dataset().map(lambda row: {**row, "d": f" {row['d']} "})
    assert dataset.label_pairs(stream, ["q", "d", "n"])[:] == again[:]


def test_texts_that_are_nowhere_are_counted(dataset: RetrievalDataset) -> None:
    rows = {name: with_negatives(dataset, 1)[name][:6] for name in ("anchor", "positive", "negative")}
    rows["negative"] = ["one", "two", *rows["negative"][2:]]
    with pytest.raises(
        DataError, match=r"of 6 pairs these texts are not in the dataset: 2 of 'negative' \(row 0: 'one'"
    ):
        dataset.label_pairs(datasets.Dataset.from_dict(rows))
    rows["negative"] = list(rows["positive"])
    with pytest.warns(UserWarning, match=r"of 6 pairs .* known positive of their query \(6 in 'negative'\)"):
        dataset.label_pairs(datasets.Dataset.from_dict(rows))
    rows["negative"][3] = ""
    with pytest.raises(DataError, match=r"row 3 .* has an empty 'negative'"):
        dataset.label_pairs(datasets.Dataset.from_dict(rows))


@pytest.mark.parametrize("weighting", ["shared", "tempered", "own", "uncorrected"])
@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
def test_with_every_target_drawn_or_given_it_is_the_full_softmax(
    kind: type, weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model = make_static()
    loss = kind(model, dataset, "uniform", num_negatives=NUM_TARGETS, scale=7.0, weighting=weighting)
    features, labels = _batch(model, with_negatives(dataset), list(range(0, 50, 3)))
    total = sum(loss(features, labels).values())
    exact = exact_loss(model, dataset, labels[:, :2], 7.0)
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-6, rtol=1e-4)


def test_all_targets_given_and_none_drawn_is_the_full_softmax(make_static: Callable, dataset: RetrievalDataset) -> None:
    # Nothing is left to draw: the copies that are drawn are dropped.
    model = make_static()
    rows = list(range(0, 60, 10))
    labels = torch.tensor(dataset.training_pairs()[rows]["label"])
    further = torch.arange(NUM_TARGETS).view(6, 10)
    labels = torch.cat([labels, further], dim=1)
    features = [model.preprocess(dataset.queries.texts(labels[:, 0]))]
    features += [model.preprocess(dataset.corpus.texts(column)) for column in labels.T[1:]]
    for source in ("in-batch", "uniform"):
        loss = CorpusSoftmaxLoss(model, dataset, source, num_negatives=5, scale=7.0)
        total = sum(loss(features, labels).values())
        exact = exact_loss(model, dataset, labels[:, :2], 7.0)
        torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-6, rtol=1e-4)


def test_the_estimate_of_z_has_no_bias(make_static: Callable, dataset: RetrievalDataset) -> None:
    # Null: exp(log_z) has the mean Z. One tuple a batch, 200 seeds; two-sided at 4.5 standard errors: 7e-6.
    model = make_static().eval()
    features, labels = _batch(model, with_negatives(dataset), [5])
    estimates = []
    with torch.no_grad():
        exact = exact_loss(model, dataset, labels[:, :2], 2.0)
        loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=6, scale=2.0)
        loss.begin_step(0)
        for seed in range(200):
            loss.seed = seed
            terms = loss(features, labels)
            estimates.append(terms["log_partition"].exp())
    values = torch.stack(estimates)
    z = (exact - terms["positive_score"]).exp()
    assert values.std() > 0
    assert abs(values.mean() - z) < 4.5 * values.std() / 200**0.5


def test_given_negatives_train_in_the_trainer(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    pairs, model = with_negatives(dataset), make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("dynamic", leaf_size=8), num_negatives=2)
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    SentenceTransformerTrainer(model, arguments, pairs, loss=loss, callbacks=[NegativesCallback(loss)]).train()
    assert loss.cost.texts_encoded >= 3 * 8 * 4
    wrong = pairs.map(lambda row: {"label": [*row["label"][:3], (row["label"][3] + 1) % NUM_TARGETS]})
    with pytest.raises(ValueError, match=r"of 60 training pairs .* 60 name other texts .* names negative_1 row"):
        SentenceTransformerTrainer(model, arguments, wrong, loss=loss, callbacks=[NegativesCallback(loss)]).train()
    unlabelled = pairs.map(lambda row: {"label": row["label"][:2]})
    with pytest.raises(ValueError, match=r"the last 2 are given negatives, .* dataset.label_pairs\(pairs\)"):
        SentenceTransformerTrainer(model, arguments, unlabelled, loss=loss, callbacks=[NegativesCallback(loss)]).train()
