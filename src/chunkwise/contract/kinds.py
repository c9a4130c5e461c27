"""Command kinds: what a component's numbers mean, and what holding still means for them.

The thirteen built-in kinds and the ``custom:`` extension keep the names of the inferaxis interface.  Beyond
it, every kind says how its numbers *move* the robot (:class:`Motion`), because the hold, the slew limit and
blending all follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from chunkwise.contract.errors import InterfaceValidationError, nearest

CUSTOM_COMMAND_KIND_PREFIX = "custom:"


class BuiltinCommandKind(StrEnum):
    """The command kinds known without registration."""

    JOINT_POSITION = "joint_position"
    JOINT_POSITION_DELTA = "joint_position_delta"
    JOINT_VELOCITY = "joint_velocity"
    CARTESIAN_POSE = "cartesian_pose"
    CARTESIAN_POSE_DELTA = "cartesian_pose_delta"
    CARTESIAN_TWIST = "cartesian_twist"
    GRIPPER_POSITION = "gripper_position"
    GRIPPER_POSITION_DELTA = "gripper_position_delta"
    GRIPPER_VELOCITY = "gripper_velocity"
    GRIPPER_OPEN_CLOSE = "gripper_open_close"
    HAND_JOINT_POSITION = "hand_joint_position"
    HAND_JOINT_POSITION_DELTA = "hand_joint_position_delta"
    EEF_ACTIVATION = "eef_activation"


class Motion(StrEnum):
    """How a value moves the robot."""

    TARGET = "target"  # where to be: repeating it holds still
    DELTA = "delta"  # how far to go from here, each time it is sent: zero holds still
    VELOCITY = "velocity"  # how fast to go until told otherwise: zero holds still
    SWITCH = "switch"  # a state, such as suction on: repeating it changes nothing


class Hold(StrEnum):
    """What is sent when there is nothing to run."""

    REPEAT = "repeat"
    ZERO = "zero"


@dataclass(slots=True, frozen=True)
class CommandKindSpec:
    """What a command kind means.

    Attributes:
        name: the kind's name; anything but a built-in name.
        description: one line for people.
        requires_ref_frame: a command of this kind must name its reference frame.
        default_dim: the only legal length of a value, or None where the component decides.
        allowed_component_types: component types that may take it; empty allows all.
        meta: anything else.
        motion: how the value moves the robot; None for a kind that has not said, whose component must then
            declare its hold rule itself.
        blends: whether the average of two values is a value that either policy could have meant.  Grippers,
            activations and custom kinds do not blend: half open is not a compromise.
        dof_is_dim: the value has one number per joint of the component.
    """

    name: str
    description: str = ""
    requires_ref_frame: bool = False
    default_dim: int | None = None
    allowed_component_types: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    motion: Motion | None = None
    blends: bool = False
    dof_is_dim: bool = False

    @property
    def hold(self) -> Hold | None:
        """What holds a component of this kind still; None where the kind has not said."""
        if self.motion is None:
            return None
        return Hold.REPEAT if self.motion in (Motion.TARGET, Motion.SWITCH) else Hold.ZERO


_K = BuiltinCommandKind
_JOINTED = ["arm", "hand", "base", "custom"]
_ARM = ["arm", "custom"]
_GRIPPER = ["gripper", "custom"]
_HAND = ["hand", "custom"]
_ANY_END = ["gripper", "hand", "suction", "custom"]

# kind, what it is, component types, fixed length, motion, blends, one number per joint
_BUILTIN = (
    (_K.JOINT_POSITION, "joint positions, rad or m", _JOINTED, None, Motion.TARGET, True, True),
    (_K.JOINT_POSITION_DELTA, "change of joint positions, rad or m", _JOINTED, None, Motion.DELTA, True, True),
    (_K.JOINT_VELOCITY, "joint velocities, rad/s or m/s", _JOINTED, None, Motion.VELOCITY, True, True),
    (_K.CARTESIAN_POSE, "x y z in m, then a rotation", _ARM, None, Motion.TARGET, True, False),
    (_K.CARTESIAN_POSE_DELTA, "dx dy dz in m, then a rotation", _ARM, None, Motion.DELTA, True, False),
    (_K.CARTESIAN_TWIST, "vx vy vz in m/s, wx wy wz in rad/s", _ARM, 6, Motion.VELOCITY, True, False),
    (_K.GRIPPER_POSITION, "gripper opening", _GRIPPER, 1, Motion.TARGET, False, False),
    (_K.GRIPPER_POSITION_DELTA, "change of gripper opening", _GRIPPER, 1, Motion.DELTA, False, False),
    (_K.GRIPPER_VELOCITY, "speed of gripper opening", _GRIPPER, 1, Motion.VELOCITY, False, False),
    (_K.GRIPPER_OPEN_CLOSE, "0 closed, 1 open", _GRIPPER, 1, Motion.SWITCH, False, False),
    (_K.HAND_JOINT_POSITION, "finger joint positions, rad", _HAND, None, Motion.TARGET, True, True),
    (_K.HAND_JOINT_POSITION_DELTA, "change of finger joints, rad", _HAND, None, Motion.DELTA, True, True),
    (_K.EEF_ACTIVATION, "end effector on or off", _ANY_END, 1, Motion.SWITCH, False, False),
)

_registry: dict[str, CommandKindSpec] = {
    str(kind): CommandKindSpec(
        name=str(kind),
        description=description,
        default_dim=dim,
        allowed_component_types=list(types),
        motion=motion,
        blends=blends,
        dof_is_dim=per_joint,
    )
    for kind, description, types, dim, motion, blends, per_joint in _BUILTIN
}

COMMAND_KIND_REGISTRY: Mapping[str, CommandKindSpec] = MappingProxyType(_registry)
"""Every registered kind by name; read only, see :func:`register_command_kind`."""


def register_command_kind(spec: CommandKindSpec) -> None:
    """Make a project's own command kind known, with its dimension and hold rule.

    Raises:
        TypeError: `spec` is not a CommandKindSpec.
        ValueError: the name is taken.
    """
    if not isinstance(spec, CommandKindSpec):
        raise TypeError(f"register_command_kind() takes a CommandKindSpec, got {type(spec).__name__}")
    if not spec.name.strip():
        raise InterfaceValidationError("command kind name must not be empty")
    if spec.name in _registry:
        raise ValueError(f"command kind {spec.name!r} is already registered")
    _registry[spec.name] = spec


def is_custom_command_kind_name(name: str) -> bool:
    """Whether `name` is ``custom:`` followed by something."""
    return name.startswith(CUSTOM_COMMAND_KIND_PREFIX) and len(name) > len(CUSTOM_COMMAND_KIND_PREFIX)


def is_known_command_kind(name: str) -> bool:
    """Whether a command may carry `name`: registered, or ``custom:<anything>``."""
    return name in _registry or is_custom_command_kind_name(name)


def get_command_kind_spec(name: str) -> CommandKindSpec:
    """The spec of a kind; an unregistered ``custom:`` kind gets one that allows everything, says nothing.

    Raises:
        KeyError: the name is neither registered nor custom.
    """
    if name in _registry:
        return _registry[name]
    if is_custom_command_kind_name(name):
        return CommandKindSpec(name=name, description="custom, unregistered")
    raise KeyError(f"no command kind {name!r}{nearest(name, _registry)}")


def require_kind(name: object, where: str) -> CommandKindSpec:
    """:func:`get_command_kind_spec`, answering a wrong name with an error that names the field."""
    if not isinstance(name, str) or not is_known_command_kind(name):
        hint = nearest(name, _registry) if isinstance(name, str) else ""
        raise InterfaceValidationError(
            f"{where} must be a registered command kind or custom:<name>, got {name!r}{hint}"
        )
    return get_command_kind_spec(name)
