"""What is noted of a training: that it changes nothing, holds what it says, survives a crash, and stays small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback

from hardwood.data import Judgements, RetrievalDataset, TextTable
from hardwood.evaluation import evaluate
from hardwood.negatives import SOURCES
from hardwood.report import Trace, _leaves, write_report
from hardwood.report._texts import MOST_BYTES
from hardwood.training import CorpusSoftmaxLoss, NegativesCallback, encoder_arguments, train
from hardwood.training.job import run as run_module

from .conftest import OPTIONS, config

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def weights(folder: Path) -> torch.Tensor:
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    return torch.cat([p.flatten() for p in model.parameters()])


def trace_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trace.json").read_bytes())


@pytest.mark.parametrize(
    "negatives",
    [pytest.param(name, marks=() if name in ("dynamic", "pool") else pytest.mark.slow) for name in SOURCES],
)
def test_a_trace_changes_neither_weights_nor_draws_nor_costs(
    negatives: str, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    for name, report in (("with", True), ("without", False)):
        train(config(tmp_path / name, negatives, report=report, save_every=12), quiet=True, dataset=dataset)
    assert torch.equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    states = [
        load_file(tmp_path / name / "checkpoints/checkpoint-24/hardwood/source.safetensors")
        for name in ("with", "without")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("with", "without")]
    assert metrics[0]["test"] == metrics[1]["test"]
    for count in ("targets_reencoded", "texts_encoded"):
        assert metrics[0]["cost"][count] == metrics[1]["cost"][count]
    assert not (tmp_path / "without" / "trace.json").exists()
    assert not (tmp_path / "without" / "report.html").exists()
    assert len(trace_of(tmp_path / "with")["snapshots"]) >= 5


def test_a_trace_does_not_touch_random_streams(
    dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    """An encoder with dropout takes its noise from the stream that a snapshot's encoding would move."""
    for name, report in (("with", True), ("without", False)):
        options = {"encoder": str(transformer_folder), "report": report, "steps": 6, "learning_rate": 1e-3}
        train(config(tmp_path / name, "exact", **options), quiet=True, dataset=dataset)
    assert torch.equal(weights(tmp_path / "with"), weights(tmp_path / "without"))


def test_base_and_trained_measures_are_what_evaluate_gives(run_folder: Path, dataset: RetrievalDataset) -> None:
    from hardwood.encoders import load_encoder

    base = load_encoder("static", dataset, dimension=16, vocabulary_size=300, device="cpu")
    splits = trace_of(run_folder)["splits"]
    assert splits["test"]["base"] == evaluate(base, dataset, "test")
    assert splits["test"]["trained"] == json.loads((run_folder / "metrics.json").read_text())["test"]
    compared = splits["test"]["compared"]
    assert compared["won"] + compared["lost"] + compared["same"] == compared["queries"] == len(dataset.split("test"))
    difference = splits["test"]["trained"]["mrr@10"] - splits["test"]["base"]["mrr@10"]
    assert compared["mrr@10"][0] == pytest.approx(difference)
    assert compared["mrr@10"][1] < difference < compared["mrr@10"][2]


@pytest.mark.parametrize("negatives", ["dynamic", "exact", "cache"])
def test_scores_and_probabilities_of_a_snapshot_are_those_of_the_definition(
    negatives: str, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    """Fresh ones are those of the model as it is; right after the corpus was encoded stale ones are the same, and
    log q = scale s + log π - log Z over what a query may be given."""
    train(config(tmp_path, negatives, steps=3, learning_rate=1e-9), quiet=True, dataset=dataset)
    trace = trace_of(tmp_path)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    queries = dataset.queries.rows([trace["queries"][one["query"]][0] for one in trace["watched"]])
    x = model.encode_query(dataset.queries.texts(queries), normalize_embeddings=True)
    y = model.encode_document(dataset.corpus.texts(), normalize_embeddings=True)
    known = dataset.never_negatives("train")
    loss = CorpusSoftmaxLoss(model, dataset, negatives)
    log_prior = loss.targets.log_prior
    assert log_prior is None or log_prior.min() < 0 or negatives
    count = 0
    for place, found in enumerate(trace["snapshots"][0]["queries"]):
        allowed = np.setdiff1d(np.arange(len(dataset.corpus)), known[queries[place]])
        prior = np.zeros(len(dataset.corpus)) if log_prior is None else log_prior
        scores = 20.0 * (y @ x[place]) + prior
        log_z = np.logaddexp.reduce(scores[allowed])
        for target, log_q, _, stale, fresh, share in found["negatives"]:
            row = int(dataset.corpus.rows([trace["targets"][target][0]])[0])
            assert row in allowed
            assert fresh == pytest.approx(float(y[row] @ x[place]), abs=1e-4)
            assert stale == pytest.approx(fresh, abs=1e-4)
            assert 0 < share < 1
            if negatives == "exact":
                assert log_q == pytest.approx(scores[row] - log_z, abs=1e-3)
            count += 1
    assert count > 40


def test_refreshes_are_noted_where_targets_were_encoded(run_folder: Path) -> None:
    refreshes = trace_of(run_folder)["refreshes"]
    assert [step for step, _ in refreshes] == [2, 7, 12, 17, 22, 27, 32, 37]
    assert refreshes[0][1] == 60
    assert all(count == 20 for _, count in refreshes[1:])


def test_the_map_holds_each_target_once_and_all_of_the_softmax(run_folder: Path) -> None:
    tree = trace_of(run_folder)["tree"]
    assert tree["total"] == len(tree["leaves"]) > 3
    assert sum(size for _, _, size, _, _ in tree["leaves"]) == 60
    assert sum(mass for *_, mass, _ in tree["leaves"]) == pytest.approx(1, abs=0.03)
    centre = np.average([leaf[:2] for leaf in tree["leaves"]], axis=0, weights=[leaf[2] for leaf in tree["leaves"]])
    assert np.abs(centre).max() < 1e-3


def test_the_map_is_of_the_dimensions_that_the_tree_keeps(dataset: RetrievalDataset, tmp_path: Path) -> None:
    options = {**OPTIONS["dynamic"], "index_dimension": 6}
    train(config(tmp_path, negatives_options=options), quiet=True, dataset=dataset)
    tree = trace_of(tmp_path)["tree"]
    assert sum(size for _, _, size, _, _ in tree["leaves"]) == 60
    assert sum(mass for *_, mass, _ in tree["leaves"]) == pytest.approx(1, abs=0.03)


def test_the_map_is_of_all_shards_together(dataset: RetrievalDataset, tmp_path: Path, run_folder: Path) -> None:
    train(config(tmp_path, num_shards=3), quiet=True, dataset=dataset)
    trace = trace_of(tmp_path)
    tree = trace["tree"]
    assert (tree["trees"], trace_of(run_folder)["tree"]["trees"]) == (3, 1)
    assert tree["total"] == len(tree["leaves"])
    assert sum(size for _, _, size, _, _ in tree["leaves"]) == 60
    assert sum(mass for *_, mass, _ in tree["leaves"]) == pytest.approx(1, abs=0.03)
    shown = [
        [int(dataset.corpus.rows([trace["targets"][target][0]])[0]) for target in leaf[4]] for leaf in tree["leaves"]
    ]
    assert all(len({row % 3 for row in rows}) == 1 for rows in shown)  # a leaf is of one shard
    assert {rows[0] % 3 for rows in shown} == {0, 1, 2}
    assert len({row for rows in shown for row in rows}) == sum(map(len, shown))
    assert "Map of the trees" in (tmp_path / "report.html").read_text()


def test_of_many_leaves_as_many_of_each_tree_are_shown(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_leaves, "MOST_LEAVES", 5)
    train(config(tmp_path, num_shards=2), quiet=True, dataset=dataset)
    tree = trace_of(tmp_path)["tree"]
    assert tree["total"] > 5
    assert len(tree["leaves"]) == 4


class StopAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= 14


def test_a_resumed_run_has_the_trace_of_one_that_was_not_broken(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"save_every": 10, "steps": 24}
    train(config(tmp_path / "whole", **settings), quiet=True, dataset=dataset)
    make_trainer = run_module.make_trainer

    def stopping(*args: Any, **kwargs: Any) -> SentenceTransformerTrainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.add_callback(StopAt())
        return trainer

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "make_trainer", stopping)
        train(config(tmp_path / "broken", **settings), quiet=True, dataset=dataset)
    state = tmp_path / "broken/checkpoints/checkpoint-10/hardwood/trace.json"
    assert "kidney" not in state.read_text()  # rows alone
    train(config(tmp_path / "broken", **settings), resume=True, quiet=True, dataset=dataset)
    whole, broken = (trace_of(tmp_path / name) for name in ("whole", "broken"))
    for trace in (whole, broken):
        trace.pop("seconds")
    assert whole == broken
    assert len(whole["snapshots"]) >= 5


def test_a_checkpoint_without_a_trace_is_no_reason_not_to_resume(dataset: RetrievalDataset, tmp_path: Path) -> None:
    train(config(tmp_path, save_every=10, report=False), quiet=True, dataset=dataset)
    with pytest.warns(UserWarning, match="the report begins where the run was resumed"):
        train(config(tmp_path, save_every=10, steps=30), resume=True, quiet=True, dataset=dataset)
    trace = trace_of(tmp_path)
    assert trace["first_step"] == 24
    assert trace["splits"]["test"]["base"]["mrr@10"] < trace["splits"]["test"]["trained"]["mrr@10"]


def test_without_texts_no_text_is_written(dataset: RetrievalDataset, tmp_path: Path) -> None:
    train(config(tmp_path, report_texts=False), quiet=True, dataset=dataset)
    for name in ("trace.json", "report.html"):
        content = (tmp_path / name).read_text()
        assert "kidney" not in content
        assert "swollen" not in content
        assert '"c17"' in content or "c17" in content  # ids are there


def test_the_base_model_need_not_be_measured(
    dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    evaluate_splits = run_module.evaluate_splits
    monkeypatch.setattr(
        run_module, "evaluate_splits", lambda *args, **kwargs: calls.append(1) or evaluate_splits(*args, **kwargs)
    )
    train(config(tmp_path / "without", report_base=False, steps=4), quiet=True, dataset=dataset)
    assert len(calls) == 1
    assert "base" not in trace_of(tmp_path / "without")["splits"]["test"]
    assert "The base model was not measured" in (tmp_path / "without" / "report.html").read_text()
    result = train(config(tmp_path / "with", steps=4), quiet=True, dataset=dataset)
    assert len(calls) == 3
    assert 0 < trace_of(tmp_path / "with")["seconds"]["base_evaluation"] <= result.metrics["training"]["report_seconds"]


def test_a_trace_of_long_texts_is_at_most_five_megabytes(make_static: Callable, tmp_path: Path) -> None:
    size = 3000
    corpus = TextTable.from_columns([f"t{i}" for i in range(size)], [f"{i} " + "長い文章" * 2000 for i in range(size)])
    queries = TextTable.from_columns([f"q{i}" for i in range(size)], [f"{i} " + "質問" * 1000 for i in range(size)])
    rows = np.arange(size)
    judged = Judgements.from_triples(rows, rows, np.ones(size, dtype=np.int32))
    trace = Trace(RetrievalDataset(corpus, queries, {"train": judged}, "long"))
    for step in range(16):
        drawn = np.arange(12 * 32).reshape(32, 12) + step * 174
        queries_of_step = [
            {"positive": 0.5, "mass": 0.5, "negatives": [[int(row), -1.23456, 1.23456, 0.1, 0.1, 0.1] for row in rows]}
            for rows in drawn
        ]
        trace._snapshots.append({"step": step, "queries": queries_of_step})
    size_in_bytes = trace.write(tmp_path).stat().st_size
    assert 1_000_000 < size_in_bytes <= MOST_BYTES


def test_a_script_with_the_callback_gets_a_report(
    make_static: Callable, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "exact", num_negatives=4)
    pairs = dataset.training_pairs()
    trace = Trace(dataset, tmp_path / "report")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "trainer"),
            max_steps=24,
            per_device_train_batch_size=16,
            report_to="none",
            save_strategy="no",
            logging_steps=2,
            use_cpu=True,
            **encoder_arguments(model),
        ),
        train_dataset=pairs,
        loss=loss,
        callbacks=[NegativesCallback(loss, trace=trace)],
    )
    trainer.train()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "exact negatives, ailments" in page
    assert trace_of(tmp_path / "report")["snapshots"][0]["step"] == 20
    assert json.loads((tmp_path / "report" / "log.json").read_text())
    assert write_report(tmp_path / "report").read_text() == page


def test_a_source_without_encodings_has_no_stale_scores(dataset: RetrievalDataset, tmp_path: Path) -> None:
    for name in ("uniform", "in-batch"):
        train(config(tmp_path / name, name, steps=6), quiet=True, dataset=dataset)
        trace = trace_of(tmp_path / name)
        assert not trace["knows_scores"]
        drawn = [n for one in trace["snapshots"] for query in one["queries"] for n in query["negatives"]]
        assert drawn
        assert all(negative[3] is None for negative in drawn)
        assert trace["tree"] is None
        page = (tmp_path / name / "report.html").read_text()
        assert "keeps no encodings" in page
        assert "draws from no tree" in page
    assert {round(negative[2], 3) for negative in drawn} == {0.0}  # in-batch candidates count once


def test_options_of_the_tests_are_those_of_all_sources() -> None:
    assert set(OPTIONS) == set(SOURCES)
