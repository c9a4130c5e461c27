"""The flat layout, both ways: rows to commands by name and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import (
    Action,
    BindingError,
    Command,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    RobotSpec,
    Rotation,
    robot_layout,
)
from chunkwise.contract.rotations import to_quaternion

ROBOT = RobotSpec(
    "robot",
    [],
    [
        ComponentSpec("arm", "arm", 2, ["joint_position", "joint_velocity"], joint_names=["a", "b"]),
        ComponentSpec("gripper", "gripper", 1, ["gripper_position", "gripper_open_close"], unit="m"),
        ComponentSpec("base", "base", 3, ["joint_velocity"], max_rate=[1, 2, 3]),
    ],
)
LAYOUT = robot_layout(ROBOT)
numbers = st.floats(-1e6, 1e6)


def test_columns_follow_the_robots_order() -> None:
    assert LAYOUT.width == 6
    assert [(slot.component, slot.start, slot.stop, slot.dim) for slot in LAYOUT.slots] == [
        ("arm", 0, 2, 2),
        ("gripper", 2, 3, 1),
        ("base", 3, 6, 3),
    ]
    assert LAYOUT.names == ["a", "b", "gripper.0", "base.0", "base.1", "base.2"]
    assert LAYOUT.components == ["arm", "gripper", "base"]
    assert LAYOUT.slot("gripper").unit == "m"
    with pytest.raises(KeyError, match="did you mean 'gripper'"):
        LAYOUT.slot("griper")


@given(st.lists(numbers, min_size=6, max_size=6), st.permutations(["arm", "gripper", "base"]))
def test_a_row_goes_to_commands_and_back_whatever_their_order(values: list[float], order: list[str]) -> None:
    row = np.array(values)
    action = LAYOUT.action(row)
    assert np.array_equal(action.commands["base"].value, row[3:])
    shuffled = Action({name: action.commands[name] for name in order})
    assert np.array_equal(LAYOUT.row(shuffled), row)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": None}, r"missing \['base'\]"),
        ({"bace": Command("joint_velocity", np.zeros(3))}, r"unknown \['bace'\] \(did you mean 'base'\?\)"),
        ({"arm": Command("joint_velocity", np.zeros(2))}, "'arm'.* is 'joint_velocity', the robot runs"),
        ({"arm": Command("joint_position", np.zeros(3))}, "'arm'.* has 3 numbers, needs 2"),
        ({"arm": Command("joint_position", [0.0, np.nan])}, "'arm'.*: b is nan, not a number"),
    ],
)
def test_an_action_that_is_no_row_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    commands = LAYOUT.action(np.zeros(6)).commands | change
    with pytest.raises(InterfaceValidationError, match=words):
        LAYOUT.row(Action({name: command for name, command in commands.items() if command is not None}))


def test_targets_repeat_and_velocities_go_to_zero() -> None:
    np.testing.assert_array_equal(LAYOUT.hold(np.arange(1.0, 7.0)), [1, 2, 3, 0, 0, 0])
    moving = robot_layout(ROBOT, {"arm": "joint_velocity"})
    np.testing.assert_array_equal(moving.hold(np.ones(6)), [0, 0, 1, 0, 0, 0])


def test_a_component_may_overrule_its_kinds_hold() -> None:
    base = ComponentSpec("base", "base", 1, ["joint_velocity"], hold="repeat")
    assert robot_layout(RobotSpec("r", [], [base])).zero_hold is None


def test_the_state_tells_where_the_robot_stands() -> None:
    state = {"arm": np.array([1.0, 2.0]), "gripper": np.array([0.5])}
    np.testing.assert_array_equal(LAYOUT.measured(Frame(state=state)), [1, 2, 0.5, 0, 0, 0])
    for change in (
        {"arm": np.zeros(3)},
        {"gripper": np.array([np.nan])},
    ):
        assert LAYOUT.measured(Frame(state=state | change)) is None
    assert LAYOUT.measured(Frame(state={"arm": np.zeros(2)})) is None
    assert robot_layout(ROBOT, {"gripper": "gripper_open_close"}).measured(Frame(state=state)) is None


def test_joint_angles_are_not_taken_for_a_pose() -> None:
    for rotation in (None, Rotation.QUATERNION_XYZW):
        arm = ComponentSpec("arm", "arm", 7, ["cartesian_pose"], rotation=rotation)
        layout = robot_layout(RobotSpec("r", [], [arm]))
        assert layout.measured(Frame(state={"arm": np.zeros(7)})) is None


def test_limits_are_those_of_what_is_commanded() -> None:
    arm = ComponentSpec(
        "arm",
        "arm",
        6,
        ["joint_position", "joint_position_delta", "cartesian_twist", "cartesian_pose"],
        lower=[-1.0] * 6,
        upper=[1.0] * 6,
        max_rate=2.0,
        rotation="rotation_vector",
    )
    robot = RobotSpec("r", [], [arm])
    (positions,) = robot_layout(robot).slots
    assert positions.lower.tolist() == [-1.0] * 6 and positions.max_rate.tolist() == [2.0] * 6
    (deltas,) = robot_layout(robot, {"arm": "joint_position_delta"}).slots
    assert np.isinf(deltas.lower).all() and deltas.max_rate.tolist() == [2.0] * 6
    # Joint limits say nothing about metres, though there are six numbers of each.
    (pose,) = robot_layout(robot, {"arm": "cartesian_pose"}).slots
    assert np.isinf(pose.lower).all() and np.isinf(pose.upper).all()


def test_the_rotation_gives_a_pose_its_size() -> None:
    for rotation in Rotation:
        arm = ComponentSpec("arm", "arm", 7, ["cartesian_pose"], rotation=rotation)
        layout = robot_layout(RobotSpec("r", [], [arm]))
        assert layout.width == 3 + rotation.dim and layout.slots[0].rotation is rotation


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ({"amr": "joint_position"}, "no component 'amr' .did you mean 'arm'"),
        (
            {"arm": "cartesian_pose"},
            "'arm' does not take 'cartesian_pose'; it takes joint_position, joint_velocity",
        ),
    ],
)
def test_a_choice_that_the_robot_does_not_offer_is_refused(commands: dict[str, str], words: str) -> None:
    with pytest.raises(BindingError, match=words):
        robot_layout(ROBOT, commands)


@pytest.mark.parametrize("rotation", list(Rotation))
def test_a_pose_delta_holds_by_no_turn_however_that_is_written(rotation: Rotation) -> None:
    arm = ComponentSpec("arm", "arm", 6, ["cartesian_pose_delta"], rotation=rotation)
    layout = robot_layout(RobotSpec("r", [], [arm]))
    held = layout.hold(np.ones(layout.width))
    assert held[:3].tolist() == [0.0, 0.0, 0.0]
    assert to_quaternion(held[3:], rotation) == pytest.approx([0.0, 0.0, 0.0, 1.0])
    assert layout.standing(Frame()).tolist() == held.tolist()


def test_a_component_that_does_not_tell_where_it_is_hides_no_other() -> None:
    arm = ComponentSpec("arm", "arm", 2, ["joint_position"])
    gripper = ComponentSpec("gripper", "gripper", 1, ["gripper_open_close"])
    layout = robot_layout(RobotSpec("r", [], [arm, gripper]))
    frame = Frame(state={"arm": np.array([1.0, 2.0]), "gripper": np.array([0.04])})
    np.testing.assert_array_equal(layout.standing(frame), [1.0, 2.0, np.nan])
    assert layout.measured(frame) is None
