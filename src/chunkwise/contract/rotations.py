"""Rotations as the robots and policies write them, and the way between two of them.

A cartesian pose is three metres and a rotation; the rotation's representation is declared, never guessed.
Everything goes through unit quaternions ``x y z w``.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])
"""No rotation, as a unit quaternion x y z w."""


class Rotation(StrEnum):
    """How a rotation is written in a value, after the three numbers of the position."""

    QUATERNION_XYZW = "quaternion_xyzw"
    QUATERNION_WXYZ = "quaternion_wxyz"
    ROTATION_VECTOR = "rotation_vector"  # axis times angle, rad
    EULER_XYZ = "euler_xyz"  # roll, pitch, yaw about the fixed axes x, y, z, in this order, rad
    MATRIX_6D = "matrix_6d"  # first two columns of the matrix (Zhou et al. 2019, arXiv:1812.07035)

    @property
    def dim(self) -> int:
        """Numbers that it takes."""
        return {"quaternion_xyzw": 4, "quaternion_wxyz": 4, "matrix_6d": 6}.get(self.value, 3)


def to_quaternion(values: Array, kind: Rotation) -> Array:
    """``(..., kind.dim)`` to unit quaternions ``(..., 4)``, x y z w."""
    if kind is Rotation.QUATERNION_XYZW:
        return _unit(values)
    if kind is Rotation.QUATERNION_WXYZ:
        return _unit(np.roll(values, -1, axis=-1))
    if kind is Rotation.ROTATION_VECTOR:
        angle = np.linalg.norm(values, axis=-1, keepdims=True)
        # sin(x/2)/x, which is 1/2 at x = 0
        return np.concatenate([values * 0.5 * np.sinc(angle / (2 * np.pi)), np.cos(angle / 2)], axis=-1)
    if kind is Rotation.EULER_XYZ:
        half = values / 2
        zero = np.zeros_like(half[..., 0])
        c, s = np.cos(half), np.sin(half)
        qx = np.stack([s[..., 0], zero, zero, c[..., 0]], axis=-1)
        qy = np.stack([zero, s[..., 1], zero, c[..., 1]], axis=-1)
        qz = np.stack([zero, zero, s[..., 2], c[..., 2]], axis=-1)
        return _product(qz, _product(qy, qx))
    first = _unit(values[..., :3])
    second = values[..., 3:] - np.sum(first * values[..., 3:], axis=-1, keepdims=True) * first
    second = _unit(second)
    return _from_matrix(np.stack([first, second, np.cross(first, second)], axis=-1))


def from_quaternion(quaternion: Array, kind: Rotation) -> Array:
    """Unit quaternions ``(..., 4)``, x y z w, to ``(..., kind.dim)``."""
    if kind is Rotation.QUATERNION_XYZW:
        return quaternion
    if kind is Rotation.QUATERNION_WXYZ:
        return np.roll(quaternion, 1, axis=-1)
    if kind is Rotation.ROTATION_VECTOR:
        q = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
        sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
        angle = 2 * np.arctan2(sine, q[..., 3:])
        # angle/sin(angle/2), which is 2 at angle = 0
        return np.asarray(q[..., :3] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0))
    matrix = _to_matrix(quaternion)
    if kind is Rotation.EULER_XYZ:
        level = np.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
        pitch = np.arctan2(-matrix[..., 2, 0], level)
        # Straight up or down, roll and yaw are one turn: it is written as yaw.
        locked = level < 1e-7
        roll = np.where(locked, 0.0, np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2]))
        yaw = np.where(
            locked,
            np.arctan2(-matrix[..., 0, 1], matrix[..., 1, 1]),
            np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]),
        )
        return np.stack([roll, pitch, yaw], axis=-1)
    return np.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def interpolate(old: Array, new: Array, weight: Array, kind: Rotation) -> Array:
    """The shortest way from `old` (weight 0) to `new` (weight 1) at constant angular speed (slerp).

    Args:
        old: ``(..., kind.dim)``.
        new: the same shape.
        weight: ``(..., 1)``, in [0, 1].
    """
    a, b = to_quaternion(old, kind), to_quaternion(new, kind)
    dot = np.sum(a * b, axis=-1, keepdims=True)
    b = np.where(dot < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    near = angle < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    wa = np.where(near, 1 - weight, np.sin((1 - weight) * angle) / sine)
    wb = np.where(near, weight, np.sin(weight * angle) / sine)
    return from_quaternion(_unit(wa * a + wb * b), kind)


def angle_between(a: Array, b: Array, kind: Rotation) -> Array:
    """The angle of the rotation from `a` to `b`, rad, in [0, pi]; ``(...,)``."""
    dot = np.sum(to_quaternion(a, kind) * to_quaternion(b, kind), axis=-1)
    return np.asarray(2 * np.arccos(np.clip(np.abs(dot), 0, 1)))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12))


def _product(a: Array, b: Array) -> Array:
    ax, ay, az, aw = np.moveaxis(a, -1, 0)
    bx, by, bz, bw = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def _to_matrix(q: Array) -> Array:
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _from_matrix(m: Array) -> Array:
    """The four ways to read a quaternion off a matrix; the one with the largest divisor is exact enough."""
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squared = np.stack(
        [1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22], axis=-1
    )
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    candidates = np.stack(
        [
            np.stack([squared[..., 0], xy, xz, wx], axis=-1),
            np.stack([xy, squared[..., 1], yz, wy], axis=-1),
            np.stack([xz, yz, squared[..., 2], wz], axis=-1),
            np.stack([wx, wy, wz, squared[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(squared, axis=-1)[..., None, None]
    return _unit(np.take_along_axis(candidates, best, axis=-2)[..., 0, :])
