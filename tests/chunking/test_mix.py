"""Mixing two plans: each column as its command kind allows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chunkwise.chunking.plan import Plan, mix
from chunkwise.contract import ComponentSpec, Layout, RobotSpec, robot_layout
from chunkwise.contract.rotations import Rotation, angle_between, from_quaternion


def layout_of(*components: ComponentSpec) -> Layout:
    return robot_layout(RobotSpec("robot", [], list(components)))


def arm(rotation: Rotation | None) -> ComponentSpec:
    return ComponentSpec("arm", "arm", 7, ["cartesian_pose"], rotation=rotation)


def about_z(angle: float, kind: Rotation) -> np.ndarray:
    return from_quaternion(np.array([0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)]), kind)


def test_joints_mix_linearly() -> None:
    layout = layout_of(ComponentSpec("arm", "arm", 2, ["joint_position"]))
    mixed = mix(layout, np.zeros((3, 2)), np.ones((3, 2)), np.array([0.0, 0.25, 1.0]))
    np.testing.assert_array_equal(mixed, [[0, 0], [0.25, 0.25], [1, 1]])


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("gripper", "gripper_position"),
        ("gripper", "gripper_position_delta"),
        ("gripper", "gripper_velocity"),
        ("gripper", "gripper_open_close"),
        ("suction", "eef_activation"),
        ("custom", "custom:laser"),
    ],
)
def test_grippers_activations_and_custom_kinds_are_the_new_ones(type_: str, kind: str) -> None:
    layout = layout_of(ComponentSpec("tool", type_, 1, [kind], hold="repeat"))
    assert mix(layout, np.zeros((1, 1)), np.ones((1, 1)), np.array([0.1]))[0, 0] == 1.0


@pytest.mark.parametrize("kind", list(Rotation))
def test_rotations_turn_the_shortest_way_at_constant_speed(kind: Rotation) -> None:
    layout = layout_of(arm(kind))
    old, new = (
        np.concatenate([[0, 0, 0], about_z(angle, kind)])[None] for angle in (math.radians(170), -math.pi + 0.1)
    )
    old, new = (np.repeat(rows, 5, axis=0) for rows in (old, new))
    new[:, :3] = 1.0
    mixed = mix(layout, old, new, np.linspace(0, 1, 5))
    np.testing.assert_allclose(mixed[:, 0], [0, 0.25, 0.5, 0.75, 1])
    turned = angle_between(old[:, 3:], mixed[:, 3:], kind)
    whole = math.radians(10) + 0.1  # through 180 degrees, not all the way round
    np.testing.assert_allclose(turned, np.linspace(0, whole, 5), atol=1e-7)


def test_a_rotation_that_nobody_declared_is_the_new_one() -> None:
    layout = layout_of(arm(None))
    old, new = np.zeros((1, 7)), np.ones((1, 7))
    np.testing.assert_array_equal(mix(layout, old, new, np.array([0.5])), new)


def test_neither_plan_is_written() -> None:
    layout = layout_of(ComponentSpec("arm", "arm", 2, ["joint_position"]))
    old, new = np.zeros((1, 2)), np.ones((1, 2))
    mix(layout, old, new, np.array([0.5]))
    assert (old == 0).all() and (new == 1).all()


def test_a_plan_knows_its_steps() -> None:
    plan = Plan(10, np.arange(4.0)[:, None], 0, 9)
    assert plan.end == 14
    assert plan.since(12).ravel().tolist() == [2, 3]
    assert plan.since(3).ravel().tolist() == [0, 1, 2, 3]
    assert len(plan.since(20)) == 0
