"""Names of ROS 2, and what DDS calls the same.

Source: https://design.ros2.org/articles/topic_and_service_names.html; type names as rosidl's DDS generators do it.
"""

from __future__ import annotations

import re
from typing import Final

from chunkwise.transports._ros2 import Ros2Error

_TOKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
MAX_NAME: Final = 240
DISCOVERY: Final = "ros_discovery_info"
"""The topic at which every participant says which nodes it has; it alone has no prefix."""


def topic_name(text: str) -> str:
    """The full name of a topic.

    Raises:
        Ros2Error: it is none.

    >>> topic_name("joint_states")
    '/joint_states'
    """
    name = text if text.startswith("/") else f"/{text}"
    tokens = name[1:].split("/")
    if not all(_TOKEN.match(token) and "__" not in token for token in tokens) or len(name) > MAX_NAME:
        raise Ros2Error(
            f"{text!r} is no topic: letters, digits and single underscores between slashes, a digit never first; "
            "~ and {substitutions} are to be written out"
        )
    return name


def node_name(text: str) -> str:
    """The name of a node, without its namespace.

    Raises:
        Ros2Error: it is none.
    """
    if not _TOKEN.match(text) or len(text) > MAX_NAME:
        raise Ros2Error(f"{text!r} is no name of a node: letters, digits and underscores, a digit never first")
    return text


def type_name(text: str) -> str:
    """The full name of a message type.

    Raises:
        Ros2Error: it is none.

    >>> type_name("sensor_msgs/Image")
    'sensor_msgs/msg/Image'
    """
    parts = text.split("/")
    if len(parts) == 2:
        parts.insert(1, "msg")
    if len(parts) != 3 or parts[1] != "msg" or not all(map(_TYPE.match, parts)):
        raise Ros2Error(f"{text!r} is no message type, such as sensor_msgs/msg/Image")
    return "/".join(parts)


def dds_topic(name: str) -> str:
    """What DDS calls a topic.

    >>> dds_topic("/joint_states")
    'rt/joint_states'
    """
    return f"rt{name}"


def dds_type(name: str) -> str:
    """What DDS calls a message type.

    >>> dds_type("sensor_msgs/msg/Image")
    'sensor_msgs::msg::dds_::Image_'
    """
    package, kind, last = name.split("/")
    return f"{package}::{kind}::dds_::{last}_"


def ros_type(name: str) -> str:
    """The message type that DDS calls so; the name as it stands where it is none of ROS 2.

    >>> ros_type("sensor_msgs::msg::dds_::Image_")
    'sensor_msgs/msg/Image'
    """
    parts = name.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and parts[3].endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return name
