"""Which part of a robot is which feature of a policy: cameras, states and commands, by name.

A LeRobot checkpoint says how many numbers a state and an action have, and not whose they are.  So that is said
here once, before anything moves, and whatever does not add up is refused with the names of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    BindingError,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    RobotSpec,
    robot_layout,
)
from chunkwise.contract.errors import nearest
from chunkwise.contract.images import ImageRule
from chunkwise.policies._checkpoint import Checkpoint
from chunkwise.processing.lerobot import Feature

STATE, IMAGES, OBSERVATION = "observation.state", "observation.images.", "observation."


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says of it; everything may be left out where a robot is known.

    Attributes:
        images: ``camera=feature``; a camera that is not listed is the feature of its name.
        state: components (or further states) that make up ``observation.state``, in its order.
        environment: states that make up ``observation.environment_state``, in its order.
        actions: ``component``, ``component:kind``, ``component:7`` or ``component:kind:7``, in the order of the
            action's columns.
    """

    images: Sequence[str] = ()
    state: Sequence[str] = ()
    environment: Sequence[str] = ()
    actions: Sequence[str] = ()

    @property
    def kinds_said(self) -> bool:
        """Whether every action says its kind, so that none is as a robot has it."""
        return all(_parsed(text)[1] for text in self.actions)


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which part of a robot is which feature.

    Attributes:
        cameras: feature -> camera.
        states: feature -> names in ``frame.state`` whose values follow one another in it.
        outputs: the action's columns.
        inputs: the features.
    """

    cameras: Mapping[str, str]
    states: Mapping[str, tuple[str, ...]]
    outputs: tuple[PolicyOutputSpec, ...]
    inputs: Mapping[str, Feature]

    def observation(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """What the policy reads of a frame, by LeRobot's names.

        Raises:
            InterfaceValidationError: a camera or a state is missing, or has another number of values.
        """
        seen = {feature: _of(frame.images, camera, "camera", feature) for feature, camera in self.cameras.items()}
        for feature, keys in self.states.items():
            parts = [np.ravel(_of(frame.state, key, "state", feature)) for key in keys]
            width = sum(map(len, parts))
            if self.inputs[feature].shape != (width,):
                listed = ", ".join(f"{key} {len(part)}" for key, part in zip(keys, parts, strict=True))
                raise InterfaceValidationError(
                    f"{feature} has {_width(self.inputs[feature])} numbers, the frame's make {width} ({listed})"
                )
            seen[feature] = np.concatenate(parts)
        return seen

    def image_rules(self, *, any_size: bool) -> dict[str, ImageRule]:
        """What each camera's picture must be like.

        Args:
            any_size: the network makes it its own size.

        Raises:
            BindingError: a camera stands for two features of different sizes.
        """
        rules: dict[str, ImageRule] = {}
        for feature, camera in self.cameras.items():
            channels, height, width = self.inputs[feature].shape
            size = (0, 0) if any_size else (height, width)
            rule = ImageRule(*size, colours="grey" if channels == 1 else "rgb")
            if rules.setdefault(camera, rule) != rule:
                raise BindingError(f"camera {camera!r} cannot be {feature} as well: its size is another one")
        return rules


def wire(
    checkpoint: Checkpoint, inputs: Mapping[str, Feature], wishes: Wishes, robot: RobotSpec | None
) -> Wiring | None:
    """How a robot's parts are a policy's features.

    Args:
        checkpoint: the policy.
        inputs: what it reads.
        wishes: what the user says.
        robot: what it is to drive, where that is known: what was not said is then taken from it, in its order.

    Returns:
        None where too little was said to know without a robot.

    Raises:
        BindingError: they do not fit; the message names both sides, and the option that tells.
    """
    cameras = _cameras(inputs, wishes.images, robot)
    states = _states(inputs, wishes, robot)
    outputs = _outputs(checkpoint.action_dim, wishes.actions, robot)
    if states is None or outputs is None:
        return None
    return Wiring(cameras, states, outputs, dict(inputs))


def _cameras(inputs: Mapping[str, Feature], said: Sequence[str], robot: RobotSpec | None) -> dict[str, str]:
    features = [name for name, feature in inputs.items() if feature.type == "VISUAL"]
    short = {_short(name): name for name in features}
    cameras: dict[str, str] = {}
    for text in said:
        camera, equals, wanted = (part.strip() for part in text.partition("="))
        feature = short.get(wanted, wanted)
        if not equals or not camera or feature not in features:
            there = ", ".join(short) or "none"
            raise BindingError(
                f"images {text!r}: write camera=feature; the policy's are: {there}{nearest(wanted, short)}"
            )
        if feature in cameras:
            raise BindingError(f"images: {feature} is given two cameras, {cameras[feature]!r} and {camera!r}")
        cameras[feature] = camera
    cameras = {feature: cameras.get(feature, _short(feature)) for feature in features}
    known = None if robot is None else robot.image_keys
    missing = [] if known is None else [feature for feature in features if cameras[feature] not in known]
    if missing:
        lines = [
            f"{feature} wants camera {cameras[feature]!r}{nearest(cameras[feature], known or [])}"
            for feature in missing
        ]
        there = ", ".join(known or []) or "none"
        raise BindingError(
            f"{'; '.join(lines)}; the robot's cameras are: {there}.  Say which is which: "
            f"--policy.images CAMERA={_short(missing[0])}"
        )
    return cameras


def _states(
    inputs: Mapping[str, Feature], wishes: Wishes, robot: RobotSpec | None
) -> dict[str, tuple[str, ...]] | None:
    states: dict[str, tuple[str, ...]] = {}
    for name, feature in inputs.items():
        if feature.type == "VISUAL" or feature.type == "LANGUAGE":
            continue
        if len(feature.shape) != 1:
            raise BindingError(f"{name} has the shape {feature.shape}; a state has one dimension")
        keys: tuple[str, ...] = (_short(name),)
        if name == STATE:
            found = tuple(wishes.state) or _all_components(feature, robot)
        elif feature.type == "ENV":
            found = tuple(wishes.environment) or _all_further(name, robot)
        else:
            found = keys
        if found is None:
            return None
        states[name] = found
    for option, name in (("state", STATE), ("environment", "observation.environment_state")):
        if getattr(wishes, option) and name not in states:
            raise BindingError(f"{option} is given, and the policy reads no {name}")
    if robot is not None:
        known = robot.all_state_keys()
        for name, keys in states.items():
            for key in keys:
                if key not in known:
                    raise BindingError(
                        f"{name} wants state {key!r}{nearest(key, known)}; the robot has: {', '.join(known)}"
                    )
    return states


def _all_components(feature: Feature, robot: RobotSpec | None) -> tuple[str, ...] | None:
    if robot is None:
        return None
    sizes = {component.name: component.dof for component in robot.components}
    if sum(sizes.values()) != _width(feature):
        raise BindingError(
            f"{STATE} has {_width(feature)} numbers, the robot's components make {sum(sizes.values())} "
            f"({_listed(sizes)}); say whose they are, in order: --policy.state NAME,NAME"
        )
    return tuple(sizes)


def _all_further(name: str, robot: RobotSpec | None) -> tuple[str, ...] | None:
    if robot is None:
        return None
    if not robot.state_keys:
        raise BindingError(
            f"{name} is state beyond the joints, and robot {robot.name!r} has none; say whose it is: "
            "--policy.environment NAME,NAME"
        )
    return tuple(robot.state_keys)


def _outputs(width: int, said: Sequence[str], robot: RobotSpec | None) -> tuple[PolicyOutputSpec, ...] | None:
    if not said:
        if robot is None:
            return None
        said = [component.name for component in robot.components]
    outputs = []
    for text in said:
        target, kind, dim = _parsed(text)
        if robot is not None:
            kind, dim = _as_the_robot_has_it(target, kind, dim, robot)
        if dim is None:
            return None
        outputs.append(PolicyOutputSpec(target, kind or "joint_position", dim))
    sizes = {output.target: output.dim for output in outputs}
    if len(sizes) < len(outputs):
        raise BindingError(
            f"actions: a component is named twice: {', '.join(output.target for output in outputs)}"
        )
    if sum(sizes.values()) != width:
        raise BindingError(
            f"the policy's actions have {width} numbers, the components make {sum(sizes.values())} "
            f"({_listed(sizes)}); say which they command, in order: --policy.actions NAME[:KIND],NAME"
        )
    return tuple(outputs)


def _parsed(text: str) -> tuple[str, str, int | None]:
    """Component, kind ("" for none) and number of columns (None for none); a custom kind has a colon in it."""
    target, *rest = (part.strip() for part in text.split(":"))
    dim = int(rest.pop()) if rest and rest[-1].isdecimal() else None
    if not target or "" in rest or dim == 0:
        raise BindingError(f"actions {text!r}: write component, component:kind, component:7 or component:kind:7")
    return target, ":".join(rest), dim


def _as_the_robot_has_it(target: str, kind: str, dim: int | None, robot: RobotSpec) -> tuple[str, int]:
    component = robot.get_component(target)
    if component is None:
        names = [item.name for item in robot.components]
        raise BindingError(
            f"actions: robot {robot.name!r} has no component {target!r}{nearest(target, names)}; "
            f"there are: {', '.join(names)}"
        )
    kind = kind or component.command[0]
    return kind, dim or robot_layout(RobotSpec(robot.name, [], [component]), {target: kind}).width


def _of(values: Mapping[str, NDArray[Any]], name: str, what: str, feature: str) -> NDArray[Any]:
    if name not in values:
        raise InterfaceValidationError(
            f"{what} {name!r} is missing, which is {feature}{nearest(name, values)}; "
            f"the frame has: {', '.join(values) or 'none'}"
        )
    return values[name]


def _short(feature: str) -> str:
    """``observation.images.front`` without what all of its kind have in common."""
    return feature.removeprefix(IMAGES).removeprefix(OBSERVATION)


def _width(feature: Feature) -> int:
    return feature.shape[0]


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
