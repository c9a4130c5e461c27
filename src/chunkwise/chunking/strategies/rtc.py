"""Real-time chunking: ask for a chunk that continues the plan which will run until it arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chunkwise.chunking.plan import Plan
from chunkwise.chunking.strategy import Ask, Strategy, Timing
from chunkwise.chunking.weights import Schedule, prefix_weights

__all__ = ["Rtc"]


@dataclass(frozen=True)
class Rtc(Strategy):
    """Every request carries the running plan from its step on and how much each row of it binds the answer.

    The first ``d`` rows will have run when the answer arrives and weigh 1; from there the weight falls to 0 where
    the plan ends, at row ``H - s``; the rest is free.  Making a chunk that heeds this is the policy's part
    (guided or trained); a policy that cannot simply ignores it, and this is ``switch``.

    Attributes:
        schedule: how the weight falls: ``exp`` (the paper's), ``linear``, ``ones`` or ``zeros`` (hard mask).

    Source:
        Black, Galliker, Levine 2025, "Real-Time Execution of Action Chunking Flow Policies",
        https://arxiv.org/abs/2506.07339, algorithm 1 and equation 5.
    """

    shares_plan: ClassVar[bool] = True

    schedule: Schedule = "exp"

    def ask(self, plan: Plan | None, timing: Timing) -> Ask:
        horizon = self.next_horizon(timing)
        if plan is None or timing.remaining <= 0:
            return Ask(horizon, inference_delay=timing.delay)
        # What is not planned cannot be kept.  In the steady state this is H - s rows: s of them have run since
        # the request that made the plan.
        rows = plan.since(timing.step)[: timing.horizon]
        weights = prefix_weights(timing.delay, len(rows), self.schedule)
        return Ask(horizon, rows, weights, timing.delay)
