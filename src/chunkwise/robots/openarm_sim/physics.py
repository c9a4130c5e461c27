"""The motion of one or many simulated OpenArms, each in a world of its own.

Joint order is the wire's: right arm 7, right finger, left arm 7, left finger [rad]; lane order is right, left.
"""

from __future__ import annotations

from typing import Any, Final

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import ArrayLike, NDArray

from chunkwise.robots.openarm_sim.scene import (
    ROD_DROP_M,
    SUBSTEP_S,
    actuator_names,
    bare_model,
    joint_addresses,
)
from chunkwise.tasks.lanes import GRIP_Z, JOINT_NAMES, joints_to_lanes, lanes_to_joints

PERIOD_SUBSTEPS: Final = 10
"""Substeps of one control period of 20 ms."""
SAMPLE_SUBSTEPS: Final = 5
"""The rods are sampled after every fifth substep: each 10 ms."""
POST_HEIGHT: Final = GRIP_Z - ROD_DROP_M
"""z at which rods meet posts [m]: the middle of a post."""

PROFILE_RATE: Final = 15.0
"""Natural frequency of the drives' critically damped motion profile [rad/s]."""
PROFILE_ACCELERATION: Final = 14.0
"""Acceleration limit of the motion profile [rad/s^2]."""

_STATE: Final = mujoco.mjtState.mjSTATE_FULLPHYSICS

Array = NDArray[np.float64]


class ArmPhysics:
    """A batch of independent worlds that share one model: both arms, their drives and the rods in their hands.

    A drive follows its target u through a motion profile f, f'' = clip(w^2 (u - f) - 2 w f', +-a_max), and
    hands f to the model's own position servo. Without a profile a step of the target overshoots by 60 %.
    The motion of a world depends on its own targets only, to the last bit.

    Args:
        worlds: how many, W.
        model: the bare model to step; made when not given. Actuators and joints are found in it by name.

    Attributes:
        substeps: physics steps of 2 ms since the reset.
        rods: x, y, z (W, samples, 2 lanes, 3) [m] of each rod's axis at the height of the posts, after every
            fifth substep of the last advance, oldest first.
    """

    def __init__(self, worlds: int = 1, model: Any = None) -> None:
        self.model: Any = bare_model() if model is None else model
        self._data = mujoco.MjData(self.model)
        self._servos = np.array([self.model.actuator(name).id for name in actuator_names()])
        positions, dofs = joint_addresses(self.model, JOINT_NAMES)
        # A full physics state is the time, then all positions, then all velocities.
        self._positions, self._velocities = 1 + positions, 1 + self.model.nq + dofs
        self._lower, self._upper = self.model.actuator_ctrlrange[self._servos].T
        self._second_fingers = self._finger_pairs()
        self._states: Array = np.zeros((worlds, mujoco.mj_stateSize(self.model, _STATE)))
        self.reset(np.zeros((worlds, 2)))

    def _finger_pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Places in the state of the followers and the leaders of the model's coupled finger joints."""
        pairs = self.model.eq_obj1id, self.model.eq_obj2id
        return 1 + self.model.jnt_qposadr[pairs[1]], 1 + self.model.jnt_qposadr[pairs[0]]

    @property
    def worlds(self) -> int:
        """How many worlds, W."""
        return len(self._states)

    def reset(self, lanes: ArrayLike) -> None:
        """Put the hands, at rest, at lane coordinates (W, 2) [m]."""
        joints = np.broadcast_to(lanes_to_joints(lanes), (self.worlds, 16))
        self._states[:] = 0.0
        self._states[:, self._positions] = joints
        followers, leaders = self._second_fingers
        self._states[:, followers] = self._states[:, leaders]
        self._profile: Array = joints.copy()
        self._profile_rate: Array = np.zeros((self.worlds, 16))
        self.substeps = 0
        self.rods: Array = np.empty((self.worlds, 0, 2, 3))

    def step(self, targets: ArrayLike) -> None:
        """Advance one control period of 20 ms towards joint targets (W, 16) [rad]."""
        self.advance(targets, PERIOD_SUBSTEPS)

    def advance(self, targets: ArrayLike, substeps: int) -> None:
        """Advance some substeps of 2 ms towards joint targets (W, 16) [rad], each clamped to its joint's range."""
        controls = self._controls(np.clip(targets, self._lower, self._upper), substeps)
        states, sensed = rollout.rollout(self.model, self._data, self._states, controls)
        self._states = states[:, -1].copy()
        first = -(self.substeps + 1) % SAMPLE_SUBSTEPS
        self.substeps += substeps
        self.rods = _at_post_height(sensed[:, first::SAMPLE_SUBSTEPS])

    def _controls(self, targets: Array, substeps: int) -> Array:
        """What the servos get (W, substeps, 16), in the model's own order, while the profile follows (W, 16)."""
        controls = np.empty((self.worlds, substeps, self.model.nu))
        for substep in range(substeps):
            pull = PROFILE_RATE**2 * (targets - self._profile) - 2 * PROFILE_RATE * self._profile_rate
            self._profile_rate += SUBSTEP_S * np.clip(pull, -PROFILE_ACCELERATION, PROFILE_ACCELERATION)
            self._profile += SUBSTEP_S * self._profile_rate
            controls[:, substep, self._servos] = self._profile
        return controls

    @property
    def time_s(self) -> float:
        """Simulated time since the reset [s]."""
        return self.substeps * SUBSTEP_S

    @property
    def positions(self) -> Array:
        """All positions of the model (W, nq), in the model's order: what a picture is drawn from."""
        return self._states[:, 1 : 1 + self.model.nq]

    @property
    def joints(self) -> Array:
        """Measured joint positions (W, 16) [rad]."""
        return self._states[:, self._positions]

    @property
    def joint_velocities(self) -> Array:
        """Measured joint velocities (W, 16) [rad/s]."""
        return self._states[:, self._velocities]

    @property
    def lanes(self) -> Array:
        """Lane coordinates (W, 2) [m] of the gripped points."""
        return joints_to_lanes(self.joints)

    @property
    def lane_velocities(self) -> Array:
        """Velocities (W, 2) [m/s] of the gripped points along their lanes."""
        # A central difference along the measured joint velocities, short enough to be exact to 1e-8.
        ahead_s = 1e-4
        stride = ahead_s * self.joint_velocities
        behind, ahead = joints_to_lanes(np.stack((self.joints - stride, self.joints + stride)))
        velocities: Array = (ahead - behind) / (2 * ahead_s)
        return velocities


def _at_post_height(sensed: Array) -> Array:
    """Where the rods cross the posts' height: sensor values (W, samples, 12) to x, y, z (W, samples, 2, 3)."""
    points = sensed.reshape(*sensed.shape[:2], 2, 2, 3)
    grip, rod = points[..., 0, :], points[..., 1, :]
    share = (POST_HEIGHT - grip[..., 2:]) / (rod[..., 2:] - grip[..., 2:])
    crossing: Array = grip + share * (rod - grip)
    return crossing
