"""Threads that help another leave its processor: a kernel that wakes them there gives them its time and no other's."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from hardwood import _processors
from hardwood._processors import step_aside, this_processor
from hardwood.tree.compiled import threads

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="wants two processors that can be told apart"
)

ALLOWED = os.sched_getaffinity(0) if sys.platform == "linux" else set()


def in_a_thread(task):
    """What ``task`` returns in a thread of its own: where it may run is forgotten with it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(task()))
    thread.start()
    thread.join()
    return found[0]


def confined(processor):
    os.sched_setaffinity(0, {processor})
    assert this_processor() == processor


def test_a_thread_leaves_the_processor_and_may_not_come_back():
    def task():
        confined(min(ALLOWED))
        step_aside(min(ALLOWED))
        return this_processor(), os.sched_getaffinity(0)

    where, may_be = in_a_thread(task)
    assert where != min(ALLOWED)
    assert may_be == ALLOWED - {min(ALLOWED)}
    assert os.sched_getaffinity(0) == ALLOWED  # nobody else's


def test_a_thread_elsewhere_stays_as_it_is():
    def task():
        confined(max(ALLOWED))
        step_aside(min(ALLOWED))
        step_aside(-1)
        return os.sched_getaffinity(0)

    assert in_a_thread(task) == {max(ALLOWED)}


@pytest.mark.parametrize("refused", [PermissionError, None])
def test_where_nothing_else_is_allowed_it_shares(monkeypatch, refused):
    def refuse(*_):
        raise refused

    def task():
        confined(min(ALLOWED))
        if refused:
            monkeypatch.setattr(os, "sched_setaffinity", refuse)
        else:
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {min(ALLOWED)})
        step_aside(min(ALLOWED))
        return this_processor()

    assert in_a_thread(task) == min(ALLOWED)


def test_where_the_system_does_not_tell_nothing_is_done(monkeypatch):
    monkeypatch.setattr(_processors, "_this_processor", lambda: -1)
    monkeypatch.setattr(os, "sched_setaffinity", pytest.fail)
    assert this_processor() == -1
    step_aside(this_processor())


def test_the_trees_helpers_work_on_other_processors_than_who_asks():
    """The helper is put beside the caller, as such a kernel does; both must be at work for either to end."""
    both, where = threading.Barrier(2, timeout=30), []

    def caller():
        confined(min(ALLOWED))
        threads.split_work(lambda a, b: both.wait(), 2, threads=2)  # makes the helper, if there is none
        for helper in (thread for thread in threading.enumerate() if thread.name == "hardwood-0"):
            os.sched_setaffinity(helper.native_id, {min(ALLOWED)})
        threads.split_work(lambda a, b: (where.append(this_processor()), both.wait()), 2, threads=2)

    in_a_thread(caller)
    assert len(set(where)) == 2
