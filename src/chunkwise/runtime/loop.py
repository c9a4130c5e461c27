"""The control loop: one frame through robot, worker, scheduler and gate, back to the robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from chunkwise.chunking import Decision, FaultKind, Scheduler, Source, SourceKind, Tick
from chunkwise.contract import Frame
from chunkwise.contract.values import Array
from chunkwise.robots import Robot
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import CLEAR, Brake, Change, Gate, Mode, Modes, Ramp, Sight, Verdict, initial_row
from chunkwise.workers import Worker

MAX_RESTARTS = 4
"""Times that a worker is restarted before a chunk comes, where a policy that hangs can only be left behind."""
BRAKE_S = 0.3
"""How long the robot takes from full speed to a standstill when the operator says stop."""
ARRIVED = 0.05
"""How far from where an episode begins a measured joint may be, in its own unit."""
SETTLE_S = 2.0
"""How long a robot that lags behind its commands is waited for at the end of a ramp."""

_MOTION = Source(SourceKind.MOTION)
_BROKEN = frozenset(FaultKind) - {FaultKind.STALE, FaultKind.TOO_SHORT}
"""Faults after which the next chunk is not to be counted on."""


class Stop(Protocol):
    """Whether to stop; a ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


class ControlLoop:
    """Every period, one command; whatever the policy does.

    Args:
        robot: connected.
        worker: runs the policy.
        scheduler: which row runs now.
        gate: the last word before the robot.
        pacer: turns time into steps.
        events: where every turn is written.
        modes: the state of the run.
        beat: called with the time of every turn, for a watchdog.
        rest: called after every turn with the seconds until the next one, for work that must not cost a period.
    """

    def __init__(
        self,
        robot: Robot,
        worker: Worker,
        scheduler: Scheduler,
        gate: Gate,
        pacer: Pacer,
        events: EventRing,
        modes: Modes | None = None,
        beat: Callable[[float], None] | None = None,
        rest: Callable[[float], None] | None = None,
    ) -> None:
        self.robot, self.worker, self.scheduler = robot, worker, scheduler
        self.gate, self.pacer, self.events = gate, pacer, events
        self.modes = Modes() if modes is None else modes
        self.rest = rest
        self._beat = beat
        self._in_line = getattr(worker, "in_line", False)
        self._restarts = 0  # since the newest chunk
        self._chunk = -1
        self._trouble = ""  # what went wrong since the newest chunk
        self._stale = ""
        self._sent: Array | None = None
        self._sent_before: Array | None = None

    def run(self, *, steps: int | None = None, stop: Stop | None = None) -> None:
        """Turn after turn until control step `steps` is reached, `stop` is set, or a hold lasted too long.

        A robot that is stopped is brought to a standstill first.
        """
        while stop is None or not stop.is_set():
            step = self.pacer.wait()
            if steps is not None and step >= steps:
                return
            self.turn(step)
            if self.modes.mode is Mode.STOPPED:
                return
            if self.rest is not None:
                self.rest(self.pacer.left_s())
        self.brake("stopped by the operator")

    def turn(self, step: int) -> Turn:
        """One control period.

        Raises:
            Exception: whatever the robot raises; nothing that the policy does.
        """
        now, frame = self._look(step)
        decision = self._decide(step, now)
        request = decision.request
        if request is not None and self._in_line:
            decision = self._asked_in_line(frame, decision)
        sent, verdict = None, CLEAR
        if decision.source.chunk > self._chunk:
            self._chunk, self._restarts, self._trouble = decision.source.chunk, 0, ""
        if self._stale:
            sent = self._blind()
        elif decision.row is not None:
            sent, verdict = self.gate.check(decision.row, age_s=decision.age * self.pacer.period_s)
        change = self.modes.see(self._sight(decision, verdict, now))
        turn = self._act(decision, now, sent, verdict, change)
        if request is not None and not self._in_line:
            self.worker.submit(frame, request)  # after the command, which must not wait for pictures to be copied
        return turn

    def ramp(self, stop: Stop | None = None) -> bool:
        """Move the robot from where it is seen to where an episode begins, and wait for it; whether it is there.

        While a sensor is too old the robot waits, as long as a hold may last.

        Args:
            stop: ends it, by a brake.

        Raises:
            InterfaceValidationError: its state does not say where it stands.
            Exception: whatever the robot raises.
        """
        layout, pacer = self.scheduler.layout, self.pacer
        ramp: Ramp | None = None
        index, settle = 0, max(round(SETTLE_S / pacer.period_s), 1)
        while stop is None or not stop.is_set():
            step = pacer.wait()
            now, frame = self._look(step)
            sent, verdict = self._blind(), CLEAR
            if not self._stale:
                standing = layout.standing(frame)
                if ramp is None:
                    goal = initial_row(self.robot.spec, layout, standing)
                    if goal is None:
                        return True
                    ramp = Ramp(layout, standing, goal, pacer.period_s)
                    self.gate = self.gate.at(standing)
                if index >= ramp.steps and _there(standing, ramp.row(ramp.steps)):
                    return True
                if index >= ramp.steps + settle:
                    return False
                index += 1
                sent, verdict = self.gate.check(ramp.row(index))
            change = self.modes.see(Sight(step, now, planned=False, begun=False, stale=self._stale))
            self._act(Decision(step, sent, _MOTION), now, sent, verdict, change)
            if self.modes.mode is Mode.STOPPED:
                return False
        self.brake("stopped by the operator on the way to where the episode begins")
        return False

    def brake(self, why: str) -> None:
        """Bring the robot from its speed to a standstill, through the gate like everything, and stop."""
        if self._sent is None:  # it was never told to move
            step = self.pacer.wait()
            now = self._begin()
            change = self.modes.stop(why, step, now)
            self._act(Decision(step, None, _MOTION), now, None, CLEAR, change)
            return
        brake = Brake(self.scheduler.layout, self._sent_before, self._sent, round(BRAKE_S / self.pacer.period_s))
        for index in range(1, brake.steps + 1):
            step = self.pacer.wait()
            now = self._begin()
            sent, verdict = self.gate.check(brake.row(index))
            change = self.modes.stop(why, step, now)
            self._act(Decision(step, sent, _MOTION), now, sent, verdict, change)

    def meet(self, frame: Frame) -> None:
        """The robot, which has not been told anything, stands where this frame shows it."""
        layout = self.scheduler.layout
        self.gate = self.gate.at(layout.standing(frame))
        self.scheduler.reset(layout.measured(frame))

    def _begin(self) -> float:
        """The time at which a turn begins."""
        now = self.pacer.now()
        if self._beat is not None:
            self._beat(now)
        return now

    def _look(self, step: int) -> tuple[float, Frame]:
        """The time, and what the robot sees; whether that is too old to go by is remembered."""
        now = self._begin()
        frame = self._of_the_robot(step, "observe", self.robot.observe)
        if not frame.timestamp_ns:
            frame.timestamp_ns = int(now * 1e9)
        stale = ""
        if frame.times_ns:
            ages = {name: now - ns / 1e9 if ns else math.inf for name, ns in frame.times_ns.items()}
            stale = self.modes.limits.stale(ages)
        if stale and not self._stale:
            self.scheduler.reset(self.gate.hold())  # a plan from before may be wrong by the time it sees again
        elif self._stale and not stale and self._sent is None:
            self.meet(frame)  # nobody held it while nobody saw it
        self._stale = stale
        return now, frame

    def _blind(self) -> Array | None:
        """What a robot that does not see gets: the hold, or nothing where nobody knows where it stands."""
        return None if self._sent is None else self.gate.hold()

    def _decide(self, step: int, now: float) -> Decision:
        """The scheduler's decision."""
        decision = self.scheduler.tick(Tick(step, self.worker.arrivals(), may_ask=not self._stale))
        self._note(decision)
        if any(fault.kind is FaultKind.LOST for fault in decision.faults):
            self._restart_worker()
        if decision.request is not None:
            decision.request.request_time_s = now
        return decision

    def _asked_in_line(self, frame: Frame, decision: Decision) -> Decision:
        """The decision once the policy has answered, in the step that it is by then."""
        assert decision.request is not None
        self.worker.submit(frame, decision.request)
        answers = self.worker.arrivals()
        if not answers:
            return decision
        after = self.scheduler.tick(Tick(self.pacer.step_now(), answers, may_ask=False))
        self._note(after)
        return after._replace(request=decision.request, faults=decision.faults + after.faults)

    def _note(self, decision: Decision) -> None:
        for fault in decision.faults:
            if fault.kind in _BROKEN:
                self._trouble = f"{fault.kind}: {fault.detail}"

    def _sight(self, decision: Decision, verdict: Verdict, now: float) -> Sight:
        kind, step, begun = decision.source.kind, decision.step, self._chunk >= 0
        trouble = self._trouble
        if not trouble and self.scheduler.overdue(step):
            trouble = "the policy's answer is late"
        waits = kind is SourceKind.WAIT and begun and self.scheduler.strategy.waits and not trouble
        refused = ", ".join(sorted({str(rule) for _, rule in verdict.broken})) if verdict.refused else ""
        return Sight(step, now, kind is SourceKind.CHUNK or waits, begun, trouble, self._stale, refused)

    def _act(
        self, decision: Decision, now: float, sent: Array | None, verdict: Verdict, change: Change | None
    ) -> Turn:
        """Send a row that has passed the gate, and write down the turn."""
        if sent is not None:
            action = self.scheduler.layout.action(sent)
            self._of_the_robot(decision.step, "act", self.robot.act, action)
            self._sent_before, self._sent = self._sent, sent
        turn = Turn(decision.step, now, self.pacer.late_s, decision, sent, verdict, self.modes.mode, change)
        self.events.emit(turn)
        return turn

    def _of_the_robot(self, step: int, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the robot answers; what it raises is told where."""
        try:
            return call(*arguments)
        except Exception as error:
            error.add_note(f"robot {self.robot.spec.name!r}: {name}() raised in control step {step}")
            raise

    def _restart_worker(self) -> None:
        """A policy that hangs hears of nothing any more: its request is lost, the next one gets a new worker."""
        if self._restarts < MAX_RESTARTS or not getattr(self.worker, "leaves_behind", False):
            self._restarts += 1
            self.worker.restart()


def _there(standing: Array, goal: Array) -> bool:
    """Whether the robot says that it is where it was sent."""
    return bool((np.abs(standing - goal) <= ARRIVED).all())
