"""What would be ignored, or train nothing, without a word: refused, or said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling
from typer.testing import CliRunner

from hardwood.cli.app import app
from hardwood.cli.train import _run_config
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.evaluation import evaluate
from hardwood.mining import mine
from hardwood.negatives import MarginFilter
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, RunConfig
from hardwood.training.batch.same_model import check_same_model
from hardwood.training.job.yaml_file import read_settings


def batch_of(model: Any, dataset: RetrievalDataset, rows: range) -> tuple[list[dict[str, Any]], torch.Tensor]:
    pairs = dataset.training_pairs()[list(rows)]
    return [model.preprocess(pairs["anchor"]), model.preprocess(pairs["positive"])], torch.tensor(pairs["label"])


@pytest.mark.parametrize("with_callback", [True, False])
def test_a_loss_made_before_model_init_is_refused(
    with_callback: bool, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    loss = CorpusSoftmaxLoss(make_static(), dataset, "exact")
    trainer = SentenceTransformerTrainer(
        model_init=lambda: make_static(),  # noqa: PLW0108 -- it counts arguments
        args=SentenceTransformerTrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none"),
        train_dataset=dataset.training_pairs(),
        loss=loss,
        callbacks=[NegativesCallback(loss)] if with_callback else [],
    )
    with pytest.raises(ValueError, match="trains another model than the loss was made for"):
        trainer.train()


def test_a_wrapped_model_is_the_same(make_static: Callable) -> None:
    model = make_static()
    check_same_model(torch.compile(model, backend="eager"), model)
    check_same_model(torch.nn.Sequential(model), model)


@pytest.mark.parametrize("margin", [95, 1.0])
def test_a_relative_margin_is_a_share(margin: float, make_static: Callable, dataset: RetrievalDataset) -> None:
    with pytest.raises(ValueError, match=rf"a share of the positive's similarity, below 1, .* got {margin:g}"):
        MarginFilter(relative_margin=margin)
    with pytest.raises(ValueError, match=rf"a share of the positive's similarity, below 1, .* got {margin:g}"):
        mine(make_static(), dataset, relative_margin=margin)


def test_a_margin_that_no_cosine_keeps(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    with pytest.raises(ValueError, match="margin is 2, but no cosine is that far below another"):
        CorpusSoftmaxLoss(model, dataset, margin=MarginFilter(margin=2.0))
    model.similarity_fn_name = "dot"
    CorpusSoftmaxLoss(model, dataset, margin=MarginFilter(margin=2.0))


@pytest.mark.parametrize("negatives", ["in-batch", "uniform"])
def test_a_margin_that_drops_everything(negatives: str, make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static().train()
    loss = CorpusSoftmaxLoss(model, dataset, negatives, margin=MarginFilter(margin=1.9))
    batch = batch_of(model, dataset, range(8))
    with pytest.warns(UserWarning, match="the margin filter drops every negative of batch 1"):
        assert loss(*batch)["dropped_by_margin"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        for _ in range(18):
            loss(*batch)
        with pytest.raises(ValueError, match="every negative of the first 20 batches"):
            loss(*batch)


def test_a_margin_that_leaves_some(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static().train()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", margin=MarginFilter(margin=0.3))
    assert 0 < loss(*batch_of(model, dataset, range(8)))["dropped_by_margin"] < 1
    assert "dropped_by_margin" not in CorpusSoftmaxLoss(model, dataset)(*batch_of(model, dataset, range(8)))


def test_mining_that_finds_nothing_says_so(make_static: Callable, dataset: RetrievalDataset) -> None:
    with pytest.warns(UserWarning, match="none of the 60 entries has a negative: lower the margins"):
        mine(make_static(), dataset, margin=1.9)


@pytest.fixture
def sparse(transformer_folder: Path) -> Any:
    from sentence_transformers.base.modules import Transformer
    from transformers import AutoTokenizer, BertForMaskedLM

    bert = transformer_folder.parent / "bert"
    folder = transformer_folder.parent / "masked"
    BertForMaskedLM.from_pretrained(bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return SparseEncoder(
        modules=[Transformer(str(folder), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )


def test_other_kinds_of_models_are_refused(sparse: Any, dataset: RetrievalDataset, tmp_path: Path) -> None:
    for use in (
        lambda: CorpusSoftmaxLoss(sparse, dataset),
        lambda: evaluate(sparse, dataset),
        lambda: mine(sparse, dataset),
    ):
        with pytest.raises(TypeError, match=r"must be a SentenceTransformer, .* got a SparseEncoder"):
            use()
    sparse.save_pretrained(str(tmp_path / "sparse"))
    with pytest.raises(ValueError, match="was saved by a SparseEncoder, which is no SentenceTransformer"):
        load_encoder(str(tmp_path / "sparse"))


@pytest.mark.parametrize("option", ["dimension", "vocabulary_size"])
def test_sizes_are_for_the_static_encoder(option: str, transformer_folder: Path) -> None:
    message = f"{option} is 300, but the encoder '.*' has its own"
    with pytest.raises(ValueError, match=message):
        load_encoder(str(transformer_folder), **{option: 300})
    with pytest.raises(ValueError, match=message):
        RunConfig("d", "o", encoder=str(transformer_folder), **{option: 300})


def test_another_encoder_inherits_no_sizes(tmp_path: Path) -> None:
    assert not RunConfig("d", "o", dimension=128, vocabulary_size=8192).differs_in(RunConfig("d", "o"))
    assert RunConfig("d", "o", dimension=64).differs_in(RunConfig("d", "o")) == ["dimension"]
    RunConfig(str(tmp_path), "o", dimension=64).save(tmp_path / "run.yaml")
    assert read_settings(tmp_path / "run.yaml")["dimension"] == 64
    options = {"config": tmp_path / "run.yaml", "encoder": "a/b", "trust_remote_code": False}
    assert _run_config(options, refuse=True).dimension is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--negatives", "in-batch", "--num-negatives", "4"], "num_negatives 4 (in-batch negatives draw nothing)"),
        (["--negatives", "in-batch", "--weighting", "own"], "weighting 'own' (in-batch negatives draw nothing)"),
        (["--negatives", "in-batch", "--unasked-prior", "0.5"], "unasked_prior 0.5 (in-batch negatives draw nothing)"),
        (["--negatives", "in-batch", "--start-step", "9"], "'in-batch' negatives have no option 'start_step'"),
        (["--negatives", "uniform", "--encode-batch-size", "9"], "uniform negatives have no target encoded"),
        (["--encoder", "a/b", "--dimension", "64"], "dimension is 64, but the encoder 'a/b' has its own"),
        (["--config", "FILE"], "curve_split 'test' (it is for evaluations during training"),
    ],
)
def test_options_without_effect_are_refused(
    words: list[str], message: str, dataset_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "FILE").write_text("data: d\noutput: o\ncurve_split: test\n")
    words = [str(tmp_path / word) if word == "FILE" else word for word in words]
    said = CliRunner().invoke(app, ["train", str(dataset_folder), "--output", str(tmp_path / "out"), *words])
    assert said.exit_code == 2
    assert message in " ".join(said.output.split())


def test_a_comparison_that_would_not_measure_its_split(dataset_folder: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        str(dataset_folder),
        "--output",
        str(tmp_path / "out"),
        "--split",
        "exam",
        "--negatives",
        "uniform",
    ]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert "would not measure the split 'exam'" in " ".join(said.output.split())
    assert "dev, test" in said.output


def test_a_run_with_nothing_to_measure_says_so(dataset: RetrievalDataset, tmp_path: Path) -> None:
    RetrievalDataset(dataset.corpus, dataset.queries, {"train": dataset.splits["train"]}).save(tmp_path / "data")
    words = ["train", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--steps", "1", "--device", "cpu"]
    further = ["--ignore-unjudged", "--dimension", "16", "--test-share", "0", "--negatives", "in-batch"]
    said = CliRunner().invoke(app, [*words, *further])
    assert said.exit_code == 0, said.output
    assert "nothing was measured: there is no split to measure beside 'train'" in " ".join(said.output.split())
