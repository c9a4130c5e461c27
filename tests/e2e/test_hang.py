"""A policy that hangs for good, in a real thread: the loop leaves it behind and goes on with a new one."""

from __future__ import annotations

import threading

import numpy as np

from chunkwise import plugins
from chunkwise.chunking import FaultKind, Scheduler, SourceKind
from chunkwise.contract import ChunkRequest, Frame, checked_rows, robot_layout
from chunkwise.contract.chunk import ActionChunk
from chunkwise.runtime.events import EventRing
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate
from chunkwise.testing.world import SimulatedClock

HANGS, TIMEOUT, ROWS = 3, 10, 20
PATIENCE_S = 30.0


class Hanging:
    """Answers zeros, but for one request whose answer never comes."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        if request.id == HANGS:
            self.let_go.wait()
        return ActionChunk(checked_rows(np.zeros((ROWS, 16))))


def test_a_policy_that_hangs_for_good_is_left_behind() -> None:
    policy, clock = Hanging(), SimulatedClock()
    robot = plugins.load("robots", "mock")()
    layout = robot_layout(robot.spec)
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    worker = plugins.load("workers", "thread")(policy)
    strategy = plugins.load("strategies", "switch")(execution_horizon=5)
    scheduler = Scheduler(layout, strategy, timeout_steps=TIMEOUT, hold=np.zeros(16))
    gate = Gate(layout, pacer.period_s, start=np.zeros(16))
    loop = ControlLoop(robot, worker, scheduler, gate, pacer, EventRing())
    turns = []
    try:
        for _ in range(80):
            turns.append(loop.turn(pacer.wait()))
            request = turns[-1].decision.request
            if request is not None and request.id != HANGS:
                assert worker.wait(PATIENCE_S)
    finally:
        worker.close()
        policy.let_go.set()
    assert all(turn.sent is not None for turn in turns)
    faults = [(turn.step, fault.kind) for turn in turns for fault in turn.decision.faults]
    assert [kind for _, kind in faults] == [FaultKind.LOST]
    after = faults[0][0] + 1  # the new thread's answer is there one step later
    assert all(turn.decision.source.kind is SourceKind.CHUNK for turn in turns[after:])
    assert turns[-1].decision.source.chunk > HANGS
