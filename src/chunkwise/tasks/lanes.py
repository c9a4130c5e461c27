"""Between lanes and joints: where each hand stands across its belt, and the 16 joint positions of that pose.

Each hand holds a vertical rod at a fixed height and distance; only its sideways position in its lane is free.
A lane coordinate is that position [m], positive to the left, zero at the lane's centre, within +-LANE_LIMIT.
Lane order is right, left. Joint order is right arm 7, right gripper, left arm 7, left gripper [rad].

Lanes to joints is an inverse-kinematics table (`training/make_lanes.py` writes it), read by linear
interpolation. Joints to lanes is the forward kinematics. The left arm is the mirror image of the right one, so
one table and one chain of offsets serve both. Pure numpy: a policy needs no simulator.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

JOINT_NAMES: Final = tuple(
    f"openarm_{side}_{joint}"
    for side in ("right", "left")
    for joint in (*(f"joint{number}" for number in range(1, 8)), "finger_joint1")
)
"""The 16 driven joints in OpenArm's wire order: right arm 7, right gripper, left arm 7, left gripper."""

LANE_CENTRES: Final = (-0.21, 0.21)
"""y of each lane's centre in the base frame [m]: right, left."""
LANE_LIMIT: Final = 0.20
"""Farthest lane coordinate to either side [m]."""
GRIP_X: Final = 0.26
"""x of the gripped point of both rods in the base frame [m]."""
GRIP_Z: Final = -0.20
"""z of the gripped point of both rods in the base frame [m]."""
FINGER: Final = 0.10
"""How far the fingers are open around the rod [rad]."""

MIRROR: Final = np.array([-1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0])
"""Left arm joints = MIRROR * right arm joints, for poses mirrored in the plane y = 0."""
TABLE_FILE: Final = Path(__file__).with_suffix(".npz")

AXES: Final = (1, 0, 2, 1, 2, 1, 0)
"""Axis of each right arm joint, shoulder to wrist: 0 is x, 1 is y, 2 is z, all parallel to the base at zero."""
TURNS: Final = np.array([-1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0])
"""Whether a right arm joint turns with (+1) or against (-1) its axis."""


@cache
def _table() -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows per metre, the right arm's joints (rows, 7), their differences (rows - 1, 7), its offsets (8, 3)."""
    with np.load(TABLE_FILE) as stored:
        joints, offsets = stored["right_arm"], stored["offsets"]
    return (len(joints) - 1) / (2 * LANE_LIMIT), joints, np.diff(joints, axis=0), offsets


def _right_arm(lane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Joints (..., 7) of the right arm at its lane coordinates (...)."""
    per_metre, joints, steps = _table()[:3]
    place = (np.clip(lane, -LANE_LIMIT, LANE_LIMIT) + LANE_LIMIT) * per_metre
    row = np.minimum(place.astype(np.intp), len(steps) - 1)
    interpolated: NDArray[np.float64] = joints[row] + (place - row)[..., None] * steps[row]
    return interpolated


def lanes_to_joints(lanes: ArrayLike) -> NDArray[np.float64]:
    """Joint targets (..., 16) [rad] that bring the hands to lane coordinates (..., 2) [m], clamped to the limit.

    The hand is within 0.005 mm of the lane coordinate and of its height and distance.
    """
    y = np.asarray(lanes, dtype=np.float64)
    # The mirror image of the left hand stands at minus its coordinate: both arms are one look-up.
    arms = _right_arm(y * (1.0, -1.0))
    joints = np.empty((*y.shape[:-1], 16))
    joints[..., 0:7] = arms[..., 0, :]
    joints[..., 7] = -FINGER
    joints[..., 8:15] = arms[..., 1, :] * MIRROR
    joints[..., 15] = FINGER
    return joints


def joints_to_lanes(joints: ArrayLike) -> NDArray[np.float64]:
    """Lane coordinates (..., 2) [m] of both hands at joint positions (..., 16) [rad].

    Exact forward kinematics of the model at any pose; the grippers' two values are not looked at.
    """
    q = np.asarray(joints, dtype=np.float64)
    arms = np.stack((q[..., 0:7], q[..., 8:15] * MIRROR), axis=-2) * TURNS
    cosines, sines, offsets = np.cos(arms), np.sin(arms), _table()[3]
    # Carry the gripped point from the hand to the base: turn in the plane across each joint's axis, then shift.
    point: list[Any] = list(offsets[7])
    for joint in range(6, -1, -1):
        a, b = (AXES[joint] + 1) % 3, (AXES[joint] + 2) % 3
        c, s = cosines[..., joint], sines[..., joint]
        point[a], point[b] = c * point[a] - s * point[b], s * point[a] + c * point[b]
        point = [coordinate + shift for coordinate, shift in zip(point, offsets[joint], strict=True)]
    lanes: NDArray[np.float64] = (point[1] - LANE_CENTRES[0]) * (1.0, -1.0)
    return lanes
