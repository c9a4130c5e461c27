"""Ask when the queue has run down to its mark: IB-Robot's action dispatcher."""

from __future__ import annotations

from dataclasses import dataclass

from chunkwise.chunking.plan import Plan
from chunkwise.chunking.strategy import Strategy, Timing
from chunkwise.contract import Layout

__all__ = ["Watermark"]


@dataclass(frozen=True)
class Watermark(Strategy):
    """Run most of a chunk before the next one is asked for, then drop the rows that are past and run the rest.

    The dispatcher counts the rows that it took from its queue meanwhile; here rows belong to steps, so that steps
    in which the robot held count too.  A queue that is too small keeps the rows that come first.  Where the
    measured delay is longer than the mark leaves time for, it is asked earlier: the queue must not run dry.

    Attributes:
        watermark: ask when so many rows are left, the one that runs now included.
        queue_size: rows of a chunk that are kept, from the one that runs now on.

    Source:
        ``watermark_threshold`` and ``queue_size`` of IB-Robot's ``action_dispatcher_node``.
    """

    watermark: int = 20
    queue_size: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.watermark < 0 or self.queue_size < 1:
            raise ValueError(
                f"watermark must be >= 0 and queue_size >= 1, got {self.watermark} and {self.queue_size}"
            )

    def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
        kept = max(step - chunk.first_step, 0) + self.queue_size
        return Plan(chunk.first_step, chunk.rows[:kept], chunk.chunk, chunk.observed_step)

    def wants(self, timing: Timing) -> bool:
        return timing.remaining <= self._mark(timing) and super().wants(timing)

    def next_horizon(self, timing: Timing) -> int:
        kept = min(timing.horizon, timing.delay + self.queue_size)
        return max(kept - self._mark(timing), super().next_horizon(timing))

    def _mark(self, timing: Timing) -> int:
        return max(self.watermark, timing.delay + self.margin)
