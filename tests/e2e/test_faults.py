"""Everything that can go wrong with an inference, through the whole loop, on a robot, in simulated time.

The policy says ``PER_STEP * k`` for step k, so what the robot is told at step k is that, or the hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import Answer, FaultKind, Scheduler
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, robot_layout
from chunkwise.plugins import load
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate
from chunkwise.testing.world import Delay, SimulatedClock, StepWorker

ROWS, DELAY, TIMEOUT = 24, 3, 30
PER_STEP = 1e-4
STRATEGIES = ["switch", "rtc", "blend", "temporal_ensemble"]
Misdeed = Callable[[Any], Any]


def fine(rows: Any) -> Any:
    return rows


def raises(rows: Any) -> Any:
    raise RuntimeError("CUDA error")


def not_a_number(rows: Any) -> Any:
    rows = rows.copy()
    rows[7, 3] = np.nan
    return rows


def infinite(rows: Any) -> Any:
    return rows + np.inf


def too_wide(rows: Any) -> Any:
    return np.hstack([rows, rows])


def empty(rows: Any) -> Any:
    return rows[:0]


def one_dimensional(rows: Any) -> Any:
    return rows[:, 0]


def other_dtype(rows: Any) -> Any:
    return rows.astype(np.int32)


MISDEEDS = {
    raises: FaultKind.POLICY_FAILED,
    not_a_number: FaultKind.NOT_FINITE,
    infinite: FaultKind.NOT_FINITE,
    too_wide: FaultKind.MALFORMED,
    empty: FaultKind.MALFORMED,
    one_dimensional: FaultKind.MALFORMED,
    other_dtype: FaultKind.MALFORMED,
}


class World:
    """A mock robot, a policy that misbehaves at chosen calls, and the loop between them."""

    def __init__(self, strategy: str, misdeeds: dict[int, Misdeed], delay: Delay = DELAY) -> None:
        self.robot = load("robots", "mock")(arms=1)
        self.robot.connect()
        layout = robot_layout(self.robot.spec)
        self.calls = 0
        self._misdeeds, self._width = misdeeds, layout.width
        self.step = 0
        clock = SimulatedClock()
        scheduler = Scheduler(
            layout, load("strategies", strategy)(), timeout_steps=TIMEOUT, hold=np.zeros(layout.width)
        )
        self.loop = ControlLoop(
            self.robot,
            StepWorker(self._infer, lambda: self.step, delay),
            scheduler,
            Gate(layout, 0.02, start=np.zeros(layout.width)),
            Pacer(50.0, clock=clock, sleep=clock.sleep),
            EventRing(),
        )

    def _infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        misdeed = self._misdeeds.get(self.calls, fine)
        self.calls += 1
        steps = np.arange(request.request_step, request.request_step + ROWS)
        rows = np.repeat(PER_STEP * steps[:, None], self._width, axis=1)
        return ActionChunk(misdeed(rows))

    def run(self, steps: int) -> list[Turn]:
        turns = []
        for _ in range(steps):
            self.step = self.loop.pacer.wait()
            turns.append(self.loop.turn(self.step))
        return turns


def told(turn: Turn) -> float:
    assert turn.sent is not None
    return float(turn.sent[0])


def lag_of_first_chunk(turns: list[Turn]) -> int:
    """Steps by which the first chunk ran late, for it runs from its row 0 on arrival."""
    first = next(turn for turn in turns if turn.decision.source.chunk >= 0)
    return first.step - round(told(first) / PER_STEP)


def check_commands(turns: list[Turn]) -> None:
    """Within {plan, hold}: the value of this step (of this step as the first chunk counts it), or no motion."""
    last, lag = 0.0, lag_of_first_chunk(turns)
    for turn in turns:
        value = told(turn)
        plans = [PER_STEP * turn.step, PER_STEP * (turn.step - lag)]
        allowed = [last, *plans]
        if turn.decision.source.chunk >= 0:  # an average of the two plans lies between them
            assert min(plans) - 1e-12 <= value <= max(plans) + 1e-12 or value == last
        else:
            assert any(abs(value - other) < 1e-12 for other in allowed)
        last = value


def settled(turns: list[Turn]) -> bool:
    return all(abs(told(turn) - PER_STEP * turn.step) < 1e-12 for turn in turns)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
@pytest.mark.parametrize("call", [0, 1, 9])
def test_a_bad_answer_is_one_fault_and_never_empties_the_plan(strategy: str, misdeed: Misdeed, call: int) -> None:
    world = World(strategy, {call: misdeed})
    turns = world.run(120)
    check_commands(turns)
    faults = [fault for turn in turns for fault in turn.decision.faults]
    assert [fault.kind for fault in faults] == [MISDEEDS[misdeed]]
    assert faults[0].detail
    assert world.robot.observe().state["arm"].shape == (7,)
    assert settled(turns[-60:])
    broke = next(turn.step for turn in turns if turn.decision.faults)
    recovered = next(turn for turn in turns if turn.step > broke and turn.decision.source.row >= 0)
    assert recovered.step <= broke + DELAY  # within one inference, or without ever leaving the plan
    assert not world.loop.gate.counts


@pytest.mark.parametrize("strategy", [*STRATEGIES, "sync"])
def test_a_policy_that_goes_on_failing_holds_the_robot_and_a_good_answer_frees_it(strategy: str) -> None:
    bad = dict.fromkeys(range(5, 25), raises)
    world = World(strategy, bad)
    turns = world.run(200)
    holds = [turn for turn in turns[20:100] if turn.decision.source.chunk < 0]
    assert holds
    assert all(told(turn) <= PER_STEP * turn.step for turn in turns)
    assert turns[-1].decision.source.chunk > 25
    if strategy != "sync":
        check_commands(turns)
        assert settled(turns[-60:])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("call", [1, 9])
def test_an_answer_that_never_comes_is_given_up_and_asked_for_again(strategy: str, call: int) -> None:
    world = World(strategy, {}, delay=lambda request: None if request == call else DELAY)
    turns = world.run(150)
    check_commands(turns)
    faults = [(turn.step, fault) for turn in turns for fault in turn.decision.faults]
    assert [fault.kind for _, fault in faults] == [FaultKind.LOST]
    lost_at, fault = faults[0]
    assert str(TIMEOUT) in fault.detail
    assert any(turn.decision.source.chunk < 0 for turn in turns[10:lost_at])  # the plan ran dry: it held
    assert settled(turns[lost_at + DELAY :])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_policy_that_hangs_and_answers_long_after_does_no_harm(strategy: str) -> None:
    world = World(strategy, {}, delay=lambda request: 60 if request == 5 else DELAY)
    turns = world.run(150)
    check_commands(turns)
    kinds = [fault.kind for turn in turns for fault in turn.decision.faults]
    assert kinds == [FaultKind.LOST]  # its worker was left behind, and what it answers with it
    assert settled(turns[-60:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_first_answer_may_take_its_time(strategy: str) -> None:
    world = World(strategy, {}, delay=lambda request: 2500 if request == 0 else DELAY)
    world.loop.scheduler._start_timeout = 6000
    turns = world.run(2600)
    first = next(turn for turn in turns if turn.decision.source.chunk >= 0)
    assert (first.step, first.decision.source.row, told(first)) == (2500, 0, 0.0)
    assert all(told(turn) == 0.0 for turn in turns[:2500])
    assert not [fault for turn in turns for fault in turn.decision.faults]
    assert world.loop.scheduler.delay.steps == DELAY


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loop_that_misses_periods_goes_on_with_the_row_whose_time_it_is(strategy: str) -> None:
    world = World(strategy, {})
    world.run(30)
    clock = world.loop.pacer._clock
    assert isinstance(clock, SimulatedClock)
    clock.sleep(0.1)
    turns = world.run(5)
    assert turns[0].step == 34
    assert settled(turns)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_garbage_that_a_worker_hands_over_is_a_fault_too(strategy: str) -> None:
    world = World(strategy, {})
    world.run(80)  # averages need a while to forget that the first chunk ran late
    strays = [Answer(999, None, "whose?"), Answer(0, ActionChunk(np.zeros((3, 8))))]
    honest = world.loop.worker
    arrivals = honest.arrivals
    honest.arrivals = lambda: [*strays, *arrivals()]  # type: ignore[method-assign]
    turns = world.run(10)
    honest.arrivals = arrivals  # type: ignore[method-assign]
    assert {fault.kind for turn in turns for fault in turn.decision.faults} == {FaultKind.STALE}
    assert settled(turns)
