"""The dynamic source's work in a thread beside the accelerator's: what changes by it, and what must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardwood.negatives import Cost, make_source
from hardwood.negatives._beside import Beside
from hardwood.negatives._schedule import RefreshSchedule

from .conftest import ArrayTargets
from .test_dynamic import NUM_TARGETS, MovingCorpus, request, run

Draws = list[torch.Tensor]


def begun(corpus: MovingCorpus, **options: Any) -> Any:
    source = make_source("dynamic", **{"landmarks": 60, "leaf_size": 16, "refresh_when": None, **options})
    source.attach(corpus.targets, corpus.cost)
    return source


def steps_of(source: Any, corpus: MovingCorpus, steps: range, saved_at: dict[int, Path] | None = None) -> Draws:
    """Draws of these steps; before some of them the source is saved."""
    draws = []
    for step in steps:
        if saved_at and step in saved_at:
            source.save_state(saved_at[step])
        corpus.move(0.01 * step)
        source.begin_step(step)
        asked = request(corpus, step)
        draw = source.sample(asked)
        draws.append(draw.log_q)
        rows = torch.unique(torch.cat([asked.positives, draw.ids.flatten()]))
        source.observe(asked, draw, rows, corpus.targets.vectors[rows])
    return draws


def stored(source: Any) -> torch.Tensor:
    source.finish()
    vectors: torch.Tensor = source.stored_vectors(torch.arange(NUM_TARGETS))
    return vectors


def same(one: Draws, other: Draws) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_write_back_in_a_thread_changes_nothing() -> None:
    found = []
    for overlap in (False, True):
        corpus = MovingCorpus()
        source = begun(corpus, overlap=overlap)
        found.append((steps_of(source, corpus, range(20)), stored(source)))
    assert same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("drift", ["nystrom", "corrector"])
def test_the_same_run_gives_the_same_draws(drift: str) -> None:
    found = []
    for _ in range(2):
        corpus = MovingCorpus()
        source = begun(corpus, overlap=True, refresh_every=8, drift=drift)
        found.append((steps_of(source, corpus, range(40)), stored(source)))
    assert same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_refresh_in_shares_reaches_everybody_by_half_the_steps_to_the_next() -> None:
    """Without write-back the tree then holds what it would have held at once."""
    whole, parts = MovingCorpus(), MovingCorpus()
    at_once = begun(whole, overlap=False, refresh_every=10, write_back=False)
    in_shares = begun(parts, overlap=True, refresh_every=10, write_back=False)
    steps_of(at_once, whole, range(11))
    steps_of(in_shares, parts, range(11))
    first = (stored(in_shares) == stored(at_once)).all(dim=1)
    assert first[: NUM_TARGETS // 5].all()  # the first share of five went with the step's end
    assert not first[NUM_TARGETS // 5 :].all()
    steps_of(in_shares, parts, range(11, 15))
    assert torch.equal(stored(in_shares), stored(at_once))
    assert parts.cost.targets_reencoded == whole.cost.targets_reencoded == NUM_TARGETS + 60


def test_it_keeps_the_tree_as_true() -> None:
    at_once = run(refresh_every=10)
    in_shares = run(refresh_every=10, overlap=True)
    assert in_shares[1] < 1.1 * at_once[1]


def test_stop_and_resume(tmp_path: Path) -> None:
    options = {"overlap": True, "refresh_every": 10}
    at = {23: tmp_path}  # step 20's refresh is under way
    corpus = MovingCorpus()
    whole = steps_of(begun(corpus, **options), corpus, range(40), at)
    corpus = MovingCorpus()
    resumed = begun(corpus, **options)
    resumed.load_state(tmp_path)
    assert same(steps_of(resumed, corpus, range(23, 40)), whole[23:])


def test_an_error_in_the_thread_is_raised_and_nothing_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True)
    steps_of(source, corpus, range(3))
    source.save_state(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(source._moving.index, "update", fail)
        steps_of(source, corpus, range(3, 4))  # it goes unnoticed until it is waited for
        with pytest.raises(MemoryError, match="no room"):
            source.begin_step(4)
    with pytest.raises(RuntimeError, match="failed half-way"):
        source.save_state(tmp_path)
    source.attach(corpus.targets, Cost())
    source.load_state(tmp_path)
    source.save_state(tmp_path)


def test_training_again_does_not_wait_for_the_errors_of_an_earlier_run(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True)
    steps_of(source, corpus, range(2))
    source.finish()
    monkeypatch.setattr(source._moving.index, "update", lambda *_: 1 / 0)
    steps_of(source, corpus, range(2, 3))
    source.attach(corpus.targets, Cost())
    assert not source.is_ready(0)
    source.begin_step(0)
    assert source.is_ready(0)


def test_by_default_a_cpu_has_no_thread_for_it() -> None:
    corpus = MovingCorpus()
    source = begun(corpus)
    before = {thread.name for thread in threading.enumerate()}
    steps_of(source, corpus, range(2))
    assert not any(name.startswith("hardwood-beside") for name in {t.name for t in threading.enumerate()} - before)


class MetaTargets(ArrayTargets):
    """As if the model were on an accelerator."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


def test_an_accelerator_has() -> None:
    corpus = MovingCorpus()
    source = make_source("dynamic", landmarks=60, leaf_size=16)
    source.attach(MetaTargets(corpus.start, corpus.cost), corpus.cost)
    source.begin_step(0)
    assert source._moving.overlap


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 20}, 10),
        ({"every": 1}, 1),
        ({"when": 0.1, "spacing": 10}, 5),  # until step 100 + 10 * 10, then a tenth of the steps since
        ({"when": 0.1, "spacing": 10, "every": 4}, 2),
        ({}, 1),
    ],
)
def test_a_refresh_has_half_the_steps_to_the_next(options: dict[str, Any], expected: int) -> None:
    made = RefreshSchedule(
        **{"every": None, "when": None, "spacing": 10, "growth": 0.1, "rebuild_when": None, **options}
    )
    made.built(100)
    assert made.shares(150) == expected
    assert made.shares(1100) == (50 if options == {"when": 0.1, "spacing": 10} else expected)


def test_beside_does_one_thing_at_a_time() -> None:
    beside, order = Beside(), []
    gate = threading.Event()

    def work(number: int, waits: bool = False) -> Callable[[], None]:
        def do() -> None:
            if waits:
                gate.wait(10)
            order.append(number)

        return do

    beside.start(work(1, waits=True))
    assert beside.is_busy
    assert order == []
    gate.set()
    beside.start(work(2))  # waits for the first
    beside.wait()
    assert order == [1, 2]
    assert not beside.is_busy
    beside.wait()
    beside.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        beside.wait()
    beside.wait()  # raised once
    assert np.array_equal(order, [1, 2])
