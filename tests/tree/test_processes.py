"""Threads, forked and spawned workers: the same draws everywhere, and nobody waits for ever."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import pytest
import torch

from hardwood import TargetIndex
from hardwood.tree.compiled import threads


@pytest.fixture(scope="module")
def index():
    return TargetIndex.build(naive.clusters(800, 8), leaf_size=8, threads=2, progress=False)


def work(index, seed):
    return index.sample(naive.clusters(20, 8, seed=1), 5, seed=seed).ids


class Workers(torch.utils.data.Dataset):
    def __init__(self, index):
        self.index = index

    def __len__(self):
        return 4

    def __getitem__(self, seed):
        return torch.from_numpy(work(self.index, seed))


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_dataloader_workers(index, start):
    want = [work(index, seed) for seed in range(4)]  # the pool of threads exists before the fork
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks beside threads: what is tested
        warnings.filterwarnings("ignore", "This DataLoader will create 2 worker processes", UserWarning)  # on one core
        loader = torch.utils.data.DataLoader(
            Workers(index),
            batch_size=None,
            num_workers=2,
            multiprocessing_context=multiprocessing.get_context(start),
            timeout=60,
        )
        got = list(loader)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_a_fork_while_a_thread_holds_the_lock(index):
    """The child's lock is its own: a writer that was busy in the parent does not exist there."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with index._lock.writing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=lambda: queue.put(work(index, 3)))
        child.start()
        got = queue.get(timeout=60)
        child.join()
    np.testing.assert_array_equal(got, work(index, 3))


def test_readers_at_once_and_a_writer_between():
    """Readers never see a half-made change: every draw is of a target that some state held, with the score of
    its vector."""
    vectors = naive.clusters(800, 8)
    index = TargetIndex.build(vectors, leaf_size=8, threads=2, progress=False)
    x, stop, rng = naive.clusters(20, 8, seed=1), threading.Event(), np.random.default_rng(0)

    def read(seed):
        done = 0
        while not stop.is_set() or done == 0:
            draw = index.sample(x, 5, seed=seed, probes=4)
            length = np.linalg.norm(vectors[draw.ids % 800], axis=-1)
            cosine = draw.scores / 20 / length
            direct = np.einsum("bd,bkd->bk", x, vectors[draw.ids % 800])
            assert (np.abs(np.abs(cosine) - np.abs(direct)) < 1e-5).all()
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, seed) for seed in range(4)]
        for step in range(30):
            some = rng.choice(800, size=100, replace=False)
            index.update(vectors[some] * np.float32((-1) ** step), some)  # each vector is itself or its opposite
        stop.set()
        assert all(reader.result() > 0 for reader in readers)
    index.check()


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):

    def fail(begin, end):
        if begin == 0:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        threads.split_work(fail, 100, 4)

    caller, begun = threading.current_thread(), threading.Event()

    def fail_elsewhere(begin, end):
        if threading.current_thread() is caller:
            assert begun.wait(timeout=60)
        else:
            begun.set()
            raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        threads.split_work(fail_elsewhere, 100, 2)

    late = []
    monkeypatch.setattr(threads, "_ask", lambda task, helpers: late.extend([task] * helpers))
    called = []

    def fail_at_once(begin, end):
        called.append(begin)
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        threads.split_work(fail_at_once, 100, 3)
    for task in late:  # helpers that find the time when the caller has gone
        task()
    assert len(late) == 2
    assert called == [0]


def test_every_piece_is_worked_on_once():
    seen = np.zeros(103, dtype=int)

    def count(begin, end):
        seen[begin:end] += 1

    threads.split_work(count, 103, 3)
    assert (seen == 1).all()
