"""The loss and the callback inside a real ``SentenceTransformerTrainer``, and the whole run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

from hardwood import _processors
from hardwood.data import RetrievalDataset
from hardwood.encoders import separate_towers
from hardwood.evaluation import evaluate
from hardwood.negatives import SOURCES, make_source
from hardwood.negatives.dynamic import moving_index
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, RunConfig, encoder_arguments, train
from hardwood.training.job.yaml_file import read_settings
from hardwood.tree import TargetIndex

from .conftest import small_run

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def config(folder: Path, **changes: Any) -> RunConfig:
    own = {"steps": 12, "device": "cpu", "negatives_options": {"start_step": 2, "refresh_every": 4}}
    return small_run(folder, **own | changes)


OPTIONS = {
    "in-batch": {},
    "uniform": {},
    "static": {"start_step": 2},
    "periodic": {"start_step": 2, "refresh_every": 5},
    "cache": {"start_step": 2, "cache_size": 20, "refresh_size": 3},
    "pool": {"start_step": 2, "share": 0.33, "refresh_every": 5},
    "exact": {"start_step": 2, "refresh_every": 4},
    "dynamic": {"start_step": 2, "refresh_every": 5, "landmarks": 20, "leaf_size": 8, "probes": 3},
}
REENCODED = {
    "in-batch": 0,
    "uniform": 0,
    "static": 60,
    "periodic": 8 * 60,
    "cache": 20 + 37 * 3,
    "pool": 8 * 20,
    "exact": 10 * 60,
    "dynamic": 60 + 7 * 20,
}


@pytest.mark.parametrize("negatives", SOURCES)
def test_every_source_trains_and_reports(negatives: str, dataset: RetrievalDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = config(run, negatives=negatives, negatives_options=OPTIONS[negatives], steps=40)
    untrained = evaluate(_encoder(dataset), dataset, "test")["ndcg@10"]
    result = train(settings, quiet=True, dataset=dataset)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == result.metrics
    assert set(metrics) == {"dev", "test", "cost", "training"}
    assert set(metrics["test"]) == {"recall@1", "recall@10", "recall@100", "mrr@10", "ndcg@10"}
    assert metrics["test"]["ndcg@10"] > untrained + 0.02
    assert metrics["cost"]["targets_reencoded"] == REENCODED[negatives]
    assert set(metrics["cost"]["seconds"]) == {"encode", "index", "sample", "judge", "forward_backward"}
    assert metrics["cost"]["seconds"]["forward_backward"] > 0
    assert metrics["cost"]["peak_host_bytes"] > 2**20
    assert metrics["cost"]["peak_accelerator_bytes"] == 0
    assert metrics["training"]["steps"] == 40
    model = SentenceTransformer(str(run / "model"), device="cpu")
    assert evaluate(model, dataset, "test") == metrics["test"]
    assert (run / "training_curve.png").stat().st_size > 5000
    assert not list(run.rglob("*.tmp"))
    card = (run / "model" / "README.md").read_text()  # the loss says how it was made, and what to cite
    assert f'"negatives": "{negatives}"' in card
    assert "monath2023improving" in card
    for line in (run / "suspected_false_negatives.jsonl").read_text().splitlines():
        assert json.loads(line)["times_above_positive"] >= 2


def _encoder(dataset: RetrievalDataset) -> SentenceTransformer:
    from hardwood.encoders import load_encoder

    return load_encoder("static", dataset, dimension=16, vocabulary_size=300, device="cpu")


def weights(folder: Path) -> torch.Tensor:
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    return torch.cat([p.flatten() for p in model.parameters()])


@pytest.mark.slow
def test_same_seed_same_result(dataset: RetrievalDataset, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(tmp_path / name, seed=seed), quiet=True, dataset=dataset)
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.slow
def test_a_run_file_repeats_the_run(dataset: RetrievalDataset, tmp_path: Path) -> None:
    train(config(tmp_path / "a"), quiet=True, dataset=dataset)
    settings = read_settings(tmp_path / "a" / "run.yaml")
    assert settings["made_with"]["torch"] == torch.__version__.split("+")[0] or settings["made_with"]["torch"]
    again = RunConfig.from_mapping({**settings, "output": str(tmp_path / "b")})
    assert again == dataclasses.replace(config(tmp_path / "a"), output=str(tmp_path / "b"))
    train(again, quiet=True, dataset=dataset)
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_second_training_starts_with_a_new_source(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("static", start_step=2))
    for _ in range(2):
        _train_by_hand(model, loss, dataset, tmp_path, [NegativesCallback(loss)])
    assert loss.cost.targets_reencoded == 2 * 60


def test_an_encoder_saved_in_16_bits_is_trained_in_32(
    dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    SentenceTransformer(str(transformer_folder), device="cpu").to(torch.bfloat16).save_pretrained(str(half))
    loaded = SentenceTransformer(str(half), device="cpu")
    settings = config(tmp_path / "run", encoder=str(half), steps=2, learning_rate=1e-6)
    model = train(settings, quiet=True, dataset=dataset).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    pairs = zip(model.parameters(), loaded.parameters(), strict=True)
    moved = [not torch.equal(ours, theirs.float()) for ours, theirs in pairs]
    assert np.mean(moved) > 0.9


def test_devices_that_will_not_do_are_errors(dataset: RetrievalDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the device must be cpu or cuda, got 'cuda:1'"):
        train(config(tmp_path / "run", device="cuda:1"), quiet=True, dataset=dataset)


def _train_by_hand(
    model: SentenceTransformer,
    loss: Any,
    dataset: RetrievalDataset,
    folder: Path,
    callbacks: Any = (),
    **arguments: Any,
) -> SentenceTransformerTrainer:
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            **{"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 0.1, "logging_steps": 1, **arguments},
        ),
        train_dataset=dataset.training_pairs(),
        eval_dataset=dataset.training_pairs("dev"),
        loss=loss,
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


def test_the_loss_alone_is_a_drop_in(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=2, refresh_every=2))
    trainer = _train_by_hand(model, loss, dataset, tmp_path, eval_strategy="steps", eval_steps=3)
    logged = [record for record in trainer.state.log_history if "log_partition" in record]
    assert len(logged) == 6
    for record in logged:  # the components sum to the loss, and say the same as it
        assert record["loss"] == pytest.approx(record["log_partition"] + record["positive_score"], abs=2e-3)
    assert [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert loss.cost.targets_reencoded == 2 * 60  # at steps 2 and 4: it counts its own forward passes


def test_staleness_is_in_the_trainers_log(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    model = make_static()
    source = make_source("dynamic", **{**OPTIONS["dynamic"], "start_step": 1})
    loss = CorpusSoftmaxLoss(model, dataset, source)
    trainer = _train_by_hand(model, loss, dataset, tmp_path, [NegativesCallback(loss)])
    logged = [record for record in trainer.state.log_history if "stale_cosine_error" in record]
    assert len(logged) == 6
    assert logged[-1]["stale_cosine_error"] > 0
    for record in logged:  # logged beside the loss, not in it
        assert record["loss"] == pytest.approx(record["log_partition"] + record["positive_score"], abs=2e-3)


def test_at_the_end_a_refresh_is_complete_and_no_error_lost(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", 1)
    options = {**OPTIONS["dynamic"], "start_step": 0, "refresh_every": 5, "overlap": True}
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("dynamic", **options))
    _train_by_hand(model, loss, dataset, tmp_path)  # six steps, by the loss alone: nobody tells it of the end
    assert loss.source.state_dict()["refresh"].tolist() == [1, 2]
    _train_by_hand(model, loss, dataset, tmp_path, [NegativesCallback(loss)])
    assert loss.source.state_dict()["refresh"].tolist() == [0, 0]

    learn = moving_index.MovingIndex.learn

    def fail_at_last(moving: Any, *args: Any, **kwargs: Any) -> None:
        if loss._step == 5:
            monkeypatch.setattr(moving.index, "update", lambda *_: 1 / 0)
        learn(moving, *args, **kwargs)

    monkeypatch.setattr(moving_index.MovingIndex, "learn", fail_at_last)
    with pytest.raises(ZeroDivisionError):
        _train_by_hand(model, loss, dataset, tmp_path, [NegativesCallback(loss)])


def test_the_callback_counts_optimiser_steps(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=2, refresh_every=2))
    _train_by_hand(model, loss, dataset, tmp_path, [NegativesCallback(loss)], gradient_accumulation_steps=3)
    assert loss.cost.targets_reencoded == 2 * 60  # 18 forward passes, but 6 steps
    assert loss.cost.seconds["forward_backward"] > 0
    _train_by_hand(model, loss, dataset, tmp_path / "alone", [])
    assert loss.cost.targets_reencoded > 2 * 60  # without it, the loss counts for itself again


def test_a_checkpoint_elsewhere_is_told_of(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    callback = NegativesCallback(CorpusSoftmaxLoss(make_static(), dataset, "uniform"))
    with pytest.raises(
        ValueError, match=r"there is no .*checkpoint-4: .* NegativesCallback\(loss, resume_from=FOLDER\)"
    ):
        callback.check(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("is_given", [False, True])
def test_dropout_alone_asks_for_no_refresh(
    is_given: bool, dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(transformer_folder), device="cpu")
    options: dict[str, Any] = {"refresh_when": 0.005, "refresh_spacing": 1, "leaf_size": 8}
    if is_given:
        vectors = model.encode_document(dataset.corpus.texts(), normalize_embeddings=True)
        TargetIndex.build(vectors, leaf_size=8).save(tmp_path / "index")
        options["index"] = str(tmp_path / "index")
    loss = CorpusSoftmaxLoss(model, dataset, make_source("dynamic", **options))
    _train_by_hand(
        model,
        loss,
        dataset,
        tmp_path,
        [NegativesCallback(loss)],
        learning_rate=0.0,
        max_steps=12,
        **encoder_arguments(model),
    )
    noise = loss.source.diagnostics()["stale_cosine_error"]
    assert noise > 0.006
    # Nor is it written back: twelve steps have encoded every target several times.
    exact = torch.from_numpy(model.encode_document(dataset.corpus.texts(), normalize_embeddings=True))
    stored = loss.source.stored_vectors(torch.arange(len(exact)))
    assert 1 - (exact * stored).sum(dim=1).mean() < noise / 4
    if is_given:  # all of so few, to see that the tree is this model's, and those of the first step, to know the noise
        assert 60 + 8 <= loss.cost.targets_reencoded < 60 + 60
    else:
        assert loss.cost.targets_reencoded == 60


def test_a_last_batch_of_any_size_and_bfloat16(
    dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(transformer_folder), device="cpu")
    loss = CorpusSoftmaxLoss(model, dataset, make_source("exact", start_step=0))
    trainer = _train_by_hand(
        model,
        loss,
        dataset,
        tmp_path,
        [NegativesCallback(loss)],
        bf16=True,
        prompts={"anchor": model.prompts["query"], "positive": model.prompts["document"]},
        per_device_train_batch_size=59,  # 60 pairs: the second batch is one pair
        learning_rate=1e-3,
    )
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert len(losses) == 6
    assert all(0 <= value < 50 for value in losses)


@pytest.mark.parametrize("encoder", ["static", "transformer"])
def test_separate_towers_and_prompts(
    encoder: str, dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    settings = config(
        tmp_path / "run",
        towers="separate",
        encoder="static" if encoder == "static" else str(transformer_folder),
        steps=4,
        mini_batch_size=8,
        gradient_accumulation=2,
    )
    result = train(settings, quiet=True, dataset=dataset)
    query, document = (result.model.encode(["big heart"], task=task) for task in ("query", "document"))
    assert abs(query - document).max() > 1e-4  # the towers have gone their own ways
    reloaded = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert evaluate(reloaded, dataset, "dev") == result.metrics["dev"]
    if encoder == "transformer":
        assert reloaded.prompts["query"] == "find: "


def test_what_is_measured_is_what_is_saved(dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path) -> None:
    settings = config(tmp_path / "run", encoder=str(transformer_folder), steps=2, precision="bfloat16")
    result = train(settings, quiet=True, dataset=dataset)
    saved = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert np.array_equal(result.model.encode(["big heart"]), saved.encode(["big heart"]))


def test_separate_towers_keep_the_prompts(make_static: Callable) -> None:
    model = make_static()
    model.prompts, model.default_prompt_name = {"plain": "text: "}, "plain"
    towers = separate_towers(model)
    assert (towers.prompts["plain"], towers.default_prompt_name) == ("text: ", "plain")


def test_threads_are_those_of_torch_and_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processors, "_given", None)
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    with pytest.raises(ValueError, match="no-such-data"):  # by then they are set
        train(config(tmp_path / "run", data=str(tmp_path / "no-such-data"), threads=3), quiet=True)
    assert told == [3]
    assert _processors.default_threads() == 3


def test_the_curve_follows_dev(dataset: RetrievalDataset, tmp_path: Path) -> None:
    result = train(config(tmp_path / "run", evaluate_every=4), quiet=True, dataset=dataset)
    curve = [record["eval_dev_mrr@10"] for record in result.history if "eval_dev_mrr@10" in record]
    assert len(curve) == 3
    assert curve[-1] == pytest.approx(result.metrics["dev"]["mrr@10"])


def test_tensorboard_gets_the_components(dataset: RetrievalDataset, tmp_path: Path) -> None:
    train(config(tmp_path / "run", report_to=["tensorboard"]), quiet=True, dataset=dataset)
    events = list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert events
    assert any(b"train/log_partition" in path.read_bytes() for path in events)
