"""A teacher's scores as a target beside the cross entropy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exact_softmax import batch_of, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.training import (
    CachedCorpusSoftmaxLoss,
    CorpusSoftmaxLoss,
    Guide,
    RunConfig,
    Teacher,
    TeacherScores,
    train,
)
from hardwood.training.second_model.teacher import margin_error, soft_target_divergence

from .test_given_negatives import _batch, with_negatives
from .test_guide import PLAIN, similarities
from .test_trainer import config

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning")


def naive_term(
    form: str, found: torch.Tensor, given: list[dict[int, float]], positives: list[int], scale: float
) -> Any:
    """The term query by query: ``found`` similarities ``(B, n)``, ``given`` the teacher's scores by target."""
    total = found.sum() * 0.0
    for row, (scores, positive) in enumerate(zip(given, positives, strict=True)):
        targets = list(scores)
        if len(targets) < 2:
            continue
        teacher = torch.tensor([scores[target] for target in targets])
        if form == "kl":
            p, student = torch.softmax(teacher, 0), scale * found[row, targets]
            total = total + sum(p[i] * (p[i].log() - torch.log_softmax(student, 0)[i]) for i in range(len(targets)))
        else:
            others = [target for target in targets if target != positive]
            margins = [found[row, positive] - found[row, other] for other in others]
            wanted = [scores[positive] - scores[other] for other in others]
            total = total + sum((m - w) ** 2 for m, w in zip(margins, wanted, strict=True)) / len(others)
    return total / len(found)


@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
@pytest.mark.parametrize("form", ["kl", "margin-mse"])
def test_given_scores(form: Any, kind: Any, make_static: Callable, dataset: RetrievalDataset) -> None:
    model, pairs, rows = make_static(), with_negatives(dataset), list(range(0, 50, 3))
    scores = np.random.default_rng(0).normal(size=(len(pairs), 3))
    teacher = Teacher(form, 0.7, TeacherScores.from_pairs(pairs, scores.tolist()), temperature=0.5)
    features, labels = _batch(model, pairs, rows)
    plain = sum(kind(model, dataset, "uniform", **PLAIN)(features, labels).values())
    terms = kind(model, dataset, "uniform", teacher=teacher, **PLAIN)(features, labels)
    found = similarities(model, dataset, labels[:, 0])
    given = [dict(zip(labels[i, 1:].tolist(), 2 * scores[row], strict=True)) for i, row in enumerate(rows)]
    term = 0.7 * naive_term(form, found, given, labels[:, 1].tolist(), PLAIN["scale"])
    assert term > 0.01
    assert terms["scored_by_teacher"] == 3 * len(rows)
    torch.testing.assert_close(terms["teacher"], term.float(), atol=1e-5, rtol=1e-5)
    expected = gradient_of(model, plain) + gradient_of(model, term)
    torch.testing.assert_close(gradient_of(model, sum(terms.values())), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["kl", "margin-mse"])
def test_the_guides_scores(form: Any, make_static: Callable, dataset: RetrievalDataset) -> None:
    # What the guide rejects leaves Z, and is a target all the same.
    model, other = make_static(), make_static(seed=3)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", guide=Guide(other, within=0.1), teacher=Teacher(form), **PLAIN)
    terms = loss(features, labels)
    found, by_guide = (similarities(one, dataset, labels[:, 0]) for one in (model, other))
    known, positives, given = dataset.known_positives("train"), labels[:, 1].tolist(), []
    factor = PLAIN["scale"] if form == "kl" else 1.0
    for row, (query, positive) in enumerate(labels.tolist()):
        near = [
            t for t in range(found.shape[1]) if t not in known[query] and found[row, t] >= found[row, positive] - 0.1
        ]
        given.append({t: factor * float(by_guide[row, t].detach()) for t in ([positive, *near] if near else [])})
    assert max(len(one) for one in given) > 2
    term = naive_term(form, found, given, positives, PLAIN["scale"])
    torch.testing.assert_close(terms["teacher"], term, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient_of(model, terms["teacher"]), gradient_of(model, term), atol=1e-6, rtol=1e-4)


def test_a_full_teacher_at_its_own_scores_is_content(make_static: Callable) -> None:
    scores = torch.randn(5, 7, requires_grad=True)
    targets = scores.detach().clone()
    targets[1, 1:], targets[2] = torch.nan, torch.nan  # one alone, and none: neither a number nor a gradient
    for term in (
        soft_target_divergence(scores, targets),
        margin_error(scores, targets, torch.zeros(5, dtype=torch.int64)),
    ):
        (gradient,) = torch.autograd.grad(term, scores)
        assert abs(term.item()) < 1e-6
        assert float(gradient.abs().max()) < 1e-6
    nothing = torch.full_like(targets, torch.nan)
    assert soft_target_divergence(scores, nothing).item() == 0.0


def test_each_width_is_taught(make_static: Callable, dataset: RetrievalDataset) -> None:
    model, pairs = make_static(), with_negatives(dataset)
    given = TeacherScores.from_pairs(pairs, [[1.0, 0.0, -1.0]] * len(pairs))
    features, labels = _batch(model, pairs, [0, 5, 9])
    options: dict[str, Any] = {"teacher": Teacher("kl", scores=given), **PLAIN}
    both = CorpusSoftmaxLoss(model, dataset, "uniform", matryoshka_dims=[16, 8], **options)(features, labels)["teacher"]
    parts = []
    for width in (16, 8):
        model.truncate_dim = width
        parts.append(CorpusSoftmaxLoss(model, dataset, "uniform", **options)(features, labels)["teacher"])
    torch.testing.assert_close(both, sum(parts))


def test_scores_that_do_not_fit_are_refused(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    model, pairs = make_static(), with_negatives(dataset)
    size = len(pairs)
    with pytest.raises(ValueError, match=r"a list of 3 for each of 60 tuples, .* got \[1.0, 2.0\] for tuple 1"):
        TeacherScores.from_pairs(pairs, [[1.0, 2.0, 3.0], [1.0, 2.0]] + [[1.0, 2.0, 3.0]] * (size - 2))
    with pytest.raises(ValueError, match=r"got 59 lists"):
        TeacherScores.from_pairs(pairs, [[1.0, 2.0, 3.0]] * (size - 1))
    with pytest.raises(ValueError, match=r"no label .*dataset.label_pairs\(tuples\)"):
        TeacherScores.from_pairs(pairs.remove_columns("label"), [])
    with pytest.raises(ValueError, match="must be finite, but number 1 of 2 is nan"):
        TeacherScores([0, 0], [1, 2], [0.5, np.nan])
    with pytest.warns(UserWarning, match="of 2 pairs 1 have several teacher's scores that differ"):
        merged = TeacherScores([0, 0, 3], [1, 1, 2], [0.5, 1.5, 2.0])
    np.testing.assert_array_equal(merged.of(np.array([3, 0]), np.array([1, 2])), [[np.nan, 2.0], [1.0, np.nan]])
    with pytest.raises(ValueError, match=re.escape("the teacher ('kl') has no scores")):
        CorpusSoftmaxLoss(model, dataset, "uniform", teacher=Teacher("kl"))
    with pytest.raises(ValueError, match="the guide has no margin, so that it rejects nothing"):
        CorpusSoftmaxLoss(model, dataset, "uniform", guide=Guide(make_static(seed=3), margin=None))
    with pytest.raises(ValueError, match="form must be one of kl, margin-mse, got 'mse'"):
        Teacher("mse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be positive and finite, got 0"):
        Teacher("kl", 0)
    with pytest.raises(TypeError, match=r"must be TeacherScores, .* got list"):
        Teacher("kl", scores=[1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the teacher is 'kl' with the guide's scores, but there is no guide"):
        RunConfig(data="d", output=str(tmp_path), teacher="kl")
    loss = CorpusSoftmaxLoss(
        model, dataset, "uniform", teacher=Teacher("kl", scores=TeacherScores([10**6] * 2, [0, 1], [1.0, 2.0]))
    )
    features, labels = batch_of(model, dataset, range(4))
    for _ in range(19):
        loss(features, labels)
    with pytest.raises(ValueError, match="in the first 20 batches no query has two of the 2 given"):
        loss(features, labels)


@pytest.mark.parametrize("form", ["kl", "margin-mse"])
def test_scores_that_compare_nothing_are_refused(form: Any, make_static: Callable, dataset: RetrievalDataset) -> None:
    # The term would be 0 in every step, and its gradient too.
    model, pairs = make_static(), dataset.training_pairs()
    alone = TeacherScores.from_pairs(pairs, [[1.0]] * len(pairs))
    with pytest.raises(ValueError, match=r"of the 60 teacher's scores no two are of one query"):
        Teacher(form, scores=alone)
    # Two of one query, and none of those that are trained on, which have their positive's alone.
    query, positive = pairs[0]["label"]
    features, labels = batch_of(model, dataset, range(1, 9))
    rows = [*labels[:, 0].tolist(), query, query]
    scores = TeacherScores(rows, [*labels[:, 1].tolist(), positive, positive + 1], [1.0] * len(rows))
    loss = CorpusSoftmaxLoss(model, dataset, "uniform", teacher=Teacher(form, scores=scores))
    for _ in range(19):
        assert loss(features, labels)["scored_by_teacher"] == 0
    with pytest.raises(ValueError, match=r"no query has two of the 10 given teacher's scores"):
        loss(features, labels)


def test_soft_targets_that_vanish_are_told_of(make_static: Callable, dataset: RetrievalDataset) -> None:
    model, pairs = make_static(), with_negatives(dataset)
    scores = TeacherScores.from_pairs(pairs, [[8.5, -10.0, 7.0]] * len(pairs))
    features, labels = _batch(model, pairs, [0, 5, 9])
    loss = CorpusSoftmaxLoss(model, dataset, "in-batch", teacher=Teacher("kl", scores=scores, temperature=0.1))
    with pytest.warns(UserWarning, match=r"3 of 9 soft targets .* exactly 0: .* temperature of 0.1"):
        loss(features, labels)
    loss(features, labels)  # once is enough: another warning would be an error here
    for teacher in (Teacher("kl", scores=scores), Teacher("margin-mse", scores=scores, temperature=0.1)):
        CorpusSoftmaxLoss(model, dataset, "in-batch", teacher=teacher)(features, labels)


def test_a_run_with_a_teacher(make_static: Callable, dataset: RetrievalDataset, tmp_path: Path) -> None:
    make_static(seed=3).save(str(tmp_path / "guide"))
    options: dict[str, Any] = {"negatives": "uniform", "negatives_options": {}, "guide": str(tmp_path / "guide")}
    options |= {"teacher": "margin-mse", "teacher_weight": 0.5, "guide_within": 0.3}
    result = train(config(tmp_path / "run", **options), quiet=True, dataset=dataset)
    logged = [record for record in result.history if "loss" in record]
    assert logged
    assert all(record["teacher"] > 0 and record["scored_by_teacher"] > 0 for record in logged)
