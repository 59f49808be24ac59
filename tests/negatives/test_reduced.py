"""The dynamic source with fewer dimensions than the model has: true, unbiased, resumed, or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hardwood.negatives import Cost, DynamicNegatives, make_source
from hardwood.tree import TargetIndex
from hardwood.tree.arrays.projection import Projection

from .conftest import ArrayTargets
from .test_dynamic import BATCH, DIMENSION, NUM_TARGETS, MovingCorpus, request

KEPT = 8


def trained(steps: int = 40, corpus: MovingCorpus | None = None, **options: object) -> DynamicNegatives:
    """A source after train-like steps of a moving encoder."""
    corpus = MovingCorpus() if corpus is None else corpus
    settings = {"start_step": 0, "landmarks": 60, "leaf_size": 16, "refresh_when": None, "index_dimension": KEPT}
    source = make_source("dynamic", **{**settings, **options})
    assert isinstance(source, DynamicNegatives)
    source.attach(corpus.targets, corpus.cost)
    for step in range(steps):
        corpus.move(0.4 * step / 40)
        source.begin_step(step)
        asked = request(corpus, step)
        draw = source.sample(asked)
        rows = torch.unique(torch.cat([asked.positives, draw.ids.flatten()]))
        source.observe(asked, draw, rows, corpus.targets.vectors[rows])
    source.finish()
    return source


def error_of(source: DynamicNegatives, corpus: MovingCorpus) -> float:
    """Mean cosine error of what the tree keeps, against the encoder's vectors in the same dimensions."""
    index = source.tree()
    assert index is not None
    assert index.projection is not None
    index.check()
    truth = torch.from_numpy(index.projection(corpus.targets.vectors.numpy()))
    stored = source.stored_vectors(torch.arange(NUM_TARGETS))
    assert stored.shape == (NUM_TARGETS, KEPT)
    return float((1 - torch.nn.functional.cosine_similarity(stored, truth, dim=1)).mean())


def test_write_back_and_refreshes_keep_it_true_in_the_dimensions_that_are_kept() -> None:
    found = {}
    for name, options in {
        "nothing": {"refresh_every": None, "write_back": False},
        "written": {"refresh_every": None},
        "predicted": {"refresh_every": 10, "write_back": False},
        "both": {"refresh_every": 10},
        "both, halved": {"refresh_every": 10, "index_dtype": "bfloat16", "true_dtype": "bfloat16"},
    }.items():
        corpus = MovingCorpus()
        found[name] = error_of(trained(corpus=corpus, **options), corpus)
    assert found["nothing"] > 0.01  # the encoder does move
    assert found["written"] < 0.8 * found["nothing"]
    assert found["predicted"] < 0.5 * found["nothing"]
    assert found["both"] < min(found["written"], found["predicted"])
    assert found["both, halved"] == pytest.approx(found["both"], rel=0.1)


def test_draws_weighed_by_whole_fresh_scores_estimate_z_without_bias() -> None:
    # Null: the mean over draws of exp(log_weights + fresh score) is Z. z-test of 8 queries at 5 standard errors: 5e-6.
    corpus = MovingCorpus()
    source = trained(steps=12, corpus=corpus, probes=3, write_back=False)
    asked = request(corpus, 3)
    scores = (asked.scale * asked.queries @ corpus.targets.vectors.T).double()
    everyone = torch.ones(BATCH, NUM_TARGETS, dtype=torch.bool)
    everyone[torch.from_numpy(asked.exclude.row_ids()), torch.from_numpy(asked.exclude.values)] = False
    truth = scores.exp().masked_fill(~everyone, 0).sum(dim=1)
    estimates = []
    for seed in range(400):
        draw = source.sample(dataclasses.replace(asked, seed=seed, num_negatives=50))
        estimates.append((draw.log_weights.double() + scores.gather(1, draw.ids)).exp().sum(dim=1))
    found = torch.stack(estimates)
    errors = found.std(dim=0) / len(found) ** 0.5
    assert ((found.mean(dim=0) - truth).abs() < 5 * errors).all()
    assert (errors / truth < 0.05).all()


def test_log_proposal_is_of_what_is_kept() -> None:
    corpus = MovingCorpus()
    source = trained(steps=12, corpus=corpus, probes=100)
    asked = request(corpus, 5)
    draw = source.sample(asked)
    proposal = source.log_proposal(asked, draw, torch.arange(NUM_TARGETS))
    torch.testing.assert_close(proposal.exp().sum(dim=1), torch.ones(BATCH))
    torch.testing.assert_close(proposal.gather(1, draw.ids), draw.log_q, atol=1e-5, rtol=0)


def test_a_sample_is_encoded_besides_to_find_the_dimensions() -> None:
    corpus = MovingCorpus()
    trained(steps=1, corpus=corpus, refresh_every=None)
    assert corpus.cost.targets_reencoded == 2 * NUM_TARGETS  # so few targets are all in the sample


def test_it_resumes_where_it_was(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    source = trained(steps=25, corpus=corpus, refresh_every=10)
    source.save_state(tmp_path)
    options = {"start_step": 0, "landmarks": 60, "leaf_size": 16, "refresh_when": None, "refresh_every": 10}
    again = make_source("dynamic", **options, index_dimension=KEPT)
    again.attach(ArrayTargets(corpus.targets.vectors.clone(), Cost(), block_size=256), Cost())
    again.load_state(tmp_path)
    asked = request(corpus, 3)
    one, other = source.sample(asked), again.sample(asked)
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.log_q, other.log_q)
    for each in (source, again):
        each.begin_step(30)
    assert torch.equal(source.sample(asked).log_q, again.sample(asked).log_q)
    full = make_source("dynamic", start_step=0, landmarks=60, index_dimension=KEPT - 1)
    full.attach(corpus.targets, Cost())
    with pytest.raises(ValueError, match=r"keeps 8 of 12 dimensions, and index_dimension is 7"):
        full.load_state(tmp_path)


def test_it_begins_with_a_saved_index(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    projection = Projection.fit(corpus.start.numpy(), KEPT)
    TargetIndex.build(corpus.start, dimension=projection, leaf_size=16, progress=False).save(tmp_path / "index")
    error = error_of(trained(corpus=corpus, index=str(tmp_path / "index"), refresh_every=10), corpus)
    other = MovingCorpus()
    assert error == pytest.approx(error_of(trained(corpus=other, refresh_every=10), other), rel=0.2)
    source = make_source("dynamic", start_step=0, index=str(tmp_path / "index"), index_dimension=5)
    source.attach(corpus.targets, corpus.cost)
    with pytest.raises(ValueError, match=r"TargetIndex.build\(dimension=5\)"):
        source.begin_step(0)


@pytest.mark.parametrize("dimension", [0, DIMENSION, DIMENSION + 3])
def test_dimensions_that_the_model_does_not_have_are_refused(dimension: int) -> None:
    corpus = MovingCorpus()
    source = make_source("dynamic", index_dimension=dimension)
    with pytest.raises(ValueError, match="index_dimension must be"):
        source.attach(corpus.targets, corpus.cost)


def test_all_dimensions_are_as_good_as_none_left_out() -> None:
    """Orthonormal directions turn vectors: with almost all of them, draws say nearly the same."""
    corpus = MovingCorpus()
    corpus.targets.vectors[:, -1] = 0  # so that one dimension can go without a loss
    corpus.start = corpus.targets.vectors.clone()
    asked = request(corpus, 1)
    found = []
    for options in ({"index_dimension": None}, {"index_dimension": DIMENSION - 1}):
        source = make_source("dynamic", start_step=0, leaf_size=16, probes=100, **options)
        source.attach(corpus.targets, corpus.cost)
        source.begin_step(0)
        found.append(source.log_proposal(asked, source.sample(asked), torch.arange(NUM_TARGETS)).numpy())
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)
