"""run_step without a runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import chunkwise as infra


def frame() -> infra.Frame:
    return infra.Frame(state={"arm": np.zeros(2)})


def action(value: float = 0.0, kind: str = "joint_position") -> infra.Action:
    return infra.Action({"arm": infra.Command(kind, np.full(2, value))})


@dataclass
class Arm:
    """Unhashable, as dataclasses are."""

    sent: list[infra.Action] = field(default_factory=list)

    def get_obs(self) -> infra.Frame:
        return frame()

    def send_action(self, sent: infra.Action) -> infra.Action:
        self.sent.append(sent)
        return sent


class Policy:
    def __init__(self, answer: Any = None) -> None:
        self.answer = action() if answer is None else answer
        self.requests: list[infra.ChunkRequest] = []

    def infer(self, seen: infra.Frame, request: infra.ChunkRequest) -> Any:
        self.requests.append(request)
        return self.answer


def raising(error: BaseException) -> Callable[..., Any]:
    def broken(*_: Any) -> Any:
        raise error

    return broken


def test_observe_infer_act() -> None:
    arm, policy = Arm(), Policy()
    result = infra.run_step(observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=policy.infer)
    assert arm.sent == [policy.answer] and result.action is result.raw_action is policy.answer
    assert (result.source, result.plan_refreshed, result.control_wait_s, result.underrun) == (
        "policy",
        True,
        0,
        False,
    )
    assert result.inference_s > 0 and result.error is None
    asked = policy.requests[0]
    assert (asked.request_step, asked.remaining_steps, asked.latency_steps, asked.rtc_args) == (0, 0, 0, None)


def test_a_given_frame_goes_before_observing() -> None:
    result = infra.run_step(
        frame=frame(), observe_fn=raising(OSError()), act_src_fn=Policy().infer, execute_action=False
    )
    assert result.action is result.raw_action


def test_mappings_are_understood() -> None:
    plain = {"arm": {"command": "joint_position", "value": [1, 2]}}
    result = infra.run_step(
        frame={"images": {}, "state": {"arm": [0]}}, act_src_fn=Policy(plain).infer, act_fn=str
    )
    assert result.action.commands["arm"].value.tolist() == [1, 2]


def test_of_a_chunk_the_first_action_is_used_and_the_rest_is_looked_at() -> None:
    first = action(1.0)
    assert infra.run_step(frame=frame(), act_src_fn=Policy([first, action(2.0)]).infer, act_fn=str).action is first
    with pytest.raises(infra.InterfaceValidationError, match=r"chunk\[1\]"):
        infra.run_step(frame=frame(), act_src_fn=Policy([first, "garbage"]).infer, act_fn=str)


@pytest.mark.parametrize("answer", [(), "", "open", [], 3, np.zeros(3)])
def test_an_answer_that_is_no_action_is_refused(answer: Any) -> None:
    with pytest.raises(infra.InterfaceValidationError):
        infra.run_step(frame=frame(), act_src_fn=lambda f, r: answer, act_fn=str)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_never_sent(value: float) -> None:
    arm = Arm()
    with pytest.raises(infra.InterfaceValidationError, match="not a finite"):
        infra.run_step(frame=frame(), act_src_fn=Policy(action(value)).infer, act_fn=arm.send_action)
    assert arm.sent == []


class Declared(Arm):
    """Says what it is in the interface's way; other robots have an attribute `spec`."""

    def get_spec(self) -> infra.RobotSpec:
        return infra.RobotSpec("arm", [], [infra.ComponentSpec("arm", "arm", 2, ["joint_position"])])


class Attributed(Arm):
    spec = Declared().get_spec()


@pytest.mark.parametrize("robot", [Declared, Attributed])
@pytest.mark.parametrize("runtime", [None, "sync"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (infra.Action({"leg": infra.Command("joint_position", [0.0, 0.0])}), "leg"),
        (infra.Action({"arm": infra.Command("joint_velocity", [0.0, 0.0])}), "joint_velocity"),
        (infra.Action({"arm": infra.Command("joint_position", [0.0, 0.0, 0.0])}), "3"),
    ],
)
def test_an_action_is_checked_against_the_robot(robot: Any, runtime: Any, wrong: infra.Action, said: str) -> None:
    arm = robot()
    options = {"frame": frame(), "act_fn": arm.send_action, "runtime": runtime and infra.InferenceRuntime(runtime)}
    with pytest.raises(infra.BindingError, match=said):
        infra.run_step(act_src_fn=Policy(wrong).infer, **options)
    assert arm.sent == []
    infra.run_step(act_src_fn=Policy().infer, **options)
    assert len(arm.sent) == 1


def test_a_robot_whose_spec_cannot_be_read_is_said() -> None:
    class Broken(Arm):
        def get_spec(self) -> infra.RobotSpec:
            raise OSError("no bus")

    with pytest.raises(infra.RobotFailed, match=r"Broken.get_spec\(\) raised OSError: no bus"):
        infra.run_step(frame=frame(), act_src_fn=Policy().infer, act_fn=Broken().send_action)


@pytest.mark.parametrize("value", [np.array([True]), np.array([1j]), np.array(["1", "2"])])
def test_bool_complex_and_strings_are_no_command(value: Any) -> None:
    with pytest.raises(infra.InterfaceValidationError):
        infra.Command("joint_position", value)


def test_what_was_applied_is_on_the_result() -> None:
    clipped = action(0.5)
    result = infra.run_step(frame=frame(), act_src_fn=Policy(action(2.0)).infer, act_fn=lambda a: clipped)
    assert result.action is clipped and result.raw_action.commands["arm"].value[0] == 2.0
    assert infra.run_step(frame=frame(), act_src_fn=Policy().infer, act_fn=lambda a: "x").action is not None
    with pytest.raises(infra.InterfaceValidationError):
        infra.run_step(frame=frame(), act_src_fn=Policy().infer, act_fn=lambda a: action(np.nan))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(infra.InterfaceValidationError, match="either frame="):
        infra.run_step(act_src_fn=Policy().infer)
    with pytest.raises(infra.InterfaceValidationError, match="act_src_fn"):
        infra.run_step(frame=frame())
    with pytest.raises(infra.InterfaceValidationError, match="act_fn"):
        infra.run_step(frame=frame(), act_src_fn=Policy().infer)
    with pytest.raises(TypeError, match="must be a Frame or mapping, got str"):
        infra.run_step(frame="x", act_src_fn=Policy().infer)


@pytest.mark.parametrize(
    ("part", "kind"),
    [("observe_fn", infra.RobotFailed), ("act_src_fn", infra.PolicyFailed), ("act_fn", infra.RobotFailed)],
)
def test_errors_say_whose_they_are_and_keep_their_cause(part: str, kind: type[Exception]) -> None:
    cause = OSError("bus error")
    functions = {"observe_fn": frame, "act_src_fn": Policy().infer, "act_fn": str, part: raising(cause)}
    with pytest.raises(kind, match=r"broken\(\) raised OSError: bus error") as caught:
        infra.run_step(**functions)
    assert caught.value.__cause__ is cause
    assert isinstance(caught.value, infra.InterfaceValidationError) and isinstance(caught.value, ValueError)


def test_a_method_is_named_with_its_class() -> None:
    class Gripper:
        def send(self, sent: infra.Action) -> None:
            raise OSError("stuck")

    with pytest.raises(infra.RobotFailed, match=r"^Gripper.send\(\) raised OSError: stuck$"):
        infra.run_step(frame=frame(), act_src_fn=Policy().infer, act_fn=Gripper().send)


@pytest.mark.parametrize("part", ["observe_fn", "act_src_fn", "act_fn"])
@pytest.mark.parametrize("runtime", [None, "sync"])
def test_keyboard_interrupt_passes(part: str, runtime: str | None) -> None:
    functions = {
        "observe_fn": frame,
        "act_src_fn": Policy().infer,
        "act_fn": str,
        part: raising(KeyboardInterrupt()),
    }
    with pytest.raises(KeyboardInterrupt):
        infra.run_step(**functions, runtime=runtime and infra.InferenceRuntime(runtime))


# ── the frame ────────────────────────────────────────────────────────────────────────────────────────


def test_a_capture_time_is_kept() -> None:
    stamped = infra.Frame(timestamp_ns=123, sequence_id=7)
    result = infra.run_step(frame=stamped, act_src_fn=Policy().infer, act_fn=str)
    assert result.frame is stamped and (result.frame.timestamp_ns, result.frame.sequence_id) == (123, 7)


def test_a_frame_without_one_is_stamped_as_a_frame_of_its_own() -> None:
    seen = frame()
    result = infra.run_step(frame=seen, act_src_fn=Policy().infer, act_fn=str)
    assert result.frame.timestamp_ns > 0 and result.frame.sequence_id is not None
    assert (seen.timestamp_ns, seen.sequence_id) == (0, None)  # a driver may hand out the same one again
    assert result.frame.state["arm"] is seen.state["arm"]


def test_frames_are_numbered_per_owner() -> None:
    one, other = Arm(), Arm()

    def number(arm: Arm, **options: Any) -> int | None:
        return infra.run_step(
            observe_fn=arm.get_obs, act_fn=arm.send_action, act_src_fn=Policy().infer, **options
        ).frame.sequence_id

    assert [number(one), number(one), number(other), number(one)] == [0, 1, 0, 2]
    owner = Policy()
    assert [number(one, metadata_owner=owner), number(other, metadata_owner=owner)] == [0, 1]


def test_frames_of_a_fresh_lambda_are_numbered_on() -> None:
    numbers = [
        infra.run_step(observe_fn=lambda: frame(), act_fn=str, act_src_fn=Policy().infer).frame.sequence_id
        for _ in range(3)
    ]
    assert numbers == [0, 1, 2]


def test_a_frame_is_checked() -> None:
    seen = frame()
    seen.state["arm"] = np.array(["a"])
    with pytest.raises(infra.InterfaceValidationError, match="arm"):
        infra.run_step(frame=seen, act_src_fn=Policy().infer, act_fn=str)
