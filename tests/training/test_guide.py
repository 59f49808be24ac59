"""A second model that judges likely negatives."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from exact_softmax import NUM_TARGETS, batch_of, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.negatives import make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss, Guide, RunConfig, train
from hardwood.training.second_model import judge as judge_module
from hardwood.training.second_model.guide import load_guide
from tiny_models import make_cross_encoder

from .test_resume import _train_in_parts
from .test_trainer import config, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")

PLAIN: dict[str, Any] = {"num_negatives": NUM_TARGETS, "scale": 7.0, "unasked_prior": 1.0, "unasked_push": 1.0}


def similarities(model: SentenceTransformer, dataset: RetrievalDataset, query_rows: torch.Tensor) -> torch.Tensor:
    """Cosines of queries and all targets, with gradient."""

    def embed(texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=1)

    return embed(dataset.queries.texts(query_rows)) @ embed(dataset.corpus.texts()).T


def guided_loss(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    labels: torch.Tensor,
    by_guide: torch.Tensor,
    guide: Guide,
    scale: float = 7.0,
) -> tuple[torch.Tensor, int, int]:
    """The naive twin, pair by pair: the full softmax without what the guide rejects; pairs judged and rejected."""
    found = similarities(model, dataset, labels[:, 0])
    known = dataset.known_positives("train")
    terms, judged, rejected = [], 0, 0
    for row, (query, positive) in enumerate(labels.tolist()):
        counts = [scale * found[row, positive]]
        for target in range(NUM_TARGETS):
            if target in known[query]:
                continue
            if found[row, target].item() >= found[row, positive].item() - guide.within:
                judged += 1
                if by_guide[row, target] > by_guide[row, positive] - guide.margin:
                    rejected += 1
                    continue
            counts.append(scale * found[row, target])
        terms.append(torch.logsumexp(torch.stack(counts), 0) - counts[0])
    return torch.stack(terms).mean(), judged, rejected


@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
@pytest.mark.parametrize(("within", "margin"), [(0.1, 0.0), (1.9, 0.2)])
def test_what_the_guide_rejects_leaves_z(
    within: float, margin: float, kind: Any, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model, other = make_static(), make_static(seed=3)
    guide = Guide(other, margin=margin, within=within)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    loss = kind(model, dataset, "uniform", guide=guide, **PLAIN)
    terms = loss(features, labels)
    total = sum(terms.values())
    by_guide = similarities(other, dataset, labels[:, 0]).detach()
    twin, judged, rejected = guided_loss(model, dataset, labels, by_guide, guide)
    torch.testing.assert_close(total, twin, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, twin), atol=1e-6, rtol=1e-4)
    assert 0 < rejected < judged == terms["judged_by_guide"]
    assert float(terms["rejected_by_guide"]) == pytest.approx(rejected / judged)
    assert all(p.grad is None for p in other.parameters())
    assert not {id(p) for p in other.parameters()} & {id(p) for p in loss.parameters()}


def test_a_cross_encoder_judges_too(
    cross_encoder_folder: Path, make_static: Callable, dataset: RetrievalDataset
) -> None:
    model, cross = make_static(), CrossEncoder(str(cross_encoder_folder), device="cpu")
    cross.train()
    guide = Guide(cross, within=0.3)
    features, labels = batch_of(model, dataset, range(0, 50, 9))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", guide=guide, **PLAIN)
    with torch.autocast("cpu", torch.bfloat16):  # as the trainer has it: not for the guide
        scored = loss.judge.guide.scores(dataset.queries, dataset.corpus, np.array([4]), np.array([9]))
    pair = (dataset.queries.texts([4])[0], dataset.corpus.texts([9])[0])
    assert scored[0] == pytest.approx(float(cross.predict([pair])[0]), abs=1e-6)
    pairs = [(q, t) for q in dataset.queries.texts(labels[:, 0]) for t in dataset.corpus.texts()]
    by_guide = torch.from_numpy(cross.predict(pairs, show_progress_bar=False)).view(len(labels), -1)
    total = sum(loss(features, labels).values())
    twin, judged, rejected = guided_loss(model, dataset, labels, by_guide, guide)
    assert 0 < rejected < judged
    torch.testing.assert_close(total, twin, atol=1e-5, rtol=1e-5)


def test_each_pair_is_judged_once(
    make_static: Callable, dataset: RetrievalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_static()
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", guide=Guide(make_static(seed=3), within=0.5), **PLAIN)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    first = loss(features, labels)
    pairs = loss.cost.pairs_judged
    queries_with_any = len({key // NUM_TARGETS for key in loss.judge._scores})
    assert pairs == int(first["judged_by_guide"]) + queries_with_any  # the positives too
    assert loss.cost.report()["pairs_judged"] == pairs
    assert loss.cost.seconds["judge"] > 0
    assert sum(loss(features, labels).values()) == sum(first.values())
    assert loss.cost.pairs_judged == pairs
    monkeypatch.setattr(judge_module, "_KEPT", 10)  # what is forgotten is asked again, and the loss stays the same
    assert sum(loss(features, labels).values()) == sum(first.values())
    assert len(loss.judge._scores) == 10
    torch.testing.assert_close(sum(loss(features, labels).values()), sum(first.values()))
    assert loss.cost.pairs_judged > pairs


def test_the_guides_own_prompts_count(transformer_folder: Path, dataset: RetrievalDataset) -> None:
    other = SentenceTransformer(str(transformer_folder), device="cpu")
    assert other.prompts["query"]
    guide, rows = Guide(other), (np.array([0, 3, 3]), np.array([5, 7, 2]))
    queries, targets = (table.texts(of) for table, of in zip((dataset.queries, dataset.corpus), rows, strict=True))
    unit = {"normalize_embeddings": True}
    expected = (other.encode_query(queries, **unit) * other.encode_document(targets, **unit)).sum(1)
    assert guide.scores(dataset.queries, dataset.corpus, *rows) == pytest.approx(expected, abs=1e-5)
    before = guide.fingerprint()
    other.prompts = dict.fromkeys(other.prompts, "")
    assert guide.scores(dataset.queries, dataset.corpus, *rows) != pytest.approx(expected, abs=1e-5)
    assert guide.fingerprint() != before


def test_rejected_pairs_leave_the_other_direction_too(make_static: Callable, dataset: RetrievalDataset) -> None:
    model, other = make_static(), make_static(seed=3)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", guide=Guide(other, within=1.9), symmetric=True, **PLAIN)
    found = 7.0 * similarities(model, dataset, labels[:, 0])[:, labels[:, 1]].T
    by_guide = similarities(other, dataset, labels[:, 0])[:, labels[:, 1]]
    rejected = by_guide > by_guide.diagonal()[:, None]
    assert rejected.any()
    expected = torch.logsumexp(found.masked_fill(rejected.T, -torch.inf), dim=1).mean() / 2
    torch.testing.assert_close(loss(features, labels)["query_log_partition"], expected)


def test_what_the_guide_rejects_leaves_an_estimated_z_too(make_static: Callable, dataset: RetrievalDataset) -> None:
    # Drawn from a tree that a refresh has moved. Null: exp(log_z) has the mean Z without what is rejected. One pair a
    # batch, 300 seeds; two-sided at 4.5 standard errors: 7e-6.
    model, other = make_static(), make_static(seed=3)
    source = make_source("dynamic", start_step=0, refresh_every=1, leaf_size=8, landmarks=20, probes=3)
    guide = Guide(other, within=0.3)
    loss = CorpusSoftmaxLoss(model, dataset, source, guide=guide, **{**PLAIN, "num_negatives": 5})
    loss.begin_step(0)
    with torch.no_grad():
        weights = next(model.parameters())
        weights += 0.2 * weights.std() * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    loss.begin_step(1)
    loss.begin_step(2)
    assert source.cost.targets_reencoded > len(dataset.corpus)
    model.eval()
    features, labels = batch_of(model, dataset, range(7, 8))
    by_guide = similarities(other, dataset, labels[:, 0]).detach()
    estimates, found = [], []
    with torch.no_grad():
        twin, judged, rejected = guided_loss(model, dataset, labels, by_guide, guide)
        for seed in range(300):
            loss.seed = seed
            terms = loss(features, labels)
            estimates.append(terms["log_partition"].double().exp())
            found.append(float(terms["judged_by_guide"]))
    values = torch.stack(estimates)
    z = (twin.double() - terms["positive_score"]).exp()
    assert 0 < rejected < judged
    assert max(found) > 1
    assert values.std() > 0
    assert abs(values.mean() - z) < 4.5 * values.std() / 300**0.5


@pytest.mark.parametrize("negatives", ["uniform", "exact", "dynamic"])
def test_a_resumed_run_has_the_judgements(
    negatives: str, make_static: Callable, dataset: RetrievalDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_static(seed=3).save(str(tmp_path / "guide"))
    source = {"start_step": 2, "refresh_every": 3, "leaf_size": 8, "landmarks": 20, "probes": 3}
    source = {"exact": {"start_step": 2, "refresh_every": 4}, "dynamic": source}.get(negatives, {})
    options: dict[str, Any] = {"negatives": negatives, "negatives_options": source, "save_every": 4}
    options |= {"guide": str(tmp_path / "guide"), "guide_within": 0.3, "guide_margin": 0.05, "steps": 12}
    whole = train(config(tmp_path / "whole", **options), quiet=True, dataset=dataset)
    _train_in_parts(config(tmp_path / "broken", **options), 6, dataset, monkeypatch)
    broken = json.loads((tmp_path / "broken" / "metrics.json").read_text())
    assert broken["cost"]["pairs_judged"] == whole.metrics["cost"]["pairs_judged"] > 0
    assert torch.equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    reports = [(tmp_path / run / "suspected_false_negatives.jsonl").read_bytes() for run in ("whole", "broken")]
    assert reports[0] == reports[1]
    records = [json.loads(line) for line in reports[0].decode().splitlines()]
    assert records
    for record in records:
        is_answer = record["guide_score"] > min(record["guide_positive_scores"]) - 0.05
        assert record["guide"] == ("answer" if is_answer else "negative")


def test_judgements_of_another_guide_are_refused(make_static: Callable, dataset: RetrievalDataset) -> None:
    one, same, other = (
        CorpusSoftmaxLoss(make_static(), dataset, "uniform", guide=make_static(seed=seed)).judge for seed in (3, 3, 4)
    )
    one._scores = {7: 0.5, 3: -1.0}
    state = one.state_dict()
    same.load_state_dict(state)
    assert list(same._scores.items()) == [(7, 0.5), (3, -1.0)]
    with pytest.raises(ValueError, match="judgements of another guide"):
        other.load_state_dict(state)
    same._scores = {NUM_TARGETS + 4: 0.5, NUM_TARGETS + 5: 0.8, NUM_TARGETS + 6: 0.4}
    assert same.opinion(1, 5, [4]) == {"guide": "answer", "guide_score": 0.8, "guide_positive_scores": [0.5]}
    assert same.opinion(1, 6, [4, 9])["guide"] == "negative"
    assert same.opinion(1, 7, [4]) == {"guide": None, "guide_score": None, "guide_positive_scores": [0.5]}
    with pytest.raises(ValueError, match="damaged"):
        same.load_state_dict({**state, "scores": state["scores"][:1]})


def test_guides_that_can_not_be_right_are_refused(
    make_static: Callable, cross_encoder_folder: Path, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    model = make_static()
    with pytest.raises(ValueError, match=r"the guide has weights of the model in training.*copy.deepcopy"):
        CorpusSoftmaxLoss(model, dataset, "uniform", guide=model)
    CorpusSoftmaxLoss(model, dataset, "uniform", guide=copy.deepcopy(model))
    with pytest.raises(TypeError, match="must be a SentenceTransformer or a CrossEncoder, got str: load it first"):
        CorpusSoftmaxLoss(model, dataset, "uniform", guide="some/name")
    with pytest.raises(ValueError, match=r"margin must be 0 or more and finite, got -1"):
        Guide(model, margin=-1)
    with pytest.raises(ValueError, match=r"no cosine is that far"):
        Guide(model, margin=2.5)
    with pytest.raises(ValueError, match=r"within a distance of 0 or more .* got -0.1"):
        Guide(model, within=-0.1)
    tokenizer = CrossEncoder(str(cross_encoder_folder), device="cpu").tokenizer
    several = CrossEncoder(str(make_cross_encoder(tmp_path, tokenizer, num_labels=3)), device="cpu")
    with pytest.raises(ValueError, match="CrossEncoder with 3 labels"):
        Guide(several)
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(next(broken.parameters()), torch.nan)
    features, labels = batch_of(model, dataset, range(8))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", guide=Guide(broken, within=2.0), num_negatives=4)
    with pytest.raises(ValueError, match=r"the guide can't judge: the encoding of query 'q0' .* is not finite"):
        loss(features, labels)


def test_a_guide_that_rejects_everything_is_told_of(make_static: Callable, dataset: RetrievalDataset) -> None:
    model = make_static()
    features, labels = batch_of(model, dataset, range(8))
    guide = Guide(make_static(seed=3), margin=1.99, within=1.99)
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", num_negatives=4, guide=guide)
    with pytest.warns(UserWarning, match="the guide drops every negative of batch 1"):
        loss(features, labels)
    for _ in range(18):
        loss(features, labels)
    with pytest.raises(ValueError, match=r"the guide has dropped every negative .* lower its margin"):
        loss(features, labels)


def test_guides_are_loaded_as_what_they_were_saved_as(
    transformer_folder: Path, cross_encoder_folder: Path, tmp_path: Path
) -> None:
    assert isinstance(load_guide(str(cross_encoder_folder), device="cpu"), CrossEncoder)  # by its architecture
    CrossEncoder(str(cross_encoder_folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert isinstance(load_guide(str(tmp_path / "saved"), device="cpu"), CrossEncoder)
    assert isinstance(load_guide(str(transformer_folder), device="cpu"), SentenceTransformer)
    with pytest.raises(ValueError, match=r"no guide at './none': there is no such folder"):
        load_guide("./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"could not load the guide .* give the folder of a"):
        load_guide(str(tmp_path / "empty"))
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    with pytest.raises(ValueError, match="is a SparseEncoder: give a SentenceTransformer or a CrossEncoder"):
        load_guide(str(tmp_path / "sparse"))


def test_settings_of_a_guide_without_one_are_refused(tmp_path: Path) -> None:
    from hardwood.training.job.unused import refuse_unused

    run = RunConfig(data="d", output=str(tmp_path), guide_margin=0.1)
    with pytest.raises(ValueError, match=r"guide_margin 0.1 \(there is no guide\)"):
        refuse_unused(["guide_margin"], run)
    with pytest.raises(ValueError, match="margin must be 0 or more"):
        RunConfig(data="d", output=str(tmp_path), guide="g", guide_margin=-0.1)
