"""When the dynamic source refreshes and when it builds anew: the decisions alone."""

from __future__ import annotations

import pytest

from hardwood.negatives.dynamic.schedule import RefreshSchedule
from hardwood.negatives.dynamic.staleness import Staleness

FAR, NEAR = Staleness(0.5, 0.0, 0.0), Staleness(0.0, 0.0, 0.0)


def schedule(**options: object) -> RefreshSchedule:
    return RefreshSchedule(
        **{"every": None, "when": None, "spacing": 3, "growth": 0.1, "rebuild_when": None, **options}
    )


def resumed(made: RefreshSchedule, **options: object) -> RefreshSchedule:
    other = schedule(**options)
    other.load_state_dict(made.state_dict())
    return other


def test_a_rebuild_waits_as_many_steps_as_there_were_before() -> None:
    made = schedule(rebuild_when=0.2)
    made.built(5)
    assert not made.rebuild_is_due(100)  # nothing was measured
    made.observe(FAR)
    assert [made.rebuild_is_due(step) for step in (7, 8)] == [False, True]
    made.built(25)
    assert not made.rebuild_is_due(100)
    made.observe(FAR)
    for each in (made, resumed(made, rebuild_when=0.2)):
        assert [each.rebuild_is_due(step) for step in (44, 45)] == [False, True]
    assert not schedule().rebuild_is_due(100)


def test_a_refresh_by_need_waits_for_a_tenth_of_the_run() -> None:
    made = schedule(when=0.2)
    made.built(100)
    made.observe(FAR)
    assert [made.refresh_is_due(step) for step in (102, 103)] == [False, True]
    made.refreshed(200)
    made.observe(FAR)
    for each in (made, resumed(made, when=0.2)):
        assert [each.refresh_is_due(step) for step in (210, 211)] == [False, True]  # 11 is a tenth of 111
    made.refreshed(300)
    made.observe(NEAR)
    assert not made.refresh_is_due(1000)


def test_noise_is_no_staleness() -> None:
    """Errors count from the encoder's noise on, and what rounding does is no noise."""
    made = schedule(when=0.05, rebuild_when=0.05)
    made.built(0)
    made = resumed(made, when=0.05, rebuild_when=0.05)
    assert made.wants_noise
    made.noise_measured(0.1)
    for _ in range(50):
        made.observe(Staleness(0.14, 0.0, 0.0))
    assert not made.refresh_is_due(100)
    assert not made.rebuild_is_due(100)
    for _ in range(50):
        made.observe(Staleness(0.16, 0.0, 0.0))
    made = resumed(made, when=0.05, rebuild_when=0.05)
    assert made.refresh_is_due(100)
    assert made.rebuild_is_due(100)
    made.built(100)
    assert made.noise == 0
    made.noise_measured(1e-5)
    assert made.noise == 0
    made.observe(Staleness(0.1, 0.0, 0.0))
    assert made.refresh_is_due(200)
    made.refreshed(200)
    assert not made.wants_noise  # where there is none, a refresh does not look for any
    made.noise_measured(0.1)
    made.refreshed(300)
    assert resumed(made, when=0.05, rebuild_when=0.05).wants_noise
    assert made.noise == 0.1


def test_noise_that_comes_later_is_found() -> None:
    """Where there was none it is looked for again, ever more rarely, also by a run that was resumed in between."""
    made = schedule()
    made.built(100)
    made.noise_measured(0.0)
    looked = []
    for step in range(100, 200):
        made = resumed(made) if step == 120 else made
        made.begin_step(step)
        if made.wants_noise:
            looked.append(step)
            made.noise_measured(0.0 if step < 130 else 0.1)
    assert looked == [101, 102, 104, 108, 116, 132]  # from where it is found on, refreshes look
    assert made.noise == 0.1


def test_a_refresh_by_the_clock_needs_no_measure() -> None:
    made = schedule(every=7)
    made.built(2)
    assert [made.refresh_is_due(step) for step in (8, 9)] == [False, True]


def test_the_running_staleness_begins_anew_with_a_refresh() -> None:
    made = schedule(when=0.2)
    made.built(0)
    made.observe(FAR)
    for _ in range(9):
        made.observe(NEAR)
    assert made.staleness.cosine == pytest.approx(0.05)  # the mean of ten
    made.observe(FAR)
    assert made.staleness.cosine == pytest.approx(0.9 * 0.05 + 0.1 * 0.5)  # from then on a tenth is the newest
    made.refreshed(5)
    made.observe(FAR)
    assert made.staleness.cosine == 0.5


def test_what_is_measured_in_mid_refresh_decides_nothing() -> None:
    made = schedule(when=0.2, rebuild_when=0.3)
    made.built(0)
    made.observe(NEAR)
    made.refreshed(10)
    for _ in range(20):
        made.observe(FAR, is_refreshing=True)
    assert made.staleness.cosine > 0.4
    for each in (made, resumed(made, when=0.2, rebuild_when=0.3)):
        assert not each.refresh_is_due(1000)
        assert not each.rebuild_is_due(1000)
        each.observe(NEAR)
        assert each.staleness == NEAR  # what came before it is void
        each.observe(FAR)
        assert each.refresh_is_due(1000)
