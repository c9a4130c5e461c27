"""The map between lanes and joints, against the model it was made from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from chunkwise.robots.openarm_sim.scene import SIDES, bare_model, joint_addresses
from chunkwise.tasks.lanes import (
    GRIP_X,
    GRIP_Z,
    JOINT_NAMES,
    LANE_CENTRES,
    LANE_LIMIT,
    TABLE_FILE,
    joints_to_lanes,
    lanes_to_joints,
)


@pytest.fixture(scope="module")
def make_lanes() -> ModuleType:
    path = Path(__file__).parents[2] / "training" / "make_lanes.py"
    spec = importlib.util.spec_from_file_location("make_lanes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Hands:
    """Both grips of the model at given joints."""

    def __init__(self) -> None:
        self.model = bare_model()
        self.data = mujoco.MjData(self.model)
        self.positions, _ = joint_addresses(self.model, JOINT_NAMES)

    def at(self, joints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (2, 3) of the grips and directions (2, 3) of the rods' upper ends."""
        self.data.qpos[self.positions] = joints
        mujoco.mj_kinematics(self.model, self.data)
        sites = [self.data.site(f"{side}_grip") for side in SIDES]
        return np.array([site.xpos for site in sites]), np.array([site.xmat[0::3] for site in sites])


def test_the_stored_table_is_what_the_script_makes(make_lanes: ModuleType) -> None:
    made = make_lanes.make()
    with np.load(TABLE_FILE) as stored:
        assert set(stored) == set(made)
        for name in made:
            np.testing.assert_allclose(stored[name], made[name], atol=1e-6, err_msg=name)


def test_the_hands_stand_where_the_lanes_say() -> None:
    hands = Hands()
    for lanes in np.random.default_rng(1).uniform(-LANE_LIMIT, LANE_LIMIT, (200, 2)):
        grips, rods = hands.at(lanes_to_joints(lanes))
        wanted = np.column_stack((np.full(2, GRIP_X), LANE_CENTRES + lanes, np.full(2, GRIP_Z)))
        np.testing.assert_allclose(grips, wanted, atol=1e-5)  # a hundredth of a millimetre
        assert (rods[:, 2] > 0.99999).all()  # upright


def test_joints_to_lanes_is_the_models_own_kinematics() -> None:
    hands = Hands()
    generator = np.random.default_rng(2)
    for _ in range(100):
        joints = lanes_to_joints(generator.uniform(-0.2, 0.2, 2)) + generator.normal(0.0, 0.3, 16)
        grips, _ = hands.at(joints)
        np.testing.assert_allclose(joints_to_lanes(joints), grips[:, 1] - LANE_CENTRES, atol=1e-9)


def test_there_and_back() -> None:
    lanes = np.random.default_rng(3).uniform(-LANE_LIMIT, LANE_LIMIT, (7, 11, 2))
    joints = lanes_to_joints(lanes)
    assert joints.shape == (7, 11, 16)
    np.testing.assert_allclose(joints_to_lanes(joints), lanes, atol=2e-6)
    np.testing.assert_array_equal(lanes_to_joints(lanes[3, 5]), joints[3, 5])
    np.testing.assert_array_equal(joints_to_lanes(joints[3, 5]), joints_to_lanes(joints)[3, 5])


def test_a_lane_beyond_its_limit_is_clamped() -> None:
    np.testing.assert_array_equal(lanes_to_joints([0.5, -0.5]), lanes_to_joints([LANE_LIMIT, -LANE_LIMIT]))


def test_the_left_arm_mirrors_the_right_one() -> None:
    joints = lanes_to_joints([0.07, -0.07])
    mirrored = [-1, -1, -1, 1, -1, -1, -1, -1]
    np.testing.assert_array_equal(joints[8:], joints[:8] * mirrored)


def test_every_pose_is_far_from_the_joint_limits() -> None:
    model = bare_model()
    lower, upper = np.array([model.joint(name).range for name in JOINT_NAMES]).T
    sweep = np.linspace(-LANE_LIMIT, LANE_LIMIT, 101)
    joints = lanes_to_joints(np.column_stack((sweep, sweep)))
    arms = [*range(7), *range(8, 15)]
    assert (joints - lower).min() > 0.09 and (upper - joints).min() > 0.09
    assert np.abs(np.diff(joints[:, arms], axis=0)).max() < 0.06  # one smooth branch
