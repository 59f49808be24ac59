"""When the dynamic source refreshes, and when it measures the encoder's noise: the decisions alone."""

from __future__ import annotations

import pytest

from hardwood.negatives.dynamic.noise import Noise
from hardwood.negatives.dynamic.policy import RefreshPolicy
from hardwood.negatives.dynamic.schedule import RefreshSchedule
from hardwood.negatives.dynamic.staleness import Staleness

FAR, NEAR = Staleness(0.5, 0.0, 0.0), Staleness(0.0, 0.0, 0.0)


def schedule(**options: object) -> RefreshSchedule:
    return RefreshSchedule(RefreshPolicy(**{"when": None, "spacing": 3, **options}), num_targets=1000)  # type: ignore[arg-type]


def resumed(made: RefreshSchedule, **options: object) -> RefreshSchedule:
    other = schedule(**options)
    other.load_state_dict(made.state_dict())
    return other


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


def remembered(noise: Noise) -> Noise:
    other = Noise()
    other.load_state_dict(noise.state_dict())
    return other


def test_noise_is_no_staleness() -> None:
    """Errors count from the encoder's noise on."""
    made = schedule(when=0.05)
    made.built(0)
    for _ in range(50):
        made.observe(Staleness(0.14, 0.0, 0.0))
    assert made.refresh_is_due(100)
    for each in (made, resumed(made, when=0.05)):
        assert not each.refresh_is_due(100, noise=0.1)
    for _ in range(50):
        made.observe(Staleness(0.16, 0.0, 0.0))
    for each in (made, resumed(made, when=0.05)):
        assert each.refresh_is_due(100, noise=0.1)


def test_noise_is_measured_after_a_build_and_where_there_is_some_after_a_refresh() -> None:
    noise = Noise()
    assert not noise.is_wanted
    noise.built()
    assert remembered(noise).is_wanted
    noise.measured(1e-5)  # what rounding does is no noise
    assert (noise.level, noise.is_wanted) == (0.0, False)
    noise.refreshed()
    assert not noise.is_wanted
    noise.measured(0.1)
    assert not noise.is_wanted
    noise.refreshed()
    assert remembered(noise).is_wanted
    assert remembered(noise).level == 0.1
    noise.built()
    assert (noise.level, noise.is_wanted) == (0.0, True)


def test_noise_that_comes_later_is_found() -> None:
    """Where there was none it is looked for again, ever more rarely, also by a run that was resumed in between."""
    noise = Noise()
    noise.built()
    noise.measured(0.0)
    looked = []
    for since in range(100):
        noise = remembered(noise) if since == 20 else noise
        noise.begin_step(since)
        if noise.is_wanted:
            looked.append(since)
            noise.measured(0.0 if since < 30 else 0.1)
    assert looked == [1, 2, 4, 8, 16, 32]  # from where it is found on, refreshes look
    assert noise.level == 0.1


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
    made = schedule(when=0.2)
    made.built(0)
    made.observe(NEAR)
    made.refreshed(10)
    for _ in range(20):
        made.observe(FAR, is_refreshing=True)
    assert made.staleness.cosine > 0.4
    for each in (made, resumed(made, when=0.2)):
        assert not each.refresh_is_due(1000)
        each.observe(NEAR)
        assert each.staleness == NEAR  # what came before it is void
        each.observe(FAR)
        assert each.refresh_is_due(1000)
