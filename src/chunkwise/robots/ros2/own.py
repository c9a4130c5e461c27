"""Our own file: observations and actions by name."""

from __future__ import annotations

from typing import Any, Final, Literal, cast

from chunkwise.contract import ComponentSpec, InterfaceValidationError
from chunkwise.contract.errors import nearest
from chunkwise.robots.ros2 import readings
from chunkwise.robots.ros2.body import COMMAND_TYPES, Align, Body, Observation, Output
from chunkwise.robots.ros2.trees import Ros2FileError, Tree
from chunkwise.transports._ros2 import Qos, Ros2Error
from chunkwise.transports._ros2.names import topic_name, type_name

KEYS: Final = ("name", "control_hz", "observations", "actions")
OBSERVATION: Final = ("topic", "type", "names", "slice", "field", "image", "qos", "align")
ACTION: Final = (
    *("topic", "type", "names", "component_type", "command", "state", "clamp", "max_rate", "initial", "unit"),
    *("safe", "frame_id", "duration_s", "qos"),
)
SAFE: Final = {"hold": "repeat", "zeros": "zero"}
"""What a component does when there is nothing to run, in ROS people's words and in ours."""


def body_of(value: object, where: str) -> Body:
    """The robot of a file of ours.

    Raises:
        Ros2FileError: a key is unknown or missing, or a value is not what it must be.
    """
    tree = Tree(value, where, KEYS)
    hz = tree.number("control_hz", 50.0)
    seen = tree.below("observations")
    observations = tuple(_observation(key, item, f"{seen.where}.{key}") for key, item in seen.values.items())
    return Body(tree.text("name", "ros2"), hz, observations, outputs_of(tree, observations, hz), where=where)


def outputs_of(tree: Tree, observations: tuple[Observation, ...], control_hz: float) -> tuple[Output, ...]:
    """What stands at ``actions``.

    Raises:
        Ros2FileError: as of `body_of`.
    """
    below = tree.below("actions")
    made = []
    for name, item in below.values.items():
        state = next((seen for seen in observations if seen.key == name), None)
        made.append(_output(name, item, f"{below.where}.{name}", state, control_hz))
    return tuple(made)


def qos_of(value: object, where: str, depth: int = 10) -> Qos:
    """What stands at ``qos``.

    Raises:
        Ros2FileError: it is none, or asks for a history without an end.
    """
    tree = Tree({} if value is None else value, where, ("reliability", "durability", "history", "depth"))
    if tree.values.get("history", "keep_last") != "keep_last":
        raise tree.wrong("history", "must be keep_last, with a depth: whatever else grows without bound")
    given = {key: item for key, item in tree.values.items() if key != "history"}
    try:
        return Qos(**{"depth": depth, **given})
    except Ros2Error as error:
        raise Ros2FileError(f"{where}: {error}") from error


def align_of(value: object, where: str, default: Literal["header", "receive"] = "header") -> Align:
    """What stands at ``align``.

    Raises:
        Ros2FileError: it is none, or ``asof`` has no ``tol_ms``.
    """
    tree = Tree({} if value is None else value, where, ("strategy", "tol_ms", "stamp"))
    strategy = tree.choice("strategy", ("hold", "asof", "drop"), "hold")
    tol_s = tree.number("tol_ms") / 1000 if tree.values.get("tol_ms") is not None else None
    if strategy == "asof" and tol_s is None:
        raise tree.wrong("tol_ms", "must say how old a value may be for asof")
    stamp = tree.choice("stamp", ("header", "receive"), default)
    return Align(cast(Any, strategy), tol_s, cast(Any, stamp))


def topic_of(tree: Tree, key: str = "topic") -> str:
    """The topic at a key.

    Raises:
        Ros2FileError: there is none.
    """
    try:
        return topic_name(tree.text(key))
    except Ros2Error as error:
        raise Ros2FileError(f"{tree.where}: {error}") from error


def type_of(tree: Tree, known: tuple[str, ...], default: str | None = None, key: str = "type") -> str:
    """The message type at a key.

    Raises:
        Ros2FileError: there is none, or another than those known.
    """
    try:
        name = type_name(tree.text(key, default))
    except Ros2Error as error:
        raise Ros2FileError(f"{tree.where}: {error}") from error
    if name not in known:
        raise Ros2FileError(f"{tree.where}: type {name} is none of {', '.join(known)}{nearest(name, known)}")
    return name


def columns_of(kind: str, names: tuple[str, ...], span: tuple[int, int] | None) -> int | None:
    """How many numbers an observation has; None where the message decides."""
    if kind == "geometry_msgs/msg/PoseStamped":
        return 7
    if kind in readings.SINGLE:
        return 1
    return len(names) or (span[1] - span[0] if span else None)


def image_size(tree: Tree) -> tuple[int, int] | None:
    """What stands at ``resize``: (height, width).

    Raises:
        Ros2FileError: it is none.
    """
    value = tree.values.get("resize")
    if value is None:
        return None
    sides = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    if not sides or not all(0 < side <= readings.MAX_SIDE for side in value):
        raise tree.wrong("resize", "must be [height, width] in pixels")
    return value[0], value[1]


def encoding_of(tree: Tree) -> str:
    """What stands at ``encoding``; empty for what the messages say.

    Raises:
        Ros2FileError: it is none that is read.
    """
    value = str(tree.values.get("encoding") or "").lower()
    known = (*readings.COLOURS, *readings.DEPTHS)
    if value and value not in known:
        raise tree.wrong("encoding", f"must be one of {', '.join(known)}{nearest(value, known)}")
    return value


def _observation(key: str, value: object, where: str) -> Observation:
    tree = Tree(value, where, OBSERVATION)
    kind = type_of(tree, readings.TYPES)
    names, span = tree.names("names"), tree.span("slice")
    picture = kind in readings.PICTURES
    image = tree.below("image", ("encoding", "resize"))
    if names and span:
        raise Ros2FileError(f"{where}: names or a slice, not both")
    if picture and (names or span):
        raise Ros2FileError(f"{where}: a picture has neither names nor a slice")
    if image.values and not picture:
        raise Ros2FileError(f"{where}: image is for pictures, and {kind} is none")
    field = tree.choice("field", readings.JOINT_FIELDS, "position")
    read = readings.of_type(
        kind, names=names, field=field, span=span, encoding=encoding_of(image), size=image_size(image)
    )
    return Observation(
        *(key, topic_of(tree), kind, read, picture, names, columns_of(kind, names, span)),
        qos=qos_of(tree.values.get("qos"), f"{where}: qos"),
        align=align_of(tree.values.get("align"), f"{where}: align"),
    )


def _output(name: str, value: object, where: str, seen: Observation | None, control_hz: float) -> Output:
    tree = Tree(value, where, ACTION)
    kind = type_of(tree, COMMAND_TYPES)
    names = tree.names("names") or (seen.names if seen else ())
    posed = kind == "geometry_msgs/msg/PoseStamped"
    dof = 7 if posed else len(names) or (seen.columns if seen else None)
    if dof is None:
        raise Ros2FileError(f"{where}: without names: how many numbers are its commands?")
    word = "gripper" if "gripper" in name else "base" if "base" in name else "hand" if "hand" in name else "arm"
    component_type = tree.choice("component_type", ("arm", "gripper", "hand", "suction", "base", "custom"), word)
    usual = {"gripper": "gripper_position", "base": "joint_velocity", "hand": "hand_joint_position"}
    command = tree.text("command", "cartesian_pose" if posed else usual.get(component_type, "joint_position"))
    if posed != (command == "cartesian_pose"):
        raise Ros2FileError(f"{where}: cartesian_pose goes out as PoseStamped, and nothing else does")
    state = tree.text("state") if "state" in tree.values else (seen.key if seen else "")
    if not state and command not in ("joint_velocity", "gripper_velocity", "eef_activation"):
        raise Ros2FileError(
            f"{where}: no observation {name!r}, which would say where it stands; name one with state: KEY"
        )
    lower, upper = clamp_of(tree, "clamp", dof)
    rate = tree.numbers("max_rate", dof)
    if rate is None and command.endswith("velocity") and lower and upper:  # a velocity's limit is how fast, at all
        rate = [max(abs(low), abs(high)) for low, high in zip(lower, upper, strict=True)]
    try:
        spec = ComponentSpec(
            *(name, component_type, dof, [command]),
            joint_names=list(names),
            unit=tree.text("unit", "rad"),
            lower=lower,
            upper=upper,
            max_rate=rate,
            hold=SAFE[tree.choice("safe", tuple(SAFE), "zeros" if command.endswith("velocity") else "hold")],
            initial=tree.numbers("initial", dof),
            rotation="quaternion_xyzw" if posed else None,
        )
    except InterfaceValidationError as error:
        raise Ros2FileError(f"{where}: {error}") from error
    return Output(
        *(spec, topic_of(tree), kind, state, None, names),
        frame_id=tree.text("frame_id", "base_link"),
        duration_s=tree.number("duration_s", 1 / control_hz),
        qos=qos_of(tree.values.get("qos"), f"{where}: qos"),
    )


def clamp_of(tree: Tree, key: str, dof: int) -> tuple[list[float] | None, list[float] | None]:
    """What stands at ``clamp``: [lowest, highest], each a number or one for every joint.

    Raises:
        Ros2FileError: it is none.
    """
    value = tree.values.get(key)
    if value is None:
        return None, None
    if not isinstance(value, list) or len(value) != 2:
        raise tree.wrong(key, "must be [lowest, highest]")
    ends = Tree({"lowest": value[0], "highest": value[1]}, f"{tree.where}: {key}")
    lower, upper = ends.numbers("lowest", dof), ends.numbers("highest", dof)
    if lower is None or upper is None:
        raise tree.wrong(key, "must be [lowest, highest], both of them numbers")
    if any(low >= high for low, high in zip(lower, upper, strict=True)):
        raise tree.wrong(key, "must leave room between lowest and highest")
    return lower, upper
