"""Frames, commands and actions: what is taken, what is refused, and by which name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.contract import (
    Action,
    BuiltinCommandKind,
    Command,
    Frame,
    InterfaceValidationError,
    coerce_action,
    coerce_frame,
    validate_action,
    validate_command,
    validate_frame,
)
from chunkwise.contract.values import trusted_command


class Tensor:
    """Looks like a torch tensor on a device."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return np.array(self._values)


def test_arrays_are_kept_by_reference_unless_a_copy_is_asked_for() -> None:
    state, image = np.zeros(3), np.zeros((2, 2, 3), dtype=np.uint8)
    frame = Frame({"head": image}, {"arm": state})
    assert frame.state["arm"] is state and frame.images["head"] is image
    copied = Frame({"head": image}, {"arm": state}, copy=True)
    assert copied.state["arm"] is not state and copied.images["head"] is not image
    assert np.shares_memory(Command("joint_position", state).value, state)
    assert not np.shares_memory(Command("joint_position", state, copy=True).value, state)


@pytest.mark.parametrize("value", [3.0, np.float32(3.0), [3.0], (3,), Tensor([3.0]), np.array(3), True])
def test_state_may_be_anything_numeric(value: Any) -> None:
    frame = Frame(state={"gripper": value})
    assert frame.state["gripper"].shape == (1,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Frame(state={"arm": "fast"}), r"frame.state\['arm'\] must be an array of numbers, got str"),
        (lambda: Frame(state={"arm": None}), r"frame.state\['arm'\] must be an array of numbers, got NoneType"),
        (lambda: Frame(state={"arm": {}}), r"frame.state\['arm'\]"),
        (lambda: Frame(state={"arm": [[1.0], [2.0, 3.0]]}), r"frame.state\['arm'\] must be a rectangular"),
        (lambda: Frame(state={"arm": np.array(["a"])}), r"frame.state\['arm'\] must hold numbers, got dtype"),
        (lambda: Frame(state={"arm": np.array([1j])}), r"frame.state\['arm'\] must hold numbers"),
        (lambda: Frame(state={"arm": np.array([None])}), r"frame.state\['arm'\] must hold numbers"),
        (lambda: Frame(images={"head": 3}), r"frame.images\['head'\] is a single number, not an image"),
        (lambda: Frame(images=[]), "frame.images must be a dict, got list"),
        (lambda: Frame(state={1: np.zeros(1)}), "frame.state must have names as keys, got 1"),
        (lambda: Frame(task="pick"), "frame.task must be a dict"),
        (lambda: Frame(meta=()), "frame.meta must be a dict"),
        (lambda: Command("", [0.0]), "command.command must be a command kind"),
        (lambda: Command(None, [0.0]), "command.command must be a command kind"),
        (lambda: Command("joint_position", "fast"), "command.value must be an array of numbers, got str"),
        (lambda: Command("joint_position", np.zeros((2, 2))), "command.value must be one row"),
        (lambda: Command("joint_position", np.array([True])), "command.value must hold numbers, got booleans"),
        (lambda: Command("joint_position", np.array([1j])), "command.value must hold numbers"),
        (lambda: Command("joint_position", [0.0], meta=[]), "command.meta must be a dict"),
    ],
)
def test_what_is_no_number_is_refused_by_name(make: Any, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        make()


def test_a_command_is_one_row_of_float64() -> None:
    command = Command(" gripper_position ", 1)
    assert command.command == "gripper_position"
    assert command.value.dtype == np.float64 and command.value.shape == (1,)
    assert Command(BuiltinCommandKind.JOINT_POSITION, Tensor([1.0, 2.0])).value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command("joint_positon", [0.0]), "command.command .*did you mean 'joint_position'"),
        (Command("custom:", [0.0]), "command.command must be a registered command kind"),
        (Command("joint_position", [0.0, np.nan]), r"command.value\[1\] is nan, not a finite number"),
        (Command("joint_position", [np.inf]), r"command.value\[0\] is inf"),
        (Command("gripper_position", [0.0, 1.0]), "'gripper_position' needs 1 numbers, got 2"),
        (Command("cartesian_twist", np.zeros(3)), "needs 6 numbers, got 3"),
        (Command("joint_position", [0.0], ref_frame=" "), "command.ref_frame must be a name"),
        (Command("joint_position", [0.0], ref_frame=3), "command.ref_frame must be a name"),  # type: ignore[arg-type]
        (trusted_command("joint_position", np.zeros((1, 2))), "must be a 1-D array"),
        ("stop", "command must be a Command, got str"),
    ],
)
def test_a_wrong_command_is_refused_by_field(command: Any, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_command(command)


def test_right_commands_pass() -> None:
    for kind, size in (
        ("joint_position", 7),
        ("gripper_open_close", 1),
        ("cartesian_twist", 6),
        ("custom:laser", 2),
    ):
        validate_command(Command(kind, np.zeros(size), ref_frame="base"))


def test_an_action_names_the_component_that_is_wrong() -> None:
    validate_action(Action.single(target="arm", command="joint_position", value=[[0.0, 1.0]]))
    for wrong, words in (
        (Action({}), "must not be empty"),
        (Action({"arm": Command("joint_position", [np.nan])}), r"invalid action.commands\['arm'\]"),
        (Action({"arm": "up"}), r"invalid action.commands\['arm'\]: command must be a Command"),  # type: ignore[dict-item]
        ("up", "action must be an Action, got str"),
    ):
        with pytest.raises(InterfaceValidationError, match=words):
            validate_action(wrong)  # type: ignore[arg-type]


def test_actions_are_made_of_mappings() -> None:
    made = Action.from_commands(
        {
            "arm": {"command": "joint_position", "value": [0, 1], "ref_frame": "base", "target": "arm"},
            "gripper": Command("gripper_position", 0.5),
        },
        meta={"by": "hand"},
    )
    assert made.commands["arm"].value.tolist() == [0.0, 1.0] and made.commands["arm"].ref_frame == "base"
    assert made.get_command("gripper") is made.commands["gripper"] and made.get_command("leg") is None
    assert made.meta == {"by": "hand"}
    same = made.commands
    assert Action.from_commands(same, trusted=True).commands is same
    copied = Action.from_commands(same, copy=True)
    assert not np.shares_memory(copied.commands["arm"].value, made.commands["arm"].value)


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ({"arm": {"value": [0.0]}}, r"action.commands\['arm'\]: missing \['command'\]"),
        ({"arm": {"command": "joint_position", "value": [0.0], "speed": 2}}, r"unknown \['speed'\]"),
        ({"arm": {"command": "joint_position", "value": [0.0], "target": "leg"}}, "names another target, 'leg'"),
        (
            {"arm": {"command": "joint_position", "value": "up"}},
            r"invalid action.commands\['arm'\]: command.value",
        ),
        ({"arm": [0.0]}, "must be a Command or a mapping, got list"),
        ([0.0], "action.commands must be a mapping"),
    ],
)
def test_a_mapping_that_is_no_action_is_refused_by_name(commands: Any, words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        Action.from_commands(commands)


def test_actions_and_frames_are_coerced() -> None:
    order = {"command": "joint_position", "value": [0.0]}
    action = coerce_action({"arm": order})
    assert coerce_action(action) is action
    assert coerce_action({"commands": {"arm": order}, "meta": {"a": 1}}).meta == {"a": 1}
    for wrong, words in (([0.0], "Action or mapping"), ({"arm": order, "meta": {}}, '"meta" goes beside')):
        with pytest.raises(InterfaceValidationError, match=words):
            coerce_action(wrong)  # type: ignore[arg-type]

    frame = coerce_frame({"images": {}, "state": {"arm": [1.0]}, "timestamp_ns": 5, "sequence_id": 2})
    assert coerce_frame(frame) is frame
    assert (frame.timestamp_ns, frame.sequence_id, frame.state["arm"].tolist()) == (5, 2, [1.0])
    with pytest.raises(InterfaceValidationError, match="frame has no 'images'"):
        coerce_frame({"state": {}})
    with pytest.raises(TypeError, match="frame must be a Frame or mapping"):
        coerce_frame(3)  # type: ignore[arg-type]


def test_frames_are_checked() -> None:
    validate_frame(Frame({"head": np.zeros((2, 2))}, {"arm": np.zeros(2)}, timestamp_ns=3, sequence_id=0))
    late = Frame(state={"arm": np.zeros(2)})
    late.state["arm"] = "gone"  # type: ignore[assignment]
    for wrong, words in (
        (Frame(state={"arm": np.array([0.0, np.nan])}), r"frame.state\['arm'\] holds a number that is not finite"),
        (Frame(timestamp_ns=-1), "frame.timestamp_ns must be an int >= 0, got -1"),
        (Frame(timestamp_ns=1.5), "frame.timestamp_ns"),  # type: ignore[arg-type]
        (Frame(sequence_id="a"), "frame.sequence_id must be an int or None"),  # type: ignore[arg-type]
        (late, r"frame.state\['arm'\] must be an array of numbers, got str"),
        (3, "frame must be a Frame, got int"),
    ):
        with pytest.raises(InterfaceValidationError, match=words):
            validate_frame(wrong)  # type: ignore[arg-type]
