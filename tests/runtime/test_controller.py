"""RealtimeController: the caller's loop at absolute deadlines."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest

from chunkwise import InterfaceValidationError, RealtimeController
from chunkwise.testing.world import SimulatedClock


def controller(clock: SimulatedClock, said: list[str] | None = None, **options: float) -> RealtimeController:
    emitter = (said if said is not None else []).append
    return RealtimeController(hz=10.0, clock=clock, sleeper=clock.sleep, warning_emitter=emitter, **options)


def test_the_first_wait_lasts_a_period_and_deadlines_do_not_drift() -> None:
    clock, said = SimulatedClock(), []
    paced = controller(clock, said)
    slept = []
    for work in (0.0, 0.02, 0.35, 0.02, 0.02):
        clock.sleep(work)
        slept.append(round(paced.wait(), 9))
    assert slept == [0.1, 0.08, 0.0, 0.03, 0.08]
    assert len(said) == 1 and "10.000 Hz" in said[0]


def test_missed_ticks_are_skipped_and_counted() -> None:
    clock = SimulatedClock()
    paced = controller(clock)
    for work in (0.0, 0.35, 0.02):
        clock.sleep(work)
        paced.wait()
    assert paced.missed_ticks == 2
    assert round(clock(), 9) == 0.5


def test_a_long_run_stays_on_the_grid() -> None:
    clock = SimulatedClock()
    paced = controller(clock)
    for _ in range(1000):
        clock.sleep(0.037)
        paced.wait()
    assert round(clock(), 6) == 100.037
    assert paced.missed_ticks == 0


def test_a_late_loop_is_told_once_in_a_while() -> None:
    clock, said = SimulatedClock(), []
    paced = controller(clock, said, warning_interval_s=1.0)
    for _ in range(10):
        clock.sleep(0.25)
        paced.wait()
    assert len(said) == 3  # of ten, 2.5 s long


def test_a_warning_never_stops_the_loop() -> None:
    clock = SimulatedClock()
    paced = RealtimeController(hz=10.0, clock=clock, sleeper=clock.sleep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            clock.sleep(0.25)
            paced.wait()


def test_reset_sets_a_new_origin() -> None:
    clock = SimulatedClock()
    paced = controller(clock)
    paced.wait()
    clock.sleep(100.0)
    paced.reset()
    assert round(paced.wait(), 9) == 0.1 and paced.missed_ticks == 0


def test_rate_or_period() -> None:
    assert RealtimeController(period_s=0.02).hz == 50.0
    assert RealtimeController(50.0).period_s == 0.02


@pytest.mark.parametrize(
    "wrong", [{}, {"hz": 1.0, "period_s": 1.0}, {"hz": 0.0}, {"hz": -1.0}, {"hz": math.inf}, {"period_s": 0.0}]
)
def test_exactly_one_of_them_and_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(InterfaceValidationError):
        RealtimeController(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"hz": 2e6}, {"hz": "50"}, {"period_s": True}, {"period_s": "x"}, {"period_s": 0.0}]
)
def test_a_rate_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InterfaceValidationError, match="1e6 Hz, got"):
        RealtimeController(**wrong)
