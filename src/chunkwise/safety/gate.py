"""Every command passes here: refused or limited, counted, and visible."""

from __future__ import annotations

from collections import Counter
from copy import copy
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from chunkwise.contract import Hold, Layout, Motion, Slot
from chunkwise.contract.rotations import IDENTITY, angle_between, from_quaternion, interpolate
from chunkwise.contract.values import Array


class Rule(StrEnum):
    """What a command can break."""

    FINITE = "finite"  # NaN or infinity: the whole row is refused and the robot holds
    AGE = "age"  # the plan is too old to follow blindly: refused, the robot holds
    LIMIT = "limit"  # beyond a position limit: brought to the limit
    SLEW = "slew"  # too far for one period, or too fast: brought within reach


class Verdict(NamedTuple):
    """What the gate did to a row: nothing, when `broken` is empty.

    Attributes:
        broken: (component, rule) for every rule that a component's command broke.
    """

    broken: tuple[tuple[str, Rule], ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the row was replaced by a hold."""
        return any(rule in (Rule.FINITE, Rule.AGE) for _, rule in self.broken)


CLEAR = Verdict()


class Gate:
    """Checks one row per control period.

    The slew limit is per second: a command may travel ``max_rate * period_s``, and there is one command per
    period, so a catch-up after missed periods travels no further than an ordinary step.

    Args:
        layout: of the rows, with the limits.
        period_s: the control period.
        start: the row that the robot stands at, which the first command's travel counts from; where it is NaN,
            or all of it None, the first command may go anywhere within the limits.
        max_plan_age_s: rows predicted from an older observation are refused.
    """

    def __init__(
        self,
        layout: Layout,
        period_s: float,
        *,
        start: Array | None = None,
        max_plan_age_s: float = 3.0,
    ) -> None:
        if not period_s > 0 or not max_plan_age_s > 0:
            raise ValueError(f"period_s and max_plan_age_s must be above zero, got {period_s}, {max_plan_age_s}")
        self.layout, self.period_s, self.max_plan_age_s = layout, period_s, max_plan_age_s
        self.counts: Counter[tuple[str, Rule]] = Counter()
        self._lower = np.concatenate([slot.lower for slot in layout.slots])
        self._upper = np.concatenate([slot.upper for slot in layout.slots])
        self._from_last = np.concatenate(
            [np.full(slot.dim, float(_counts_from_last(slot))) for slot in layout.slots]
        )
        self._reach = np.concatenate([_reach(slot, period_s) for slot in layout.slots])
        self._turning = [slot for slot in layout.slots if slot.rotation and np.isfinite(slot.max_rate[3])]
        self._last: Array | None = None if start is None else np.array(start, dtype=np.float64)

    def check(self, row: Array, *, age_s: float = 0.0) -> tuple[Array | None, Verdict]:
        """The row to send in this period, and what was wrong with the one given.

        A refused row is replaced by the hold; where nothing was ever sent and the start is not known there is
        no hold that is safe, and the answer is None: send nothing.

        Args:
            row: float64 ``(width,)``.
            age_s: time since the observation that the row was predicted from; 0 for a hold.
        """
        if age_s > self.max_plan_age_s:
            return self._refuse([(name, Rule.AGE) for name in self.layout.components])
        if not np.isfinite(row).all():
            return self._refuse(
                [
                    (slot.component, Rule.FINITE)
                    for slot in self.layout.slots
                    if not np.isfinite(row[slot.columns]).all()
                ]
            )
        inside = np.minimum(np.maximum(row, self._lower), self._upper)
        sent = inside
        last = self._last
        if last is not None:
            origin = last * self._from_last
            # fmax and fmin, unlike maximum and minimum, let a number pass by an origin that is NaN: not known
            sent = np.fmin(np.fmax(inside, origin - self._reach), origin + self._reach)
            for slot in self._turning:
                self._turn(slot, last, sent)
        sent.flags.writeable = False  # the robot's driver gets views of it, and the next command counts from it
        self._last = sent
        if (sent == row).all():
            return sent, CLEAR
        broken = self._compare(row, inside, Rule.LIMIT) + self._compare(inside, sent, Rule.SLEW)
        return sent, self._count(broken)

    def at(self, start: Array) -> Gate:
        """Another gate with the same limits, whose first command's travel counts from `start`."""
        made = copy(self)
        made.counts = Counter()
        made._last = np.array(start, dtype=np.float64)
        return made

    def passes(self, rows: Array, *, age_s: float = 0.0) -> bool:
        """Whether rows ``(n, width)``, one per period from now on, would all go through :meth:`check` unchanged.

        It may say no of some that would, never yes of one that would not.  Nothing is sent by asking.

        Args:
            rows: float64 ``(n, width)``.
            age_s: of the last of them.
        """
        if age_s > self.max_plan_age_s or self._turning or self._last is None or not len(rows):
            return False
        origins = np.concatenate([self._last[None], rows[:-1]]) * self._from_last
        inside = (rows >= self._lower) & (rows <= self._upper) & np.isfinite(rows)
        return bool((inside & (rows >= origins - self._reach) & (rows <= origins + self._reach)).all())

    def hold(self) -> Array | None:
        """The row that holds the robot after what was sent last; None where that is not known."""
        if self._last is None or np.isnan(self._last).any():
            return None
        self._last = self.layout.hold(self._last)
        self._last.flags.writeable = False
        return self._last

    def _turn(self, slot: Slot, last: Array, sent: Array) -> None:
        """Limit a rotation by its angle: clipping its numbers one by one would bend its axis."""
        assert slot.rotation is not None
        turn = slice(slot.start + 3, slot.stop)
        origin = last[turn] if _counts_from_last(slot) else from_quaternion(IDENTITY, slot.rotation)
        limit = slot.max_rate[3] * self.period_s
        angle = float(angle_between(origin, sent[turn], slot.rotation))
        if angle > limit:
            share = np.array([limit / angle])
            sent[turn] = interpolate(origin, sent[turn], share, slot.rotation)

    def _refuse(self, broken: list[tuple[str, Rule]]) -> tuple[Array | None, Verdict]:
        return self.hold(), self._count(broken)

    def _compare(self, before: Array, after: Array, rule: Rule) -> list[tuple[str, Rule]]:
        changed = before != after
        return [(slot.component, rule) for slot in self.layout.slots if changed[slot.columns].any()]

    def _count(self, broken: list[tuple[str, Rule]]) -> Verdict:
        self.counts.update(broken)
        return Verdict(tuple(broken))


def _counts_from_last(slot: Slot) -> bool:
    """Whether a value's travel is counted from the last one sent (targets) or from zero (deltas, velocities)."""
    return slot.hold is Hold.REPEAT


def _reach(slot: Slot, period_s: float) -> Array:
    """How far a value may be from where it is counted, in one period."""
    reach = np.array(slot.max_rate)
    if slot.motion is Motion.SWITCH:
        reach[:] = np.inf  # on or off, nothing in between
    elif slot.motion is not Motion.VELOCITY:
        reach *= period_s
    if slot.rotation is not None:
        reach[3:] = np.inf  # by its angle, see Gate._turn
    return reach
