"""Average everything that was ever predicted for a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chunkwise.chunking.plan import Plan, mix
from chunkwise.chunking.strategy import Strategy
from chunkwise.contract import Layout

__all__ = ["TemporalEnsemble"]


@dataclass(frozen=True)
class TemporalEnsemble(Strategy):
    """ACT's temporal ensembling: a row is the weighted mean of all predictions for its step.

    The ``j``-th prediction for a step, the oldest first, weighs ``exp(-decay * j)``, so the default slightly
    favours old ones.  Kept as a running mean: with ``C_k`` the sum of the first k weights, the k-th prediction
    enters with weight ``w_k / C_k``.  Under delay a chunk counts from the step in which it arrives.
    It averages different right ways into wrong ones; grippers and activations take the newest value.

    Attributes:
        decay: ``m`` of the paper; negative favours new predictions.

    Source:
        Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware",
        https://arxiv.org/abs/2304.13705, algorithm 2.
    """

    decay: float = 0.01

    def join(self, plan: Plan | None, chunk: Plan, step: int, layout: Layout) -> Plan:
        start = max(step, chunk.first_step)
        new = chunk.since(start)
        counts = np.ones(len(new), dtype=np.int64)
        shared = 0
        if plan is not None and plan.counts is not None and plan.first_step <= start:
            shared = max(min(plan.end, chunk.end) - start, 0)
        if shared and plan is not None and plan.counts is not None:
            seen = plan.counts[start - plan.first_step :][:shared]
            weights = np.exp(-self.decay * np.arange(int(seen.max()) + 1))
            share = weights[seen] / np.cumsum(weights)[seen]
            averaged = mix(layout, plan.since(start)[:shared], new[:shared], share)
            new = np.concatenate([averaged, new[shared:]])
            new.flags.writeable = False
            counts[:shared] += seen
        return Plan(start, new, chunk.chunk, chunk.observed_step, counts)
