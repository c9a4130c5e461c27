"""check_robot, check_policy, check_pair: one observation, one inference, no action, every problem at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    Command,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.plugins import load
from chunkwise.runtime.checks import check_pair, check_policy, check_robot, count_rows


class Executor:
    """A robot as the inferaxis interface spells it, that counts its calls."""

    def __init__(self, *, dof: int = 7, command: str = "cartesian_pose_delta", **spec: Any) -> None:
        self.calls: list[str] = []
        arm = ComponentSpec("left_arm", "arm", dof, [command, "joint_position"])
        self.given = RobotSpec("executor", ["front_rgb"], [arm], **spec)
        self.frame = Frame({"front_rgb": np.zeros((2, 2, 3), np.uint8)}, {"left_arm": np.zeros(dof)})

    def get_spec(self) -> RobotSpec:
        return self.given

    def get_obs(self) -> Frame:
        self.calls.append("observe")
        return self.frame

    def send_action(self, action: Action) -> None:
        self.calls.append("act")


def six(value: float = 0.0) -> Action:
    return Action({"left_arm": Command("cartesian_pose_delta", np.full(6, value))})


class Answering:
    """A policy of six cartesian numbers that answers what it is given."""

    def __init__(self, answer: Any = None, *, images: list[str] | None = None, **spec: Any) -> None:
        self.answer = [six(), six()] if answer is None else answer
        outputs = [PolicyOutputSpec("left_arm", "cartesian_pose_delta", 6)]
        self.spec = PolicySpec("answering", images or [], ["left_arm"], outputs=outputs, **spec)
        self.calls = 0

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def problems(check: Any, *arguments: Any, **options: Any) -> list[str]:
    with pytest.raises(InterfaceValidationError) as caught:
        check(*arguments, **options)
    return str(caught.value).split("\n- ")[1:]


def test_an_arm_of_seven_joints_takes_a_cartesian_policy_of_six_numbers() -> None:
    executor, policy = Executor(dof=7), Answering()
    check_pair(executor, policy)
    assert executor.calls == ["observe"], "one observation and no action"
    assert policy.calls == 1


def test_a_sample_frame_stands_in_for_the_observation() -> None:
    executor, policy = Executor(), Answering()
    check_pair(executor, policy, sample_frame=executor.frame)
    assert executor.calls == []
    assert policy.calls == 1


def test_joint_commands_still_need_one_number_per_joint() -> None:
    executor = Executor(command="joint_position")
    (problem, *_) = problems(check_pair, executor, JointPolicy(6))
    assert "7 joints, the policy answers 6 numbers" in problem


class JointPolicy:
    def __init__(self, dim: int) -> None:
        self.spec = PolicySpec("joints", [], [], outputs=[PolicyOutputSpec("left_arm", "joint_position", dim)])

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        return np.zeros((4, self.spec.action_dim))


def test_every_problem_is_in_one_message() -> None:
    executor = Executor()
    executor.frame = Frame({}, {"left_arm": np.zeros(5)})
    policy = Answering(images=["font_rgb"])
    policy.reset = lambda hard: None  # type: ignore[attr-defined]
    found = problems(check_pair, executor, policy)
    text = "\n".join(found)
    assert "Answering.reset() must take 0 arguments" in text
    assert "camera 'font_rgb' is missing (did you mean 'front_rgb'?)" in text
    assert "the robot declares camera 'front_rgb', the frame does not have it" in text
    assert "the policy reads camera 'font_rgb', the frame does not have it" in text
    assert policy.calls == 0, "a policy is not run on a frame that it cannot read"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, ""),
        (six(), ""),
        ({"left_arm": {"command": "cartesian_pose_delta", "value": [0.0] * 6}}, ""),
        (np.zeros((3, 6)), ""),
        (ActionChunk(np.zeros((3, 6))), ""),
        ([], "the answer is empty"),
        ([six(), "garbage"], "row 1 of the answer: action must be an Action or mapping, got str"),
        ([six(), six(float("nan"))], "row 1 of the answer: invalid action.commands['left_arm']"),
        (
            Action({"left_arm": Command("cartesian_pose_delta", np.zeros(7))}),
            "7 x cartesian_pose_delta; it should",
        ),
        (Action({"right_arm": Command("cartesian_pose_delta", np.zeros(6))}), "it should be left_arm"),
        (np.zeros((3, 7)), "7 columns, needs 6"),
        (np.full((2, 6), np.inf), "row 0, column 0 of the answer is inf"),
        ("rows", "chunk.rows must hold numbers"),
        (RuntimeError("no weights"), "Answering.infer() raised RuntimeError: no weights"),
    ],
)
def test_answers(answer: Any, says: str) -> None:
    executor, policy = Executor(), Answering(answer)
    if not says:
        check_pair(executor, policy)
        check_policy(policy, sample_frame=executor.frame)
        return
    for found in (
        problems(check_pair, executor, policy),
        problems(check_policy, policy, sample_frame=executor.frame),
    ):
        assert len(found) == 1
        assert says in found[0]


def test_a_policy_that_raises_is_the_cause() -> None:
    error = RuntimeError("no weights")
    with pytest.raises(InterfaceValidationError) as caught:
        check_policy(Answering(error), sample_frame=Executor().frame)
    assert caught.value.__cause__ is error


def test_an_answer_has_the_rows_that_the_spec_declares() -> None:
    (problem,) = problems(check_policy, Answering(action_horizon=8), sample_frame=Executor().frame)
    assert problem == "the spec declares 8 rows, the answer has 2"


def test_without_a_sample_frame_the_policy_is_not_run() -> None:
    policy = Answering()
    check_policy(policy)
    assert policy.calls == 0


def test_a_policy_needs_no_spec() -> None:
    class Bare:
        def infer(self, frame: Frame, request: ChunkRequest) -> Action:
            return six()

    check_policy(Bare())
    check_policy(Bare(), sample_frame=Executor().frame)
    check_pair(Executor(), Bare())
    (problem,) = problems(check_pair, Executor(command="joint_velocity"), Bare())
    assert "takes joint_velocity, joint_position, not 'cartesian_pose_delta'" in problem


def test_rows_of_a_policy_without_a_spec_match_each_other() -> None:
    other = Action({"gripper": Command("gripper_position", np.zeros(1))})
    with pytest.raises(InterfaceValidationError, match="row 1 of the answer commands gripper"):
        count_rows([six(), other])
    assert count_rows([six(), six(), six()]) == 3


def test_the_task_is_read_from_the_frame() -> None:
    policy = Answering(required_task_keys=["prompt"])
    (problem,) = problems(check_pair, Executor(), policy)
    assert "the policy reads task entry 'prompt'" in problem


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (object(), "object has no infer()"),
        (type("OneArgument", (), {"infer": lambda self, frame: None})(), "infer() must take 2 arguments"),
        (
            type("Unspecific", (), {"infer": lambda s, f, r: None, "spec": "a spec"})(),
            "must be a PolicySpec, got str",
        ),
        (type("Lost", (), {"infer": lambda s, f, r: None, "get_spec": lambda s: 1 / 0})(), "ZeroDivisionError"),
        (
            type("Wrong", (), {"infer": lambda s, f, r: None, "spec": PolicySpec("", [], [])})(),
            "policy.name must be a name",
        ),
    ],
)
def test_policies_that_are_none(policy: object, says: str) -> None:
    (problem,) = problems(check_policy, policy)
    assert says in problem


def test_robots_of_both_spellings() -> None:
    executor = Executor()
    check_robot(executor)
    check_robot(executor, sample_frame={"images": executor.frame.images, "state": executor.frame.state})
    assert executor.calls == ["observe"]
    mock = load("robots", "mock")()
    mock.connect()
    check_robot(mock)
    check_pair(mock, load("policies", "wave")())
    mock.close()


def test_robots_that_are_none() -> None:
    found = problems(check_robot, object())
    assert found == [
        "object has neither a spec nor get_spec()",
        "object has no observe() or get_obs()",
        "object has no act() or send_action()",
    ]
    executor = Executor(state_keys=["force"])
    executor.frame = Frame(executor.frame.images, {"left_arm": np.full(7, np.nan)})
    assert "frame.state['left_arm'] holds a number that is not finite" in problems(check_robot, executor)[0]
    executor.frame = Frame(executor.frame.images, {"left_arm": np.zeros((2, 7))})
    found = problems(check_robot, executor)
    assert "the robot declares state 'force', the frame does not have it" in found[0]
    assert "state 'left_arm' has shape (2, 7), it has 7 joints" in found[1]
    executor.get_obs = lambda: 1 / 0  # type: ignore[assignment,return-value]
    assert "raised ZeroDivisionError" in problems(check_robot, executor)[0]
