"""The dynamic source with a flat index: true while the encoder moves, exact, resumed, or refused by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardwood.errors import DataError
from hardwood.negatives import Cost, DynamicNegatives, make_source
from hardwood.negatives.dynamic import index_form, moving_index
from hardwood.negatives.dynamic.flat_index import FlatIndex
from hardwood.tree import TargetIndex
from hardwood.tree.arrays.projection import Projection

from .conftest import ArrayTargets
from .test_dynamic import BATCH, NUM_TARGETS, MovingCorpus, request
from .test_overlap import same, steps_of, stored


def begun(corpus: MovingCorpus, **options: Any) -> DynamicNegatives:
    source = make_source("dynamic", **{"landmarks": 60, "refresh_when": None, "index_kind": "flat", **options})
    assert isinstance(source, DynamicNegatives)
    source.attach(corpus.targets, corpus.cost)
    return source


def error_after(steps: int = 40, **options: Any) -> tuple[float, dict[str, float]]:
    """The mean cosine error of what is kept after steps of a moving encoder, and the last diagnostics."""
    corpus = MovingCorpus()
    source = begun(corpus, **options)
    steps_of(source, corpus, range(steps))
    source.finish()
    error = 1 - torch.nn.functional.cosine_similarity(stored(source), corpus.targets.vectors, dim=1)
    return float(error.mean()), source.diagnostics()


def test_each_part_keeps_it_truer_and_as_true_as_a_tree() -> None:
    nothing, _ = error_after(refresh_every=None, write_back=False)
    written, _ = error_after(refresh_every=None)
    predicted, _ = error_after(refresh_every=10, write_back=False)
    both, figures = error_after(refresh_every=10)
    assert nothing > 0.01  # the encoder does move
    assert written < 0.8 * nothing
    assert predicted < 0.5 * nothing
    assert both < min(written, predicted)
    assert both == pytest.approx(error_after(refresh_every=10, index_kind="tree", leaf_size=16)[0], rel=0.2)
    assert both == pytest.approx(
        error_after(refresh_every=10, index_dtype="bfloat16", true_dtype="bfloat16")[0], rel=0.1
    )
    assert figures["total_variation_of_tree"] < 1e-5  # no leaf is left closed
    assert figures["total_variation"] > 1e-3


@pytest.mark.parametrize("what", ["write-back", "refresh"])
def test_what_is_learnt_changes_what_is_drawn(what: str) -> None:
    """Draws are of the softmax of what is kept, before and after: of the very encodings where these are known."""
    corpus = MovingCorpus()
    source = begun(corpus, refresh_every=1 if what == "refresh" else None, landmarks=NUM_TARGETS)
    source.begin_step(0)
    asked = request(corpus, 3)
    everything = torch.arange(NUM_TARGETS)

    def expected() -> torch.Tensor:
        scores = asked.scale * asked.queries @ corpus.targets.vectors.T
        scores[torch.from_numpy(asked.exclude.row_ids()), torch.from_numpy(asked.exclude.values)] = -torch.inf
        return torch.log_softmax(scores, dim=1)

    before = source.log_proposal(asked, source.sample(asked), everything)
    torch.testing.assert_close(before, expected(), atol=1e-4, rtol=0)
    corpus.move(0.4)
    source.begin_step(1)
    if what == "write-back":
        source.observe(asked, source.sample(asked), everything, corpus.targets.vectors)
    draw = source.sample(asked)
    after = source.log_proposal(asked, draw, everything)
    torch.testing.assert_close(after, expected(), atol=1e-4, rtol=0)
    torch.testing.assert_close(draw.log_q, after.gather(1, draw.ids), atol=1e-5, rtol=0)
    assert (after - before).abs().nan_to_num().max() > 0.5


def test_a_ceiling_is_exact_whatever_the_number_above_it() -> None:
    """A tree searches 64 targets above the ceiling; here all are seen."""
    corpus = MovingCorpus()
    source = begun(corpus)
    source.begin_step(0)
    asked = request(corpus, 1, ceiling=torch.full((BATCH,), 0.1))
    similarities = asked.queries @ corpus.start.T
    above = similarities > 0.1
    assert above.sum(dim=1).min() > 64
    draw = source.sample(asked)
    assert not above.gather(1, draw.ids).any()
    proposal = source.log_proposal(asked, draw, torch.arange(NUM_TARGETS))
    assert torch.isneginf(proposal[above]).all()
    torch.testing.assert_close(proposal.exp().sum(dim=1), torch.ones(BATCH))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fewer_dimensions(dtype: str) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, index_dimension=8, refresh_every=10, index_dtype=dtype, true_dtype=dtype)
    steps_of(source, corpus, range(25))
    assert stored(source).shape == (NUM_TARGETS, 8)
    asked = request(corpus, 5)
    draw = source.sample(asked)
    proposal = source.log_proposal(asked, draw, torch.arange(NUM_TARGETS))
    torch.testing.assert_close(proposal.exp().sum(dim=1), torch.ones(BATCH))
    torch.testing.assert_close(proposal.gather(1, draw.ids), draw.log_q, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"index_dimension": 8}, {"index_dtype": "bfloat16", "true_dtype": "bfloat16"}])
@pytest.mark.parametrize("overlap", [False, True])
def test_it_resumes_where_it_was_in_mid_refresh(
    options: dict[str, Any], overlap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", 1)
    options = {**options, "overlap": overlap, "refresh_every": 10, "refresh_reencode": 7}
    corpus = MovingCorpus()
    source = begun(corpus, **options)
    draws = steps_of(source, corpus, range(25), {13: tmp_path})
    assert source.tree() is None
    again = begun(corpus, **options)
    again.load_state(tmp_path)
    assert again._moving is not None
    assert again._moving.is_refreshing == overlap
    assert same(draws[13:], steps_of(again, corpus, range(13, 25)))
    assert torch.equal(stored(source), stored(again))


def test_a_thread_beside_changes_nothing() -> None:
    found = []
    for overlap in (False, True):
        corpus = MovingCorpus()
        source = begun(corpus, overlap=overlap)
        found.append((steps_of(source, corpus, range(12)), stored(source)))
    assert same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("made", "asked"), [("tree", "flat"), ("flat", "tree")])
def test_a_checkpoint_of_the_other_kind_is_refused(made: str, asked: str, tmp_path: Path) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, index_kind=made)
    steps_of(source, corpus, range(3))
    source.save_state(tmp_path)
    other = begun(corpus, index_kind=asked)
    with pytest.raises(ValueError, match=f"is of the kind '{made}', .* is '{asked}': resume with index_kind='{made}'"):
        other.load_state(tmp_path)
    assert not other.is_ready(3)
    either = begun(corpus, index_kind="auto")  # small: by itself it would be flat
    either.load_state(tmp_path)
    assert (either.tree() is None) == (made == "flat")


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    source = begun(corpus)
    source.begin_step(0)
    source.save_state(tmp_path)
    targets = ArrayTargets(corpus.start.clone(), Cost(), log_prior=np.zeros(NUM_TARGETS, dtype=np.float32))
    weighed = begun(corpus)
    weighed.attach(targets, Cost())
    with pytest.raises(ValueError, match="another prior over targets"):
        weighed.load_state(tmp_path)
    fewer = begun(corpus, index_dimension=5)
    with pytest.raises(ValueError, match="keeps 12 of 12 dimensions, and index_dimension is 5"):
        fewer.load_state(tmp_path)
    file = tmp_path / "index" / "flat.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"flat\.safetensors"):
        begun(corpus).load_state(tmp_path)


@pytest.mark.parametrize("dimension", [None, 8])
def test_it_begins_with_the_vectors_of_a_saved_tree(dimension: int | None, tmp_path: Path) -> None:
    corpus = MovingCorpus()
    kept = None if dimension is None else Projection.fit(corpus.start.numpy(), dimension)
    TargetIndex.build(corpus.start, dimension=kept, progress=False).save(tmp_path / "index")
    source = begun(corpus, index=str(tmp_path / "index"))
    source.begin_step(0)
    assert corpus.cost.targets_reencoded == 64  # to see that the tree is of this model
    assert source.tree() is None
    wanted = corpus.start if kept is None else torch.from_numpy(kept(corpus.start.numpy()))
    torch.testing.assert_close(stored(source), wanted)
    steps_of(source, corpus, range(1, 4))


def test_auto_is_flat_for_few_targets_on_a_cpu_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hardwood")
    for limit, kind in ((NUM_TARGETS, "flat"), (NUM_TARGETS - 1, "tree")):
        monkeypatch.setattr(index_form, "FLAT_UP_TO", limit)
        corpus = MovingCorpus()
        source = begun(corpus, index_kind="auto", leaf_size=16)
        source.begin_step(0)
        assert (source.tree() is None) == (kind == "flat")
        assert f"600 targets, model on cpu: the dynamic source draws from a {kind} index" in caplog.messages[-1]
        assert source.settings()["index_kind"] == "auto"
    monkeypatch.setattr(index_form, "FLAT_UP_TO", NUM_TARGETS)
    form = begun(MovingCorpus(), index_kind="auto")._form
    on_accelerator = ArrayTargets(torch.zeros(10, 4, device="meta"), Cost())
    assert form.kind_for(on_accelerator) == "tree"  # nothing of the corpus goes there unasked


def test_neighbours_stand_beside_each_other() -> None:
    """Twenty clusters of thirty: along the order most steps stay within one, and landmarks come from all."""
    corpus = MovingCorpus()
    index = FlatIndex(corpus.start)
    order = index.spread(NUM_TARGETS)
    assert np.array_equal(np.sort(order), np.arange(NUM_TARGETS))
    between = (corpus.start[order[1:]] * corpus.start[order[:-1]]).sum(dim=1).mean()
    by_chance = (corpus.start[1:] * corpus.start[:-1]).sum(dim=1).mean()
    assert between > by_chance + 0.3
    some = index.spread(60)
    assert len(set(some.tolist())) == 60
    assert len(set((some % 20).tolist())) >= 18
    assert FlatIndex(corpus.start[:1]).spread(5).tolist() == [0]
    assert len(set(FlatIndex(torch.ones(7, 3)).spread(7).tolist())) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index_kind": "bush"}, "index_kind must be one of tree, flat, auto, got 'bush'"),
        ({"index_kind": "tree", "index_device": "cpu"}, "index_device='cpu' is of no use: a tree lies in the host's"),
        ({"index_kind": "flat", "index_device": "gpu"}, "index_device must be a device such as 'cuda'.* got 'gpu'"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_source("dynamic", **options)
