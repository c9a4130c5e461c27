"""The scheduler: one transition per control step, from what arrived to what runs now and what to ask next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from chunkwise.chunking.delay import DelayEstimate
from chunkwise.chunking.plan import Plan
from chunkwise.chunking.strategy import Strategy, Timing
from chunkwise.contract import MAX_ROWS, ActionChunk, ChunkRequest, Layout
from chunkwise.contract.values import Array

REMEMBERED_LOST = 8
"""Requests that timed out and whose answer is still taken if it comes; older ones are forgotten."""


class Answer(NamedTuple):
    """What came back for a request: a chunk in the robot's column order, or why there is none."""

    request: int
    chunk: ActionChunk | None = None
    error: str = ""


class Tick(NamedTuple):
    """One control period: the absolute step, and every answer that arrived since the last tick.

    A tick of the same step again replaces the decision of the first (an answer came at once); an earlier step
    is a programming error.

    Attributes:
        step: the control step.
        arrivals: answers, in the order of their arrival.
        may_ask: False where the caller has no new frame to ask with; the next tick asks.
    """

    step: int
    arrivals: Sequence[Answer] = ()
    may_ask: bool = True


class FaultKind(StrEnum):
    """What can go wrong outside."""

    POLICY_FAILED = "policy_failed"  # it raised, or its worker died
    MALFORMED = "malformed"  # not rows of numbers of the right width
    NOT_FINITE = "not_finite"  # NaN or infinity in it
    EXPIRED = "expired"  # every row of it is past
    LOST = "lost"  # no answer within the time-out
    STALE = "stale"  # answers a request that is closed: of another episode, or older than the plan
    TOO_SHORT = "too_short"  # the chunk cannot carry the delay; the plan will run dry


class Fault(NamedTuple):
    """One thing that went wrong outside: as a value, because the robot needs its row all the same."""

    kind: FaultKind
    request: int
    detail: str


class SourceKind(StrEnum):
    """Where a decision's row came from."""

    CHUNK = "chunk"
    WAIT = "wait"  # holding by design: before the first chunk, or a synchronous strategy that waits
    STARVED = "starved"  # holding because the plan ran dry
    MOTION = "motion"  # not the scheduler's: the way to where an episode begins, or to a standstill


class Source(NamedTuple):
    """Where a row came from: row `row` of the plan that the answer to request `chunk` joined last."""

    kind: SourceKind
    chunk: int = -1
    row: int = -1


NO_SOURCE = Source(SourceKind.WAIT)
_STARVED = Source(SourceKind.STARVED)


class Decision(NamedTuple):
    """Everything that the caller must do in this step.

    Attributes:
        step: the control step.
        row: float64 ``(width,)``, read only: what runs now.  None only before the first chunk, when no hold
            row was given.
        source: where it came from.
        request: what to ask the policy now, with the frame of this step; or None.
        faults: what went wrong since the last tick.
        age: steps since the frame behind the row was captured; for a hold, what the row that it repeats had
            when it ran last, so that what was too old to run is not run as a hold.
    """

    step: int
    row: Array | None
    source: Source
    request: ChunkRequest | None = None
    faults: tuple[Fault, ...] = ()
    age: int = 0


@dataclass(slots=True, frozen=True)
class _Flight:
    """A request whose answer has not come."""

    id: int
    step: int


class Scheduler:
    """Owns the plan, the request in flight, time-outs, the delay estimate and the hold.

    Args:
        layout: of the robot's rows.
        strategy: how chunks join the plan and when to ask.
        delay: the delay estimate; a fresh one by default.
        timeout_steps: steps after which a request counts as lost and is made again.
        start_timeout_steps: the same before the first answer, when a policy may still compile.
        hold: the row that holds the robot where it is, for the time before the first chunk.
        first_chunk_on_arrival: run the first chunk from its row 0 when it arrives, because the robot stood
            still while the policy was starting.  False puts it, like every other, on the steps it was
            predicted for.
    """

    def __init__(
        self,
        layout: Layout,
        strategy: Strategy,
        *,
        delay: DelayEstimate | None = None,
        timeout_steps: int = 250,
        start_timeout_steps: int = 6000,
        hold: Array | None = None,
        first_chunk_on_arrival: bool = True,
    ) -> None:
        if timeout_steps < 1 or start_timeout_steps < 1:
            raise ValueError(f"time-outs must be >= 1 step, got {timeout_steps}, {start_timeout_steps}")
        self.layout, self.strategy = layout, strategy
        self.delay = delay if delay is not None else DelayEstimate()
        self._timeout, self._start_timeout = timeout_steps, start_timeout_steps
        self._on_arrival = first_chunk_on_arrival
        self._step = -1
        self._ids = 0
        self._answered = False  # the first answer is warm-up; its delay says nothing about the next one
        self._complaint: tuple[int, int] | None = None
        self.reset(hold)

    def reset(self, hold: Array | None = None) -> None:
        """Start a new episode: no plan, and answers to earlier requests are stale.  The delay stays known."""
        self._plan: Plan | None = None
        self._next: Plan | None = None  # begins after a gap that nothing covers
        self._flight: _Flight | None = None
        self._lost: dict[int, _Flight] = {}
        self._asked = -1
        self._retry = False
        self._horizon = 0
        self._joined = 0  # the step in which the newest chunk joined
        self._age = 0  # of the row that the hold repeats
        self._ran = False  # whether a row of a chunk has run, so that the robot is no longer where it was
        self._hold = hold
        if hold is not None:
            self._hold = self.layout.hold(np.array(hold, dtype=np.float64))
            self._hold.flags.writeable = False

    @property
    def plan(self) -> Plan | None:
        """The rows that will run if no further answer comes."""
        return self._plan

    def overdue(self, step: int) -> int:
        """Steps that the answer under way is late, by the delays so far; 0 when none is late or under way.

        Half of the delay again, and one step, pass as jitter.  Before a delay was measured nothing is late.
        """
        if self._flight is None or not self.delay.measured:
            return 0
        expected = self.delay.steps + self.delay.steps // 2 + 1
        return max(step - self._flight.step - expected, 0)

    def tick(self, tick: Tick) -> Decision:
        """What runs at `tick.step`, and what to ask.

        Raises:
            ValueError: the step is before the last one.
        """
        step = tick.step
        if step < self._step:
            raise ValueError(f"steps count forwards: {step} after {self._step}")
        self._step = step
        if self._next is not None and self._next.first_step <= step:
            self._plan, self._next = self._next, None
        faults: tuple[Fault, ...] = ()
        for answer in tick.arrivals:
            fault = self._take(answer, step)
            if fault is not None:
                faults += (fault,)
        flight = self._flight
        if flight is not None and step > flight.step:
            timeout = self._timeout if self._answered else self._start_timeout
            if step - flight.step >= timeout:
                faults += (self._give_up(flight, step),)
                flight = None

        request = None
        if tick.may_ask and flight is None and step != self._asked:
            request, fault = self._ask(step)
            if fault is not None:
                faults += (fault,)
        plan = self._plan
        if plan is not None:
            index = step - plan.first_step
            if 0 <= index < len(plan.rows):
                self._ran = True
                row = self._hold = plan.rows[index]
                source = Source(SourceKind.CHUNK, plan.chunk, index)
                self._age = step - plan.observed_step
                return Decision(step, row, source, request, faults, self._age)
        held = self._held()
        return Decision(step, held, self._holding(), request, faults, self._age)

    def _held(self) -> Array | None:
        if self._hold is not None and self.layout.zero_hold is not None:
            self._hold = self.layout.hold(self._hold)
            self._hold.flags.writeable = False
        return self._hold

    def _holding(self) -> Source:
        return _STARVED if self._ran and not self.strategy.waits else NO_SOURCE

    def _take(self, answer: Answer, step: int) -> Fault | None:
        """Let an answer join the plan, or say why not."""
        flight = self._flight
        if flight is not None and flight.id == answer.request:
            self._flight = None
        else:
            flight = self._lost.pop(answer.request, None)
            newest = self._next or self._plan
            if flight is None or (newest is not None and flight.step <= newest.observed_step):
                return Fault(FaultKind.STALE, answer.request, "answers a request that is closed")
        fault = self._join(flight, answer, step)
        self._retry = fault is not None
        return fault

    def _join(self, flight: _Flight, answer: Answer, step: int) -> Fault | None:
        chunk = answer.chunk
        if chunk is None:
            return Fault(FaultKind.POLICY_FAILED, flight.id, answer.error or "no chunk")
        meta = getattr(chunk, "meta", None)  # whether it is a chunk at all is asked further down
        if isinstance(meta, dict) and meta.get("reconnected"):
            self.delay.reset()  # the policy is another one, or elsewhere, and this answer waited for the way there
        elif self._answered:
            self.delay.record(step - flight.step)
        self._answered = True
        wrong = self._malformed(chunk)
        if wrong:
            return Fault(FaultKind.MALFORMED, flight.id, wrong)
        rows = chunk.rows
        if not np.isfinite(rows).all():
            row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(rows)))
            name = self.layout.names[column]
            return Fault(FaultKind.NOT_FINITE, flight.id, f"row {row}, {name} is {rows[row, column]}")
        # A robot that stood still since the request saw then what there is to see now: while the policy
        # started, or waited for by design.
        stood = not self.strategy.aligned or (self._on_arrival and not self._ran)
        observed_step = step if stood and chunk.first_step is None else flight.step
        first_step = observed_step if chunk.first_step is None else chunk.first_step
        if not flight.step <= first_step <= step + MAX_ROWS:
            detail = f"starts at step {first_step}, was asked for at step {flight.step}"
            return Fault(FaultKind.MALFORMED, flight.id, detail)
        self._horizon = len(rows)
        if first_step + len(rows) <= step:
            detail = f"{len(rows)} rows from step {first_step} on, all past at step {step}"
            return Fault(FaultKind.EXPIRED, flight.id, detail)
        self._joined = step
        fresh = Plan(first_step, rows, flight.id, observed_step)
        running = self._plan if self._plan is not None and self._plan.end > step else None
        joined = self.strategy.join(running, fresh, step, self.layout)
        if not isinstance(joined, Plan):
            raise TypeError(f"{type(self.strategy).__name__}.join() must return a Plan, got {joined!r}")
        if joined.first_step > (step if running is None else running.end):
            self._next = joined
        else:
            self._plan, self._next = _after(running, joined, step), None
        return None

    def _malformed(self, chunk: object) -> str:
        if not isinstance(chunk, ActionChunk):
            return f"not an ActionChunk but {type(chunk).__name__}"
        rows: object = chunk.rows
        first_step: object = chunk.first_step
        if first_step is not None and not isinstance(first_step, int):
            return f"first_step is not a step: {first_step!r}"
        if not isinstance(rows, np.ndarray) or rows.dtype != np.float64 or rows.ndim != 2:
            return "rows are not a float64 array (action_horizon, action_dim)"
        if rows.shape[1] != self.layout.width:
            return f"rows have {rows.shape[1]} columns, the robot takes {self.layout.width}"
        if not 0 < len(rows) <= MAX_ROWS:
            return f"{len(rows)} rows; 1 to {MAX_ROWS} are allowed"
        return ""

    def _give_up(self, flight: _Flight, step: int) -> Fault:
        self._flight = None
        self._retry = True
        self._lost[flight.id] = flight
        if len(self._lost) > REMEMBERED_LOST:
            del self._lost[next(iter(self._lost))]
        return Fault(FaultKind.LOST, flight.id, f"no answer after {step - flight.step} steps")

    def _ask(self, step: int) -> tuple[ChunkRequest | None, Fault | None]:
        plan, newest = self._plan, self._next or self._plan
        remaining = max(newest.end - step, 0) if newest is not None else 0
        waited = step - newest.observed_step if newest is not None else 0
        timing = Timing(
            step, self.delay.steps, self._horizon, waited, remaining, step - self._joined, self.delay.measured
        )
        again = self._retry and not (self.strategy.waits and remaining)
        if not (newest is None or again or self.strategy.wants(timing)):
            return None, None
        ask = self.strategy.ask(plan if plan is not None and plan.end > step else None, timing)
        request = ChunkRequest(
            request_step=step,
            active_chunk_length=remaining,
            remaining_steps=remaining,
            latency_steps=timing.delay,
            inference_delay=ask.inference_delay,
            execute_horizon=ask.execute_horizon,
            prefix=ask.prefix,
            prefix_weights=ask.prefix_weights,
            id=self._ids,
        )
        self._ids += 1
        self._flight = _Flight(request.id, step)
        self._asked = step
        self._retry = False
        return request, self._complain(timing, request.id)

    def _complain(self, timing: Timing, request: int) -> Fault | None:
        """Once, and again when it got worse; not at every request."""
        complaint = self.strategy.complaint(timing) if timing.horizon else None
        if complaint is None:
            self._complaint = None
            return None
        delay, horizon = self._complaint or (-1, timing.horizon)
        if horizon == timing.horizon and timing.delay <= delay:
            return None
        self._complaint = timing.delay, timing.horizon
        return Fault(FaultKind.TOO_SHORT, request, complaint)


def _after(running: Plan | None, joined: Plan, step: int) -> Plan:
    """A plan that begins later than now is preceded by what was running, which reaches up to it."""
    gap = joined.first_step - step
    if running is None or gap <= 0:
        return joined
    rows = np.concatenate([running.since(step)[:gap], joined.rows])
    rows.flags.writeable = False
    counts = None
    if joined.counts is not None and running.counts is not None:
        counts = np.concatenate([running.counts[step - running.first_step :][:gap], joined.counts])
    return Plan(step, rows, joined.chunk, joined.observed_step, counts)
