"""A policy that stalls, and what must never come of it: a command towards zero, a burst, a poisoned future.

The robot is like IGRIS: 24 joints at 20 Hz, 5 degrees a step at most.  The policy always says 1.0, blends its
chunk with the running plan as that engine's policies do, and the robot stands at 1.0: whatever moves, moved for no
reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import FaultKind, Scheduler
from chunkwise.contract import Action, ActionChunk, ChunkRequest, ComponentSpec, Frame, RobotSpec, robot_layout
from chunkwise.plugins import load
from chunkwise.policies.igris.blend import exponential_blend
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate, Limits, Mode, Modes
from chunkwise.testing.world import Delay, SimulatedClock, StepWorker

HZ, HORIZON, DELAY, WIDTH = 20.0, 50, 5, 24
SLEW = np.deg2rad(5.0) * HZ
STALLS = [2, 5, 16, 25, 49, 50, 51, 100, 200]
"""Steps: 0.1 to 10 s."""


class Robot:
    """Stands where it was told to; counts how often it is asked."""

    def __init__(self) -> None:
        self.spec = RobotSpec("robot", [], [ComponentSpec("arm", "arm", WIDTH, ["joint_position"], max_rate=SLEW)])
        self.at = np.ones(WIDTH)
        self.asked = 0
        self.told: list[np.ndarray[Any, Any]] = []

    def connect(self) -> None:
        pass

    def observe(self) -> Frame:
        self.asked += 1
        return Frame(state={"arm": self.at})

    def act(self, action: Action) -> Action:
        self.at = action.commands["arm"].value
        self.told.append(self.at)
        return action

    def close(self) -> None:
        pass


class World:
    def __init__(self, delay: Delay, value: float | None = 1.0, strategy: str = "rtc", **limits: Any) -> None:
        self.robot, self.value, self.step = Robot(), value, 0
        self.requests: list[ChunkRequest] = []
        layout = robot_layout(self.robot.spec)
        clock = SimulatedClock()
        self.loop = ControlLoop(
            self.robot,
            StepWorker(self._infer, lambda: self.step, delay),
            Scheduler(layout, load("strategies", strategy)(), timeout_steps=400, hold=self.robot.at),
            Gate(layout, 1 / HZ, start=self.robot.at, max_plan_age_s=1e6),
            Pacer(HZ, clock=clock, sleep=clock.sleep),
            EventRing(),
            Modes(Limits(**limits)),
        )

    def _infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        self.requests.append(request)
        steps = np.arange(request.request_step, request.request_step + HORIZON)
        rows = np.full((HORIZON, WIDTH), self.value) if self.value is not None else steps[:, None] * np.ones(WIDTH)
        if request.prefix is not None and self.value is not None:
            kept = np.repeat(request.prefix[-1:], HORIZON, axis=0)  # the last row is held, never zeros
            kept[: len(request.prefix)] = request.prefix
            executed = HORIZON - len(request.prefix)
            rows = exponential_blend(kept, rows, delay=request.latency_steps, executed=executed).astype(float)
        return ActionChunk(rows)

    def run(self, steps: int) -> list[Turn]:
        turns = []
        for _ in range(steps):
            self.step = self.loop.pacer.wait()
            turns.append(self.loop.turn(self.step))
        return turns


@pytest.mark.parametrize("strategy", ["rtc", "blend", "switch", "temporal_ensemble"])
@pytest.mark.parametrize("stall", STALLS)
def test_a_stall_never_commands_towards_zero_and_is_over_with_its_answer(stall: int, strategy: str) -> None:
    world = World(lambda request: stall if request == 3 else DELAY, strategy=strategy, hold_s=None)
    turns = world.run(500)
    assert np.abs(np.array(world.robot.told) - 1.0).max() < 1e-6, "blended in float32"
    (asked,) = [turn.step for turn in turns if turn.decision.request is not None and turn.decision.request.id == 3]
    # An answer whose rows are past, or end before the next one, leaves one more inference to wait for.
    back = asked + stall + (DELAY + 1 if stall >= HORIZON - DELAY else 1)
    assert all(turn.mode is Mode.RUNNING for turn in turns if turn.step > back + 1)
    held = [turn for turn in turns if turn.mode is Mode.HOLD and turn.step > DELAY]
    assert bool(held) == (stall > HORIZON // 2 + DELAY) or stall in (25, 49, 50), "it holds where its plan ended"
    assert all(turn.step <= back + 1 for turn in held)


@pytest.mark.parametrize("stall", [25, 60])
def test_a_stall_is_remembered_for_a_while_and_does_no_harm_meanwhile(stall: int) -> None:
    world = World(lambda request: stall if request == 3 else DELAY, hold_s=None)
    world.run(100)
    after = [request for request in world.requests if request.id > 4]
    assert len(after) > 3, "it is asked on"
    for request in after:
        assert request.prefix is not None and request.prefix_weights is not None
        assert len(request.prefix) == len(request.prefix_weights) == request.remaining_steps, (
            "rows that were never planned bind nothing, whatever the delay is thought to be"
        )
    delays = [request.latency_steps for request in after]
    assert delays == sorted(delays, reverse=True), "it is forgotten, answer by answer"


def test_what_a_request_says_was_executed_was_executed() -> None:
    world = World(lambda request: (3, 9, 5, 17)[request % 4], value=None, strategy="rtc")
    world.run(400)
    for request in world.requests[2:]:
        assert request.prefix is not None
        assert request.prefix[0, 0] == request.request_step, "row 0 of the prefix is what runs now"
        assert (np.diff(request.prefix[:, 0]) == 1).all()
        assert len(request.prefix) == request.remaining_steps


def test_the_answer_of_an_episode_that_is_over_joins_no_plan() -> None:
    world = World(lambda request: 40 if request == 3 else DELAY, value=None)
    world.run(100)
    asked = max(request.request_step for request in world.requests)
    world.loop.scheduler.reset(world.robot.at)
    turns = world.run(60)
    closed = [fault for turn in turns for fault in turn.decision.faults if fault.kind is FaultKind.STALE]
    assert len(closed) <= 1
    for turn in turns:
        if turn.decision.source.chunk >= 0:
            assert world.requests[turn.decision.source.chunk].request_step > asked, "asked for since"


def test_an_episode_begins_with_the_first_row_of_its_first_plan() -> None:
    world = World(DELAY, value=None, strategy="switch")
    turns = world.run(60)
    first = next(turn for turn in turns if turn.decision.source.chunk >= 0)
    assert (first.decision.source.row, first.step) == (0, DELAY)
    assert [turn.decision.source.row for turn in turns[first.step : first.step + DELAY]] == list(range(DELAY))


def test_missed_periods_are_not_made_up_for_and_travel_stays_within_the_limit() -> None:
    """A policy that runs in the loop and takes four periods: one command per period, each within its own reach."""
    world = World(0, value=None, strategy="switch")
    clock: Any = world.loop.pacer._clock
    times: list[float] = []
    keep = world.robot.act

    def act(action: Action) -> Action:
        times.append(clock())
        if len(times) % 7 == 0:
            clock.sleep(4.3 / HZ)  # the bus was busy
        return keep(action)

    world.robot.act = act  # type: ignore[method-assign]
    world.run(300)
    rows = np.array(world.robot.told)
    assert world.loop.pacer.missed > 100
    assert np.abs(np.diff(rows, axis=0)).max() <= SLEW / HZ + 1e-9
    at = np.array(times)
    for window in (0.1, 0.5, 1.0):
        for index in range(len(at)):
            inside = np.flatnonzero((at >= at[index]) & (at <= at[index] + window))
            travel = np.abs(rows[inside[-1]] - rows[inside[0]]).max()
            assert travel <= SLEW * (window + 1e-9), "degrees per second, after an overrun too"
    assert world.robot.asked == len(rows), "one observation per command: nothing spins"


def test_one_not_a_number_is_one_refused_chunk_and_sticks_to_nothing() -> None:
    world = World(DELAY)
    broken = world._infer

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        chunk = broken(frame, request)
        if request.id == 4:
            chunk.rows[7, 3] = np.nan
        return chunk

    world.loop.worker._infer = infer  # type: ignore[attr-defined]
    turns = world.run(200)
    assert [fault.kind for turn in turns for fault in turn.decision.faults] == [FaultKind.NOT_FINITE]
    assert np.isfinite(world.robot.told).all()
    assert turns[-1].mode is Mode.RUNNING
