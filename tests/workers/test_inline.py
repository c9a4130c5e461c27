from __future__ import annotations

import numpy as np
import pytest

from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.plugins import load
from chunkwise.testing.world import SimulatedClock

InlineWorker = load("workers", "inline")


@pytest.mark.parametrize(("thinks_s", "waited_s"), [(0.0, 0.1), (0.03, 0.1), (0.25, 0.25)])
def test_the_latency_is_the_least_that_an_answer_takes(thinks_s: float, waited_s: float) -> None:
    clock = SimulatedClock(5.0)

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        clock.sleep(thinks_s)
        return ActionChunk(np.zeros((4, 1)))

    worker = InlineWorker(infer, latency_s=0.1, clock=clock, sleep=clock.sleep)
    worker.submit(Frame(), ChunkRequest(0))
    assert clock() - 5.0 == pytest.approx(waited_s)
    assert len(worker.arrivals()) == 1


def test_a_policy_that_raises_takes_its_time_too() -> None:
    clock = SimulatedClock()

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        raise ZeroDivisionError("of nothing")

    worker = InlineWorker(infer, latency_s=0.1, clock=clock, sleep=clock.sleep)
    worker.submit(Frame(), ChunkRequest(0, id=7))
    (answer,) = worker.arrivals()
    assert (answer.request, answer.chunk, answer.error) == (7, None, "ZeroDivisionError: of nothing")
    assert clock() == pytest.approx(0.1)
