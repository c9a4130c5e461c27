"""A run under a plan of faults, from a robot and a session to an account of every fault and every promise."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chunkwise.chaos.inspection import Inspection
from chunkwise.chaos.leaks import Held, left_since, look
from chunkwise.chaos.measure import Effect, Measure
from chunkwise.chaos.outside import Machine, Outside, hogs_of
from chunkwise.chaos.plan import ONCE, Injection
from chunkwise.chaos.robot import FaultyRobot
from chunkwise.contract import Action, InterfaceValidationError
from chunkwise.robots import Robot
from chunkwise.runtime.report import Report
from chunkwise.runtime.session import Session

SETTLE_S = 3.0
"""How long a run goes on after its last fault."""
GAP_S, GAP_PERIODS = 0.05, 3
"""The longest time between two commands is that many seconds or periods, the longer of them, where nothing is
said.  A promise of every period can be kept by no program on a machine that others use too."""
PATIENCE_S = 30.0
"""How much longer a run goes on where the robot has not recovered yet."""
LEAK_PATIENCE_S = 5.0
"""How long a thread or a process that is about to end is waited for."""


@dataclass(slots=True)
class Outcome:
    """What a run under faults was like.

    Attributes:
        control_hz: commands per second, as asked.
        gap_limit_s: the longest time between two commands that keeps the promise.
        effects: of the faults that were injected.
        left_out: faults that do not apply to this robot or worker, and why.
        leaks: what the process holds that it did not hold before, by kind.
        periods: control periods since the first chunk ran.
        missed: those in which the loop took no turn.
        commands: that the robot got in them.
        gap_s: the longest time between two commands.
        broken: every promise that was broken, for people.
        report: of the run.
    """

    control_hz: float
    gap_limit_s: float
    effects: list[Effect] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    leaks: dict[str, list[str]] = field(default_factory=dict)
    periods: int = 0
    missed: int = 0
    commands: int = 0
    gap_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    report: Report | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "control_hz": self.control_hz,
            "periods": self.periods,
            "missed_periods": self.missed,
            "commands": self.commands,
            "longest_gap_s": self.gap_s,
            "gap_limit_s": self.gap_limit_s,
            "faults": [effect.to_dict() for effect in self.effects],
            "left_out": self.left_out,
            "leaks": self.leaks,
            "broken": self.broken,
            "report": None if self.report is None else self.report.to_dict(),
        }


def endure(
    robot: Robot,
    make_session: Callable[[Robot], Session],
    plan: Sequence[Injection],
    *,
    optional: bool = False,
    gap_s: float | None = None,
    settle_s: float = SETTLE_S,
    start_s: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
    outside: Callable[[Session], Outside] | None = None,
    say: Callable[[str], None] = lambda text: None,
    look: Callable[[], Held] = look,
) -> Outcome:
    """Drive a robot through a plan of faults.

    Args:
        robot: the robot, not connected.
        make_session: makes a session, not opened, of the robot that it is given; its policy is, or has as its
            recipe, a :class:`~chunkwise.chaos.policy.FaultyPolicy`, and its clock is `clock`.
        plan: the faults, in the order of time.
        optional: leave out what does not apply to the worker; else it is refused.
        gap_s: the longest time between two commands that keeps the promise.
        settle_s: how long the run goes on after the last fault.
        start_s: how long the first chunk may take.
        clock: of the loop, s.
        outside: what the faults that come from outside are done to; this machine by default.
        say: told what people should know while it runs, never on the loop's thread.
        look: what this process holds; looked at before and after.

    Raises:
        InterfaceValidationError: a fault does not apply, the robot and the policy do not fit, and whatever else
            opening a session raises.
        Exception: whatever the robot raises.
    """
    before = look()
    faulty = FaultyRobot(robot, clock)
    session = make_session(faulty)
    with session:
        world = (outside or (lambda made: _machine(made, plan)))(session)
        try:
            outcome = _driven(session, faulty, plan, world, optional, gap_s, settle_s, start_s, say)
        finally:
            world.close()
    outcome.leaks = _leaks(before, look)
    outcome.broken += [f"a leak: {kind}: {', '.join(names)}" for kind, names in outcome.leaks.items()]
    return outcome


class Storm:
    """Lets the faults of a plan begin and end, in the turns whose time it is.

    Args:
        plan: the faults, in the order of time.
        outside: what some of them are done to.
        measure: what follows the run.
        begun: whether the first chunk has run.
        settle_s: how long the run goes on after the last one.

    Attributes:
        over: set when it does not go on.
        news: what people should know, for another thread.
    """

    def __init__(
        self,
        plan: Sequence[Injection],
        outside: Outside,
        measure: Measure,
        begun: Callable[[], bool],
        settle_s: float,
    ) -> None:
        self._coming, self._outside, self._measure = deque(plan), outside, measure
        self._begun, self._settle_s = begun, settle_s
        self._lasting: list[Injection] = []
        self._zero_s: float | None = None
        self._end_s = max((item.end_s for item in plan), default=0.0) + settle_s
        self.over = threading.Event()
        self.news: deque[str] = deque(maxlen=1000)

    def attend(self, now: float) -> list[tuple[Injection, float]]:
        """The faults that last in the turn that begins now, each with the seconds that are left of it."""
        if self._zero_s is None:
            if not self._begun():
                return []
            self._zero_s = now
        elapsed_s = now - self._zero_s
        for injection in [item for item in self._lasting if item.end_s <= elapsed_s]:
            self._lasting.remove(injection)
            self._outside.end_of(injection)
            self._measure.end(injection, now)
            self._end_s = max(self._end_s, elapsed_s + self._settle_s)  # a loop that stood still came late to it
        while self._coming and self._coming[0].at_s <= elapsed_s:
            self._start(self._coming.popleft(), now)
        if elapsed_s >= self._end_s + PATIENCE_S * self._measure.recovering:
            self.over.set()
        return [(item, max(item.end_s - elapsed_s, 0.0)) for item in self._lasting]

    def _start(self, injection: Injection, now: float) -> None:
        self._measure.begin(injection, now)
        self._outside.begin(injection)
        lasts = f" for {injection.for_s:g} s" if injection.harm not in ONCE else ""
        self.news.append(f"{injection.at_s:8.1f} s  {injection.label}{lasts}")
        if injection.harm in ONCE:
            self._measure.end(injection, now)
        else:
            self._lasting.append(injection)

    @property
    def never(self) -> list[Injection]:
        """Faults that have not begun."""
        return list(self._coming)


def _machine(session: Session, plan: Sequence[Injection]) -> Machine:
    return Machine(lambda: getattr(session.worker, "pid", None), hogs_of(plan))


def _driven(
    session: Session,
    robot: FaultyRobot,
    plan: Sequence[Injection],
    outside: Outside,
    optional: bool,
    gap_s: float | None,
    settle_s: float,
    start_s: float,
    say: Callable[[str], None],
) -> Outcome:
    """The run itself, on a session that is open."""
    refused = [f"{item.label}: {why}" for item in plan if (why := outside.cannot(item))]
    if refused and not optional:
        raise InterfaceValidationError(f"the plan does not fit: {'; '.join(dict.fromkeys(refused))}")
    plan = [item for item in plan if not outside.cannot(item)]
    period_s = session.pacer.period_s
    limit_s = max(GAP_S, GAP_PERIODS * period_s) if gap_s is None else gap_s
    inspection = Inspection(session.binding.layout, period_s)
    measure = Measure(inspection, limit_s)
    reader = session.events.reader()  # read turn by turn, so that none is lost however fast time passes
    storm = Storm(plan, outside, measure, lambda: session.scheduler.plan is not None, settle_s)

    def attend(now: float) -> list[tuple[Injection, float]]:
        measure.take(reader.take())
        return storm.attend(now)

    def first(now: float, action: Action) -> None:
        # what the gate counts the first command's travel from is what was seen before the turn that sends it
        inspection.begin(session.binding.layout.standing(robot.frame_before))
        robot.heard = measure.hear
        measure.hear(now, action)

    def tell(turns: object) -> None:
        while storm.news:
            say(storm.news.popleft())

    robot.attend, robot.heard = attend, first
    end_s = max((item.end_s for item in plan), default=0.0)
    try:
        made = session.run(
            seconds=2 * (end_s + settle_s + PATIENCE_S) + start_s, stop=storm.over, on_progress=tell
        )
    finally:
        robot.attend = lambda now: ()
    tell(())
    measure.take(reader.take())
    measure.rest()
    for effect in measure.effects:
        effect.note = outside.note(effect.injection)
    outcome = Outcome(
        session.pacer.control_hz, limit_s, measure.effects, list(dict.fromkeys(refused)), report=made
    )
    outcome.periods, outcome.commands, outcome.gap_s = measure.steps, measure.commands, measure.gap_s
    outcome.missed = measure.steps - measure.turns
    outcome.broken = _broken(measure, storm, made)
    return outcome


def _broken(measure: Measure, storm: Storm, report: Report) -> list[str]:
    broken = []
    if report.stopped:
        broken.append(f"the run ended itself: {report.stopped}")
    if not report.chunks:
        why = "; ".join(f"{kind}: {detail}" for kind, detail in report.fault_details.items())
        broken.append(f"no chunk ever ran{f' ({why})' if why else ''}")
    if measure.silent.count:
        broken.append(f"{measure.silent.count} periods without a command: {measure.silent}")
    if measure.gaps.count:
        broken.append(f"{measure.gaps.count} times no command for long: {measure.gaps}")
    if measure.outside.count:
        broken.append(f"{measure.outside.count} commands outside the limits: {measure.outside}")
    if not report.interrupted:
        lost = [effect.injection for effect in measure.effects if effect.recover_s is None]
        broken += [f"no recovery from {item.label} at {item.at_s:g} s" for item in lost]
        if storm.never:
            broken.append(f"{len(storm.never)} faults never began, the first is {storm.never[0].label}")
    return broken


def _leaks(before: Held, look: Callable[[], Held]) -> dict[str, list[str]]:
    """What is left, once what is about to end has had its time."""
    until_s = time.monotonic() + LEAK_PATIENCE_S
    while (left := left_since(before, look())) and time.monotonic() < until_s:
        time.sleep(0.05)
    return left
