"""What each fault did to the commands, turn by turn."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chunkwise.chaos.inspection import Inspection, Seen
from chunkwise.chaos.plan import Injection
from chunkwise.chunking import SourceKind
from chunkwise.contract import Action
from chunkwise.runtime.events import Turn
from chunkwise.safety import Mode

MAX_LISTED = 5
"""Broken promises of one kind that are listed one by one; all are counted."""


@dataclass(slots=True)
class Effect:
    """What one fault did, from its beginning until the robot had recovered from it.

    Attributes:
        injection: the fault.
        begun_s, ended_s: on the loop's clock; `ended_s` is None while it lasts.
        before_step: the last control step before it.
        periods: control periods in this time.
        commands: commands that the robot got in it.
        gap_s: the longest time between two of them.
        largest: the command that moved a joint furthest.
        hold_s: from its beginning until the run held; None where it never did.
        recover_s: from its end until a chunk ran that was asked for afterwards, and the run was running; None
            where that never came.
        left_running: whether the run was ever in another state.
        note: what else there is to say.
    """

    injection: Injection
    begun_s: float
    before_step: int
    ended_s: float | None = None
    periods: int = 0
    commands: int = 0
    gap_s: float = 0.0
    largest: Seen = field(default_factory=lambda: Seen(0.0, math.nan, "", "", ""))
    hold_s: float | None = None
    recover_s: float | None = None
    left_running: bool = False
    note: str = ""
    _asked: int | None = None

    def take(self, turn: Turn, gap_s: float, seen: Seen | None) -> bool:
        """Take one turn in, and the command that the robot got in it; whether it has recovered with it."""
        self.periods = turn.step - self.before_step
        self.commands += seen is not None
        self.gap_s = max(self.gap_s, gap_s)
        if seen is not None and _further(seen, self.largest):
            self.largest = seen
        source, request = turn.decision.source, turn.decision.request
        if source.kind is SourceKind.MOTION:
            return False
        self.left_running |= turn.mode is not Mode.RUNNING
        if turn.mode is Mode.HOLD and self.hold_s is None:
            self.hold_s = max(turn.time_s - self.begun_s, 0.0)
        if self.ended_s is None:
            return False
        if self._asked is None and request is not None:
            self._asked = request.id
        if self._asked is None or source.chunk < self._asked or turn.mode is not Mode.RUNNING:
            return False
        self.recover_s = max(turn.time_s - self.ended_s, 0.0)
        return True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        largest = self.largest
        return {
            **self.injection.plain(),
            "periods": self.periods,
            "commands": self.commands,
            "longest_gap_s": self.gap_s,
            "largest_step": largest.step,
            "largest_step_share": None if math.isnan(largest.share) else largest.share,
            "largest_step_joint": largest.joint,
            "largest_step_unit": largest.unit,
            "hold_s": self.hold_s,
            "recover_s": self.recover_s,
            "left_running": self.left_running,
            "note": self.note,
        }


class Measure:
    """Follows a run: each turn, each command, each fault.

    Args:
        inspection: of the commands.
        gap_limit_s: the longest time between two commands that keeps the promise.

    Attributes:
        effects: of the faults, in the order in which they began.
        commands: that the robot got since the first chunk ran.
        turns: of the loop since then.
        steps: control periods since then.
        gap_s: the longest time between two commands.
        silent, gaps, outside: turns without a command, times between two that were too long, commands beyond a
            limit.
    """

    def __init__(self, inspection: Inspection, gap_limit_s: float) -> None:
        self._inspection, self._limit_s = inspection, gap_limit_s
        self.effects: list[Effect] = []
        self._open: list[Effect] = []
        self._begun = False
        self._first_step = self._step = 0
        self._last_s: float | None = None
        self._heard: deque[tuple[float, Seen]] = deque()  # gap and command; one for each turn that sent one
        self.commands = self.turns = self.steps = 0
        self.gap_s = 0.0
        self.silent, self.gaps, self.outside = Complaints(), Complaints(), Complaints()

    @property
    def recovering(self) -> bool:
        """Whether there is a fault that the robot has not recovered from."""
        return bool(self._open)

    def begin(self, injection: Injection, now: float) -> None:
        """A fault begins with the turn that comes next."""
        effect = Effect(injection, now, self._step)
        self.effects.append(effect)
        self._open.append(effect)

    def end(self, injection: Injection, now: float) -> None:
        """It is over in the turn that comes next."""
        for effect in self._open:
            if effect.injection is injection:
                effect.ended_s = now

    def hear(self, now: float, action: Action) -> None:
        """The robot gets a command."""
        seen = self._inspection.see(action)
        gap_s = 0.0 if self._last_s is None else now - self._last_s
        self._last_s = now
        self._heard.append((gap_s, seen))

    def take(self, turns: Iterable[Turn]) -> None:
        """Take in turns that are over."""
        for turn in turns:
            heard = self._heard.popleft() if turn.sent is not None and self._heard else None
            self._turn(turn, heard)

    def rest(self) -> None:
        """The run is over; what was heard after its last turn is looked at too."""
        for _, seen in self._heard:
            self._look(seen, "the last command")
        self._heard.clear()

    def _look(self, seen: Seen, where: str) -> None:
        if seen.wrong:
            self.outside.add(f"{where}: {seen.wrong}")

    def _turn(self, turn: Turn, heard: tuple[float, Seen] | None) -> None:
        gap_s, seen = heard or (0.0, None)
        self._step = turn.step
        if seen is not None:
            self._look(seen, f"step {turn.step}")
        if not self._begun:
            if turn.decision.source.chunk < 0:
                return
            self._begun, self._first_step, gap_s = True, turn.step, 0.0
        self.turns += 1
        self.steps = turn.step - self._first_step + 1
        if seen is None:
            self.silent.add(f"step {turn.step}")
        else:
            self.commands += 1
        self.gap_s = max(self.gap_s, gap_s)
        if gap_s > self._limit_s:
            lasting = " and ".join(effect.injection.label for effect in self._open)
            self.gaps.add(f"{gap_s:.3f} s before step {turn.step}, {lasting or 'without a fault'}")
        self._open = [effect for effect in self._open if not effect.take(turn, gap_s, seen)]


class Complaints:
    """Broken promises of one kind: the first ones, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append(text)

    def __str__(self) -> str:
        more = self.count - len(self._first)
        return "; ".join(self._first) + (f"; and {more} more" if more else "")


def _further(one: Seen, other: Seen) -> bool:
    """Whether a command moves its joint further, by its limits where there are some."""
    if math.isnan(one.share) or math.isnan(other.share):
        return one.step > other.step or (math.isnan(other.share) and not math.isnan(one.share))
    return one.share > other.share
