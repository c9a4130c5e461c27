"""A ROS 2 graph within the process: messages are coded as for a wire, and arrive before `publish` returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chunkwise.transports._ros2 import MalformedMessage, OnFault, OnMessage, Publisher, Qos
from chunkwise.transports._ros2.types import Types

JOINTS = "sensor_msgs/msg/JointState"
IMAGE = "sensor_msgs/msg/Image"
TYPES = Types()
FILE = """\
name: bench
control_hz: 50
observations:
  arm: {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [shoulder, elbow]}
  gripper: {topic: /joint_states, type: sensor_msgs/JointState, names: [finger]}
  force: {topic: /force, type: std_msgs/msg/Float32MultiArray, slice: [1, 3]}
  head: {topic: /head/image_raw, type: sensor_msgs/msg/Image, qos: {reliability: best_effort, depth: 1}}
actions:
  arm:
    topic: /commands
    type: std_msgs/msg/Float64MultiArray
    clamp: [[-1, -2], [1, 2]]
    max_rate: 4
  gripper: {topic: /commands, type: std_msgs/msg/Float64MultiArray, clamp: [0, 0.08], unit: m}
"""


class FakeNode:
    """A node; what it publishes is kept, and others publish to it with `hear`.

    Attributes:
        name: in no graph.
        sent: topic -> the messages that were published there, decoded.
        asked: topic -> (type, QoS) of what was subscribed to.
        readers: how many subscribers publishers believe there are.
        late: a topic's commands raise, as of readers that do not come after.
    """

    def __init__(self) -> None:
        self.name = "/fake"
        self.sent: dict[str, list[Any]] = {}
        self.asked: dict[str, tuple[str, Qos]] = {}
        self.calls: dict[str, list[tuple[OnMessage, OnFault | None]]] = {}
        self.readers, self.late, self.closed = 1, False, 0
        self.on_subscribe: Callable[[str], None] = lambda topic: None
        self.on_publish: Callable[[str, Any], None] = lambda topic, message: None

    def subscribe(
        self,
        topic: str,
        type_name: str,
        on_message: OnMessage,
        *,
        qos: Qos = Qos(),  # noqa: B008  frozen
        on_fault: OnFault | None = None,
    ) -> None:
        self.asked[topic] = type_name, qos
        self.calls.setdefault(topic, []).append((on_message, on_fault))
        self.on_subscribe(topic)

    def publisher(self, topic: str, type_name: str, *, qos: Qos = Qos()) -> Publisher:  # noqa: B008  frozen
        return FakePublisher(self, topic, type_name)

    def silence(self, topic: str) -> str:
        return f"nobody publishes {topic}"

    def close(self) -> None:
        self.closed += 1
        self.calls = {}

    def hear(self, topic: str, fields: Any) -> None:
        """Somebody has published a message."""
        kind = self.asked[topic][0]
        for on_message, _ in self.calls.get(topic, ()):
            on_message(TYPES.decode(kind, TYPES.encode(kind, fields)), 0)

    def garbage(self, topic: str) -> None:
        """Somebody has published what is no message."""
        for _, on_fault in self.calls[topic]:
            assert on_fault is not None
            on_fault(MalformedMessage(f"{topic}: no message"))


class FakePublisher:
    """One topic."""

    def __init__(self, node: FakeNode, topic: str, kind: str) -> None:
        self._node, self._topic, self._kind = node, topic, kind

    def publish(self, fields: Any) -> None:
        if self._node.late:
            raise TimeoutError(f"{self._topic}: not sent")
        message = TYPES.decode(self._kind, TYPES.encode(self._kind, fields))
        self._node.sent.setdefault(self._topic, []).append(message)
        self._node.on_publish(self._topic, message)

    def listeners(self) -> int:
        return self._node.readers


class Bench:
    """What is behind the topics of `FILE`: it goes where it is told at once.

    Attributes:
        node: through which it is reached.
        joints: shoulder, elbow [rad], finger [m].
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self.node, self._wall = FakeNode(), wall
        self.joints = np.array([0.1, 0.2, 0.03])
        self.pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        self.node.on_subscribe = self.show
        self.node.on_publish = self._move

    def header(self, age_s: float = 0.0) -> dict[str, Any]:
        """A header stamped so long ago."""
        ns = round(1e9 * (self._wall() - age_s))
        return {"stamp": {"sec": ns // 1_000_000_000, "nanosec": ns % 1_000_000_000}}

    def show(self, topic: str, age_s: float = 0.0) -> None:
        """Publish what is at a topic."""
        header = self.header(age_s)
        shoulder, elbow, finger = self.joints
        messages: dict[str, dict[str, Any]] = {
            "/joint_states": {
                "header": header,
                "name": ["finger", "elbow", "shoulder"],  # as controllers have them: in any order
                "position": [finger, elbow, shoulder],
            },
            "/force": {"data": [9, 1, 2, 9]},
            "/head/image_raw": {
                "header": header,
                "height": 2,
                "width": 4,
                "encoding": "bgr8",
                "step": 12,
                "data": self.pixels.tobytes(),
            },
        }
        self.node.hear(topic, messages[topic])

    def _move(self, topic: str, message: Any) -> None:
        self.joints = np.array(message.data)
        for each in list(self.node.calls):
            self.show(each)


@contextmanager
def bench(folder: Path) -> Iterator[Mapping[str, Any]]:
    """What a robot behind such a bench is made with."""
    path = folder / "bench.yaml"
    path.write_text(FILE, encoding="utf-8")
    yield {"config": path, "node": Bench().node}
