"""Synchronous execution: run some rows, hold, think, go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chunkwise.chunking.plan import Plan
from chunkwise.chunking.strategy import Strategy, Timing
from chunkwise.contract import Layout

__all__ = ["Sync"]


@dataclass(frozen=True)
class Sync(Strategy):
    """Run `execution_horizon` rows of a chunk, then hold the robot until the next chunk is there.

    The observation is taken when the rows have run out and the robot holds, so row 0 of the answer runs at
    the step in which it arrives.  The wait is by design and reported as waiting, not as starvation.

    Attributes:
        execution_horizon: rows that run of each chunk; 0 runs half of the chunk, as is usual.

    Source:
        the synchronous baseline of https://arxiv.org/abs/2506.07339; ``n_action_steps`` elsewhere.
    """

    aligned: ClassVar[bool] = False
    waits: ClassVar[bool] = True

    def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
        rows = chunk.rows[: self._run(len(chunk.rows))]
        return Plan(chunk.first_step, rows, chunk.chunk, chunk.observed_step)

    def wants(self, timing: Timing) -> bool:
        return timing.remaining <= 0

    def next_horizon(self, timing: Timing) -> int:
        return self._run(timing.horizon)

    def complaint(self, timing: Timing) -> str | None:
        return None

    def _run(self, horizon: int) -> int:
        return min(self.execution_horizon or (horizon + 1) // 2, horizon)
