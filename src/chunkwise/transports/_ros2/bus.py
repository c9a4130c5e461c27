"""Topics by the short names of their types, for robots that have such files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from chunkwise.transports._ros2 import Api, Node, OnFault, Publisher, Qos, Settings, open_node

PACKAGES: Final = {
    "PoseStamped": "geometry_msgs",
    "JointState": "sensor_msgs",
    "Image": "sensor_msgs",
    "CompressedImage": "sensor_msgs",
    "JointTrajectory": "trajectory_msgs",
}
"""Where message types are; the others are of ``std_msgs``."""


class Ros2Bus:
    """Publish and subscribe at topics of ROS 2; joins the graph with the first topic.

    Args:
        settings: how it joins.
        api: ``dds`` or ``rclpy``.
        qos: of every topic.
        on_fault: told of what was no message.
    """

    def __init__(
        self,
        settings: Settings = Settings(),  # noqa: B008  frozen
        api: Api = "dds",
        qos: Qos = Qos(),  # noqa: B008  frozen
        on_fault: OnFault | None = None,
    ) -> None:
        self._settings, self._api, self._qos, self._on_fault = settings, api, qos, on_fault
        self._node: Node | None = None
        self._publishers: dict[tuple[str, str], Publisher] = {}

    def subscribe(self, topic: str, msg_type: str, callback: Callable[[Any], None]) -> None:
        """Call `callback` with every message of a topic from now on, in the node's own thread.

        Raises:
            Ros2Error: the name or the type is none.
        """
        self._joined().subscribe(
            topic,
            full_type(msg_type),
            lambda message, _: callback(message),
            qos=self._qos,
            on_fault=self._on_fault,
        )

    def publish(self, topic: str, msg_type: str, message: Any) -> None:
        """Send one message: any object that has the fields of the type, or a mapping of them.

        Raises:
            Ros2Error: the name or the type is none, or a value does not fit.
        """
        key = topic, msg_type
        if key not in self._publishers:
            self._publishers[key] = self._joined().publisher(topic, full_type(msg_type), qos=self._qos)
        self._publishers[key].publish(message)

    def silence(self, topic: str) -> str:
        """Why nothing may have come at a topic."""
        return self._joined().silence(topic)

    def close(self) -> None:
        """Leave the graph.  Twice is fine."""
        node, self._node = self._node, None
        self._publishers = {}
        if node is not None:
            node.close()

    def _joined(self) -> Node:
        if self._node is None:
            self._node = open_node(self._settings, self._api)
        return self._node


def full_type(name: str) -> str:
    """A type's full name.

    >>> full_type("JointState"), full_type("Bool")
    ('sensor_msgs/msg/JointState', 'std_msgs/msg/Bool')
    """
    return name if "/" in name else f"{PACKAGES.get(name, 'std_msgs')}/msg/{name}"
