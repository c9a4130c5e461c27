"""Binding a policy to a robot by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import (
    MAX_ROWS,
    Action,
    ActionChunk,
    Binding,
    BindingError,
    ChunkRequest,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    checked_rows,
    connect,
    spec_of_answer,
)

JOINTS = ["shoulder", "elbow", "wrist"]
RIGHT = ComponentSpec("right_arm", "arm", 3, ["joint_position"], joint_names=JOINTS)
LEFT = ComponentSpec("left_arm", "arm", 3, ["joint_position", "cartesian_pose"], joint_names=JOINTS)
GRIPPER = ComponentSpec("gripper", "gripper", 1, ["gripper_position"], unit="m")
ROBOT = RobotSpec("robot", ["head"], [RIGHT, LEFT, GRIPPER], state_keys=["force"])


def output(target: str, names: list[str] | None = None, **more: Any) -> PolicyOutputSpec:
    if target == "gripper":
        return PolicyOutputSpec("gripper", "gripper_position", 1, **more)
    return PolicyOutputSpec(target, "joint_position", 3, names=names or [], **more)


def policy(*outputs: PolicyOutputSpec, **more: Any) -> PolicySpec:
    return PolicySpec("policy", more.pop("images", []), more.pop("states", []), outputs=list(outputs), **more)


@st.composite
def orders(draw: st.DrawFn) -> PolicySpec:
    """A policy whose outputs and joints stand in any order, and which may leave components out."""
    targets = draw(st.permutations(["right_arm", "left_arm", "gripper"]))
    targets = targets[: draw(st.integers(1, 3))]
    return policy(*(output(target, draw(st.permutations(JOINTS))) for target in targets))


def label(spec: PolicySpec) -> list[str]:
    """The name of each of the policy's columns."""
    return [f"{item.target}/{name}" for item in spec.outputs for name in (item.names or [f"{item.target}.0"])]


def robot_label(binding: Binding) -> list[str]:
    """The name of each of the robot's columns."""
    return [f"{slot.component}/{name}" for slot in binding.layout.slots for name in slot.names]


@given(orders())
def test_every_number_goes_to_the_joint_of_its_name_and_back(spec: PolicySpec) -> None:
    binding = connect(ROBOT, spec)
    numbers = {name: float(index) for index, name in enumerate(sorted(label(spec)))}
    of_policy = np.array([[numbers[name] for name in label(spec)]] * 2)
    of_robot = np.array([[numbers[name] for name in robot_label(binding)]] * 2)
    np.testing.assert_array_equal(binding.to_robot(of_policy), of_robot)
    np.testing.assert_array_equal(binding.to_policy(of_robot), of_policy)
    np.testing.assert_array_equal(binding.chunk(of_policy).rows, of_robot)
    request = binding.request(ChunkRequest(0, prefix=of_robot))
    np.testing.assert_array_equal(request.prefix, of_policy)
    assert [slot.component for slot in binding.layout.slots] == [
        item.name for item in ROBOT.components if spec.get_output(item.name) is not None
    ]


@given(st.permutations(JOINTS))
def test_states_come_in_the_order_that_the_policy_declares(names: list[str]) -> None:
    binding = connect(ROBOT, policy(output("gripper"), states=["left_arm"], state_names={"left_arm": names}))
    frame = Frame(state={"left_arm": np.array([0.0, 1.0, 2.0]), "force": np.zeros(1)}, timestamp_ns=7)
    seen = binding.frame(frame)
    assert seen.state["left_arm"].tolist() == [float(JOINTS.index(name)) for name in names]
    assert seen.state["force"] is frame.state["force"] and seen.timestamp_ns == 7
    assert frame.state["left_arm"].tolist() == [0.0, 1.0, 2.0]


def test_what_is_in_order_already_is_not_touched() -> None:
    binding = connect(ROBOT, policy(output("right_arm"), output("left_arm", JOINTS)))
    rows, frame, request = np.zeros((2, 6)), Frame(), ChunkRequest(0, prefix=np.zeros((1, 6)))
    assert binding.to_robot(rows) is rows and binding.to_policy(rows) is rows
    assert binding.frame(frame) is frame and binding.request(request) is request


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (policy(output("right_amr")), ["output 'right_amr': no such component (did you mean 'right_arm'?)"]),
        (policy(output("gripper"), images=["haed"]), ["camera 'haed' is missing (did you mean 'head'?)", "head"]),
        (policy(output("gripper"), states=["forze"]), ["state 'forze' is missing (did you mean 'force'?)"]),
        (policy(output("gripper"), state_names={"arm": ["a"]}), ["state 'arm' is missing"]),
        (policy(), ["declares no outputs"]),
        (
            policy(output("left_arm", ["shoulder", "elbow", "wrst"])),
            ["unknown joints 'wrst' (did you mean 'wrist'?); without 'wrist'"],
        ),
        (
            policy(output("gripper"), state_names={"left_arm": ["shoulder", "elbow"]}),
            ["state 'left_arm': unknown joints none; without 'wrist'"],
        ),
        (policy(PolicyOutputSpec("left_arm", "joint_position", 2)), ["3 joints, the policy answers 2 numbers"]),
        (
            policy(PolicyOutputSpec("right_arm", "joint_velocity", 3)),
            ["takes joint_position, not 'joint_velocity'"],
        ),
        (policy(output("gripper", unit="rad")), ["the policy answers rad, the robot takes m; convert it"]),
        (
            policy(PolicyOutputSpec("left_arm", "cartesian_pose", 7, rotation="rotation_vector")),
            ["x y z and a rotation_vector are 6 numbers, the policy answers 7"],
        ),
        (
            policy(output("right_amr"), output("gripper", unit="rad"), images=["haed"]),
            ["right_amr", "convert it", "haed"],  # all of it in one message
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_every_name(spec: PolicySpec, words: list[str]) -> None:
    with pytest.raises(BindingError) as refused:
        connect(ROBOT, spec)
    for word in [*words, "policy 'policy' does not fit robot 'robot'"]:
        assert word in str(refused.value)


def test_two_ways_to_write_a_rotation_do_not_fit() -> None:
    arm = replace(LEFT, rotation="quaternion_xyzw")
    wanted = policy(PolicyOutputSpec("left_arm", "cartesian_pose", 7, rotation="quaternion_wxyz"))
    with pytest.raises(BindingError, match="rotation quaternion_wxyz against the robot's quaternion_xyzw"):
        connect(replace(ROBOT, components=[arm]), wanted)


def test_order_can_be_declared_only_for_a_component() -> None:
    with pytest.raises(BindingError, match="'force' is no component"):
        connect(ROBOT, policy(output("gripper"), state_names={"force": ["x"]}))


def test_a_spec_that_is_wrong_in_itself_is_refused_as_such() -> None:
    with pytest.raises(InterfaceValidationError, match="dof"):
        connect(replace(ROBOT, components=[replace(RIGHT, dof=0)]), policy(output("right_arm")))


def test_the_binding_shows_what_it_does() -> None:
    spec = policy(
        output("gripper"),
        output("left_arm", ["wrist", "elbow", "shoulder"]),
        state_names={"left_arm": JOINTS[::-1]},
    )
    text = connect(ROBOT, spec).describe()
    for words in (
        "policy 'policy' drives robot 'robot'",
        "columns 0..2  <- policy 3, 2, 1   (reordered by joint name)",
        "columns 3..3  <- policy 0..0",
        "not commanded: right_arm",
        "state 'left_arm' is reordered",
    ):
        assert words in text


# what a policy may answer


BINDING = connect(ROBOT, policy(output("gripper"), output("left_arm")))
ROW = [0.5, 1.0, 2.0, 3.0]  # in the policy's order: the gripper first
ACTION = Action.from_commands(
    {
        "gripper": {"command": "gripper_position", "value": 0.5},
        "left_arm": {"command": "joint_position", "value": [1.0, 2.0, 3.0]},
    }
)


@pytest.mark.parametrize(
    ("answer", "count", "first_step"),
    [
        (np.array([ROW, ROW]), 2, None),
        (np.array(ROW, dtype=np.float32), 1, None),
        ([ROW, ROW, ROW], 3, None),
        (ActionChunk(np.array([ROW]), 5, {"who": "me"}), 1, 5),
        (ActionChunk([ACTION, ACTION], 5), 2, 5),  # type: ignore[arg-type]
        (ACTION, 1, None),
        ([ACTION, ACTION], 2, None),
        ({"commands": ACTION.commands}, 1, None),
        (np.array([[0, 1, 2, 3]]), 1, None),
    ],
)
def test_an_answer_becomes_rows_in_the_robots_order(answer: Any, count: int, first_step: int | None) -> None:
    chunk = BINDING.chunk(answer)
    assert chunk.rows.shape == (count, 4) and chunk.rows.dtype == np.float64
    assert not chunk.rows.flags.writeable and chunk.first_step == first_step
    np.testing.assert_array_equal(chunk.rows[0, :3], [1.0, 2.0, 3.0])


def test_rows_do_not_share_memory_with_the_answer() -> None:
    answer = np.array([ROW])
    rows = BINDING.chunk(answer).rows
    answer[:] = 9.0
    assert rows.max() == 3.0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((2, 3)), "chunk.rows has 3 columns, needs 4"),
        (np.zeros((0, 4)), r"chunk.rows must be \(action_horizon, action_dim\)"),
        (np.zeros((1, 2, 4)), "chunk.rows must be"),
        (np.zeros((MAX_ROWS + 1, 4)), f"more than {MAX_ROWS}"),
        (np.array([["a"] * 4]), "chunk.rows must hold numbers"),
        ([[1.0], [1.0, 2.0]], "chunk.rows must be a rectangular array"),
        (None, r"infer\(\) returned None"),
        ([], "columns, needs 4"),
        (np.zeros((1, 4), dtype=bool), "chunk.rows must hold numbers"),
        (ActionChunk(np.zeros((1, 4)), 1.5), "chunk.first_step must be an int"),  # type: ignore[arg-type]
        (ActionChunk(np.zeros((1, 4)), True), "chunk.first_step must be an int"),
        (Action({}), r"missing \['left_arm', 'gripper'\]"),
        ([ACTION, 3], "action must be an Action or mapping, got int"),
    ],
)
def test_an_answer_that_is_no_chunk_is_refused_by_field(answer: Any, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        BINDING.chunk(answer)


def test_a_number_that_is_not_finite_is_left_to_the_scheduler() -> None:
    assert np.isnan(BINDING.chunk(np.full((1, 4), np.nan)).rows).all()
    assert checked_rows([1, 2]).tolist() == [[1.0, 2.0]]


# policies without a spec


def test_a_bare_array_commands_everything_in_the_robots_order() -> None:
    spec = spec_of_answer(ROBOT, np.zeros((5, 7)), "nameless")
    assert [(item.target, item.command, item.dim) for item in spec.outputs] == [
        ("right_arm", "joint_position", 3),
        ("left_arm", "joint_position", 3),
        ("gripper", "gripper_position", 1),
    ]
    assert spec.action_horizon == 5 and spec.name == "nameless"
    assert connect(ROBOT, spec).columns.tolist() == list(range(7))


def test_actions_say_what_they_command() -> None:
    for answer in (ACTION, [ACTION], {"commands": ACTION.commands}, ActionChunk([ACTION])):  # type: ignore[arg-type]
        spec = spec_of_answer(ROBOT, answer)
        assert [item.target for item in spec.outputs] == ["gripper", "left_arm"]
        assert connect(ROBOT, spec).chunk(answer).rows.tolist() == [[1.0, 2.0, 3.0, 0.5]]


def test_a_pose_has_the_size_of_its_rotation() -> None:
    robot = RobotSpec("r", [], [ComponentSpec("arm", "arm", 7, ["cartesian_pose"], rotation="matrix_6d")])
    assert spec_of_answer(robot, np.zeros((1, 9))).outputs[0].dim == 9


@pytest.mark.parametrize("answer", [np.zeros((5, 6)), [], "nothing", None])
def test_an_answer_that_says_nothing_is_refused(answer: Any) -> None:
    with pytest.raises(InterfaceValidationError, match=r"robot 'robot' takes 7|chunk.rows must"):
        spec_of_answer(ROBOT, answer)
