"""Of the draws only the hardest, the highest scores instead of draws, and what both do to the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from exact_softmax import batch_of
from hardwood import losses
from hardwood.cli.app import app
from hardwood.data import RetrievalDataset
from hardwood.negatives import Draw, ExactNegatives, make_source
from hardwood.negatives.records import NO_TARGET
from hardwood.training import CorpusSoftmaxLoss, RunConfig
from hardwood.training.batch.candidates import Candidates
from hardwood.training.estimate.hardest import softer_draws

from .test_mixture import _exact_z, _log_z_by_seed, _moved


def test_what_no_query_keeps_is_dropped() -> None:
    ids = torch.tensor([3, 9, 10, 11, 12, 13])  # two of the batch, four drawn
    candidates = Candidates(ids, ids[2:], torch.tensor([0, 1]), torch.zeros(6, 1))
    draw = Draw.plain(torch.tensor([[10, 11, 11, 9], [12, 11, NO_TARGET, 13]]), torch.zeros(2, 4), torch.zeros(2))
    scores = torch.tensor([[9.0, 9, 1, 2, 8, 8], [9.0, 9, 8, 5, 3, 4]])
    usable = torch.ones(2, 6, dtype=torch.bool)

    def dropped(hardest: int, *others: Draw) -> list[int]:
        return ids[softer_draws([draw, *others], candidates, scores, usable, hardest)].tolist()

    assert dropped(1) == [10, 12, 13]  # the first keeps 11 (12 and 13 are not its draws), and so does the second
    assert dropped(2) == [12]
    assert dropped(3) == []
    usable[:, 3] = False  # 11 counts for nobody: others are the hardest
    assert dropped(1) == [11, 12]
    uniform = Draw.plain(torch.tensor([[12], [9]]), torch.zeros(2, 1), torch.zeros(2))
    assert dropped(1, uniform) == [11]
    assert not softer_draws([Draw.nothing(2, torch.device("cpu"))], candidates, scores, usable, 1).any()


def _terms(loss: CorpusSoftmaxLoss, features: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and log-weights of a step."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = losses.corpus_cross_entropy

    def kept(scores: torch.Tensor, columns: torch.Tensor, log_weights: torch.Tensor) -> Any:
        found.append((scores.detach(), log_weights.expand_as(scores)))
        return original(scores, columns, log_weights)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(losses, "corpus_cross_entropy", kept)
        loss(features, labels)
    return found[0]


@pytest.mark.parametrize("weighting", ["shared", "own", "uncorrected"])
def test_the_loss_keeps_weights_and_drops_draws_in_training_alone(
    weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    def terms(hardest: int | None, is_training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = make_static().train(is_training)
        source = make_source("exact", start_step=0)
        loss = CorpusSoftmaxLoss(
            model, dataset, source, num_negatives=6, scale=1.0, weighting=weighting, hardest=hardest
        )
        loss.begin_step(0)
        return _terms(loss, *batch_of(model, dataset, range(6)))

    (scores, whole), (same_scores, kept) = terms(None, True), terms(2, True)
    torch.testing.assert_close(scores, same_scores)
    gone = torch.isfinite(whole) & ~torch.isfinite(kept)
    assert gone.any()
    torch.testing.assert_close(whole.masked_fill(gone, -torch.inf), kept)
    assert torch.isfinite(kept).any(dim=1).all()
    torch.testing.assert_close(terms(None, False)[1], terms(2, False)[1])


@pytest.mark.parametrize("weighting", ["shared", "own"])
def test_top_scores_weigh_one_and_uniform_draws_stand_for_the_others(
    weighting: str, make_static: Callable, dataset: RetrievalDataset
) -> None:
    # Null: exp(log_z) of each query has the mean Z. 400 seeds, four queries; two-sided at 4.5 standard errors each: a
    # false alarm in 3e-5 of the runs of a case.
    model = make_static()
    options: dict[str, Any] = {"num_negatives": 3, "scale": 2.0, "weighting": weighting}
    features, labels = batch_of(model, dataset, range(0, 40, 10))
    alone = CorpusSoftmaxLoss(model, dataset, ExactNegatives(start_step=0, top=True), unasked_prior=1, **options)
    alone.begin_step(0)
    weights = _terms(alone, features, labels)[1]
    assert (weights[torch.isfinite(weights)].abs() < 1e-6).all()
    loss = CorpusSoftmaxLoss(model, dataset, ExactNegatives(start_step=0, top=True), uniform_negatives=4, **options)
    loss.begin_step(0)
    _moved(model, 0)
    model.eval()
    estimates = _log_z_by_seed(loss, features, labels, 400).double().exp()
    exact = torch.stack([_exact_z(model, dataset, labels[i : i + 1]) for i in range(len(labels))]).double()
    assert (estimates.std(dim=0) > 0).all()
    assert ((estimates.mean(dim=0) - exact).abs() < 4.5 * estimates.std(dim=0) / 400**0.5).all()


def test_a_number_that_keeps_all_or_nothing_is_refused(make_static: Callable, dataset: RetrievalDataset) -> None:
    for hardest in (0, 8, 9):
        with pytest.raises(
            ValueError, match=rf"hardest must be at least 1 and below num_negatives \(8\).* got {hardest}"
        ):
            CorpusSoftmaxLoss(make_static(), dataset, "exact", hardest=hardest)
        with pytest.raises(ValueError, match="hardest must be at least 1"):
            RunConfig(data="a", output="b", hardest=hardest)


def test_the_command_has_both_options(tmp_path: Path, dataset_folder: Path) -> None:
    command = ["train", str(dataset_folder), "--steps", "2", "--quiet", "--output", str(tmp_path / "run")]
    options = ["--negatives", "exact", "--source-option", "top=true", "--start-step", "0", "--hardest", "2"]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    config = RunConfig.load(tmp_path / "run/run.yaml")
    assert (config.hardest, config.negatives_options["top"]) == (2, True)
    refused = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "b"), "--negatives", "in-batch", "--hardest", "2"])
    assert refused.exit_code == 2
    assert "hardest 2 (in-batch negatives draw nothing)" in refused.output
