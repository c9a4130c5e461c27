"""Schedules for a robot that cannot: it shows what it sees, and is told what runs now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkwise.chunking import Answer, Decision, Plan, Scheduler, SourceKind, Strategy, Tick
from chunkwise.contract import ActionChunk, ChunkRequest, Layout, robot_layout
from chunkwise.contract.values import Array
from chunkwise.runtime.pacing import StepClock
from chunkwise.safety import Gate
from chunkwise.server.inference import Refused
from chunkwise.server.session import Session
from chunkwise.wires import Infer, Observe, Played, Problem, Trouble

MAX_FAULTS = 16
"""Faults that are kept for the next answer."""


@dataclass(slots=True, frozen=True)
class Rules:
    """How a server plays chunks.

    Attributes:
        strategy: how chunks are run.
        inference_timeout_s: after this a request counts as lost and is made again.
        start_timeout_s: the same for the first one.
        max_plan_age_s: rows predicted from an older observation are refused by the gate.
    """

    strategy: Strategy
    inference_timeout_s: float = 5.0
    start_timeout_s: float = 120.0
    max_plan_age_s: float = 3.0


class Player:
    """The same scheduler and the same gate as in the control loop, driven by a robot's calls.

    Args:
        session: whose policy is asked.
        rules: how chunks are run.
        loop: the event loop.
        clock: monotonic, seconds.
        wall_ns: the wall clock, for the age of observations.
    """

    def __init__(
        self,
        session: Session,
        rules: Rules,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._session, self._rules, self._loop = session, rules, loop
        self._clock, self._wall_ns = clock, wall_ns
        self._scheduler: Scheduler | None = None
        self._waiting: tuple[Observe, Callable[[Played | Problem], None], asyncio.TimerHandle] | None = None
        self._arrivals: list[Answer] = []
        self._episode = self._step = 0
        self._faults: list[str] = []

    def observe(self, call: Observe, now_s: float, done: Callable[[Played | Problem], None]) -> None:
        """Answer an observation: at once, or within its patience where it asked for a chunk.

        Raises:
            Refused: robot and policy do not fit, or not at this rate.
        """
        self._session.bind(call.robot)
        self._answer_waiting()  # whoever asks again has not waited for the first answer
        if call.reset or self._scheduler is None or self._scheduler.layout.components != self._components(call):
            self._begin(call)
        decision = self._tick(call, now_s, may_ask=self._recent(call))
        if call.patience_s > 0 and decision.request is not None and not self._fresh():
            timer = self._loop.call_later(call.patience_s, self._answer_waiting)
            self._waiting = call, done, timer
            return
        self._deliver(self._played(call, decision), done)

    def stop(self) -> None:
        """The client has gone."""
        self._episode += 1
        if self._waiting is not None:
            (_, done, timer), self._waiting = self._waiting, None
            timer.cancel()
            done(Problem(Trouble.CANCELLED, "the session has ended"))

    @property
    def waits(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._waiting is not None

    def _begin(self, call: Observe) -> None:
        """An episode begins where the robot stands now."""
        self._episode += 1
        if call.reset and self._scheduler is not None:
            self._session.reset(lambda result: None)
        layout = self._layout(call)
        hz = self._rate(call)
        rules = self._rules
        self._steps = StepClock(hz)
        standing = layout.standing(call.frame)
        self._gate = Gate(layout, self._steps.period_s, start=standing, max_plan_age_s=rules.max_plan_age_s)
        self._gated, self._from, self._sent = -1, standing, standing
        delay = None if self._scheduler is None else self._scheduler.delay
        self._scheduler = Scheduler(
            layout,
            rules.strategy,
            delay=delay,
            timeout_steps=max(round(rules.inference_timeout_s * hz), 1),
            start_timeout_steps=max(round(rules.start_timeout_s * hz), 1),
            hold=layout.measured(call.frame),
        )
        self._arrivals, self._faults = [], []
        self._told: tuple[int, int] | None = None
        self._first = True

    def _components(self, call: Observe) -> list[str]:
        """What is commanded; the first answer of a policy without a spec may say that it is less than all."""
        return self._layout(call).components

    def _layout(self, call: Observe) -> Layout:
        binding = self._session.binding
        return robot_layout(call.robot) if binding is None else binding.layout

    def _rate(self, call: Observe) -> float:
        binding = self._session.binding
        wanted = None if binding is None else binding.policy.control_hz
        hz = call.control_hz or wanted or call.robot.control_hz or 50.0
        if wanted is not None and abs(wanted - hz) > 1e-6 * hz:
            text = (
                f"the policy predicts rows for {wanted:g} Hz, they would be played at {hz:g} Hz; "
                f"set control_hz to {wanted:g}"
            )
            raise Refused(Problem(Trouble.MISMATCH, text))
        return float(hz)

    def _recent(self, call: Observe) -> bool:
        stamp = call.frame.timestamp_ns
        if not call.stale_s or not stamp:
            return True
        age_s = (self._wall_ns() - stamp) / 1e9
        if age_s <= call.stale_s:
            return True
        self._note(f"stale: the observation is {age_s:.3g} s old")
        return False

    def _tick(self, call: Observe, now_s: float, *, may_ask: bool, again: bool = False) -> Decision:
        """What runs now; what is to be asked is asked."""
        scheduler = self._scheduler
        assert scheduler is not None
        if call.paced and again:
            step = self._step
        else:
            step = self._steps.next(now_s) if call.paced else self._steps.step(now_s)
        self._step = step
        arrivals, self._arrivals = self._arrivals, []
        decision = scheduler.tick(Tick(step, arrivals, may_ask=may_ask))
        for fault in decision.faults:
            self._note(f"{fault.kind}: {fault.detail}")
        if decision.request is not None:
            self._ask(call, decision.request)
        return decision

    def _ask(self, call: Observe, request: ChunkRequest) -> None:
        episode, limit_s = self._episode, self._rules.start_timeout_s

        def arrived(result: Any) -> None:
            if episode != self._episode:
                return
            if isinstance(result, ActionChunk):
                self._arrivals.append(Answer(request.id, result))
            else:
                self._arrivals.append(Answer(request.id, None, result.text))
            self._answer_waiting()

        self._session.infer(Infer(request.id, call.frame, request, complete=call.complete), arrived, limit_s, -1)

    def _answer_waiting(self) -> None:
        """Whoever waits for a chunk has waited long enough."""
        if self._waiting is None:
            return
        (call, done, timer), self._waiting = self._waiting, None
        timer.cancel()
        now_s = self._clock()
        if call.paced:
            self._steps.resume(now_s)
        self._deliver(self._played(call, self._tick(call, now_s, may_ask=False, again=True)), done)

    def _deliver(self, played: Played, done: Callable[[Played], None]) -> None:
        plan = played.plan
        self._told = None if plan is None else (plan.chunk, plan.observed_step)
        self._faults = []
        self._first = False
        done(played)

    def _note(self, fault: str) -> None:
        self._faults.append(fault)
        del self._faults[:-MAX_FAULTS]

    def _fresh(self) -> bool:
        """Whether a chunk has joined the plan that the robot was not told of."""
        plan = None if self._scheduler is None else self._scheduler.plan
        return plan is not None and (plan.chunk, plan.observed_step) != self._told

    def _played(self, call: Observe, decision: Decision) -> Played:
        scheduler = self._scheduler
        assert scheduler is not None
        plan = scheduler.plan
        period_s = self._steps.period_s
        gate = self._paced_gate(decision.step) if call.paced else self._gate_at(call)
        row = decision.row
        if row is not None:
            row, verdict = gate.check(row, age_s=decision.age * period_s)
            for component, rule in verdict.broken:
                self._note(f"{rule}: {component}")
        if row is not None:
            self._sent = row
        rows = None
        if call.rows and plan is not None:
            rows = self._rows(call, plan, decision.step)
        return Played(
            row,
            decision.source.kind is not SourceKind.CHUNK,
            plan,
            decision.step,
            self._steps.control_hz,
            self._fresh(),
            self._first,
            tuple(self._faults),
            rows,
        )

    def _paced_gate(self, step: int) -> Gate:
        """The gate of the episode; of a step that is answered again, one that counts from the step before it.

        Else a robot that calls too often would be let travel one reach per call, and not per period.
        """
        if step == self._gated:
            self._gate = self._gate.at(self._from)
        else:
            self._gated, self._from = step, self._sent
        return self._gate

    def _gate_at(self, call: Observe) -> Gate:
        """A gate that counts from where the robot was seen."""
        return self._gate.at(self._gate.layout.standing(call.frame))

    def _rows(self, call: Observe, plan: Plan, step: int) -> Array | None:
        """As many rows as the call wants, from where the robot will begin with them."""
        period_s = self._steps.period_s
        begin = step + round(call.lead_s / period_s)
        ahead = plan.since(begin)[: call.rows]
        if not len(ahead):
            return None
        gate = self._gate_at(call)
        if len(ahead) == call.rows and gate.passes(
            ahead, age_s=(begin + call.rows - plan.observed_step) * period_s
        ):
            return ahead
        rows = np.empty((call.rows, ahead.shape[1]))
        last: Array | None = None
        for index in range(call.rows):
            if index < len(ahead):
                age_s = (begin + index - plan.observed_step) * period_s
                last, _ = gate.check(ahead[index], age_s=age_s)
            else:
                last = gate.hold()
            if last is None:
                return None
            rows[index] = last
        return rows
