"""What is said of messages that cannot be read is short, whatever they have in them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from chunkwise.robots.ros2 import readings
from chunkwise.robots.ros2.body import Observation
from chunkwise.robots.ros2.newest import MAX_TEXT, Newest


def test_what_is_said_of_a_message_has_an_end() -> None:
    newest = Newest({}, lambda: 0.0, lambda: 0.0)
    kind = "sensor_msgs/msg/JointState"
    wanted = [Observation(key, "/joints", kind, readings.joints((key, key * 2))) for key in ("a", "b")]
    names = ["a", *(f"joint_{at}" for at in range(10_000))]
    newest.take("/joints", wanted, SimpleNamespace(name=names, position=np.zeros(len(names))))
    newest.fault("/joints", ValueError("x" * 100_000))
    _, faults, _ = newest.now()
    assert faults["a"].startswith("/joints: no joint aa; the message has a, joint_0, ")
    assert newest.strangers["b"].startswith("the joints there are a, joint_0")
    assert all(len(text) <= MAX_TEXT for text in (*faults.values(), *newest.strangers.values()))
