"""Rotations, against formulas that do not go through quaternions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract.rotations import (
    Array,
    Rotation,
    angle_between,
    from_quaternion,
    interpolate,
    to_quaternion,
)

angles = st.floats(-3.1, 3.1)
vectors = st.tuples(angles, angles, angles).map(np.array)
quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .map(np.array)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: q / np.linalg.norm(q))
)
kinds = st.sampled_from(list(Rotation))


def turn(axis: int, angle: float) -> Array:
    """The matrix of a turn about one of the axes."""
    c, s = math.cos(angle), math.sin(angle)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def matrix_of(quaternion: Array) -> Array:
    """q v q* written out as (w^2 - u.u) I + 2 u u^T + 2 w [u]x."""
    u, w = quaternion[:3], quaternion[3]
    cross = np.array([[0, -u[2], u[1]], [u[2], 0, -u[0]], [-u[1], u[0], 0]])
    return (w * w - u @ u) * np.eye(3) + 2 * np.outer(u, u) + 2 * w * cross


def rodrigues(vector: Array) -> Array:
    """The matrix exponential of a rotation vector, as a series."""
    cross = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]])
    matrix, term = np.eye(3), np.eye(3)
    for order in range(1, 60):
        term = term @ cross / order
        matrix = matrix + term
    return matrix


@given(vectors)
def test_roll_pitch_yaw_turn_about_the_fixed_axes_in_this_order(rpy: Array) -> None:
    expected = turn(2, rpy[2]) @ turn(1, rpy[1]) @ turn(0, rpy[0])
    np.testing.assert_allclose(matrix_of(to_quaternion(rpy, Rotation.EULER_XYZ)), expected, atol=1e-12)


@given(vectors)
def test_a_rotation_vector_is_axis_times_angle(vector: Array) -> None:
    np.testing.assert_allclose(
        matrix_of(to_quaternion(vector, Rotation.ROTATION_VECTOR)), rodrigues(vector), atol=1e-10
    )


@given(quaternions)
def test_six_numbers_are_the_first_two_columns(quaternion: Array) -> None:
    matrix = matrix_of(quaternion)
    six = from_quaternion(quaternion, Rotation.MATRIX_6D)
    np.testing.assert_allclose(six, np.concatenate([matrix[:, 0], matrix[:, 1]]), atol=1e-12)


def test_two_orders_of_a_quaternion() -> None:
    xyzw = np.array([0.5, -0.5, 0.1, 0.7])
    xyzw /= np.linalg.norm(xyzw)
    np.testing.assert_array_equal(from_quaternion(xyzw, Rotation.QUATERNION_WXYZ), xyzw[[3, 0, 1, 2]])
    np.testing.assert_allclose(to_quaternion(2 * xyzw[[3, 0, 1, 2]], Rotation.QUATERNION_WXYZ), xyzw)


@given(quaternions, kinds)
def test_there_and_back(quaternion: Array, kind: Rotation) -> None:
    written = from_quaternion(quaternion, kind)
    assert written.shape == (kind.dim,)
    np.testing.assert_allclose(matrix_of(to_quaternion(written, kind)), matrix_of(quaternion), atol=1e-6)


@given(quaternions, st.floats(0.01, 3.0), st.floats(0, 1), kinds)
def test_interpolating_goes_the_shortest_way_at_constant_speed(
    start: Array, angle: float, share: float, kind: Rotation
) -> None:
    step = to_quaternion(np.array([angle, 0.0, 0.0]), Rotation.ROTATION_VECTOR)
    end_matrix = matrix_of(start) @ matrix_of(step)
    end = to_quaternion(np.concatenate([end_matrix[:, 0], end_matrix[:, 1]]), Rotation.MATRIX_6D)
    old, new = from_quaternion(start, kind), from_quaternion(end, kind)
    between = interpolate(old[None], new[None], np.array([[share]]), kind)[0]
    part = to_quaternion(np.array([angle * share, 0.0, 0.0]), Rotation.ROTATION_VECTOR)
    np.testing.assert_allclose(
        matrix_of(to_quaternion(between, kind)), matrix_of(start) @ matrix_of(part), atol=2e-6
    )
    assert float(angle_between(old, new, kind)) == pytest.approx(angle, abs=1e-5)


@pytest.mark.parametrize("kind", list(Rotation))
def test_ends_and_equal_ends(kind: Rotation) -> None:
    old, new = (
        from_quaternion(to_quaternion(np.array(v), Rotation.ROTATION_VECTOR), kind)
        for v in ([0.3, 0.2, -0.1], [-1.0, 0.4, 0.9])
    )
    for weight, expected in ((0.0, old), (1.0, new)):
        mixed = interpolate(old[None], new[None], np.array([[weight]]), kind)[0]
        assert float(angle_between(mixed, expected, kind)) < 1e-7
    same = interpolate(old[None], old[None], np.array([[0.5]]), kind)[0]
    np.testing.assert_allclose(same, old, atol=1e-9)


def test_a_column_of_rotations_goes_at_once() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(5, 4, 4))
    for kind in Rotation:
        written = from_quaternion(to_quaternion(many, Rotation.QUATERNION_XYZW), kind)
        assert written.shape == (5, 4, kind.dim)
        one = from_quaternion(to_quaternion(many[2, 3], Rotation.QUATERNION_XYZW), kind)
        np.testing.assert_allclose(written[2, 3], one, atol=1e-12)
