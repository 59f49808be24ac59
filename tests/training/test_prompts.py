"""Prompts: what positives get, drawn targets and the source's encodings get too, or the run stops."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from exact_softmax import batch_of
from hardwood.data import RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, encoder_arguments
from hardwood.training.batch.columns import prompts_for, text_columns

from ..tiny_models import make_static as static_of_words

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")

MODELS = {"query": "find: ", "document": "entry: "}


class Seen(CorpusSoftmaxLoss):
    """Keeps the texts of what it encodes."""

    def _embed_features(self, features: Any, batch_size: int, device: torch.device) -> torch.Tensor:
        ids = features["input_ids"][0][features["attention_mask"][0].bool()]
        self.first_texts = [
            *getattr(self, "first_texts", []),
            self.model.tokenizer.decode(ids, skip_special_tokens=True),
        ]
        return super()._embed_features(features, batch_size, device)


def _train(
    transformer_folder: Path,
    dataset: RetrievalDataset,
    folder: Path,
    pairs: Any = None,
    model_prompts: dict[str, str] | None = None,
    callback: bool = True,
    losses: Any = None,
    loss_options: dict[str, Any] | None = None,
    **arguments: Any,
) -> CorpusSoftmaxLoss:
    model = SentenceTransformer(str(transformer_folder), device="cpu")
    model.prompts = dict(model_prompts or {})
    source = make_source("exact", start_step=0)
    loss = Seen(model, dataset, source, num_negatives=4, **loss_options or {})
    if arguments.get("prompts") == "of the model":
        arguments |= encoder_arguments(model, pairs.column_names)
    settings = SentenceTransformerTrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=8, save_strategy="no", use_cpu=True, report_to="none",
        disable_tqdm=True, **arguments,
    )  # fmt: skip
    callbacks = [NegativesCallback(loss)] if callback else []
    trainer = SentenceTransformerTrainer(
        model, settings, pairs or dataset.training_pairs(), loss=loss if losses is None else losses(model, loss),
        callbacks=callbacks,
    )  # fmt: skip
    trainer.train()
    return loss


def _starts(loss: Any) -> list[str]:
    """How queries, positives and drawn targets begin."""
    texts = [text.replace(" ", "") for text in loss.first_texts[:3]]
    return [next((word for word in ("find", "entry") if text.startswith(word)), "") for text in texts]


@pytest.mark.parametrize(
    ("model_prompts", "prompts", "begin"),
    [
        (None, {"anchor": "find: ", "positive": "entry: "}, ["find", "entry", "entry"]),
        (None, "entry: ", ["entry", "entry", "entry"]),
        (None, {"anchor": "find: "}, ["find", "", ""]),
        (None, None, ["", "", ""]),
        (MODELS, {"anchor": "find: ", "positive": "entry: "}, ["find", "entry", "entry"]),
        (MODELS, {"positive": "entry: "}, ["", "entry", "entry"]),
    ],
)
def test_drawn_targets_and_the_source_get_what_positives_get(
    model_prompts: Any,
    prompts: Any,
    begin: list[str],
    transformer_folder: Path,
    dataset: RetrievalDataset,
    tmp_path: Path,
) -> None:
    encoded: list[str] = []
    preprocess = SentenceTransformer.preprocess

    def spy(self: Any, inputs: Any, prompt: str | None = None, **options: Any) -> Any:
        encoded.extend([prompt or ""] * len(inputs))
        return preprocess(self, inputs, prompt=prompt, **options)

    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(SentenceTransformer, "preprocess", spy)
        loss = _train(transformer_folder, dataset, tmp_path, model_prompts=model_prompts, prompts=prompts)
    assert _starts(loss) == begin
    target_prompt = f"{begin[1]}: " if begin[1] else ""
    assert encoded.count(target_prompt) >= len(dataset.corpus)  # the source has encoded the corpus so
    assert (loss.target_prompt or "") == target_prompt
    batch = batch_of(loss.model, dataset, range(4))[1]
    features = loss.model.preprocess(dataset.corpus.texts(batch[:, 1].numpy()), prompt=target_prompt)
    loss.model.eval()
    drawn, given = loss._embed_targets(batch[:, 1], torch.zeros(1)), loss._embed(features)
    _, stored = next(loss.targets.encode(batch[:, 1]))
    torch.testing.assert_close(drawn, given, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(stored, given.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model_prompts", "prompts", "loss_options", "columns"),
    [
        (MODELS, None, {}, {}),
        (MODELS, {"anchor": "find: "}, {}, {}),
        (MODELS, {"anchor": "find: ", "positive": "other: "}, {}, {}),
        (MODELS, "find: ", {}, {}),
        (MODELS, {"anchor": "find: ", "positive": "entry: "}, {}, {"anchor": "question", "positive": "document"}),
        (None, {"anchor": "find: ", "positive": "entry: "}, {"target_prompt": ""}, {}),
        (None, None, {"target_prompt": "entry: "}, {}),
    ],
)
def test_prompts_that_contradict_each_other_stop_the_run(
    model_prompts: Any, prompts: Any, loss_options: Any, columns: Any, transformer_folder: Path,
    dataset: RetrievalDataset, tmp_path: Path,
) -> None:  # fmt: skip
    pairs = dataset.training_pairs().rename_columns(columns)
    with pytest.raises(ValueError, match=r"the trainer puts .* before positives.* give the .*target_prompt="):
        _train(transformer_folder, dataset, tmp_path, pairs, model_prompts, loss_options=loss_options, prompts=prompts)
    # The ways out that the errors name.
    _train(
        transformer_folder, dataset, tmp_path, pairs, model_prompts or MODELS,
        loss_options={"target_prompt": "entry: "}, prompts="of the model",
    )  # fmt: skip


def test_without_the_callback_other_prompts_stop_the_run(
    transformer_folder: Path, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    prompts = {"anchor": "find: ", "positive": "entry: "}
    with pytest.raises(ValueError, match=r"8 of 8 positives .* arrives as 'en t r y.*, and is .*add NegativesCallback"):
        _train(transformer_folder, dataset, tmp_path, callback=False, prompts=prompts)
    with pytest.raises(ValueError, match=r"8 of 8 positives .* before positives must stand before drawn targets too"):
        _train(transformer_folder, dataset, tmp_path, callback=False, model_prompts=MODELS)
    _train(transformer_folder, dataset, tmp_path, callback=False, model_prompts=MODELS, prompts=prompts)
    pairs = dataset.training_pairs().map(lambda row: {"positive": "entry: " + row["positive"]})
    with pytest.raises(ValueError, match="before positives must stand before drawn targets too"):  # within the texts
        _train(transformer_folder, dataset, tmp_path, pairs)


def test_bags_of_tokens_are_compared_too(dataset: RetrievalDataset) -> None:
    model = static_of_words()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=2)
    features, labels = batch_of(model, dataset, range(6))
    pairs = dataset.training_pairs()[list(range(6))]
    loss(features, labels)
    with pytest.raises(ValueError, match="6 of 6 positives"):
        loss([features[0], model.preprocess(["find " + text for text in pairs["positive"]])], labels)


def test_prompts_by_dataset(transformer_folder: Path, dataset: RetrievalDataset, tmp_path: Path) -> None:
    import datasets
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    plain = datasets.Dataset.from_dict({"anchor": ["big heart", "sore skin"] * 8, "positive": ["a", "b"] * 8})
    sets = datasets.DatasetDict({"ours": dataset.training_pairs(), "theirs": plain})

    def losses(model: Any, loss: Any) -> dict[str, Any]:
        return {"ours": loss, "theirs": MultipleNegativesRankingLoss(model)}

    prompts = {"ours": {"anchor": "find: ", "positive": "entry: "}, "theirs": {"positive": "other: "}}
    with pytest.warns(UserWarning, match=r"puts 'find: ' before queries and 'entry: ' before targets, where the model"):
        loss = _train(transformer_folder, dataset, tmp_path, sets, losses=losses, prompts=prompts)
    assert loss.target_prompt == "entry: "
    twice = datasets.DatasetDict({"one": dataset.training_pairs(), "two": dataset.training_pairs()})
    prompts = {"one": {"positive": "entry: "}, "two": {"positive": "other: "}}
    with pytest.raises(ValueError, match=r"different prompts before targets \('entry: ' before .* of 'one', 'other: '"):
        _train(transformer_folder, dataset, tmp_path, twice, prompts=prompts)


def test_columns_and_their_prompts_are_those_of_the_trainer() -> None:
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    assert text_columns(["anchor", "label", "positive", "score", "dataset_name"]) == ["anchor", "positive", "score"]
    columns = ["anchor", "positive"]
    for prompts in (
        None,
        "",
        "x: ",
        {},
        {"positive": "p"},
        {"s": {"anchor": "a"}},
        {"t": {"anchor": "a"}},
        {"s": "all"},
    ):
        collator = SentenceTransformerDataCollator(
            lambda inputs, prompt=None, task=None: {"p": prompt}, prompts=prompts
        )
        rows = [dict.fromkeys([*columns, "dataset_name"], "s")]
        batch = collator(rows)
        assert prompts_for(prompts, "s", columns) == [batch[f"{column}_p"] or "" for column in columns]
