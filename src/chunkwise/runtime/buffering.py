"""Asynchronous execution with a given latency and chunk length, tried out in simulated steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import Answer, DelayEstimate, Scheduler, SourceKind, Tick
from chunkwise.contract import ActionChunk, ChunkRequest, ComponentSpec, RobotSpec, robot_layout

MAX_TRACE_STEPS = 4000
"""Longest simulated trace; long enough for a few chunks of any usual length."""


@dataclass(slots=True, frozen=True)
class BufferStep:
    """One simulated control step: how many rows the plan still had, this step's included, and what ran."""

    step: int
    buffered_rows: int
    chunk: int
    row: int
    request: int | None
    underrun: bool


@dataclass(slots=True, frozen=True)
class BufferRequest:
    """One simulated request: asked for and answered at these steps; `dropped_rows` were past by then."""

    index: int
    request_step: int
    arrival_step: int
    dropped_rows: int


@dataclass(slots=True, frozen=True)
class AsyncBufferTrace:
    """What asynchronous execution would do with chunks of this length at this latency.

    The scheduler that drives robots made it, with the strategy ``switch``, in simulated steps.

    Attributes:
        latency_steps: control steps from every request to its answer (``d``).
        chunk_steps: rows in every chunk (``H``).
        steps_before_request: steps between a chunk's arrival and the next request.
        steps: from the first row that runs on.
        requests: those that were answered.
    """

    latency_steps: int
    chunk_steps: int
    steps_before_request: int
    steps: tuple[BufferStep, ...]
    requests: tuple[BufferRequest, ...]

    @property
    def underrun_steps(self) -> int:
        """Steps that held because the plan had run dry."""
        return sum(step.underrun for step in self.steps)

    @property
    def underrun(self) -> bool:
        """Whether the plan ever ran dry."""
        return self.underrun_steps > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "underrun": self.underrun, "underrun_steps": self.underrun_steps}


def async_buffer_trace(
    latency_steps: int, chunk_steps: int, steps_before_request: int = 0, *, chunks: int = 4
) -> AsyncBufferTrace:
    """Run the scheduler in simulated steps with a policy whose every answer takes `latency_steps`.

    Args:
        latency_steps: from a request to its answer (``d``), >= 1.
        chunk_steps: rows in an answer (``H``).
        steps_before_request: steps between a chunk's arrival and the next request.
        chunks: how many chunk lengths to run for.
    """
    layout = robot_layout(RobotSpec("buffer", [], [ComponentSpec("row", "arm", 1, ["joint_position"])]))
    strategy = plugins.load("strategies", "switch")(steps_before_request=steps_before_request)
    scheduler = Scheduler(layout, strategy, delay=DelayEstimate(initial=latency_steps), hold=np.zeros(1))
    rows = np.zeros((chunk_steps, 1))
    steps: list[BufferStep] = []
    requests: list[BufferRequest] = []
    flight: ChunkRequest | None = None
    last = min(latency_steps + chunks * (chunk_steps + latency_steps + steps_before_request), MAX_TRACE_STEPS)
    for step in range(last):
        arrivals: list[Answer] = []
        if flight is not None and step == flight.request_step + latency_steps:
            arrivals = [Answer(flight.id, ActionChunk(rows))]
            # The first chunk runs from its row 0: the robot stood still while the policy was starting.
            dropped = min(latency_steps, chunk_steps) if requests else 0
            requests.append(BufferRequest(flight.id, flight.request_step, step, dropped))
        decision = scheduler.tick(Tick(step, arrivals))
        flight = decision.request or (flight if not arrivals else None)
        source, plan = decision.source, scheduler.plan
        if source.kind is not SourceKind.WAIT:
            left = max(plan.end - step, 0) if plan is not None else 0
            asked = decision.request.id if decision.request is not None else None
            starved = source.kind is SourceKind.STARVED
            steps.append(BufferStep(step, left, source.chunk, source.row, asked, starved))
    return AsyncBufferTrace(latency_steps, chunk_steps, steps_before_request, tuple(steps), tuple(requests))


def chunk_rule(trace: AsyncBufferTrace, hz: float, inference_s: float, margin: int, highest_hz: float) -> str:
    """``H >= 2d + steps_before_request`` with a trace's numbers, and what to change where it fails.

    Args:
        trace: made with these numbers.
        hz: control steps per second.
        inference_s: the policy alone.
        margin: how many of the trace's latency steps are for safety.
        highest_hz: the highest rate at which the rule holds; 0 for none.
    """
    d, h, s = trace.latency_steps, trace.chunk_steps, trace.steps_before_request
    needed = 2 * d + s
    latency = (
        f"an inference takes {1e3 * inference_s:.3g} ms, d = {d} control steps at {hz:g} Hz ({margin} to spare)"
    )
    rule = f"H >= 2d + steps_before_request = {2 * d} + {s} = {needed}"
    if h >= needed:
        return f"Chunks of H = {h} rows carry it: {latency}, and {rule}. This holds up to {highest_hz:.4g} Hz"
    if trace.underrun:
        share = max(round(100 * trace.underrun_steps / len(trace.steps)), 1)
        outcome = f"the plan will run dry, and the robot hold in about {share} % of its steps"
    else:
        outcome = (
            f"requests will go out earlier than {s} steps after an arrival, to keep the plan from running dry"
        )
    cures = [f"answer {needed} rows or more"]
    if s and h >= 2 * d:
        cures.append(f"set steps_before_request to {h - 2 * d} or less")
    if highest_hz > 0:
        fastest_s = ((h - s) // 2 - margin) / hz
        cures += [f"run at {highest_hz:.4g} Hz or slower", f"bring an inference down to {1e3 * fastest_s:.3g} ms"]
    return (
        f"Chunks of H = {h} rows are too short: {latency}, and {rule} is needed. As it is, {outcome}. "
        f"Any of these cures it: {'; '.join(cures)}"
    )
