"""Both ways with an independent peer: its joints and pictures are our observations, our commands reach it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import robot_layout
from chunkwise.transports._ros2 import Settings, open_node

pytestmark = [pytest.mark.slow, pytest.mark.ros2]

FILE = """\
name: peer
control_hz: 50
observations:
  arm:
    topic: /joint_states
    type: sensor_msgs/msg/JointState
    names: [shoulder, elbow]
    align: {strategy: asof, tol_ms: 5000}
  gripper: {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [gripper]}
  head: {topic: /head/image_raw, type: sensor_msgs/msg/Image, qos: {reliability: RELIABILITY}}
actions:
  arm: {topic: /arm/commands, type: std_msgs/msg/Float64MultiArray, clamp: [-1.5, 1.5]}
  gripper: {topic: /arm/commands, type: std_msgs/msg/Float64MultiArray, clamp: [0, 0.08], unit: m}
"""


@pytest.fixture
def robot(tmp_path: Path, domain: int) -> Iterator[Callable[..., Any]]:
    with ExitStack() as made:

        def make(reliability: str = "best_effort", **options: Any) -> Any:
            path = tmp_path / "peer.yaml"
            path.write_text(FILE.replace("RELIABILITY", reliability), encoding="utf-8")
            place = {"api": "dds", "domain": domain, "loopback": True, "node_name": "policy", "timeout_s": 20.0}
            robot = plugins.load("robots", "ros2")(config=path, **{**place, **options})
            made.callback(robot.close)
            return robot

        yield make


def test_it_is_observed_and_commanded(peer: Any, robot: Callable[..., Any]) -> None:
    made = robot()
    made.connect()
    frame = made.observe()
    assert frame.state["arm"].tolist() == [0.1, 0.2] and frame.state["gripper"].tolist() == [0.3]
    assert frame.images["head"].shape == (48, 64, 3)
    assert frame.images["head"][0, 0].tolist() == [30, 20, 10], "blue and red as they are"
    assert frame.meta == {}
    assert set(frame.times_ns) == {"arm", "gripper", "head"}

    made.act(robot_layout(made.spec).action(np.array([9.0, -0.5, 0.01])))
    assert peer.wait(lambda words: words[0] == "command") == ["command", "3", "1.500000", "-0.500000", "0.010000"]


def test_it_sees_our_node_in_the_graph(peer: Any, robot: Callable[..., Any]) -> None:
    made = robot()
    made.connect()
    words = peer.wait(lambda words: words[0] == "node" and words[1] == "/policy" and words[3:] == ["2", "1"])
    found = peer.wait(lambda said: said[0] == "participant" and said[1] == words[2])
    assert found[2] == "enclave=/;", "what ROS 2 knows its own by"


def test_its_best_effort_is_less_than_reliable_and_that_is_said(peer: Any, robot: Callable[..., Any]) -> None:
    made = robot("reliable", timeout_s=3.0)
    with pytest.raises(TimeoutError) as caught:
        made.connect()
    said = str(caught.value)
    assert "camera head (/head/image_raw): /head/image_raw is published with the QoS best_effort, volatile" in said
    assert "ask for qos: {reliability: best_effort}" in said
    assert "state arm" not in said


def test_what_goes_is_old_and_what_comes_back_is_heard(
    start: Callable[[], Any], robot: Callable[..., Any]
) -> None:
    made, first = robot(), start()
    made.connect()
    assert first.close() == 0
    pause = threading.Event()
    pause.wait(0.2)  # what was on its way has come
    gone = made.observe()
    pause.wait(0.05)
    assert made.observe().times_ns == gone.times_ns, "nothing new, and nothing that looks so"

    second = start()
    for _ in range(1000):
        if made.observe().times_ns["arm"] > gone.times_ns["arm"]:
            break
        pause.wait(0.02)
    assert made.observe().times_ns["arm"] > gone.times_ns["arm"]
    for _ in range(1000):  # commands are volatile: those before it listens are lost, as on a robot
        made.act(robot_layout(made.spec).action(np.array([0.25, 0.5, 0.01])))
        if second.said("command"):
            break
        pause.wait(0.02)
    assert second.wait(lambda words: words[0] == "command")[2] == "0.250000"


def test_another_type_at_its_topic_is_said(peer: Any, robot: Callable[..., Any], domain: int) -> None:
    made = robot()
    made.connect()
    node = open_node(Settings("other", domain=domain, loopback=True))
    try:
        node.subscribe("/joint_states", "std_msgs/msg/String", lambda *_: None)
        assert node.silence("/joint_states") == (
            "/joint_states is published as sensor_msgs/msg/JointState, not std_msgs/msg/String"
        )
    finally:
        node.close()
