"""The node over an installed ``rclpy``, against one that is as strict as the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.plugins import MissingExtra
from chunkwise.transports._ros2 import Qos, Ros2Error, Settings, open_node

FAKE = Path(__file__).with_name("fake_rclpy.py")
JOINTS = "sensor_msgs/msg/JointState"


@pytest.fixture
def graph() -> Iterator[Any]:
    with plugins.load("transports", f"{FAKE}:installed")() as made:
        yield made


@pytest.fixture
def node(graph: Any) -> Iterator[Any]:
    made = open_node(Settings("arm", domain=7), "rclpy")
    yield made
    made.close()


def test_it_has_a_context_and_a_thread_of_its_own(graph: Any) -> None:
    before = set(threading.enumerate())
    node = open_node(Settings("arm", domain=7), "rclpy")
    assert graph.running.wait(10)
    assert graph.context == {"domain": 7, "over": False, "name": "arm"} and node.name == "/arm"
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"ros2 /arm"}
    node.close()
    node.close()
    assert graph.context["over"] and graph.destroyed
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionError):
        node.publisher("/x", JOINTS)


def test_messages_come_as_they_are(node: Any, graph: Any) -> None:
    heard: list[Any] = []
    node.subscribe(
        "joint_states", "sensor_msgs/JointState", lambda *got: heard.append(got), qos=Qos("best_effort")
    )
    call, profile = graph.subscriptions["/joint_states"]
    assert (profile.reliability.name, profile.durability.name, profile.depth) == ("BEST_EFFORT", "VOLATILE", 10)
    call(json.dumps({"name": ["a"], "position": [1.5]}).encode())
    message, time_ns = heard[0]
    assert message.name == ["a"] and message.position == [1.5] and time_ns > 0


def test_what_is_malformed_or_too_long_is_a_fault(graph: Any) -> None:
    node = open_node(Settings("arm", max_bytes=50), "rclpy")
    try:
        faults: list[Exception] = []
        node.subscribe("/js", JOINTS, lambda *_: None, on_fault=faults.append)
        call, _ = graph.subscriptions["/js"]
        call(b"nonsense")
        call(b" " * 51)
        call(b"{}")
        assert [str(fault)[:52] for fault in faults] == [
            "/js: no sensor_msgs/msg/JointState in 8 bytes: Expec",
            "/js: a sensor_msgs/msg/JointState of 51 bytes; at mo",
        ]
    finally:
        node.close()


def test_arrays_go_in_whole(node: Any, graph: Any) -> None:
    sender = node.publisher("/commands", JOINTS)
    assert sender.listeners() == 2
    header = {"stamp": {"sec": 5, "nanosec": 6}, "frame_id": "base"}
    sender.publish({"header": header, "name": ["a", "b"], "position": np.array([1.5, 2.5])})
    sender.publish(SimpleNamespace(position=[1, 2]))
    (topic, first), (_, second) = graph.published
    assert topic == "/commands"
    assert (first.header.stamp.sec, first.header.frame_id, first.name) == (5, "base", ["a", "b"])
    assert first.position.tolist() == [1.5, 2.5] and first.velocity.tolist() == []
    assert second.position.tolist() == [1.0, 2.0] and second.name == []


def test_messages_in_messages(node: Any, graph: Any) -> None:
    node.publisher("/gids", "sensor_msgs/msg/Gids").publish({"all": [{"data": [1, 2, 3, 4]}]})
    assert graph.published[0][1].all[0].data.tolist() == [1, 2, 3, 4]


def test_truths_go_in_as_pythons_own(node: Any, graph: Any) -> None:
    node.publisher("/flags", "sensor_msgs/msg/Flags").publish({"all": np.array([True, False])})
    assert graph.published[0][1].all == [True, False]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nmae": []}, r"no field 'nmae' \(did you mean 'name'\?\)"),
        ({"position": ["x"]}, "JointState.position"),
        ({"header": {"stamp": {"sec": "x"}}}, "Time.sec"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(node: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Ros2Error, match=says):
        node.publisher("/x", JOINTS).publish(fields)


def test_silence_is_explained(node: Any, graph: Any) -> None:
    offers = plugins.load("transports", f"{FAKE}:Reliability")
    node.subscribe("/js", JOINTS, lambda *_: None)
    assert node.silence("/js") == "nobody publishes /js"
    assert node.silence("/other") == "nobody here listens to /other"
    graph.offer("/js", JOINTS, offers.RELIABLE)
    assert node.silence("/js") == "/js has a publisher that is silent"
    graph.offer("/js", JOINTS, offers.BEST_EFFORT)
    assert "published with the QoS best_effort, volatile, which is less than reliable" in node.silence("/js")
    graph.publishers["/js"][0].topic_type = "std_msgs/msg/String"
    assert node.silence("/js") == f"/js is published as std_msgs/msg/String, not {JOINTS}"


def test_a_type_that_is_not_installed_is_said(node: Any) -> None:
    for name in ("sensor_msgs/msg/Imag", "nowhere_msgs/msg/Thing"):
        with pytest.raises(Ros2Error, match=f"no message type '{name}' in the ROS 2 that is installed"):
            node.publisher("/x", name)


def test_loopback_is_the_environments(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_LOCALHOST_ONLY", raising=False)
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    with pytest.raises(Ros2Error, match="set ROS_LOCALHOST_ONLY=1"):
        open_node(Settings("arm", loopback=True), "rclpy")
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    open_node(Settings("arm", loopback=True), "rclpy").close()


def test_without_ros_the_cure_is_said() -> None:
    with pytest.raises(MissingExtra, match=r"source /opt/ros/<distribution>/setup.bash"):
        open_node(Settings("arm"), "rclpy")
