"""Inference in the control loop itself: the robot waits while the policy thinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from chunkwise.chunking import Answer
from chunkwise.contract import ChunkRequest, Frame
from chunkwise.workers import Infer, attempt

__all__ = ["InlineWorker"]


class InlineWorker:
    """Runs the policy inside :meth:`submit`.

    For policies that answer well within a control period, and for simulated time, where it makes everything
    deterministic.

    Args:
        infer: the bound policy.
        latency_s: an answer takes at least this long.
        clock, sleep: the time that `latency_s` is counted in.
    """

    in_line = True

    def __init__(
        self,
        infer: Infer,
        *,
        latency_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._infer, self._latency_s, self._clock, self._sleep = infer, latency_s, clock, sleep
        self._answers: list[Answer] = []

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        start = self._clock()
        answer = attempt(self._infer, frame, request)
        rest = self._latency_s - (self._clock() - start)
        if rest > 0:
            self._sleep(rest)
        self._answers.append(answer)

    def arrivals(self) -> Sequence[Answer]:
        if not self._answers:
            return ()
        answers, self._answers = self._answers, []
        return answers

    def wait(self, timeout_s: float | None = None) -> bool:
        return bool(self._answers)

    def restart(self) -> None:
        self._answers = []

    def close(self) -> None:
        self._answers = []
