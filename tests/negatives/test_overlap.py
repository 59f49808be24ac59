"""The dynamic source's work in a thread beside the accelerator's: what changes by it, and what must not."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardwood.negatives import Cost, make_source
from hardwood.negatives.dynamic import moving_index
from hardwood.negatives.dynamic.background import Beside
from hardwood.negatives.dynamic.drift_fits import DriftFits
from hardwood.negatives.dynamic.policy import RefreshPolicy
from hardwood.negatives.dynamic.schedule import RefreshSchedule

from .conftest import ArrayTargets
from .test_dynamic import NUM_TARGETS, MovingCorpus, request, run

Draws = list[torch.Tensor]


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of a few hundred targets is refreshed in several steps."""
    monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", 1)


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
        source = begun(corpus, overlap=True, refresh_every=8, refresh_drift=drift)
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
    order = in_shares._moving._refresh.order
    assert first[order[: NUM_TARGETS // 5]].all()  # the first share of five went with the step's end
    assert not first[order[NUM_TARGETS // 5 :]].all()
    steps_of(in_shares, parts, range(11, 15))
    assert torch.equal(stored(in_shares), stored(at_once))
    assert parts.cost.targets_reencoded == whole.cost.targets_reencoded == NUM_TARGETS + 60


def test_it_keeps_the_tree_as_true() -> None:
    at_once = run(refresh_every=10)
    in_shares = run(refresh_every=10, overlap=True)
    assert in_shares[1] < 1.1 * at_once[1]


@pytest.mark.parametrize("drift", ["nystrom", "linear", "corrector"])
@pytest.mark.parametrize("step", [20, 21, 23, 25])
def test_a_run_resumed_in_mid_refresh_is_one_that_was_never_saved(step: int, drift: str, tmp_path: Path) -> None:
    options = {"overlap": True, "refresh_every": 10, "refresh_drift": drift}
    corpus = MovingCorpus()
    unsaved = steps_of(begun(corpus, **options), corpus, range(40))
    corpus = MovingCorpus()
    saved = begun(corpus, **options)
    assert same(steps_of(saved, corpus, range(40), {step: tmp_path, 34: tmp_path}), unsaved)
    corpus = MovingCorpus()
    first = begun(corpus, **options)
    steps_of(first, corpus, range(step))
    first._wait()
    under_way = first._moving.is_refreshing
    assert under_way == (20 < step < 25)
    first.save_state(tmp_path)
    first.finish()
    assert not first._moving.is_refreshing
    resumed = begun(corpus, **options)
    resumed.load_state(tmp_path)
    assert resumed._moving.is_refreshing == under_way
    assert same(steps_of(resumed, corpus, range(step, 40)), unsaved[step:])


def test_a_refresh_that_cannot_be_is_refused(tmp_path: Path) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10)
    steps_of(source, corpus, range(12))
    state, index = source.state_dict(), source._moving.index
    assert state["refresh"].tolist() == [2, 5]
    for wrong in ([6, 5], [5, 5], [-1, 5], [0, NUM_TARGETS + 1], [1, 0]):
        with pytest.raises(ValueError, match="it is damaged"):
            source._resume(state | {"refresh": torch.tensor(wrong)}, index)
    order = state["refresh_order"]
    for wrong_order in (order[1:], order[:0], torch.cat([order[:1], order[:-1]]), order - 1):
        with pytest.raises(ValueError, match="not each of this corpus once"):
            source._resume(state | {"refresh_order": wrong_order}, index)
    with pytest.raises(ValueError, match="not each of this corpus once"):
        source._resume(state | {"refresh": torch.tensor([0, 0])}, index)


def test_neighbours_change_together() -> None:
    """A leaf is made anew once for all its targets, not once a share for some of them."""
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10)
    steps_of(source, corpus, range(10))
    source.begin_step(10)
    nodes, order = source._moving.index._tree.nodes, source._moving._refresh.order
    leaves = nodes.row_leaf[source._moving.index._tree.ids.find(order)]
    assert len(np.unique(leaves)) > 5
    assert (np.diff(leaves) != 0).sum() == len(np.unique(leaves)) - 1
    assert sorted(order.tolist()) == list(range(NUM_TARGETS))


def deep_copy(things: Any) -> Any:
    return copy.deepcopy(things)


def pickled(things: Any) -> Any:
    return pickle.loads(pickle.dumps(things))  # noqa: S301 - our own


@pytest.mark.parametrize("copied", [deep_copy, pickled])
@pytest.mark.parametrize("drift", ["nystrom", "corrector"])
def test_a_copy_in_mid_refresh_goes_on_the_same(drift: str, copied: Callable[[Any], Any]) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10, refresh_drift=drift)
    steps_of(source, corpus, range(12))
    other, its_corpus = copied((source, corpus))
    assert other._moving.is_refreshing
    assert other._moving._refresh._predictors is None  # on an accelerator these are no things to be copied
    assert same(steps_of(other, its_corpus, range(12, 30)), steps_of(source, corpus, range(12, 30)))
    assert its_corpus.cost.targets_reencoded == corpus.cost.targets_reencoded


def test_micro_batches_of_a_step_do_one_share() -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10)
    steps_of(source, corpus, range(10))
    source.begin_step(10)
    for micro_step in range(3):
        asked = request(corpus, micro_step)
        rows = asked.positives.unique()
        source.observe(asked, source.sample(asked), rows, corpus.targets.vectors[rows])
    assert source.state_dict()["refresh"].tolist() == [1, 5]


def test_shares_are_no_smaller_than_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    for smallest, shares in ((100, 5), (200, 3), (NUM_TARGETS, 0), (10 * NUM_TARGETS, 0)):
        monkeypatch.setattr(moving_index, "_SMALLEST_SHARE", smallest)
        corpus = MovingCorpus()
        source = begun(corpus, overlap=True, refresh_every=10)
        steps_of(source, corpus, range(10))
        source.begin_step(10)
        assert source.state_dict()["refresh"].tolist() == [0, shares]


def test_what_is_measured_in_mid_refresh_is_for_the_log_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets whose share is still to come move on: no reason to refresh again, since their turn comes."""
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10)
    for_the_log, observe = [], source._schedule.observe

    def noting(staleness: Any, *, is_refreshing: bool) -> None:
        for_the_log.append(is_refreshing)
        observe(staleness, is_refreshing=is_refreshing)

    monkeypatch.setattr(source._schedule, "observe", noting)
    steps_of(source, corpus, range(20))
    assert [step for step, is_it in enumerate(for_the_log) if is_it] == [10, 11, 12, 13, 14]


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


def test_what_was_not_even_begun_is_lost_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_drift="corrector")
    monkeypatch.setattr(DriftFits, "observe", lambda *_: 1 / 0)
    steps_of(source, corpus, range(1))
    with pytest.raises(ZeroDivisionError):
        source.save_state(tmp_path)
    with pytest.raises(RuntimeError, match="failed half-way"):
        source.save_state(tmp_path)


def test_what_failed_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True, refresh_every=10)
    steps_of(source, corpus, range(11))
    source._wait()
    monkeypatch.setattr(source._moving.index, "update", lambda *_: 1 / 0)
    steps_of(source, corpus, range(11, 12))
    with pytest.raises(ZeroDivisionError):
        source.save_state(tmp_path)
    done: list[Any] = []
    monkeypatch.setattr(source._moving.index, "update", lambda *rows: done.append(rows))
    with pytest.raises(RuntimeError, match="failed half-way"):
        source.save_state(tmp_path)
    source.finish()
    assert not done
    assert not list(tmp_path.iterdir())


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
    made = RefreshSchedule(RefreshPolicy(**{"when": None, **options}), num_targets=NUM_TARGETS)
    made.built(100)
    assert made.shares(150) == expected
    assert made.shares(1100) == (50 if options == {"when": 0.1, "spacing": 10} else expected)


def test_what_is_given_may_be_written_over_at_once() -> None:
    corpus = MovingCorpus()
    source = begun(corpus, overlap=True)
    source.begin_step(0)
    gate = threading.Event()
    source._moving._beside.start(lambda: [gate.wait(10)][:0])
    asked, rows = request(corpus, 0), np.arange(5)
    fresh = np.eye(5, 12, dtype=np.float32)
    threading.Timer(0.05, gate.set).start()
    source._moving.learn(rows, fresh, write_back=True)
    wanted = fresh.copy()
    fresh[:], rows[:] = 7.0, 9
    assert torch.equal(source.stored_vectors(torch.arange(5)), torch.from_numpy(wanted))
    assert source.sample(asked).ids.shape == (8, 6)


def test_whoever_is_interrupted_while_waiting_can_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    beside, gate, done = Beside(), threading.Event(), []

    def work() -> None:
        gate.wait(10)
        done.append(1)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    beside.start(work)
    with monkeypatch.context() as patched:
        patched.setattr(futures, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            beside.wait()
    assert beside.is_busy
    gate.set()
    beside.wait()
    assert done == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_child_has_no_half_done_work_and_a_thread_of_its_own() -> None:
    beside, gate, done = Beside(), threading.Event(), []
    beside.start(lambda: [gate.wait(10), done.append(1)][:0])
    threading.Timer(0.05, gate.set).start()
    if not (child := os.fork()):
        signal.alarm(20)  # rather killed than hanging
        beside.wait()
        beside.start(lambda: done.append(2))
        beside.wait()
        os._exit(0 if done == [1, 2] else 1)
    assert os.waitpid(child, 0)[1] == 0
    beside.wait()
    assert done == [1]


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
