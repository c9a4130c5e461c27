"""The states of a run: what brings each, what ends it, and how long a hold may last."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import InterfaceValidationError
from chunkwise.safety import Limits, Mode, Modes, Sight


def sight(step: int = 0, **given: Any) -> Sight:
    return Sight(**{"step": step, "time_s": step / 50, "planned": True, "begun": True} | given)


@pytest.mark.parametrize(
    ("given", "mode", "why"),
    [
        ({}, Mode.RUNNING, "a plan runs"),
        ({"planned": False, "begun": False}, Mode.HOLD, "no plan yet"),
        ({"planned": False}, Mode.HOLD, "the plan ended"),
        ({"planned": False, "trouble": "lost: no answer"}, Mode.HOLD, "the plan ended: lost: no answer"),
        ({"trouble": "late"}, Mode.DEGRADED, "late"),
        ({"trouble": "late", "stale": "head is 2.00 s old"}, Mode.HOLD, "head is 2.00 s old"),
        ({"refused": "age"}, Mode.HOLD, "refused by the gate: age"),
    ],
)
def test_what_a_period_shows_is_the_state(given: Any, mode: Mode, why: str) -> None:
    modes = Modes(mode=Mode.RUNNING if mode is not Mode.RUNNING else Mode.HOLD)
    change = modes.see(sight(7, **given))
    assert change is not None
    assert (change.step, change.time_s, change.after, change.why) == (7, 0.14, mode, why)
    assert modes.see(sight(8, **given)) is None, "a state that goes on is no change"


def test_a_hold_that_lasts_too_long_stops_the_run_for_good() -> None:
    modes = Modes(Limits(hold_s=1.0))
    modes.see(sight(0))
    for step in range(1, 52):
        modes.see(sight(step, planned=False))
        assert modes.mode is Mode.HOLD
    change = modes.see(sight(52, planned=False))
    assert change is not None and change.why == "held for 1 s: the plan ended"
    assert modes.see(sight(53)) is None
    assert modes.mode is Mode.STOPPED


def test_a_hold_that_was_interrupted_begins_again() -> None:
    modes = Modes(Limits(hold_s=1.0))
    for step in range(500):
        modes.see(sight(step, planned=step % 40 == 0))
    assert modes.mode is not Mode.STOPPED


def test_waiting_for_the_first_chunk_is_no_hold_that_is_too_long() -> None:
    modes = Modes(Limits(hold_s=1.0))
    for step in range(5000):
        modes.see(sight(step, planned=False, begun=False))
    assert modes.mode is Mode.HOLD


def test_the_operator_stops_any_state_once() -> None:
    modes = Modes()
    change = modes.stop("stopped by the operator", 3, 0.06)
    assert change is not None and change.before is Mode.HOLD
    assert modes.stop("again", 4, 0.08) is None
    assert modes.why == "stopped by the operator"


def test_each_sensor_has_its_own_limit() -> None:
    limits = Limits({"head": 0.1, "": 1.0})
    assert limits.stale({"head": 0.09, "arm": 0.9}) == ""
    assert limits.stale({"head": 0.11, "arm": 0.9}) == "head is 0.11 s old"
    assert limits.stale({"head": 0.0, "arm": 1.1}) == "arm is 1.10 s old"
    assert Limits({"head": 0.1}).stale({"arm": 1e9}) == "", "it has no limit"
    assert Limits(0.5).stale({"a": 0.6, "b": 0.7}) == "a is 0.60 s old, b is 0.70 s old"


def test_one_that_is_given_up_or_of_another_clock_is_stale_whatever_its_limit() -> None:
    limits = Limits({"": 1.0, "lift": float("inf")})
    assert limits.stale({"lift": 1e6}) == ""
    assert limits.stale({"lift": float("inf"), "arm": -0.9}) == "lift is of no use, by the robot's own word"
    assert limits.stale({"arm": -1.5}) == "arm is of another clock than the loop's, 1.50 s ahead"


@pytest.mark.parametrize(
    "wrong", [{"observation_age_s": 0.0}, {"observation_age_s": {"a": -1.0}}, {"hold_s": 0.0}]
)
def test_limits_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(InterfaceValidationError, match="must be above zero"):
        Limits(**wrong)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", "late"]), st.sampled_from(["", "head"])), max_size=60)
)
def test_changes_lead_from_one_state_to_the_next_and_rows_run_in_two_of_them(story: Any) -> None:
    modes, last = Modes(Limits(hold_s=0.5)), Mode.HOLD
    for step, (planned, trouble, stale) in enumerate(story):
        change = modes.see(sight(step, planned=planned, trouble=trouble, stale=stale))
        if change is not None:
            assert change.before is last and change.after is not last and change.why
            last = change.after
        assert modes.mode is last
        if last in (Mode.RUNNING, Mode.DEGRADED):
            assert planned and not stale
