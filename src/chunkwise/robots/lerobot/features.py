"""LeRobot's flat features as components: what belongs together, in which unit, within which limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from chunkwise.contract import ComponentSpec, InterfaceValidationError, RobotFailed
from chunkwise.contract.values import Array
from chunkwise.robots.lerobot.arms import Range

Units = Literal["lerobot", "rad"]

POSITIONS: Final = ("pos", "q")
"""Last words of features that say where a joint is to be; ``q`` in radians, as Unitree has it."""
VELOCITIES: Final = ("vel", "vx", "vy", "vtheta")
"""Last words of features that say how fast, where the same joint has no position: then that is only measured."""
LENGTHS: Final = ("x", "y", "vx", "vy")
"""Velocities of a base in metres per second."""
TURNS: Final = ("theta", "vtheta")
"""Velocities of a base in degrees per second."""
KINDS: Final = {
    "arm": ("arm", "joint_position"),
    "gripper": ("gripper", "gripper_position"),
    "hand": ("hand", "hand_joint_position"),
    "head": ("custom", "joint_position"),
    "base": ("base", "joint_velocity"),
}
"""Part of a robot -> component type and command kind."""
FINGERS: Final = ("thumb", "index", "middle", "ring", "pinky")
SIDE: Final = re.compile(r"(left|right|l|r)_")


class Rates(NamedTuple):
    """How fast commands may change, or be, in LeRobot's units.

    Attributes:
        joint: of arms, hands and heads, per second.
        gripper: per second.
        base: m/s.
        turn: degrees/s.
    """

    joint: float
    gripper: float
    base: float
    turn: float


@dataclass(frozen=True, slots=True)
class Group:
    """Numbers of LeRobot's that are one array here.

    Attributes:
        name: of the component or the state.
        features: LeRobot's names, in order.
        scale: ``(n,)``: our number for one of LeRobot's.
    """

    name: str
    features: tuple[str, ...]
    scale: Array

    def read(self, values: Mapping[str, Any]) -> Array:
        """Float64 ``(n,)`` of an observation, or of what was sent.

        Raises:
            RobotFailed: a number is missing, or is none; it is named.
        """
        missing = [feature for feature in self.features if feature not in values]
        if missing:
            raise RobotFailed(f"{missing[0]!r} is missing")
        read = np.array([values[feature] for feature in self.features], dtype=np.float64).reshape(-1)
        if not np.isfinite(read).all():
            raise RobotFailed(f"{dict(zip(self.features, read.tolist(), strict=False))} has what is no number")
        return read * self.scale

    def write(self, value: Array) -> dict[str, float]:
        """LeRobot's numbers for ours ``(n,)``."""
        return dict(zip(self.features, (value / self.scale).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Body:
    """What a robot of LeRobot's is here.

    Attributes:
        components: their specs, in the order of LeRobot's action features.
        groups: component -> its features.
        measured: components and further states that are observed.
        cameras: features that are pictures.
        halt: velocities, all zero.
    """

    components: list[ComponentSpec]
    groups: dict[str, Group]
    measured: list[Group]
    cameras: list[str]
    halt: dict[str, float]

    @property
    def state_keys(self) -> list[str]:
        """States that are not a component's."""
        return [group.name for group in self.measured if group.name not in self.groups]


def body_of(
    actions: Mapping[str, Any],
    observed: Mapping[str, Any],
    ranges: Mapping[str, Range],
    rates: Rates,
    units: Units,
) -> Body:
    """Group a robot's features by their names.

    Args:
        actions: its ``action_features``: name -> type.
        observed: its ``observation_features``: name -> type, or the shape of an array.
        ranges: joint -> its unit and limits, as far as they are known.
        rates: limits of speed.
        units: ``rad`` for radians where LeRobot has degrees.

    Raises:
        InterfaceValidationError: a command that is neither a position nor a velocity, or radians of a robot that
            has no degrees.
    """
    radians = units == "rad"
    if radians and "degrees" not in {item.unit for item in ranges.values()}:
        has = ", ".join(sorted({item.unit for item in ranges.values()})) or "no units that LeRobot knows"
        raise InterfaceValidationError(f"units='rad' needs a robot in degrees (use_degrees: true); it has {has}")
    members: dict[str, list[str]] = {}
    for feature in _commands(actions):
        members.setdefault(_component(feature), []).append(feature)
    groups, components = {}, []
    for name, features in members.items():
        known = [ranges.get(joint_of(feature)) or _unknown(feature) for feature in features]
        scale = np.array([_scale(feature, item, radians) for feature, item in zip(features, known, strict=True)])
        groups[name] = Group(name, tuple(features), scale)
        components.append(_spec(groups[name], known, rates, radians))
    cameras = [name for name, shape in observed.items() if isinstance(shape, tuple) and len(shape) == 3]
    return Body(
        components,
        groups,
        _measured([name for name in observed if name not in cameras], groups),
        cameras,
        {feature: 0.0 for group in groups.values() for feature in group.features if _is_velocity(feature)},
    )


def joint_of(feature: str) -> str:
    """The joint that a feature is of: ``elbow_flex`` of ``elbow_flex.pos``, ``vx`` of ``mobile_base.vx``."""
    stem, _, word = feature.rpartition(".")
    return stem if word in (*POSITIONS, "vel") else word


def _commands(actions: Mapping[str, Any]) -> Iterable[str]:
    """Features that move the robot; a velocity or torque beside a position says nothing that is sent."""
    placed = {stem for stem, word in map(_split, actions) if word in POSITIONS}
    for feature in actions:
        stem, word = _split(feature)
        if word in POSITIONS or (word in VELOCITIES and stem not in placed):
            yield feature
        elif stem not in placed:
            known = ", ".join(f".{word}" for word in (*POSITIONS, *VELOCITIES))
            raise InterfaceValidationError(
                f"action feature {feature!r} does not say what it is: names end in one of {known}"
            )


def _split(feature: str) -> tuple[str, str]:
    stem, _, word = feature.rpartition(".")
    return stem, word


def _is_velocity(feature: str) -> bool:
    return _split(feature)[1] in VELOCITIES


def _component(feature: str) -> str:
    """``left_gripper`` of ``left_gripper.pos``: the side where the name says one, then the part."""
    if _is_velocity(feature):
        return "base"
    joint = joint_of(feature)
    match = SIDE.match(joint)
    side = {"l": "left_", "r": "right_"}[match[1][0]] if match else ""
    bare = joint[match.end() :] if match else joint
    if "gripper" in bare:
        return f"{side}gripper"
    if bare.startswith(FINGERS):
        return f"{side}hand"
    return f"{side}{'head' if bare.startswith(('neck', 'head', 'antenna')) else 'arm'}"


def _unknown(feature: str) -> Range:
    """Of a joint of which no bus says more."""
    return Range("rad" if _split(feature)[1] == "q" else "lerobot", -math.inf, math.inf)


def _scale(feature: str, known: Range, radians: bool) -> float:
    turns = joint_of(feature) in TURNS if _is_velocity(feature) else known.unit == "degrees"
    return math.pi / 180 if radians and turns else 1.0


def _spec(group: Group, known: list[Range], rates: Rates, radians: bool) -> ComponentSpec:
    """The component of a group; limits and rates in the unit of its numbers."""
    part = group.name.rpartition("_")[2]
    kind, command = KINDS[part]
    if part == "gripper" and len(group.features) > 1:  # a gripper's command is one number
        kind, command = KINDS["hand"]
    joints = [joint_of(feature) for feature in group.features]
    if part == "base":
        fastest = [rates.turn if joint in TURNS else rates.base for joint in joints]
        turn = "rad/s" if radians else "degrees/s"
        words = {**dict.fromkeys(LENGTHS, "m/s"), **dict.fromkeys(TURNS, turn)}
        unit = ", ".join(words.get(joint, "lerobot") for joint in joints)
    else:
        fastest = [rates.gripper if part == "gripper" else rates.joint] * len(joints)
        found = {item.unit for item in known}
        unit = found.pop() if len(found) == 1 else "lerobot"
        if unit == "rad":  # by itself
            fastest = [math.radians(rate) for rate in fastest]
        unit = "rad" if radians and unit == "degrees" else unit
    lower, upper = (np.array(limit) * group.scale for limit in zip(*[item[1:] for item in known], strict=True))
    return ComponentSpec(
        group.name,
        kind,
        len(joints),
        [command],
        joint_names=joints,
        unit=unit,
        lower=lower.tolist() if np.isfinite(lower).any() else None,
        upper=upper.tolist() if np.isfinite(upper).any() else None,
        max_rate=(np.array(fastest) * group.scale).tolist(),
    )


def _measured(features: list[str], groups: Mapping[str, Group]) -> list[Group]:
    """The components that are observed as a whole, then all else: by component and last word, or alone."""
    whole = [group for group in groups.values() if set(group.features) <= set(features)]
    taken = {feature for group in whole for feature in group.features}
    others: dict[str, dict[str, float]] = {}
    place = {
        _split(feature)[0]: (group.name, float(scale))
        for group in groups.values()
        for feature, scale in zip(group.features, group.scale, strict=True)
        if not _is_velocity(feature)
    }
    for feature in features:
        stem, word = _split(feature)
        if feature in taken:
            continue
        if stem in place:
            component, scale = place[stem]
            others.setdefault(f"{component}.{word}", {})[feature] = scale if word == "vel" else 1.0
        else:
            others[feature] = {feature: 1.0}
    return whole + [Group(name, tuple(scales), np.array([*scales.values()])) for name, scales in others.items()]
