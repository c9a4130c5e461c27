"""Commands to messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.robots.ros2.body import Output


def message_of(
    outputs: Sequence[Output], target: Mapping[str, NDArray[np.float64]], time_ns: int, frame_id: str = ""
) -> dict[str, Any]:
    """The fields of the message with the commands of every component of one topic.

    Args:
        outputs: of the topic, in the order of the message.
        target: component -> its values.
        time_ns: now, since the epoch.
        frame_id: of a pose; the output's own where it is empty.
    """
    values = np.concatenate([target[output.component.name] for output in outputs])
    kind = outputs[0].type.rpartition("/")[2]
    stamp = {"sec": time_ns // 1_000_000_000, "nanosec": time_ns % 1_000_000_000}
    if kind.endswith("MultiArray"):
        return {"data": values}
    if kind == "PoseStamped":
        place, turn = values[:3], values[3:] / np.linalg.norm(values[3:])
        pose = {
            "position": dict(zip("xyz", map(float, place), strict=True)),
            "orientation": dict(zip("xyzw", map(float, turn), strict=True)),
        }
        return {"header": {"stamp": stamp, "frame_id": frame_id or outputs[0].frame_id}, "pose": pose}
    names = [name for output in outputs for name in output.names]
    moving = outputs[0].component.command[0].endswith("velocity")
    if kind == "JointState":
        return {"header": {"stamp": stamp}, "name": names, "velocity" if moving else "position": values}
    duration_ns = round(1e9 * outputs[0].duration_s)
    point = {
        "velocities" if moving else "positions": values,
        "time_from_start": {"sec": duration_ns // 1_000_000_000, "nanosec": duration_ns % 1_000_000_000},
    }
    return {"joint_names": names, "points": [point]}  # a stamp of zero: at once
