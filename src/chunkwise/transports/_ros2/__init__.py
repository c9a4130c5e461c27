"""ROS 2 topics, with a ROS installation or without: the port, and the two ways to it.

Topics are published to whoever listens and have no connections, so this is not the port of the transports
beside it.
``dds`` talks to the robot's DDS itself and needs no ROS; ``rclpy`` uses the ROS 2 that is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.errors import nearest

Api = Literal["auto", "dds", "rclpy"]
Reliability = Literal["reliable", "best_effort"]
Durability = Literal["volatile", "transient_local"]
MAX_DEPTH: Final = 1000
MAX_BYTES: Final = 64 << 20
"""Of a message, where nothing else is said."""


class Ros2Error(InterfaceValidationError):
    """A name, type, QoS or message is not what ROS 2 has; the message says which."""


class MalformedMessage(Ros2Error):
    """Bytes that came at a topic are no message of its type, or more than are taken."""


@dataclass(frozen=True, slots=True)
class Qos:
    """What a publisher offers or a subscriber asks for; the defaults are ROS 2's own.

    Attributes:
        reliability: ``reliable`` (what is lost is sent again) or ``best_effort``.
        durability: ``transient_local`` (who comes later gets the last ones) or ``volatile``.
        depth: how many messages are kept: at a reader those that nobody took yet, of which the oldest go first.

    Raises:
        Ros2Error: a value that is none of these.

    >>> Qos("best_efort")
    Traceback (most recent call last):
    chunkwise.transports._ros2.Ros2Error: reliability 'best_efort' (did you mean 'best_effort'?)
    """

    reliability: Reliability = "reliable"
    durability: Durability = "volatile"
    depth: int = 10

    def __post_init__(self) -> None:
        choices = {"reliability": ("reliable", "best_effort"), "durability": ("volatile", "transient_local")}
        for name, known in choices.items():
            word = str(getattr(self, name))
            if word not in known:
                raise Ros2Error(f"{name} {word!r}{nearest(word, known) or ' is none of ' + ', '.join(known)}")
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or not 1 <= self.depth <= MAX_DEPTH:
            raise Ros2Error(f"depth must be a whole number from 1 to {MAX_DEPTH}, got {self.depth!r}")

    def accepts(self, offered: Qos) -> bool:
        """Whether a subscriber that asks for this gets what a publisher offers."""
        return (self.reliability == "best_effort" or offered.reliability == "reliable") and (
            self.durability == "volatile" or offered.durability == "transient_local"
        )

    def __str__(self) -> str:
        return f"{self.reliability}, {self.durability}"


OnMessage = Callable[[Any, int], None]
"""Called with a message, whose fields are attributes, and the time it came [ns, ``time.monotonic_ns``]."""
OnFault = Callable[[MalformedMessage], None]
"""Called with what was wrong with what came in the place of a message."""


class Publisher(Protocol):
    """One topic that messages are sent to."""

    def publish(self, fields: Any) -> None:
        """Send one message; who is slow loses the oldest.

        Args:
            fields: of the message, as a mapping or as an object with attributes; those that are not there are
                zero or empty.

        Raises:
            Ros2Error: a field that the type does not have, or a value that does not fit.
            TimeoutError: those who read it do not come after, and there is no room.
        """
        ...

    def listeners(self) -> int:
        """How many subscribers are there, with a QoS that this one has."""
        ...


class Node(Protocol):
    """This program in the ROS 2 graph.

    Attributes:
        name: in the graph: ``/chunkwise``.
    """

    name: str

    def subscribe(
        self, topic: str, type_name: str, on_message: OnMessage, *, qos: Qos = ..., on_fault: OnFault | None = None
    ) -> None:
        """Have `on_message` called with every message of a topic from now on, in the node's own thread.

        Raises:
            Ros2Error: the name or the type is none.
        """
        ...

    def publisher(self, topic: str, type_name: str, *, qos: Qos = ...) -> Publisher:
        """A topic to send to.

        Raises:
            Ros2Error: the name or the type is none.
        """
        ...

    def silence(self, topic: str) -> str:
        """Why nothing may have come at a topic, as far as this end can see: no publisher, another type or QoS."""
        ...

    def close(self) -> None:
        """Leave the graph; nothing is called any more.  Twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node comes into the graph.

    Attributes:
        name: of the node.
        domain: 0 to 232; None asks ``ROS_DOMAIN_ID``, which is 0 where it is not set.
        loopback: whether only this host is spoken to; None asks ``ROS_LOCALHOST_ONLY`` and
            ``ROS_AUTOMATIC_DISCOVERY_RANGE``.
        distro: the ROS 2 whose message types are spoken.
        messages: further types, as ``package/msg/Type`` -> the text of its ``.msg`` file.
        max_bytes: of a message; longer ones are refused.
    """

    name: str = "chunkwise"
    domain: int | None = None
    loopback: bool | None = None
    distro: str = "jazzy"
    messages: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = MAX_BYTES


def open_node(settings: Settings, api: Api = "dds") -> Node:
    """Join the ROS 2 graph.

    Args:
        settings: how.
        api: ``dds``, ``rclpy``, or ``auto`` for ``rclpy`` where it can be imported.

    Raises:
        Ros2Error: a setting is not what it must be.
        MissingExtra: what it needs is not installed.
        OSError: this host has no network that the settings ask for.
    """
    if api == "auto":
        api = "rclpy" if importlib.util.find_spec("rclpy") else "dds"
    if api == "rclpy":
        from chunkwise.transports._ros2.ros_client import RclpyNode

        return RclpyNode(settings)
    from chunkwise.transports._ros2.dds import DdsNode

    return DdsNode(settings)
