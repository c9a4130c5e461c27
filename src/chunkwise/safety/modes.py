"""What state a robot's run is in, and why: running, degraded, holding, stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from chunkwise.contract.errors import InterfaceValidationError, nearest

AHEAD_S = 1.0
"""Captured after the loop began to look: a robot may wait for a picture, but no longer than that."""


class Mode(StrEnum):
    """The states of a run.  Every state but STOPPED ends by itself when its cause does."""

    RUNNING = "running"  # a row of a plan runs
    DEGRADED = "degraded"  # the same, but what should come next is late or failed: the plan ends in sight
    HOLD = "hold"  # no row may run: no plan, a plan too old, or nobody knows what the robot sees
    STOPPED = "stopped"  # the operator said so, or the hold lasted too long; only a new run leaves it


class Change(NamedTuple):
    """From one state to another.

    Attributes:
        step, time_s: when, in control steps and on the loop's clock.
        before, after: the states.
        why: for people.
    """

    step: int
    time_s: float
    before: Mode
    after: Mode
    why: str


@dataclass(slots=True, frozen=True)
class Limits:
    """How long what is not well may last.  Times in s.

    Attributes:
        observation_age_s: the oldest that a camera's picture or a joint group's state may be; for all of them,
            or by name, with ``""`` for those that are not named.  An older one holds the robot, and nothing is
            planned with it.  One from more than `AHEAD_S` in the future is of another clock, and as bad.
        hold_s: a hold that lasts longer stops the run; None for as long as it takes.  The wait for the first
            chunk does not count, it has its own time-out; but that for a sensor does.
    """

    observation_age_s: float | Mapping[str, float] = 1.0
    hold_s: float | None = 30.0

    def __post_init__(self) -> None:
        ages = self.observation_age_s
        for name, age in ages.items() if isinstance(ages, Mapping) else [("", ages)]:
            if not age > 0:
                raise InterfaceValidationError(
                    f"observation_age_s{f'[{name!r}]' if name else ''} must be above zero"
                )
        if self.hold_s is not None and not self.hold_s > 0:
            raise InterfaceValidationError(f"hold_s must be above zero, got {self.hold_s}")

    def require_known(self, sensors: Sequence[str]) -> None:
        """See that every name is a sensor of the robot.

        Raises:
            InterfaceValidationError: one is not.
        """
        ages = self.observation_age_s
        for name in ages if isinstance(ages, Mapping) else ():
            if name and name not in sensors:
                there = ", ".join(sensors) or "none"
                raise InterfaceValidationError(
                    f"observation_age_s: no camera or state {name!r}{nearest(name, sensors)}; there are: {there}"
                )

    def stale(self, ages_s: Mapping[str, float]) -> str:
        """Which sensors are too old, for people; empty when none is.

        Args:
            ages_s: camera or state name -> how long ago its newest value was captured; infinite for one that the
                robot itself finds too old.
        """
        limits = self.observation_age_s
        named = limits if isinstance(limits, Mapping) else {"": limits}
        other = named.get("", float("inf"))
        old = [
            f"{name} {_unfit(age)}"
            for name, age in ages_s.items()
            if age == math.inf or not -AHEAD_S <= age <= named.get(name, other)
        ]
        return ", ".join(old)


class Sight(NamedTuple):
    """What one control period showed.

    Attributes:
        step, time_s: of the period, on the loop's clock.
        planned: whether a row of a plan is there to run.
        begun: whether a row of a plan has ever run in this episode.
        trouble: why what comes next is not to be counted on, for people: an answer that is late, a policy that
            failed; empty when nothing is wrong.
        stale: which sensors are too old; empty when none is.
        refused: what the gate refused the row for; empty when it did not.
    """

    step: int
    time_s: float
    planned: bool
    begun: bool
    trouble: str = ""
    stale: str = ""
    refused: str = ""


@dataclass(slots=True)
class Modes:
    """The state machine.  Time is an argument, so it is tested without a clock.

    Attributes:
        limits: how long what is not well may last.
        mode: the state.
        why: what brought it there.
    """

    limits: Limits = field(default_factory=Limits)
    mode: Mode = Mode.HOLD
    why: str = "no plan yet"
    _since_s: float | None = None  # the hold's beginning

    def see(self, sight: Sight) -> Change | None:
        """Take one period in; the change that it brings, or None."""
        if self.mode is Mode.STOPPED:
            return None
        mode, why = _mode(sight)
        if mode is not Mode.HOLD or not (sight.begun or sight.stale):
            self._since_s = None
        elif self._since_s is None:
            self._since_s = sight.time_s
        limit, since = self.limits.hold_s, self._since_s
        if limit is not None and since is not None and sight.time_s - since > limit:
            mode, why = Mode.STOPPED, f"held for {limit:g} s: {why}"
        return self._to(mode, why, sight.step, sight.time_s)

    def stop(self, why: str, step: int, time_s: float) -> Change | None:
        """The operator, or the end of the run, says stop."""
        return None if self.mode is Mode.STOPPED else self._to(Mode.STOPPED, why, step, time_s)

    def _to(self, mode: Mode, why: str, step: int, time_s: float) -> Change | None:
        before = self.mode
        if mode is before:
            return None
        self.mode, self.why = mode, why
        return Change(step, time_s, before, mode, why)


def _unfit(age_s: float) -> str:
    """What is wrong with a sensor of this age, for people."""
    if age_s == math.inf:
        return "is of no use, by the robot's own word"
    return f"is {age_s:.2f} s old" if age_s > 0 else f"is of another clock than the loop's, {-age_s:.2f} s ahead"


def _mode(sight: Sight) -> tuple[Mode, str]:
    """What a period is by itself."""
    if sight.stale:
        return Mode.HOLD, sight.stale
    if sight.refused:
        return Mode.HOLD, f"refused by the gate: {sight.refused}"
    if not sight.planned:
        nothing = "the plan ended" if sight.begun else "no plan yet"
        return Mode.HOLD, f"{nothing}: {sight.trouble}" if sight.trouble else nothing
    if sight.trouble:
        return Mode.DEGRADED, sight.trouble
    return Mode.RUNNING, "a plan runs"
