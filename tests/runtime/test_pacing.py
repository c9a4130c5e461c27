from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise.runtime.pacing import Histogram, Pacer, StepClock
from chunkwise.testing.world import SimulatedClock


def test_deadlines_do_not_drift_when_every_sleep_ends_late() -> None:
    clock = SimulatedClock(7.0)
    pacer = Pacer(50.0, clock=clock, sleep=lambda seconds: clock.sleep(seconds + 0.003))
    for step in range(1000):
        assert pacer.wait() == step
        assert clock() == pytest.approx(7.0 + step / 50 + (0.003 if step else 0.0))
    assert (pacer.missed, pacer.late) == (0, 0)
    assert pacer.achieved_hz == pytest.approx(50.0, rel=1e-3)


def test_a_sleep_that_ends_early_is_slept_again() -> None:
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=lambda seconds: clock.sleep(max(seconds / 2, 1e-6)))
    pacer.wait()
    assert pacer.wait() == 1
    assert 0.02 <= clock() < 0.0201


def test_missed_periods_are_skipped_and_counted() -> None:
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    assert pacer.wait() == 0
    clock.sleep(0.09)  # steps 1, 2 and 3 have passed, step 4 is half over
    assert pacer.wait() == 4
    assert (pacer.missed, pacer.late, pacer.steps) == (3, 1, 2)
    assert pacer.late_s == pytest.approx(0.01)
    assert pacer.wait() == 5
    assert clock() == pytest.approx(0.10)


def test_late_is_more_than_half_a_period() -> None:
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    pacer.wait()
    clock.sleep(0.02 + 0.009)
    pacer.wait()
    assert pacer.late == 0
    clock.sleep(0.02 + 0.002)
    pacer.wait()
    assert pacer.late == 1


def test_step_now_moves_on_inside_a_step_and_never_back() -> None:
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    pacer.wait()
    assert pacer.step_now() == 0
    clock.sleep(0.061)
    assert pacer.step_now() == 3
    assert pacer.missed == 3
    assert pacer.wait() == 4


@pytest.mark.parametrize("control_hz", [30.0, 50.0, 120.0, 333.3, 1000.0])
def test_rounding_misses_no_step(control_hz: float) -> None:
    clock = SimulatedClock(12345.678)
    pacer = Pacer(control_hz, clock=clock, sleep=clock.sleep)
    assert [pacer.wait() for _ in range(3000)] == list(range(3000))
    assert pacer.missed == 0


@settings(max_examples=100)
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=60), st.sampled_from([10.0, 50.0, 200.0]))
def test_whatever_the_work_takes_a_step_begins_in_its_own_period(work: list[float], control_hz: float) -> None:
    clock = SimulatedClock(3.0)
    pacer = Pacer(control_hz, clock=clock, sleep=clock.sleep)
    last = -1
    for seconds in work:
        step = pacer.wait()
        assert step > last
        assert -1e-8 <= clock() - (3.0 + step / control_hz) < 1 / control_hz
        assert pacer.steps + pacer.missed == step + 1
        last = step
        clock.sleep(seconds)


def test_reset_starts_again_at_step_zero() -> None:
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    for step in pacer:
        if step == 5:
            break
    pacer.reset()
    clock.sleep(1.0)
    assert pacer.wait() == 0


def test_a_rate_of_nothing_is_refused() -> None:
    for control_hz in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="control_hz"):
            Pacer(control_hz)


def test_histogram_quantiles_are_an_eighth_above_numpys_at_most() -> None:
    seconds = np.random.default_rng(0).lognormal(-7, 1.5, 5000)
    histogram = Histogram()
    for value in seconds:
        histogram.record(float(value))
    for share in (0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = np.quantile(seconds, share, method="inverted_cdf")
        assert exact * (1 - 1e-6) <= histogram.quantile(share) <= exact * 1.126
    assert histogram.count == 5000
    assert histogram.max_s == seconds.max()


def test_histogram_of_nothing_and_of_extremes() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0.0
    for value in (-1.0, 0.0, 1e-9, 1e9, 1e12):
        histogram.record(value)
    assert histogram.quantile(0.2) <= 1e-9
    assert histogram.max_s == 1e12


@settings(max_examples=60)
@given(st.lists(st.floats(-0.4, 0.4), min_size=1, max_size=80), st.sampled_from([10.0, 50.0, 333.3]))
def test_calls_that_come_a_little_early_or_late_repeat_and_skip_no_step(jitter: list[float], hz: float) -> None:
    steps = StepClock(hz)
    assert steps.next(50.0) == 0
    for number, off in enumerate(jitter, 1):
        assert steps.next(50.0 + (number + off) / hz) == number


def test_after_a_gap_the_step_is_the_one_whose_time_it_is() -> None:
    steps = StepClock(50.0)
    assert [steps.next(1.0 + 0.02 * number) for number in range(4)] == [0, 1, 2, 3]
    assert steps.next(1.0 + 0.02 * (3 + 5) + 0.005) == 8
    assert steps.next(1.0 + 0.02 * (3 + 6) + 0.005) == 9


def test_calls_at_twice_the_rate_have_each_step_twice() -> None:
    steps = StepClock(50.0)
    told = [steps.next(7.0 + 0.01 * number) for number in range(200)]
    assert told == [0, *(step for step in range(1, 100) for _ in range(2)), 100]


def test_calls_at_half_the_rate_have_every_second_step() -> None:
    steps = StepClock(50.0)
    told = [steps.next(7.0 + 0.04 * number) for number in range(100)]
    assert told == list(range(0, 200, 2))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_the_step_of_a_moment_is_the_one_whose_period_it_is_and_never_an_earlier_one(waits: list[float]) -> None:
    steps, now, last = StepClock(20.0), 100.0, 0
    assert steps.step(now) == 0
    for wait in waits:
        now += wait
        step = steps.step(now)
        assert step >= last
        assert abs(step - (now - 100.0) * 20.0 + 0.5) <= 0.5 + 1e-5
        last = step
    assert steps.step(now - 50.0) == last  # a clock that goes back does not take the robot back


@pytest.mark.parametrize("control_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_of_no_rate_are_refused(control_hz: float) -> None:
    with pytest.raises(ValueError, match="control_hz"):
        StepClock(control_hz)
