"""The same on an accelerator; CI has none, so these run where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardwood._ragged import RaggedRows
from hardwood.data import RetrievalDataset
from hardwood.drift import DRIFT_MODELS, make_drift
from hardwood.encoders import load_encoder
from hardwood.evaluation import evaluate
from hardwood.negatives import SOURCES, Cost, Request, make_source
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.training import train
from hardwood.training.corpus.targets import CorpusTargets
from hardwood.training.job.config import PRECISIONS
from hardwood.tree import TargetIndex

from .conftest import small_run

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning"),
]

OPTIONS: dict[str, dict[str, Any]] = {
    "static": {"start_step": 2},
    "periodic": {"start_step": 2, "refresh_every": 5},
    "cache": {"start_step": 0, "cache_size": 60, "refresh_size": 3},
    "pool": {"start_step": 0, "share": 0.5, "refresh_every": 5},
    "exact": {"start_step": 2, "refresh_every": 4},
    "dynamic": {"start_step": 2, "refresh_every": 5, "landmarks": 20, "leaf_size": 8, "probes": 3},
}
FLAT = {**OPTIONS["dynamic"], "index_kind": "flat", "landmarks": 60}  # all: whichever are alike to rounding
DRAWING = pytest.mark.parametrize("name", [name for name in SOURCES if name != "in-batch"])


@pytest.mark.parametrize("negatives", SOURCES)
def test_every_source_trains(negatives: str, dataset: RetrievalDataset, tmp_path: Path) -> None:
    untrained = load_encoder("static", dataset, dimension=16, vocabulary_size=300)
    assert untrained.device.type == "cuda"
    settings = small_run(tmp_path / "run", steps=40, negatives=negatives, negatives_options=OPTIONS.get(negatives, {}))
    result = train(settings, quiet=True, dataset=dataset)
    assert result.model.device.type == "cuda"
    assert result.metrics["test"]["ndcg@10"] > evaluate(untrained, dataset, "test")["ndcg@10"] + 0.02
    assert result.metrics["cost"]["peak_accelerator_bytes"] > 0
    on_cpu = load_encoder(str(tmp_path / "run" / "model"), device="cpu")
    assert evaluate(on_cpu, dataset, "test") == pytest.approx(result.metrics["test"], abs=0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_transformer_trains_in_every_precision(
    precision: str, dataset: RetrievalDataset, transformer_folder: Path, tmp_path: Path
) -> None:
    settings = small_run(
        tmp_path / "run",
        encoder=str(transformer_folder),
        negatives="dynamic",
        negatives_options=OPTIONS["dynamic"],
        precision=precision,
        mini_batch_size=8,
        learning_rate=1e-3,
        steps=12,
    )
    train(settings, quiet=True, dataset=dataset)
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert all(np.isfinite(record["loss"]) for record in log if "loss" in record)


@pytest.mark.parametrize("negatives", ["cache", "exact", "dynamic"])
def test_stop_and_resume(negatives: str, dataset: RetrievalDataset, tmp_path: Path) -> None:
    options = {"negatives": negatives, "negatives_options": OPTIONS[negatives], "save_every": 6}
    options |= {"scheduler": "constant"}  # as it is for any number of steps
    whole = train(small_run(tmp_path / "whole", steps=12, **options), quiet=True, dataset=dataset)
    train(small_run(tmp_path / "parts", steps=6, **options), quiet=True, dataset=dataset)
    resumed = train(small_run(tmp_path / "parts", steps=12, **options), resume=True, quiet=True, dataset=dataset)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)  # sums of embedding bags are in no fixed order
    assert resumed.metrics["cost"]["targets_reencoded"] == whole.metrics["cost"]["targets_reencoded"]


def attached(name: str, dataset: RetrievalDataset, device: str, **options: Any) -> Any:
    model = load_encoder("static", dataset, dimension=16, vocabulary_size=300, device=device)
    cost = Cost()
    targets = CorpusTargets(model, dataset.corpus, cost, similarity="cosine")
    source = make_source(name, **{**OPTIONS.get(name, {}), **options})
    source.attach(targets, cost)
    source.begin_step(source.start_step)
    return source


def request(device: str, **changes: Any) -> Request:
    generator = torch.Generator().manual_seed(3)
    queries = torch.nn.functional.normalize(torch.randn(5, 16, generator=generator), dim=1).to(device)
    positives = torch.arange(5, device=device)
    exclude = RaggedRows.from_pairs(np.arange(5), np.arange(5), 5)
    settings = {"num_negatives": 8, "scale": 20.0, "ceiling": None, "seed": 1, **changes}
    return Request(queries=queries, positives=positives, exclude=exclude, **settings)


@DRAWING
def test_proposals_are_those_of_the_cpu(name: str, dataset: RetrievalDataset) -> None:
    """Where randomness comes from the device the draws differ; what they are weighed by may not."""
    found = {}
    for device in ("cpu", "cuda"):
        source = attached(name, dataset, device, **({"probes": 100} if name == "dynamic" else {}))
        asked = request(device, ceiling=torch.full((5,), 0.5, device=device))
        draw = source.sample(asked)
        assert {draw.ids.device.type, draw.log_q.device.type, draw.log_z.device.type} == {device}
        proposal = source.log_proposal(asked, draw, torch.arange(60, device=device))
        assert proposal.device.type == device
        drawn = torch.where(draw.ids < 0, 0, draw.ids)
        assert torch.allclose(proposal.gather(1, drawn)[draw.ids >= 0], draw.log_q[draw.ids >= 0], atol=1e-3)
        found[device] = (draw.log_z.cpu(), proposal.cpu())
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_nothing_of_the_corpus_stays_on_the_accelerator(dataset: RetrievalDataset) -> None:
    source = attached("dynamic", dataset, "cuda")
    asked = request("cuda")
    rows = torch.arange(10, device="cuda")
    fresh = torch.nn.functional.normalize(torch.randn(10, 16, device="cuda"), dim=1)
    held = torch.cuda.memory_allocated()
    for step in range(3, 20):
        source.begin_step(step)
        draw = source.sample(asked)
        source.observe(asked, draw, rows, fresh)
        del draw
    source.finish()
    assert source._moving.overlap
    assert torch.cuda.memory_allocated() == held
    assert source.cost.targets_reencoded == 60 + 3 * 20


def test_a_flat_index_lies_on_the_accelerator_and_draws_as_on_a_cpu(dataset: RetrievalDataset) -> None:
    found = []
    for device, kept in (("cuda", None), ("cuda", "cpu"), ("cpu", None)):
        source = attached("dynamic", dataset, device, **FLAT, index_device=kept)
        for step in range(3, 20):
            source.begin_step(step)
            asked = request(device, ceiling=torch.full((5,), 0.5, device=device))
            draw = source.sample(asked)
            rows = torch.arange(step, step + 10, device=device)
            fresh = torch.nn.functional.normalize(torch.randn(10, 16, generator=torch.Generator().manual_seed(step)))
            source.observe(asked, draw, rows, fresh.to(device))
        source.finish()
        assert source.stored_vectors(rows).device.type == (kept or device)
        proposal = source.log_proposal(asked, source.sample(asked), torch.arange(60, device=device))
        assert proposal.device.type == device
        found.append(proposal.cpu())
    torch.testing.assert_close(found[0], found[2], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found[1], found[2], atol=1e-3, rtol=1e-4)


def test_the_tree_takes_and_gives_tensors_of_the_device() -> None:
    vectors = torch.randn(500, 8, device="cuda")
    index = TargetIndex.build(vectors, leaf_size=16, progress=False)
    draw = index.sample(vectors[:3], 4, scale=2.0, seed=0)
    hits = index.search(vectors[:3], 1)
    assert {draw.ids.device.type, draw.log_q.device.type, hits.ids.device.type, hits.scores.device.type} == {"cuda"}
    best = (vectors[:3] @ vectors.T).argmax(dim=1)
    assert torch.equal(index.search(vectors[:3], 1, probes=500).ids[:, 0], best)
    index.update(2 * vectors[:10], np.arange(10))
    torch.testing.assert_close(torch.from_numpy(index.vectors(np.arange(10))), 2 * vectors[:10].cpu())


@pytest.mark.parametrize("name", DRIFT_MODELS)
def test_drift_models_predict_on_the_device(name: str) -> None:
    old = torch.nn.functional.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    new = torch.nn.functional.normalize(old + 0.2 * old.roll(1, dims=1), dim=1)
    model = make_drift(name).fit(old.cuda(), new.cuda())
    predicted = model.predict(old.cuda())
    assert predicted.device.type == "cuda"
    torch.testing.assert_close(predicted.cpu(), model.predict(old), atol=1e-4, rtol=1e-3)


def test_ranking_is_that_of_the_cpu(make_static: Callable, dataset: RetrievalDataset) -> None:
    ours = evaluate(make_static(device="cuda"), dataset, "test")
    assert ours == pytest.approx(evaluate(make_static(), dataset, "test"), abs=1e-3)


@pytest.mark.parametrize("name", ["linear", "nystrom", "corrector"])
def test_predictions_are_those_of_the_cpu_where_tensorfloat32_is_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    generator = torch.Generator().manual_seed(0)
    old = torch.nn.functional.normalize(torch.randn(400, 64, generator=generator), dim=1)
    new = torch.nn.functional.normalize(old + 0.2 * torch.tanh(old @ torch.randn(64, 64, generator=generator)), dim=1)
    predicted = []
    for device in ("cpu", "cuda"):
        predict = DriftFits(name, device=torch.device(device))([old[:200].numpy(), new[:200].numpy()], 0)
        assert predict is not None
        predicted.append(predict(old[200:].numpy()))
    np.testing.assert_allclose(predicted[1], predicted[0], atol=1e-4)  # float32 and 64; TensorFloat32: 1e-3
