"""The messages of the IGRIS topics: plain classes with the fields of the ROS 2 types of the same names.

Values are read by attribute alone, so a message of ``rclpy`` reads the same.  Only fields that a rule can name are
here; ``layout`` of the arrays is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.floating]


@dataclass(slots=True)
class Time:
    """``builtin_interfaces/Time``: since the epoch of the clock that the publisher runs on."""

    sec: int = 0
    nanosec: int = 0


@dataclass(slots=True)
class Header:
    """``std_msgs/Header``; a stamp of zero is none."""

    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass(slots=True)
class Point:
    """``geometry_msgs/Point`` [m]."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


@dataclass(slots=True)
class Quaternion:
    """``geometry_msgs/Quaternion``."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    w: float = 1.0


@dataclass(slots=True)
class Pose:
    """``geometry_msgs/Pose``."""

    position: Point = field(default_factory=Point)
    orientation: Quaternion = field(default_factory=Quaternion)


@dataclass(slots=True)
class PoseStamped:
    """``geometry_msgs/PoseStamped``."""

    header: Header = field(default_factory=Header)
    pose: Pose = field(default_factory=Pose)


@dataclass(slots=True)
class JointState:
    """``sensor_msgs/JointState``: each array has one value per joint, or none."""

    header: Header = field(default_factory=Header)
    name: Sequence[str] = ()
    position: Numbers = ()
    velocity: Numbers = ()
    effort: Numbers = ()


@dataclass(slots=True)
class Image:
    """``sensor_msgs/Image``: `data` is `height` rows of `step` bytes."""

    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    encoding: str = ""
    is_bigendian: int = 0
    step: int = 0
    data: bytes | NDArray[np.uint8] = b""


@dataclass(slots=True)
class Float32MultiArray:
    """``std_msgs/Float32MultiArray``."""

    data: Numbers = ()


@dataclass(slots=True)
class Bool:
    """``std_msgs/Bool``."""

    data: bool = False


@dataclass(slots=True)
class Int32:
    """``std_msgs/Int32``."""

    data: int = 0


@dataclass(slots=True)
class Int64:
    """``std_msgs/Int64``."""

    data: int = 0


@dataclass(slots=True)
class Float32:
    """``std_msgs/Float32``."""

    data: float = 0.0


@dataclass(slots=True)
class Float64:
    """``std_msgs/Float64``."""

    data: float = 0.0


@dataclass(slots=True)
class String:
    """``std_msgs/String``."""

    data: str = ""


TYPES: dict[str, type] = {
    made.__name__: made
    for made in (PoseStamped, JointState, Image, Float32MultiArray, Bool, Int32, Float32, Int64, Float64, String)
}
"""The message types that a topic may have, by name."""

PACKAGES = {"PoseStamped": "geometry_msgs", "JointState": "sensor_msgs", "Image": "sensor_msgs"}
"""Where ROS 2 has them; the others are of ``std_msgs``."""
