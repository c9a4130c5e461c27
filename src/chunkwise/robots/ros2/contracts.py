"""Files of others: the contract in IB-Robot's ``robot_config`` YAML, and the topics JSON of the IGRIS engine.

What they mean is kept, and what they leave unused is used: ``tol_ms`` also with ``hold``, ``clamp``,
``safety_behavior``, the QoS of commands.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ComponentSpec
from chunkwise.robots._igris.messages import PACKAGES
from chunkwise.robots._igris.rules import Rule
from chunkwise.robots._igris.topics import PREFIX, topics_tree
from chunkwise.robots.ros2 import own, readings
from chunkwise.robots.ros2.body import COMMAND_TYPES, Body, Observation, Output
from chunkwise.robots.ros2.trees import Ros2FileError, Tree

CONTRACT: Final = (
    *("observations", "actions", "rate_hz", "max_duration_s", "default_task", "base_contract", "tasks"),
    *("name", "version", "recording"),
)
OBSERVATION: Final = ("key", "topic", "type", "peripheral", "selector", "image", "align", "qos")
ACTION: Final = ("key", "selector", "publish", "from_tensor", "safety_behavior")
STATE: Final = "observation.state"
IMAGES: Final = "observation.images."
SUFFIXES: Final = ("controller", "position", "velocity", "effort", "forward", "trajectory", "joint", "commands")
"""Last words in the name of a controller that are not the name of what it moves."""


def contract_body(value: object, where: str) -> Body:
    """The robot of a ``robot_config`` file: the ``contract`` in it.

    Cameras are named as after ``observation.images.``; components by the first word of their topic, without
    ``_position_controller`` and the like.  A component's state is that part of ``observation.state`` which its
    commands' names say (``action.3``, or joints), else the part at the same place.

    Raises:
        Ros2FileError: a key of the contract is unknown or missing, or a value is not what it must be.
    """
    robot = Tree(Tree(value, where).values.get("robot"), f"{where}: robot")
    tree = robot.below("contract", CONTRACT)
    if tree.values.get("base_contract"):
        raise tree.wrong("base_contract", "is merged by nobody; write its observations and actions here")
    hz = tree.number("rate_hz", 20.0)
    observations = tuple(
        _observation(item, f"{tree.where}: observations[{at}]", index)
        for index, (at, item) in enumerate(_items(tree, "observations"))
    )
    twice = [item.key for item in observations if [other.key for other in observations].count(item.key) > 1]
    if twice:
        raise Ros2FileError(f"{tree.where}: observations: {twice[0]!r} twice")
    parts = tuple(item for item in observations if item.key.startswith(STATE))
    joined = {STATE: tuple(item.key for item in parts)} if parts else {}
    state = _State(parts)
    outputs: list[Output] = []
    for at, item in _items(tree, "actions"):
        outputs.append(_output(item, f"{tree.where}: actions[{at}]", state, outputs, hz))
    if state.columns is not None and len(state.taken) != state.columns:
        raise Ros2FileError(
            f"{tree.where}: the actions are {len(state.taken)} numbers, and {STATE} is {state.columns}: which is "
            "whose?"
        )
    return Body(robot.text("name"), hz, observations, tuple(outputs), joined, where)


def igris_body(value: object, actions: object, where: str) -> Body:
    """The robot of a topics JSON, which has no commands, and of the ``actions`` of a file of ours.

    Keys are those after ``/observation/``; stamps in headers are not used, as the engine does not.

    Raises:
        Ros2FileError, IgrisFileError: a key is unknown or missing, or a value is not what it must be.
    """
    topics = topics_tree(value, where)
    observations = tuple(
        Observation(
            key.removeprefix(PREFIX),
            own.topic_of(Tree({"topic": item.topic}, f"{where}: topics.{item.label}")),
            f"{PACKAGES.get(item.msg_type, 'std_msgs')}/msg/{item.msg_type}",
            _ruled(rule),
            rule.kind == "image",
            (),
            rule.columns,
            align=own.align_of({"stamp": "receive"}, where),
        )
        for key, (item, rule) in topics.rules().items()
        if rule.kind != "text"
    )
    tree = Tree(actions, f"{where}, with actions", ("actions", "name"))
    outputs = own.outputs_of(tree, observations, topics.hz)
    return Body(tree.text("name", topics.robot_id), topics.hz, observations, outputs, where=where)


class _State:
    """What ``observation.state`` is made of, and which of it is taken already."""

    def __init__(self, parts: tuple[Observation, ...]) -> None:
        self.names = [name for part in parts for name in part.names]
        sizes = [part.columns for part in parts]
        self.columns = None if None in sizes or not parts else sum(size or 0 for size in sizes)
        self.taken: list[int] = []

    def place(self, names: tuple[str, ...], where: str) -> tuple[int, ...]:
        """Which of the numbers are those that a command of these names is for.

        ``action.3`` is the fourth; joints are those of the same names; other names take what comes next.
        """
        count = len(names) or self.columns
        if not count:
            raise Ros2FileError(f"{where}: without selector.names: how many numbers are its commands?")
        parts = [name.rpartition(".") for name in names]
        joints = [end for _, _, end in parts]
        missing = [joint for joint in joints if joint not in self.names]
        if names and all(head == "action" and end.isdecimal() and len(end) < 6 for head, _, end in parts):
            found = tuple(map(int, joints))
        elif names and not missing:
            found = tuple(map(self.names.index, joints))
        elif len(missing) < len(joints):
            raise Ros2FileError(f"{where}: {STATE} has no joint {', '.join(missing)}, but has the others")
        else:
            found = tuple(range(len(self.taken), len(self.taken) + count))
        twice = [at for at in found if at in self.taken or found.count(at) > 1]
        if twice:
            raise Ros2FileError(f"{where}: number {twice[0]} of {STATE} is commanded twice")
        if self.columns is not None and max(found) >= self.columns:
            raise Ros2FileError(f"{where}: number {max(found)} of {STATE}, which has {self.columns}")
        self.taken += found
        return found


def _items(tree: Tree, key: str) -> list[tuple[int, Any]]:
    value = tree.values.get(key)
    if not isinstance(value, list) or not 0 < len(value) <= 256:
        raise tree.wrong(key, "must be a list of 1 to 256")
    return list(enumerate(value))


def _observation(value: object, where: str, index: int) -> Observation:
    tree = Tree(value, where, OBSERVATION)
    key = tree.text("key")
    pictured = key.startswith(IMAGES)
    if "topic" not in tree.values:
        raise Ros2FileError(f"{where}: {key} names no topic: write the topic that the peripheral publishes")
    usual = "sensor_msgs/msg/Image" if pictured else "sensor_msgs/msg/JointState"
    kind = own.type_of(tree, readings.TYPES, usual)
    selector = tree.below("selector", ("names",)).names("names")
    image = tree.below("image", ("resize", "encoding", "channels"))
    if pictured != (kind in readings.PICTURES):
        raise Ros2FileError(f"{where}: {key} is {'a' if pictured else 'no'} picture, and its type is {kind}")
    if image.values.get("channels", 3) != 3:
        raise image.wrong("channels", "must be 3: pictures are RGB here")
    field, names = _selected(selector, where) if kind == "sensor_msgs/msg/JointState" else ("position", selector)
    read = readings.of_type(
        kind,
        names=() if pictured else names,
        field=field,
        encoding=own.encoding_of(image),
        size=own.image_size(image),
    )
    name = key.removeprefix(IMAGES) if pictured else f"{key}.{index}" if key == STATE else key
    return Observation(
        *(name, own.topic_of(tree), kind, read, pictured, () if pictured else names),
        own.columns_of(kind, names, None),
        qos=own.qos_of(tree.values.get("qos"), f"{where}: qos"),
        align=own.align_of(tree.values.get("align"), f"{where}: align", "receive"),
    )


def _selected(selector: tuple[str, ...], where: str) -> tuple[str, tuple[str, ...]]:
    """The field and the joints of names such as ``position.elbow``, or ``elbow``."""
    fields, names = set(), []
    for text in selector:
        field, dot, name = text.partition(".")
        known = bool(dot) and field in readings.JOINT_FIELDS
        fields.add(field if known else "position")
        names.append(name if known else text)
    if len(fields) > 1:
        raise Ros2FileError(f"{where}: selector: {' and '.join(sorted(fields))}: make one observation of each")
    return next(iter(fields), "position"), tuple(names)


def _output(value: object, where: str, state: _State, before: list[Output], control_hz: float) -> Output:
    tree = Tree(value, where, ACTION)
    tree.text("key")
    publish = tree.below("publish", ("topic", "type", "qos", "strategy"))
    if publish.values.get("strategy") not in (None, "nearest", {"mode": "nearest"}):
        raise publish.wrong("strategy", "must be nearest: the scheduler says which row runs when")
    kind = own.type_of(publish, COMMAND_TYPES[:4], "std_msgs/msg/Float64MultiArray")
    topic = own.topic_of(publish)
    selected = tree.below("selector", ("names",)).names("names")
    columns = state.place(selected, where)
    joints = tuple(state.names[at] for at in columns) if len(state.names) > max(columns) else ()
    words = topic.split("/")[1].split("_")
    moving = "velocity" in words or "base" in words
    if state.columns is None and not moving:
        raise Ros2FileError(f"{where}: no {STATE} with selector.names, which would say where {topic} stands")
    while len(words) > 1 and words[-1] in SUFFIXES:
        words.pop()
    name, dof = "_".join(words), len(columns)
    if name in [output.component.name for output in before]:
        raise Ros2FileError(f"{where}: {topic}: there is a component {name!r} already; one topic for each")
    lower, upper = own.clamp_of(tree.below("from_tensor", ("clamp",)), "clamp", dof)
    gripping = "gripper" in words and dof == 1 and not moving
    rate = None
    if moving and lower and upper:
        rate = [max(abs(low), abs(high)) for low, high in zip(lower, upper, strict=True)]
    safe = tree.choice("safety_behavior", tuple(own.SAFE), "zeros" if moving else "hold")
    spec = ComponentSpec(
        *(name, "gripper" if gripping else "base" if moving else "arm", dof),
        ["joint_velocity" if moving else "gripper_position" if gripping else "joint_position"],
        joint_names=list(joints),
        lower=lower,
        upper=upper,
        max_rate=rate,
        hold=own.SAFE[safe],
    )
    qos = own.qos_of(publish.values.get("qos"), f"{publish.where}: qos")
    return Output(
        *(spec, topic, kind, STATE if state.columns is not None else "", columns, joints),
        duration_s=1 / control_hz,
        qos=qos,
    )


def _ruled(rule: Rule) -> Any:
    def read(message: Any) -> NDArray[Any]:
        value = np.asarray(rule.read(message))
        if rule.kind != "image" or value.ndim == 3:
            return value
        return np.repeat(value[:, :, None], 3, axis=2)

    return read
