"""The arms behind an OpenArm socket: names, order, limits, and what may be sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from chunkwise.contract import ComponentSpec, InterfaceValidationError, RobotSpec, robot_layout
from chunkwise.contract.values import Array
from chunkwise.wires import WireError

if TYPE_CHECKING:
    from chunkwise.wires.openarm import OpenArm

BOTH: Final = ("right", "left")
"""The order of the arms in a row of positions."""
ARM_LOWER: Final = {
    "right": (-1.39626, -0.174533, -1.5708, 0.0, -1.5708, -0.785398, -1.5708),
    "left": (-3.49066, -3.31613, -1.5708, 0.0, -1.5708, -0.785398, -1.5708),
}
"""Limits of an OpenArm v2's joints [rad]; joints 1 and 2 of the left arm are mirrored."""
ARM_UPPER: Final = {
    "right": (3.49066, 3.31613, 1.5708, 2.44346, 1.5708, 0.785398, 1.5708),
    "left": (1.39626, 0.174533, 1.5708, 2.44346, 1.5708, 0.785398, 1.5708),
}
GRIPPER: Final = {"right": (-0.7854, 0.0), "left": (0.0, 0.7854)}
"""Limits of the grippers' motors [rad]: they open towards minus on the right, towards plus on the left."""
REACH_S: Final = 0.25
"""The first row is no further from the measured position than a joint gets in so long [s]."""


def sides_of(arms: str, numbers: int, columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Which arms so many positions are of.

    Raises:
        WireError: one arm, and nothing says which.
    """
    if numbers == 16:
        return BOTH
    if arms:
        return (arms,)
    seen = [side for side in BOTH if f"camera_wrist_{side}" in columns]
    if len(seen) != 1:
        raise WireError("8 positions of one arm, and no wrist camera tells which: set the option arms")
    return (seen[0],)


def robot_spec(
    wire: OpenArm, sides: tuple[str, ...], cameras: tuple[str, ...] = (), states: tuple[str, ...] = ()
) -> RobotSpec:
    """The robot of one arm or both; its columns are those of a row of positions."""
    components = [part for side in sides for part in _arm(wire, side)]
    return RobotSpec("openarm", list(cameras), components, state_keys=list(states), control_hz=wire.control_hz)


def _arm(wire: OpenArm, side: str) -> list[ComponentSpec]:
    names = [f"openarm_{side}_joint{number}" for number in range(1, 8)] + [f"openarm_{side}_finger_joint1"]
    bounded = wire.limits == "openarm"
    return [
        ComponentSpec(
            f"{side}_arm",
            "arm",
            7,
            ["joint_position"],
            joint_names=names[:7],
            lower=ARM_LOWER[side] if bounded else None,
            upper=ARM_UPPER[side] if bounded else None,
            max_rate=wire.max_rate,
        ),
        ComponentSpec(
            f"{side}_gripper",
            "gripper",
            1,
            ["gripper_position"],
            joint_names=names[7:],
            lower=GRIPPER[side][:1] if bounded else None,
            upper=GRIPPER[side][1:] if bounded else None,
            max_rate=wire.max_rate,
        ),
    ]


@dataclass(slots=True, frozen=True)
class Arms:
    """The robot that the requests are of, and what may be sent to it.

    Attributes:
        key: its sides, its cameras, and whether a phase is among its states: what makes it another robot.
        spec: of it.
        columns: where each component stands in a row of positions.
        names: of the joints, one per column.
        lower, upper: limits of the columns [rad].
        reach: how far the first row of an answer may be from the measured positions [rad].
    """

    key: tuple[tuple[str, ...], tuple[str, ...], bool]
    spec: RobotSpec
    columns: dict[str, slice]
    names: list[str]
    lower: Array
    upper: Array
    reach: Array

    @classmethod
    def of(cls, wire: OpenArm, sides: tuple[str, ...], cameras: tuple[str, ...], phase: bool) -> Arms:
        """The arms on those sides, with those cameras, and with or without a phase among the states."""
        robot = robot_spec(wire, sides, cameras, (wire.phase,) if phase else ())
        layout = robot_layout(robot)
        return cls(
            (sides, cameras, phase),
            robot,
            {slot.component: slot.columns for slot in layout.slots},
            layout.names,
            np.concatenate([slot.lower for slot in layout.slots]),
            np.concatenate([slot.upper for slot in layout.slots]),
            REACH_S * np.concatenate([slot.max_rate for slot in layout.slots]),
        )

    @property
    def sides(self) -> tuple[str, ...]:
        """Which arms, in their order."""
        return self.key[0]

    def safe(self, rows: Array, measured: Array) -> Array:
        """The rows within the limits.

        Raises:
            InterfaceValidationError: another width, a number that float32 has not, or a first row out of reach.
        """
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != len(self.names):
            raise InterfaceValidationError(
                f"the policy commands rows of {rows.shape}, the arms take {len(self.names)} columns"
            )
        if not (np.abs(rows) < np.finfo(np.float32).max).all():
            raise InterfaceValidationError("the plan holds a number that is not finite")
        inside = np.clip(rows, self.lower, self.upper)
        far = np.abs(inside[0] - measured) - self.reach
        worst = int(far.argmax())
        if far[worst] > 0:
            jump = f"from {measured[worst]:.3f} to {inside[0, worst]:.3f} rad"
            raise InterfaceValidationError(f"{self.names[worst]} would jump {jump}")
        return inside
