"""The strategy port: how a new chunk joins the plan, and when to ask for the next one.

One algorithm per file in :mod:`chunkwise.chunking.strategies`, each a frozen dataclass of its parameters.
State is the :class:`~chunkwise.chunking.plan.Plan` that goes in and comes out; a strategy keeps none itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from chunkwise.chunking.plan import Plan
from chunkwise.contract import Layout
from chunkwise.contract.values import Array


class Timing(NamedTuple):
    """What a strategy may know when it decides whether to ask.

    Attributes:
        step: the control step.
        delay: expected steps from a request to its answer (``d``).
        horizon: rows of the newest chunk (``H``).
        waited: steps since the request behind the newest chunk was made.
        remaining: rows of the plan from `step` on, the one that runs now included.
        joined: steps since the newest chunk joined the plan.
        measured: whether `delay` was measured, or is a first guess.
    """

    step: int
    delay: int
    horizon: int
    waited: int
    remaining: int
    joined: int = 0
    measured: bool = True


class Ask(NamedTuple):
    """What goes with a request.

    Attributes:
        execute_horizon: expected steps to the next request (``s``).
        prefix: rows of the running plan from the request's step on that the policy should know; or None.
        prefix_weights: one weight per row of the prefix.
        inference_delay: the delay that the policy should plan with; or None.
    """

    execute_horizon: int
    prefix: Array | None = None
    prefix_weights: Array | None = None
    inference_delay: int | None = None


@dataclass(frozen=True)
class Strategy:
    """Asks as often as it can and runs the newest chunk; the strategies differ from it where they say so.

    Attributes:
        execution_horizon: control steps from one request to the next (``s``), at least.  0 asks again as soon
            as an answer is there.  Where the measured delay does not leave time for it, the strategy asks
            earlier: the plan must not run dry.
        margin: rows to spare when asking late.
        steps_before_request: counts from the hand-over instead: ask when this many steps have run since the
            newest chunk joined, so that ``s = steps_before_request + d`` (the inferaxis interface's way).
    """

    execution_horizon: int = 0
    margin: int = 1
    steps_before_request: int | None = None

    aligned: ClassVar[bool] = True
    """Whether row ``i`` of a chunk runs at the step it was predicted for, or not at all."""

    shares_plan: ClassVar[bool] = False
    """Whether it counts on a policy that continues the running plan."""

    waits: ClassVar[bool] = False
    """Whether the robot waits for the policy by design."""

    def __post_init__(self) -> None:
        if min(self.execution_horizon, self.margin, self.steps_before_request or 0) < 0:
            raise ValueError(
                "execution_horizon and margin and steps_before_request must be >= 0, got "
                f"{self.execution_horizon}, {self.margin}, {self.steps_before_request}"
            )

    def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
        """The plan after `chunk` arrived at `step`; `plan` is None when nothing was running."""
        return chunk

    def wants(self, timing: Timing) -> bool:
        """Whether to ask now; called only while no request is in flight."""
        if self.steps_before_request is not None:
            due = timing.joined >= self.steps_before_request
        else:  # no time to lose before it is known how long an answer takes
            due = timing.waited >= (max(self.execution_horizon, 1) if timing.measured else 1)
        return due or timing.remaining <= timing.delay + self.margin

    def ask(self, plan: Plan | None, timing: Timing) -> Ask:
        """What to send along with the request."""
        return Ask(self.next_horizon(timing))

    def next_horizon(self, timing: Timing) -> int:
        """The steps that will pass until the next request, ``d <= s <= H - d`` where the chunk allows it."""
        latest = max(timing.horizon - timing.delay, 1)
        wanted = self.execution_horizon
        if self.steps_before_request is not None:
            wanted = self.steps_before_request + timing.delay
        return max(min(wanted, latest), timing.delay, 1)

    def complaint(self, timing: Timing) -> str | None:
        """Why the plan must run dry at this delay, with the numbers; None when it need not."""
        d, h = timing.delay, timing.horizon
        if 2 * d <= h:
            return None
        return (
            f"a chunk of H={h} rows is too short for a delay of d={d} steps: d <= s <= H - d needs "
            f"H >= 2d = {2 * d}; about {min(2 * d - h, d)} of every {max(d, 1)} steps will hold. "
            "Use longer chunks, a lower control_hz or a faster policy"
        )
