"""Motions that no policy asked for: to where an episode begins, and to a standstill."""

from __future__ import annotations

import math

import numpy as np

from chunkwise.contract import Hold, InterfaceValidationError, Layout, Motion, RobotSpec
from chunkwise.contract.values import Array

PEAK = 1.875
"""Greatest speed of a minimum-jerk motion, in times its mean (Flash and Hogan 1985)."""


def initial_row(robot: RobotSpec, layout: Layout, standing: Array) -> Array | None:
    """Where an episode begins: the initial values of the components that have some, the others where they stand.

    Args:
        robot: with the initial values.
        layout: of the row.
        standing: where the robot stands, ``(width,)``; NaN where that is not known.

    Returns:
        float64 ``(width,)``, or None where no component says where an episode begins.

    Raises:
        InterfaceValidationError: there is somewhere to go, and the robot does not say where all of it stands.
    """
    goal, moves = standing.copy(), False
    for slot in layout.slots:
        component = robot.get_component(slot.component)
        target = slot.motion is Motion.TARGET and slot.hold is Hold.REPEAT
        if component is None or component.initial is None or not target or len(component.initial) != slot.dim:
            continue
        goal[slot.columns] = component.initial
        moves = True
    if not moves:
        return None
    unknown = [slot.component for slot in layout.slots if not np.isfinite(standing[slot.columns]).all()]
    if unknown:
        raise InterfaceValidationError(
            f"robot {robot.name!r} has an initial pose, and its state does not say where {', '.join(unknown)} "
            "stands: no ramp leads from there; observe its state, or leave ComponentSpec(initial=) out"
        )
    return goal


class Ramp:
    """A minimum-jerk motion from one row to another, all columns arriving together.

    Args:
        layout: of the rows.
        start, goal: float64 ``(width,)``.
        period_s: between two rows.
        share: of every column's ``max_rate`` that its speed may reach.
        unlimited_rate: speed of a column that has no limit, unit/s.

    Attributes:
        steps: rows in the motion; 0 where there is nowhere to go.
    """

    def __init__(
        self,
        layout: Layout,
        start: Array,
        goal: Array,
        period_s: float,
        *,
        share: float = 0.5,
        unlimited_rate: float = 0.5,
    ) -> None:
        if not 0 < share <= 1 or not unlimited_rate > 0 or not period_s > 0:
            raise ValueError(
                f"share, unlimited_rate and period_s must be above zero, got {share}, {unlimited_rate}"
            )
        rate = np.concatenate([slot.max_rate for slot in layout.slots])
        rate = np.where(np.isfinite(rate), share * rate, unlimited_rate)
        self._start, self._goal = start, goal
        self._way = goal - start
        seconds = float((np.abs(self._way) * PEAK / rate).max(initial=0.0))
        self.steps = math.ceil(seconds / period_s)

    def row(self, index: int) -> Array:
        """Row `index`, from 1; at `steps` and beyond it is the goal."""
        if index >= self.steps:
            return self._goal.copy()
        t = index / self.steps
        done = t * t * t * (10 + t * (6 * t - 15))
        row: Array = self._start + done * self._way
        return row


class Brake:
    """From what was sent last to a standstill: every target's speed falls evenly to zero.

    Deltas and velocities fall to zero themselves.  What cannot be averaged (grippers, rotations) stops at once.

    Args:
        layout: of the rows.
        before, last: the last two rows sent, ``(width,)``; `before` is None where there was only one.
        steps: how long it takes.

    Attributes:
        steps: how long it takes.
    """

    def __init__(self, layout: Layout, before: Array | None, last: Array, steps: int) -> None:
        self.steps = max(steps, 1)
        self._last, self._hold = last, layout.hold(last)
        self._zero = np.zeros(layout.width, dtype=bool)
        self._speed = np.zeros(layout.width)
        for slot in layout.slots:
            if not slot.blends or slot.rotation is not None:
                continue
            if slot.hold is Hold.ZERO:
                self._zero[slot.columns] = True
            elif before is not None:
                self._speed[slot.columns] = np.nan_to_num(last[slot.columns] - before[slot.columns])

    def row(self, index: int) -> Array:
        """Row `index`, from 1; from `steps` on the robot stands."""
        index = min(index, self.steps)
        left = 1 - index / self.steps
        way = index * (1 - (index + 1) / (2 * self.steps))  # the sum of speeds that fall evenly, period by period
        return np.where(self._zero, self._last * left, self._hold + self._speed * way)
