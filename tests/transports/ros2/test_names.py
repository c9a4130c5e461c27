"""Names of ROS 2, and QoS."""

from __future__ import annotations

import pytest

from chunkwise.transports._ros2 import Qos, Ros2Error, Settings
from chunkwise.transports._ros2.domain import configuration, domain_of, loopback_of
from chunkwise.transports._ros2.names import dds_topic, dds_type, node_name, ros_type, topic_name, type_name


def test_names_as_dds_has_them() -> None:
    assert dds_topic(topic_name("/head/image_raw")) == "rt/head/image_raw"
    assert dds_type(type_name("sensor_msgs/JointState")) == "sensor_msgs::msg::dds_::JointState_"
    assert ros_type("sensor_msgs::msg::dds_::JointState_") == "sensor_msgs/msg/JointState"
    assert ros_type("HelloWorld") == "HelloWorld"


@pytest.mark.parametrize(
    "text", ["", "/", "a//b", "/a/", "1a", "~/x", "/{node}/x", "a b", "a__b", "/" + "a" * 300]
)
def test_what_is_no_topic_is_refused(text: str) -> None:
    with pytest.raises(Ros2Error, match="is no topic"):
        topic_name(text)


@pytest.mark.parametrize("text", ["", "Image", "a/b/c/d", "a/srv/B", "a/msg/", "a/msg/B-C"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(Ros2Error, match="is no message type"):
        type_name(text)


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(Ros2Error, match="is no name of a node"):
        node_name("a/b")


@pytest.mark.parametrize(
    ("asked", "offered", "meet"),
    [
        (Qos(), Qos(), True),
        (Qos("best_effort"), Qos("reliable"), True),
        (Qos("reliable"), Qos("best_effort"), False),
        (Qos(durability="volatile"), Qos(durability="transient_local"), True),
        (Qos(durability="transient_local"), Qos(durability="volatile"), False),
    ],
)
def test_a_subscriber_gets_no_less_than_it_asks_for(asked: Qos, offered: Qos, meet: bool) -> None:
    assert asked.accepts(offered) is meet


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reliability": "best-effort"}, "did you mean 'best_effort'"),
        ({"durability": "persistent"}, "is none of volatile, transient_local"),
        ({"depth": 0}, "depth must be a whole number from 1 to 1000"),
        ({"depth": True}, "depth must be"),
    ],
)
def test_no_other_qos(given: dict[str, object], says: str) -> None:
    with pytest.raises(Ros2Error, match=says):
        Qos(**given)  # type: ignore[arg-type]


def test_the_domain_is_ROS_DOMAIN_ID_unless_it_is_given() -> None:
    assert domain_of(Settings(), {}) == 0
    assert domain_of(Settings(), {"ROS_DOMAIN_ID": "7"}) == 7
    assert domain_of(Settings(domain=3), {"ROS_DOMAIN_ID": "7"}) == 3
    for wrong in ("x", "-1", "233"):
        with pytest.raises(Ros2Error, match="a ROS domain is 0 to 232"):
            domain_of(Settings(), {"ROS_DOMAIN_ID": wrong})


def test_loopback_is_the_environments_unless_it_is_given() -> None:
    assert not loopback_of(Settings(), {})
    assert loopback_of(Settings(), {"ROS_LOCALHOST_ONLY": "1"})
    assert loopback_of(Settings(), {"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"})
    assert not loopback_of(Settings(loopback=False), {"ROS_LOCALHOST_ONLY": "1"})


def test_a_configuration_of_the_users_own_stays_but_on_the_loopback() -> None:
    own = {"CYCLONEDDS_URI": "file:///etc/cyclone.xml"}
    assert configuration(False, 1000, own).startswith("file:///etc/cyclone.xml,<CycloneDDS>")
    loopback = configuration(True, 1000, own)
    assert "127.0.0.1" in loopback and "multicast='false'" in loopback and "cyclone.xml" not in loopback
    assert "<MaxSampleSize>1000B</MaxSampleSize>" in loopback
