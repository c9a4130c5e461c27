"""The control loop: one frame through robot, worker, scheduler and gate, back to the robot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from chunkwise.chunking import FaultKind, Scheduler, Tick
from chunkwise.robots import Robot
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import CLEAR, Gate
from chunkwise.workers import Worker

MAX_RESTARTS = 4
"""Times that a worker is restarted before a chunk comes: a thread whose policy hangs can only be left behind."""


class ControlLoop:
    """Every period, one command; whatever the policy does.

    Args:
        robot: connected.
        worker: runs the policy.
        scheduler: which row runs now.
        gate: the last word before the robot.
        pacer: turns time into steps.
        events: where every turn is written.
        beat: called with the time of every turn, for a watchdog.
    """

    def __init__(
        self,
        robot: Robot,
        worker: Worker,
        scheduler: Scheduler,
        gate: Gate,
        pacer: Pacer,
        events: EventRing,
        beat: Callable[[float], None] | None = None,
    ) -> None:
        self.robot, self.worker, self.scheduler = robot, worker, scheduler
        self.gate, self.pacer, self.events = gate, pacer, events
        self._beat = beat
        self._restarts = 0  # since the newest chunk
        self._chunk = -1

    def run(self, *, steps: int | None = None, stop: threading.Event | None = None) -> None:
        """Turn after turn until control step `steps` is reached or `stop` is set."""
        pacer = self.pacer
        while stop is None or not stop.is_set():
            step = pacer.wait()
            if steps is not None and step >= steps:
                return
            self.turn(step)

    def turn(self, step: int) -> Turn:
        """One control period.

        Raises:
            Exception: whatever the robot raises; nothing that the policy does.
        """
        now = self.pacer.now()
        if self._beat is not None:
            self._beat(now)
        frame = self._of_the_robot(step, "observe", self.robot.observe)
        if not frame.timestamp_ns:
            frame.timestamp_ns = int(now * 1e9)
        decision = self.scheduler.tick(Tick(step, self.worker.arrivals()))
        request = decision.request
        if any(fault.kind is FaultKind.LOST for fault in decision.faults):
            self._restart_worker()
        if request is not None:
            request.request_time_s = now
            self.worker.submit(frame, request)
            at_once = self.worker.arrivals()
            if at_once:  # the worker ran the policy in line; the step may be a later one by now
                faults = decision.faults
                decision = self.scheduler.tick(Tick(self.pacer.step_now(), at_once, may_ask=False))
                decision = decision._replace(request=request, faults=faults + decision.faults)
        sent, verdict = None, CLEAR
        if decision.source.chunk > self._chunk:
            self._chunk, self._restarts = decision.source.chunk, 0
        if decision.row is not None:
            sent, verdict = self.gate.check(decision.row, age_s=decision.age * self.pacer.period_s)
        if sent is not None:
            self._of_the_robot(step, "act", self.robot.act, self.scheduler.layout.action(sent))
        turn = Turn(decision.step, now, self.pacer.late_s, decision, sent, verdict)
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
        if self._restarts < MAX_RESTARTS:
            self._restarts += 1
            self.worker.restart()
