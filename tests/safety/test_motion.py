"""Ramps and brakes: soft, within the limits, all columns together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import ComponentSpec, InterfaceValidationError, RobotSpec, robot_layout
from chunkwise.safety import Brake, Ramp, initial_row

PERIOD_S = 0.02
ARM = ComponentSpec("arm", "arm", 2, ["joint_position"], max_rate=[1.0, 2.0], initial=[0.5, -0.5])
GRIPPER = ComponentSpec("gripper", "gripper", 1, ["gripper_position"], unit="m")
BASE = ComponentSpec("base", "base", 2, ["joint_velocity"], max_rate=1.0)
ROBOT = RobotSpec("robot", [], [ARM, GRIPPER])
LAYOUT = robot_layout(ROBOT)


def test_the_initial_row_moves_what_has_an_initial_pose_and_leaves_the_rest() -> None:
    row = initial_row(ROBOT, LAYOUT, np.array([0.1, 0.2, 0.03]))
    assert row is not None
    assert row.tolist() == [0.5, -0.5, 0.03]


def test_without_an_initial_pose_there_is_nowhere_to_go() -> None:
    robot = RobotSpec("robot", [], [GRIPPER])
    assert initial_row(robot, robot_layout(robot), np.array([np.nan])) is None


@pytest.mark.parametrize("unknown", [0, 2])
def test_a_ramp_needs_to_know_where_all_of_the_robot_stands(unknown: int) -> None:
    standing = np.zeros(3)
    standing[unknown] = np.nan
    with pytest.raises(InterfaceValidationError, match=r"does not say where (arm|gripper) stands"):
        initial_row(ROBOT, LAYOUT, standing)


@pytest.mark.parametrize("wrong", [[0.0], [np.nan, 0.0], [3.0, 0.0]])
def test_an_initial_pose_must_be_one(wrong: Any) -> None:
    from chunkwise.contract import validate_robot_spec

    arm = ComponentSpec("arm", "arm", 2, ["joint_position"], lower=[-1, -1], upper=[1, 1], initial=wrong)
    with pytest.raises(InterfaceValidationError, match="initial"):
        validate_robot_spec(RobotSpec("robot", [], [arm]))


angles = st.floats(-3, 3)


@given(st.tuples(angles, angles, angles), st.tuples(angles, angles, angles))
def test_a_ramp_arrives_softly_within_its_share_of_the_limits(start: Any, goal: Any) -> None:
    a, b = np.array(start), np.array(goal)
    ramp = Ramp(LAYOUT, a, b, PERIOD_S, share=0.5, unlimited_rate=0.4)
    rows = np.array([a, *(ramp.row(index) for index in range(1, ramp.steps + 2))])
    assert np.array_equal(rows[-1], b)
    speeds = np.abs(np.diff(rows, axis=0)) / PERIOD_S
    assert (speeds <= np.array([0.5, 1.0, 0.4]) + 1e-6).all()
    assert (np.diff(rows, axis=0) * np.sign(b - a) >= -1e-12).all(), "no way back"
    if ramp.steps > 10:
        assert speeds[0].max() < 0.15 * speeds.max(), "it sets off softly"
        assert speeds[-2].max() < 0.15 * speeds.max(), "and arrives softly"


def test_a_ramp_to_where_the_robot_stands_has_no_rows() -> None:
    assert Ramp(LAYOUT, np.ones(3), np.ones(3), PERIOD_S).steps == 0


def test_a_brake_lets_every_targets_speed_fall_evenly() -> None:
    brake = Brake(LAYOUT, np.array([0.0, 1.0, 0.0]), np.array([0.1, 0.8, 0.01]), 10)
    rows = np.array([[0.1, 0.8, 0.01], *(brake.row(index) for index in range(1, 13))])
    speeds = np.diff(rows, axis=0)
    assert np.allclose(speeds[:10, 0], 0.1 * (1 - np.arange(1, 11) / 10))
    assert np.allclose(speeds[:10, 1], -0.2 * (1 - np.arange(1, 11) / 10))
    assert np.allclose(speeds[9:], 0), "it stands"
    assert np.allclose(speeds[:, 2], 0), "a gripper is not averaged: it stops at once"


def test_a_brake_brings_a_velocity_to_zero_and_one_row_to_a_hold() -> None:
    layout = robot_layout(RobotSpec("base", [], [BASE]))
    brake = Brake(layout, np.array([0.5, -0.5]), np.array([0.5, -0.5]), 5)
    assert np.allclose([brake.row(index)[0] for index in range(1, 7)], [0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    still = Brake(LAYOUT, None, np.array([0.1, 0.2, 0.3]), 5)
    assert np.array_equal(still.row(3), [0.1, 0.2, 0.3])
