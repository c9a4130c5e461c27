"""What has arrived: newest only, each with its own time, and nothing made up for what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.robots._igris.files import read_topics
from chunkwise.robots._igris.messages import Float32MultiArray, Header, JointState, Time
from chunkwise.robots._igris.readings import Readings

LEFT, RIGHT, FINGERS = (
    "/observation/joint_pos/left",
    "/observation/joint_pos/right",
    "/observation/hand_joint_pos/left",
)


@pytest.fixture
def made(files: Any, clock: Any) -> Any:
    subscriptions = read_topics(files.topics()).subscriptions
    return Readings({LEFT: 6, FINGERS: 6}, clock, lambda: clock() + 1e6), subscriptions


def stamped(seconds: float, value: float = 0.0, count: int = 12) -> JointState:
    stamp = Time(int(seconds), round(seconds % 1 * 1e9))
    return JointState(Header(stamp), position=np.full(count, value), effort=np.zeros(count))


def test_the_time_of_arrival_where_there_is_no_stamp(made: Any, clock: Any) -> None:
    readings, (joints, fingers, _) = made
    readings.take(fingers, Float32MultiArray(np.ones(12)))
    readings.take(joints, stamped(0.0))
    assert readings.newest[FINGERS].time_ns == readings.newest[LEFT].time_ns == 100_000_000_000


def test_a_stamp_tells_the_age_on_the_loops_clock(made: Any, clock: Any) -> None:
    readings, (joints, _, _) = made
    readings.take(joints, stamped(1e6 + 99.75))
    assert readings.newest[LEFT].time_ns == 99_750_000_000


def test_a_stamp_of_the_future_is_now(made: Any, clock: Any) -> None:
    readings, (joints, _, _) = made
    readings.take(joints, stamped(2e6))
    assert readings.newest[LEFT].time_ns == 100_000_000_000


def test_the_newest_stays(made: Any, clock: Any) -> None:
    readings, (joints, _, _) = made
    readings.take(joints, stamped(1e6 + 99.5, 1.0))
    readings.take(joints, stamped(1e6 + 99.0, 2.0))
    assert readings.newest[LEFT].value[0] == 1.0 and readings.newest[LEFT].time_ns == 99_500_000_000


def test_receipt_when_stamps_are_not_trusted(files: Any, clock: Any) -> None:
    readings = Readings({}, clock)
    readings.take(read_topics(files.topics()).subscriptions[0], stamped(5.0))
    assert readings.newest[LEFT].time_ns == 100_000_000_000


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (stamped(0.0, count=7), "joint_states: position has 7 numbers"),
        (stamped(0.0, float("nan")), "joint_states: position holds a number that is not finite"),
        (Float32MultiArray(np.zeros(12)), "a Float32MultiArray without position"),
    ],
)
def test_what_is_wrong_keeps_the_value_and_its_old_time(made: Any, clock: Any, message: Any, said: str) -> None:
    readings, (joints, _, _) = made
    readings.take(joints, stamped(0.0, 0.5))
    clock.sleep(1.0)
    readings.take(joints, message)
    assert said in readings.faults[LEFT]
    assert readings.newest[LEFT].time_ns == 100_000_000_000 and (readings.newest[LEFT].value == 0.5).all()
    readings.take(joints, stamped(0.0, 0.75))
    assert not readings.faults and readings.newest[LEFT].time_ns == 101_000_000_000


def test_one_side_that_is_missing_leaves_the_other_fresh(made: Any, clock: Any) -> None:
    readings, (joints, _, _) = made
    readings.take(joints, stamped(0.0, 0.5))
    clock.sleep(1.0)
    readings.take(joints, JointState(position=np.ones(6), effort=np.ones(6)))
    assert readings.newest[RIGHT].time_ns == 101_000_000_000 and readings.newest[LEFT].time_ns == 100_000_000_000


def test_what_is_for_recorders_is_not_read(files: Any, clock: Any) -> None:
    def add(topics: dict[str, Any]) -> None:
        topics["joints"]["fields"]["/action/left"] = {"attr": "velocity", "slice": [0, 6]}

    readings = Readings({}, clock)
    joints = read_topics(files.topics(add)).subscriptions[0]
    readings.take(joints, stamped(0.0))
    assert "/action/left" not in readings.newest and not readings.faults


def test_nothing_is_kept_but_the_newest_and_nobody_can_write_it(made: Any, clock: Any) -> None:
    readings, (joints, _, _) = made
    for _ in range(1000):
        readings.take(joints, stamped(0.0))
    assert len(readings.newest) == len(joints.fields) and not readings.faults
    with pytest.raises(ValueError, match="read-only"):
        readings.newest[LEFT].value[0] = 1.0
