"""The command kinds: thirteen known ones, custom ones, and what holds each of them still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chunkwise.contract import (
    COMMAND_KIND_REGISTRY,
    BindingError,
    BuiltinCommandKind,
    CommandKindSpec,
    ComponentSpec,
    Hold,
    InterfaceValidationError,
    Motion,
    RobotSpec,
    get_command_kind_spec,
    is_custom_command_kind_name,
    is_known_command_kind,
    kinds,
    register_command_kind,
    robot_layout,
)

HOLDS = {
    "joint_position": Hold.REPEAT,
    "joint_position_delta": Hold.ZERO,
    "joint_velocity": Hold.ZERO,
    "cartesian_pose": Hold.REPEAT,
    "cartesian_pose_delta": Hold.ZERO,
    "cartesian_twist": Hold.ZERO,
    "gripper_position": Hold.REPEAT,
    "gripper_position_delta": Hold.ZERO,
    "gripper_velocity": Hold.ZERO,
    "gripper_open_close": Hold.REPEAT,
    "hand_joint_position": Hold.REPEAT,
    "hand_joint_position_delta": Hold.ZERO,
    "eef_activation": Hold.REPEAT,
}


@pytest.fixture
def registry() -> Iterator[None]:
    """Forgets what a test registered."""
    before = dict(kinds._registry)
    yield
    kinds._registry.clear()
    kinds._registry.update(before)


def test_there_are_thirteen() -> None:
    assert {str(kind) for kind in BuiltinCommandKind} == set(COMMAND_KIND_REGISTRY) == set(HOLDS)
    assert len(HOLDS) == 13


@pytest.mark.parametrize(("name", "hold"), HOLDS.items())
def test_every_kind_says_what_holds_it_still(name: str, hold: Hold) -> None:
    spec = get_command_kind_spec(name)
    assert spec.name == name and spec.description
    assert spec.hold is hold


def test_what_may_be_averaged() -> None:
    never = {name for name, spec in COMMAND_KIND_REGISTRY.items() if not spec.blends}
    assert never == {
        "gripper_position",
        "gripper_position_delta",
        "gripper_velocity",
        "gripper_open_close",
        "eef_activation",
    }
    assert not get_command_kind_spec("custom:laser").blends


def test_the_registry_is_read_only() -> None:
    with pytest.raises(TypeError):
        COMMAND_KIND_REGISTRY["x"] = CommandKindSpec("x")  # type: ignore[index]


def test_custom_kinds_need_no_registration_and_say_nothing() -> None:
    assert is_known_command_kind("custom:laser") and is_custom_command_kind_name("custom:laser")
    assert not is_custom_command_kind_name("custom:") and not is_known_command_kind("laser")
    spec = get_command_kind_spec("custom:laser")
    assert spec.motion is None and spec.hold is None
    with pytest.raises(KeyError, match="did you mean 'joint_velocity'"):
        get_command_kind_spec("joint_velocty")


def test_a_custom_kind_must_say_what_holding_means() -> None:
    def robot(hold: str | None) -> RobotSpec:
        return RobotSpec("r", [], [ComponentSpec("laser", "custom", 2, ["custom:laser"], hold=hold)])

    with pytest.raises(BindingError, match=r"'laser'.*does not say what holding still means"):
        robot_layout(robot(None))
    assert robot_layout(robot("zero")).zero_hold is not None
    assert robot_layout(robot("repeat")).zero_hold is None


@pytest.mark.usefixtures("registry")
def test_a_registered_kind_brings_its_size_and_hold_rule() -> None:
    register_command_kind(CommandKindSpec("custom:laser", "power, W", default_dim=1, motion=Motion.VELOCITY))
    layout = robot_layout(RobotSpec("r", [], [ComponentSpec("laser", "custom", 3, ["custom:laser"])]))
    assert layout.width == 1 and layout.slots[0].hold is Hold.ZERO


@pytest.mark.usefixtures("registry")
def test_registering_is_checked() -> None:
    with pytest.raises(ValueError, match="'joint_position' is already registered"):
        register_command_kind(CommandKindSpec("joint_position"))
    with pytest.raises(InterfaceValidationError, match="must not be empty"):
        register_command_kind(CommandKindSpec(" "))
    with pytest.raises(TypeError, match="takes a CommandKindSpec, got str"):
        register_command_kind("laser")  # type: ignore[arg-type]
