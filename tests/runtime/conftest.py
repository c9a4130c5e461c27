"""A robot, a policy and a loop of numbers, in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Scheduler
from chunkwise.contract import Action, ComponentSpec, Frame, RobotSpec, connect, robot_layout
from chunkwise.plugins import load
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import EventRing
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate
from chunkwise.testing.world import CountingPolicy, SimulatedClock


class Counter:
    """A robot without limits that remembers what it was told."""

    def __init__(self) -> None:
        self.spec = RobotSpec("counter", [], [ComponentSpec("arm", "arm", 2, ["joint_position"])], control_hz=50.0)
        self.told: list[float] = []
        self.calls: list[str] = []
        self.on_act: Callable[[int], None] = lambda count: None

    def connect(self) -> None:
        self.calls.append("connect")

    def observe(self) -> Frame:
        return Frame(state={"arm": np.full(2, self.told[-1] if self.told else 0.0)})

    def act(self, action: Action) -> Action:
        self.told.append(float(action.commands["arm"].value[0]))
        self.on_act(len(self.told))
        return action

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def robot() -> Counter:
    return Counter()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(100.0)


@pytest.fixture
def make_loop(robot: Counter, clock: SimulatedClock) -> Callable[..., ControlLoop]:
    """A loop with the inline worker around a policy that counts; `latency_s` passes on the simulated clock."""

    def make(strategy: Any = None, *, latency_s: float = 0.0, rows: int = 16, infer: Any = None) -> ControlLoop:
        layout = robot_layout(robot.spec)
        policy = CountingPolicy(layout, rows)
        bound = infer or BoundPolicy(policy, connect(robot.spec, policy.spec))
        worker = load("workers", "inline")(bound, latency_s=latency_s, clock=clock, sleep=clock.sleep)
        scheduler = Scheduler(layout, strategy or load("strategies", "switch")(), hold=np.zeros(2))
        pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
        return ControlLoop(robot, worker, scheduler, Gate(layout, 0.02), pacer, EventRing())

    return make
