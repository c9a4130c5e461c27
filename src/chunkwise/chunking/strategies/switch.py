"""Asynchronous execution that switches to every new chunk as soon as it is there ("naive async")."""

from __future__ import annotations

from dataclasses import dataclass

from chunkwise.chunking.strategy import Strategy

__all__ = ["Switch"]


@dataclass(frozen=True)
class Switch(Strategy):
    """Drop the rows that are past and run the rest; the robot never waits for the policy.

    A policy with more than one right way may answer with another way than the one that is being run, and the
    command jumps at the hand-over.  :class:`~chunkwise.chunking.strategies.rtc.Rtc` is the cure.

    Source:
        the baseline "naive async" of Black, Galliker, Levine 2025, https://arxiv.org/abs/2506.07339;
        the asynchronous runtime of inferaxis without ``ensemble_weight``.
    """
