"""Switch to every new chunk, but cross-fade from the plan that is being run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chunkwise.chunking.plan import Plan, mix
from chunkwise.chunking.strategy import Strategy
from chunkwise.contract import Layout

__all__ = ["Blend"]


@dataclass(frozen=True)
class Blend(Strategy):
    """From the hand-over on, average the old plan with the new chunk, as far as the old plan reaches.

    This smooths the seam and does not know what it averages: between two right ways lies a wrong one.
    Grippers, activations and custom kinds are never averaged, rotations turn the shortest way.

    Attributes:
        ensemble_weight: weight of the *new* chunk, one number for all rows, or ``(low, high)``: low at the
            hand-over, high at the last row that both cover.

    Source:
        ``ensemble_weight`` of the inferaxis interface, with its ramp starting at the hand-over.
    """

    ensemble_weight: float | tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self._ramp()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"ensemble_weight needs 0 <= low <= high <= 1, got {self.ensemble_weight!r}")

    def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
        if plan is None:
            return chunk
        start = max(step, chunk.first_step)
        count = min(plan.end, chunk.end) - start
        if count <= 0:
            return chunk
        new = chunk.since(start)
        weight = np.linspace(*self._ramp(), count) if count > 1 else np.array([self._ramp()[0]])
        rows = np.concatenate([mix(layout, plan.since(start)[:count], new[:count], weight), new[count:]])
        rows.flags.writeable = False
        return Plan(start, rows, chunk.chunk, chunk.observed_step)

    def _ramp(self) -> tuple[float, float]:
        weight = self.ensemble_weight
        if isinstance(weight, (int, float)):
            return float(weight), float(weight)
        low, high = weight
        return float(low), float(high)
