"""Make `lanes.npz`: the inverse-kinematics table and the link offsets of `chunkwise.tasks.lanes`.

    python training/make_lanes.py [OUTPUT.npz]

Damped least squares with a posture in the null space (Nakamura and Hanafusa 1986), on the right arm of the
MuJoCo model, from the lane's centre outwards. A second on one core; needs `chunkwise[openarm_sim]`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from chunkwise.robots.openarm_sim.scene import bare_model, joint_addresses
from chunkwise.tasks.lanes import GRIP_X, GRIP_Z, JOINT_NAMES, LANE_CENTRES, LANE_LIMIT, TABLE_FILE

ROWS: Final = 201
"""Table rows over +-LANE_LIMIT: one every 2 mm."""
POSTURE: Final = np.array([-0.50, 0.60, -0.10, 1.99, 0.48, -0.20, -0.33])
"""Where the null space pulls the right arm [rad]: elbow out and down, all joints far from their limits."""
UPRIGHT: Final = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""The hand's axes as columns in the base frame: rod (hand x) up, fingers (hand -z) forward."""

Array = NDArray[np.float64]


class RightArm:
    """Kinematics of the right arm's grip point."""

    def __init__(self) -> None:
        self.model: Any = bare_model()
        self.data: Any = mujoco.MjData(self.model)
        self.positions, self.dofs = joint_addresses(self.model, JOINT_NAMES[:7])
        self.grip: int = self.model.site("right_grip").id
        self.lower, self.upper = self.model.jnt_range[self.positions].T

    def place(self, arm: Array) -> None:
        """Set the 7 joints and compute every position that follows."""
        self.data.qpos[self.positions] = arm
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)

    def offsets(self) -> Array:
        """Where each joint stands in the link before it, and last the grip in the hand: (8, 3) [m]."""
        links = self.model.jnt_bodyid[[self.model.joint(name).id for name in JOINT_NAMES[:7]]]
        offsets = np.array([*self.model.body_pos[links], self.model.site_pos[self.grip]])
        offsets[0] += self.model.body("openarm_right_base_link").pos
        return offsets

    def error(self, lane: float) -> Array:
        """What is missing to the upright pose at a lane coordinate: 3 metres, then 3 radians."""
        missing = np.zeros(6)
        missing[:3] = np.array([GRIP_X, LANE_CENTRES[0] + lane, GRIP_Z]) - self.data.site_xpos[self.grip]
        turn = np.zeros(4)
        mujoco.mju_mat2Quat(turn, (UPRIGHT @ self.data.site_xmat[self.grip].reshape(3, 3).T).ravel())
        mujoco.mju_quat2Vel(missing[3:], turn, 1.0)
        return missing

    def solve(self, lane: float, arm: Array, iterations: int = 60) -> Array:
        """Joints (7,) [rad] of the upright pose at a lane coordinate, starting from `arm`."""
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(iterations):
            self.place(arm)
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self.grip)
            wanted = jacobian[:, self.dofs]
            inverse = wanted.T @ np.linalg.inv(wanted @ wanted.T + 1e-8 * np.eye(6))
            idle = np.eye(7) - inverse @ wanted
            arm = np.clip(arm + inverse @ self.error(lane) + 0.3 * idle @ (POSTURE - arm), self.lower, self.upper)
        return arm


def make() -> dict[str, Array]:
    """The right arm's joints (201, 7) [rad] along its lane and the offsets (8, 3) [m] of its links."""
    right = RightArm()
    lanes = np.linspace(-LANE_LIMIT, LANE_LIMIT, ROWS)
    table = np.empty((ROWS, 7))
    centre = ROWS // 2
    start = right.solve(0.0, POSTURE, iterations=300)
    for outwards in (range(centre, ROWS), range(centre - 1, -1, -1)):
        arm = start
        for row in outwards:
            table[row] = arm = right.solve(float(lanes[row]), arm)

    return {"right_arm": table, "offsets": right.offsets()}


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE_FILE
    table = make()
    np.savez(output, right_arm=table["right_arm"], offsets=table["offsets"])
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
