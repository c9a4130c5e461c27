"""As much of ``rclpy`` and of a message package as a node uses, with its types and its strictness."""

from __future__ import annotations

import array
import enum
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np


class Message:
    """A generated message: fields with a type each, and setters that check."""

    FIELDS: ClassVar[dict[str, tuple[str, Callable[[], Any]]]] = {}

    def __init__(self) -> None:
        for name, (_, make) in self.FIELDS.items():
            object.__setattr__(self, name, make())

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        return {name: kind for name, (kind, _) in cls.FIELDS.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        before = getattr(self, name)
        if isinstance(before, array.array):
            assert isinstance(value, array.array) and value.typecode == before.typecode, "a slow setter"
        else:
            assert isinstance(value, type(before)), f"The {name!r} field must be a {type(before).__name__}"
        single = {"sequence<boolean>": bool, "sequence<string>": str}.get(self.FIELDS[name][0])
        assert single is None or all(isinstance(item, single) for item in value), f"{name!r} and each value of it"
        object.__setattr__(self, name, value)


def message(name: str, /, **fields: tuple[str, Callable[[], Any]]) -> type[Message]:
    return type(name, (Message,), {"FIELDS": fields})


Time = message("Time", sec=("int32", int), nanosec=("uint32", int))
Header = message("Header", stamp=("builtin_interfaces/Time", Time), frame_id=("string", str))
JointState = message(
    "JointState",
    header=("std_msgs/Header", Header),
    name=("sequence<string>", list),
    position=("sequence<double>", lambda: array.array("d")),
    velocity=("sequence<double>", lambda: array.array("d")),
)
Gid = message("Gid", data=("uint8[4]", lambda: np.zeros(4, np.uint8)))
Flags = message("Flags", all=("sequence<boolean>", list))
Gids = message("Gids", all=("sequence<sensor_msgs/Gid>", list))


class Reliability(enum.Enum):
    RELIABLE, BEST_EFFORT = 1, 2


class Durability(enum.Enum):
    TRANSIENT_LOCAL, VOLATILE = 1, 2


class Graph:
    """What the node did, and what it is answered.

    Attributes:
        context: of the node: what it was made with, and whether it is over.
        subscriptions: topic -> (callback, profile).
        published: (topic, message).
        publishers: topic -> what `get_publishers_info_by_topic` answers.
        running: whether the executor spins.
    """

    def __init__(self) -> None:
        self.context: dict[str, Any] = {}
        self.subscriptions: dict[str, tuple[Callable[[bytes], None], Any]] = {}
        self.published: list[tuple[str, Any]] = []
        self.publishers: dict[str, list[Any]] = {}
        self.running, self.destroyed = threading.Event(), False

    def offer(self, topic: str, kind: str, reliability: Reliability) -> None:
        profile = SimpleNamespace(reliability=reliability, durability=Durability.VOLATILE)
        self.publishers.setdefault(topic, []).append(SimpleNamespace(topic_type=kind, qos_profile=profile))


def modules(graph: Graph) -> dict[str, Any]:
    """The modules, by name."""

    class Context:
        def shutdown(self) -> None:
            graph.context["over"] = True

    class Executor:
        def __init__(self, *, context: Context) -> None:
            self._stop = threading.Event()

        def add_node(self, node: Any) -> None:
            assert node is made_node

        def spin(self) -> None:
            graph.running.set()
            self._stop.wait()

        def shutdown(self) -> None:
            self._stop.set()

    class Node:
        def create_subscription(self, kind: Any, topic: str, callback: Any, profile: Any, *, raw: bool) -> None:
            assert raw, "bytes, so that their number can be seen first"
            graph.subscriptions[topic] = callback, profile

        def create_publisher(self, kind: Any, topic: str, profile: Any) -> Any:
            return SimpleNamespace(
                publish=lambda sent: graph.published.append((topic, sent)), get_subscription_count=lambda: 2
            )

        def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
            return graph.publishers.get(topic, [])

        def destroy_node(self) -> None:
            graph.destroyed = True

    made_node = Node()

    def init(*, args: list[str], context: Context, domain_id: int) -> None:
        graph.context = {"domain": domain_id, "over": False}

    def create_node(name: str, *, context: Context) -> Node:
        graph.context["name"] = name
        return made_node

    def deserialize(data: bytes, kind: type[Message]) -> Message:
        made = kind()
        for name, value in json.loads(data).items():
            object.__setattr__(made, name, value)
        return made

    contents = {
        "rclpy": {"init": init, "create_node": create_node},
        "rclpy.qos": {
            "QoSProfile": SimpleNamespace,
            "ReliabilityPolicy": Reliability,
            "DurabilityPolicy": Durability,
            "HistoryPolicy": SimpleNamespace(KEEP_LAST="keep_last"),
        },
        "rclpy.executors": {"SingleThreadedExecutor": Executor},
        "rclpy.context": {"Context": Context},
        "rclpy.serialization": {"deserialize_message": deserialize},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"JointState": JointState, "Gid": Gid, "Gids": Gids, "Flags": Flags},
        "std_msgs": {},
        "std_msgs.msg": {"Header": Header},
        "builtin_interfaces": {},
        "builtin_interfaces.msg": {"Time": Time},
    }
    made = {}
    for name, content in contents.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(content)
    return made


@contextmanager
def installed() -> Iterator[Graph]:
    """A ROS 2 that is installed."""
    graph = Graph()
    there = modules(graph)
    before = {name: sys.modules.get(name) for name in there}
    sys.modules.update(there)
    try:
        yield graph
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
