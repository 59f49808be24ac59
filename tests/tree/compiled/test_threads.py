"""How many threads the trees of a process work with: what is said holds, in children too, and changes no draw."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings

import naive
import numpy as np
import pytest

from hardwood import TargetIndex, _processors
from hardwood.tree import _reading, set_threads
from hardwood.tree.arrays import statistics
from hardwood.tree.compiled import threads
from hardwood.tree.read import search


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    """Each test begins, and ends, where nobody has said anything."""
    monkeypatch.setattr(_processors, "_given", None)


@pytest.fixture
def index():
    return TargetIndex.build(naive.clusters(800, 8), leaf_size=8, progress=False)


def test_processors_are_the_default():
    assert TargetIndex.build(naive.clusters(8, 2), progress=False).threads == len(os.sched_getaffinity(0))


def test_what_is_said_holds_at_once_for_indexes_that_were_not_given_their_own(index):
    own = TargetIndex.build(naive.clusters(8, 2), threads=4, progress=False)
    for told in (3, 1):
        set_threads(told)
        assert index.threads == told
        assert TargetIndex.build(naive.clusters(8, 2), progress=False).threads == told
        assert own.threads == 4
    set_threads(None)
    assert index.threads == len(os.sched_getaffinity(0))


def test_as_many_share_the_work(index, monkeypatch):
    used = set()

    def spy(task, size, threads, least=1):
        used.add(threads)
        task(0, size)

    monkeypatch.setattr(_reading, "split_work", spy)
    monkeypatch.setattr(statistics, "split_work", spy)
    monkeypatch.setattr("hardwood.tree.change.tree.split_work", spy)
    set_threads(7)
    index.sample(naive.clusters(20, 8), 3, seed=0)
    index.update(naive.clusters(2, 8), [1, 2])
    index.repair()
    TargetIndex.build(naive.clusters(50, 3), progress=False)
    assert used == {7}


def test_draws_are_the_same(index):
    x, drawn = naive.clusters(600, 8, seed=1), []
    for told in (1, 2, 5):
        set_threads(told)
        drawn.append(index.sample(x, 4, seed=3))
    for a, b, c in zip(*drawn, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_forked_children_go_by_it(index):
    set_threads(3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=lambda: queue.put(index.threads))
        child.start()
        assert queue.get(timeout=60) == 3
        child.join()


def test_it_travels_with_an_index_that_is_sent(index):
    """As to a spawned worker, in which nobody has said anything."""
    assert pickle.loads(pickle.dumps(index))._threads is None  # noqa: S301
    set_threads(3)
    sent, copied = pickle.dumps(index), copy.deepcopy(index)
    set_threads(None)
    assert pickle.loads(sent).threads == 3  # noqa: S301
    assert copied.threads == 3


@pytest.mark.parametrize(
    ("threads", "error", "match"),
    [
        (0, ValueError, "at least 1, got 0"),
        (-2, ValueError, "got -2"),
        (1.5, TypeError, "whole number, got 1.5"),
    ],
)
def test_what_is_no_number_of_threads(threads, error, match):
    with pytest.raises(error, match=match):
        set_threads(threads)
    assert _processors.given_threads() is None


def test_saying_so_does_not_load_the_tree():
    """A run without a tree must not pay for one: its memory is reported beside the others'."""
    code = "import sys; from hardwood._processors import set_threads; set_threads(2); print('numba' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.strip() == "False"


def test_who_watches_sees_what_another_thread_raises():
    """A compiler that reads a flag once would never see it: the thread would look on for minutes."""
    flags = np.zeros(2, dtype=np.int64)
    watcher = threading.Thread(target=threads.watch, args=(flags, 2, 10**11), daemon=True)
    threads.watch(flags, 2, 1)  # compiled, or loaded, before it counts; and back after one look
    watcher.start()
    for place in (0, 1):
        assert watcher.is_alive()
        time.sleep(0.05)
        flags[place] = 1
    watcher.join(timeout=30)
    assert not watcher.is_alive()


def test_queries_that_cannot_be_written_to_are_not_compiled_for_once_more(index):
    x = naive.clusters(6, 8, seed=1)
    expected, known = index.search(x, 3), len(search.search.signatures)
    x.flags.writeable = False
    np.testing.assert_array_equal(index.search(x, 3).ids, expected.ids)
    np.testing.assert_array_equal(index.search(np.asfortranarray(x), 3).ids, expected.ids)
    assert len(search.search.signatures) == known
