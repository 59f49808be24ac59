"""A source or an index that fails in the middle of a change keeps nothing half-done, or refuses to be kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hardwood import TargetIndex
from hardwood._ragged import RaggedRows
from hardwood.negatives import Cost, Draw, Request, make_source

OPTIONS: dict[str, dict[str, Any]] = {
    "cache": {"start_step": 0, "cache_size": 24, "refresh_size": 20},
    "pool": {"start_step": 0, "share": 0.6, "refresh_every": 1},
    "exact": {"start_step": 0, "refresh_every": 1},
    "static": {"start_step": 0},
    "dynamic": {"refresh_every": 1, "landmarks": 12, "leaf_size": 4, "probes": 2},
    "dynamic, flat": {"refresh_every": 1, "landmarks": 12, "index_kind": "flat"},
}


class FailingTargets:
    """Forty unit vectors, in blocks of eight; the encoder fails before block ``fail_at``."""

    def __init__(self) -> None:
        self.vectors = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(7)))
        self.num_targets, self.dimension, self.device = 40, 6, torch.device("cpu")
        self.log_prior, self.has_dropout = None, False
        self.fail_at: int | None = None

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for number, block in enumerate((torch.arange(40) if rows is None else rows).split(8)):
            if number == self.fail_at:
                raise MemoryError
            yield block, self.vectors[block].clone()


def attached(name: str, **changes: Any) -> tuple[Any, FailingTargets]:
    source, targets = make_source(name.partition(",")[0], **{**OPTIONS[name], **changes}), FailingTargets()
    source.attach(targets, Cost())
    return source, targets


def request(targets: FailingTargets) -> Request:
    return Request(targets.vectors[:3], torch.arange(3), 4, 5.0, RaggedRows.empty(3), None, 1)


def stored(source: Any, targets: FailingTargets) -> list[tuple[int, np.ndarray]]:
    """Which targets the source has, with their vectors."""
    if source.name == "dynamic":
        return list(enumerate(source._moving.index.vectors(np.arange(40))))
    rows = source._row_of_slot if source.name in ("cache", "pool") else range(40)
    return [(int(row), source._index.vectors[slot].numpy()) for slot, row in enumerate(rows)]


@pytest.mark.parametrize("name", OPTIONS)
def test_no_source_draws_from_a_corpus_that_was_not_encoded(name: str) -> None:
    source, targets = attached(name)
    targets.fail_at = 1
    with pytest.raises(MemoryError):
        source.begin_step(0)
    assert not source.is_ready(0)
    assert not source.state_dict()
    targets.fail_at = None
    source.begin_step(0)
    assert source.is_ready(0)
    assert all(np.allclose(vector, targets.vectors[row]) for row, vector in stored(source, targets))


@pytest.mark.parametrize("name", ["cache", "pool", "dynamic", "dynamic, flat"])
def test_a_refresh_whose_encoder_fails_changes_nothing(name: str) -> None:
    source, targets = attached(name)
    source.begin_step(0)
    before = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    vectors = {row: vector.copy() for row, vector in stored(source, targets)}
    targets.vectors = targets.vectors.flip(0)
    targets.fail_at = 1
    with pytest.raises(MemoryError):
        source.begin_step(1)
    assert all(torch.equal(source.state_dict()[key], tensor) for key, tensor in before.items())
    after = dict(stored(source, targets))
    assert after.keys() == vectors.keys()
    assert all(np.array_equal(after[row], vector) for row, vector in vectors.items())
    targets.fail_at = None
    source.begin_step(1)  # nothing keeps it from trying again
    assert any(not torch.equal(source.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", ["dynamic", "dynamic, flat"])
@pytest.mark.parametrize("what", ["refresh", "write-back"])
def test_a_dynamic_source_that_failed_half_way_is_not_saved(
    what: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, targets = attached(name)
    source.begin_step(0)
    source.save_state(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    asked = request(targets)
    draw = source.sample(asked)
    with monkeypatch.context() as patched:
        inside = source._moving
        patched.setattr(*((inside.index, "repair") if what == "refresh" else (type(inside.true), "write")), fail)
        with pytest.raises(MemoryError):  # noqa: PT012 - one of the two raises
            source.begin_step(1)
            source.observe(asked, draw, torch.arange(5), targets.vectors[:5])
    source.observe(asked, draw, torch.arange(5), targets.vectors[:5])  # what comes later doesn't heal it
    with pytest.raises(RuntimeError, match="failed half-way, and its state is not saved"):
        source.save_state(tmp_path)
    source.attach(targets, Cost())
    source.load_state(tmp_path)
    source.save_state(tmp_path)


@pytest.mark.parametrize("name", ["dynamic", "dynamic, flat"])
def test_encodings_that_are_not_finite_change_nothing(name: str) -> None:
    source, targets = attached(name)
    source.begin_step(0)
    before = source.state_dict()["encodings"].clone()
    draw = Draw.nothing(3, torch.device("cpu"))
    with pytest.raises(ValueError, match="NaN"):
        source.observe(request(targets), draw, torch.arange(2), torch.full((2, 6), torch.nan))
    assert torch.equal(source.state_dict()["encodings"], before)
    if source.tree() is not None:
        source.tree().check()
    targets.vectors[3] = torch.inf
    source.attach(targets, Cost())
    with pytest.raises(ValueError, match="infinit"):
        source.begin_step(0)
    assert not source.is_ready(0)


@pytest.mark.parametrize("change", ["add", "remove", "update", "repair"])
def test_an_index_broken_off_in_a_change_refuses_everything(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = FailingTargets().vectors.numpy()
    index = TargetIndex.build(vectors, leaf_size=4, progress=False)
    index.save(tmp_path / "index")
    with pytest.raises(KeyError):
        index.remove([99])  # a refusal is no change
    assert len(index.sample(vectors[:2], 3, seed=0).ids) == 2

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(index._tree), "settle", interrupt)
    changes = {"add": (vectors[:1], [77]), "remove": ([3],), "update": (-vectors[:1], [3]), "repair": ()}
    with pytest.raises(KeyboardInterrupt):
        getattr(index, change)(*changes[change])
    monkeypatch.undo()
    for use in (lambda: index.sample(vectors[:2], 3), lambda: index.save(tmp_path / "index"), index.repair):
        with pytest.raises(RuntimeError, match=f"{change} was broken off half-way, and the index is no longer whole"):
            use()
    TargetIndex.load(tmp_path / "index", verify=True).check()
