"""Whether a command is within a robot's limits, worked out from its layout and not by the gate that it passed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chunkwise.contract import Action, Hold, Layout, Motion
from chunkwise.contract.values import Array

SLACK = 1e-9
"""Of rounding, relative and in the column's unit."""


class Seen(NamedTuple):
    """What one command was.

    Attributes:
        step: how far it moves the joint that it moves furthest: as a share of its limit, and where no joint has
            one, in units.
        share: of what that joint may travel in a period; NaN where no joint has a limit.
        joint: its name.
        unit: of the step.
        wrong: what is beyond a limit, for people; empty when nothing is.
    """

    step: float
    share: float
    joint: str
    unit: str
    wrong: str


class Inspection:
    """Looks at one command per period.

    Of a cartesian pose only the position is looked at, and that its rotation is finite.

    Args:
        layout: of the commands.
        period_s: the control period.
    """

    def __init__(self, layout: Layout, period_s: float) -> None:
        self._layout = layout
        columns = [(slot, index) for slot in layout.slots for index in range(slot.dim)]
        self._units = [slot.unit for slot, _ in columns]
        self._lower = np.array([slot.lower[index] for slot, index in columns])
        self._upper = np.array([slot.upper[index] for slot, index in columns])
        self._counts = np.array([slot.hold is Hold.REPEAT for slot, _ in columns])
        self._moves = np.array(
            [slot.motion is not Motion.SWITCH and not (slot.rotation and index > 2) for slot, index in columns]
        )
        seconds = np.array([1.0 if slot.motion is Motion.VELOCITY else period_s for slot, _ in columns])
        rate = np.array([slot.max_rate[index] for slot, index in columns])
        self._reach = np.where(self._moves, rate, np.inf) * seconds
        self._limited = np.isfinite(self._reach)
        self._share = np.divide(1.0, self._reach, out=np.zeros_like(rate), where=self._reach > 0)
        self._low, self._high = (
            limit + sign * SLACK * (1 + np.abs(np.where(np.isfinite(limit), limit, 0.0)))
            for limit, sign in ((self._lower, -1), (self._upper, 1))
        )
        self._far = self._reach + SLACK
        self._last = np.full(layout.width, np.nan)

    def begin(self, standing: Array) -> None:
        """The next command's travel counts from here; NaN where it is not known."""
        self._last = np.array(standing, dtype=np.float64)

    def see(self, action: Action) -> Seen:
        """Look at a command of every component of the layout."""
        row = np.concatenate([item.value for item in action.commands.values()])
        if row.shape != self._far.shape or list(action.commands) != self._layout.components:
            return Seen(0.0, float("nan"), "", "", f"commands {list(action.commands)} of {row.size} numbers")
        finite = np.isfinite(row)
        if not finite.all():
            listed = ", ".join(f"{self._layout.names[at]} is not finite" for at in np.flatnonzero(~finite))
            return Seen(0.0, float("nan"), "", "", listed)
        last, self._last = self._last, row
        travel = np.where(self._counts, row - last, row)
        np.abs(travel, out=travel)
        travel *= self._moves
        good = (row >= self._low) & (row <= self._high) & (travel <= self._far)
        wrong = "" if good.all() else self._wrong(row, last, travel)
        return self._seen(travel, wrong)

    def _wrong(self, row: Array, last: Array, travel: Array) -> str:
        """What is beyond a limit."""
        # A robot that stands beyond a limit may come back at its own pace; where it stood may not be known.
        below = (row < self._low) & ~(row >= last)
        above = (row > self._high) & ~(row <= last)
        said = [
            f"{self._layout.names[at]} {what}"
            for bad, what in (
                (below, "is below its limit"),
                (above, "is above its limit"),
                (travel > self._far, "travels too far"),
            )
            for at in np.flatnonzero(bad)
        ]
        return ", ".join(said)

    def _seen(self, travel: Array, wrong: str) -> Seen:
        """The joint that is moved furthest; one that nobody knows the way of is not."""
        shares = travel * self._share
        at = int(shares.argmax())
        if np.isnan(shares[at]):
            travel = np.nan_to_num(travel)
            shares = travel * self._share
            at = int(shares.argmax())
        if not shares[at] > 0:
            at = int(travel.argmax())
        share = float(shares[at]) if self._limited[at] else float("nan")
        return Seen(float(travel[at]), share, self._layout.names[at], self._units[at], wrong)
