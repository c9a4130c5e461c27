"""IB-Robot's dispatcher as a strategy: the scenes in which the original goes wrong, and what happens here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise import plugins
from chunkwise.chunking import DelayEstimate, FaultKind, Scheduler, SourceKind, Timing
from chunkwise.chunking.plan import Plan
from chunkwise.contract import ActionChunk
from chunkwise.testing.world import World, arm_layout, counting_world, rover_layout

Watermark = plugins.load("strategies", "watermark")


def world(rows: int, delay: int, **options: int) -> World:
    strategy = Watermark(**options)
    return counting_world(Scheduler(arm_layout(), strategy, delay=DelayEstimate(initial=delay)), rows, delay)


def test_it_asks_when_the_queue_is_down_to_its_mark() -> None:
    decisions = world(100, 31, watermark=50).run(range(500))
    asked = [decision.request for decision in decisions if decision.request is not None][1:]
    assert {request.remaining_steps for request in asked} == {50}
    assert set(np.diff([request.request_step for request in asked])) == {50}
    assert {request.execute_horizon for request in asked[1:]} == {50}


def test_rows_run_at_their_own_steps_however_long_the_answer_takes() -> None:
    """300 ms at 100 Hz with the mark at 0: the original holds for 32 periods, then begins where it was asked."""
    decisions = world(100, 30, watermark=0).run(range(600))
    running = [decision for decision in decisions if decision.source.kind is SourceKind.CHUNK][100:]
    assert all(decision.row[0] == decision.step for decision in running)
    assert SourceKind.STARVED not in {decision.source.kind for decision in decisions[100:]}, "it asks in time"


def test_a_queue_that_is_too_small_keeps_the_rows_that_come_first() -> None:
    """A chunk of 150 and a queue of 100: the original drops the first 50, and begins with what is 50 steps off."""
    decisions = world(150, 5, watermark=20, queue_size=100).run(range(400))
    running = [decision for decision in decisions if decision.source.kind is SourceKind.CHUNK]
    first = running[0].step
    assert all(decision.row[0] == decision.step for decision in running if decision.step > first + 150)
    asked = [decision.request for decision in decisions if decision.request is not None][1:]
    assert {request.remaining_steps for request in asked} == {20}
    assert np.diff([request.request_step for request in asked]).max() <= 5 + 100


def test_a_small_queue_holds_rows_from_the_one_that_runs_now_on() -> None:
    chunk = Plan(0, np.arange(30.0)[:, None].repeat(3, axis=1), 1, 0)
    joined = Watermark(queue_size=5).join(None, chunk, 12, arm_layout())
    assert (joined.first_step, joined.end) == (0, 17)


def test_a_queue_that_has_run_out_stops_what_moves_by_itself() -> None:
    """The original repeats the last velocities for ever: the robot drives on."""
    asked: list[int] = []

    def once(frame: object, request: object) -> ActionChunk:
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("gone")
        return ActionChunk(np.ones((10, 4)))

    decisions = World(Scheduler(rover_layout(), Watermark(), hold=np.zeros(4)), once, 1).run(range(40))
    assert decisions[-1].source.kind is SourceKind.STARVED
    assert decisions[-1].row.tolist() == [0, 0, 0, 1], "velocities and changes stop, the lift stays where it is"


def test_an_answer_that_never_comes_is_given_up_and_asked_again() -> None:
    """The original waits for ever, and only its reset service helps."""
    lost: list[int] = []

    def delay(request: int) -> int | None:
        lost.append(request)
        return None if request == 1 else 2

    scheduler = Scheduler(arm_layout(), Watermark(), timeout_steps=30, hold=np.zeros(3))
    decisions = counting_world(scheduler, 20, delay).run(range(120))
    kinds = [fault.kind for decision in decisions for fault in decision.faults]
    assert kinds == [FaultKind.LOST]
    assert decisions[-1].source.kind is SourceKind.CHUNK and decisions[-1].row[0] == decisions[-1].step


def test_a_chunk_with_a_number_that_is_none_never_runs() -> None:
    def nan(frame: object, request: object) -> ActionChunk:
        return ActionChunk(np.full((10, 3), np.nan))

    decisions = World(Scheduler(arm_layout(), Watermark(), hold=np.zeros(3)), nan, 1).run(range(20))
    assert all(np.isfinite(decision.row).all() for decision in decisions)
    assert {fault.kind for decision in decisions for fault in decision.faults} == {FaultKind.NOT_FINITE}


@settings(max_examples=100)
@given(st.integers(4, 60), st.integers(0, 80), st.integers(1, 80), st.data())
def test_it_runs_without_a_gap_where_the_queue_can_carry_the_delay(
    rows: int, watermark: int, queue_size: int, data: st.DataObject
) -> None:
    delay = data.draw(st.integers(1, max(min(rows // 2, queue_size) - 1, 1)))
    decisions = world(rows, delay, watermark=watermark, queue_size=queue_size).run(range(6 * rows))
    if 2 * delay + 1 <= rows and delay + 1 <= queue_size:
        assert SourceKind.STARVED not in {decision.source.kind for decision in decisions}
    assert not any(fault.kind is not FaultKind.TOO_SHORT for decision in decisions for fault in decision.faults)


def test_it_asks_no_more_often_than_its_horizon_says() -> None:
    timing = Timing(step=0, delay=2, horizon=50, waited=9, remaining=15)
    assert Watermark(watermark=20).wants(timing)
    assert not Watermark(watermark=20, execution_horizon=10).wants(timing)
    assert not Watermark(watermark=10).wants(timing)


@pytest.mark.parametrize("wrong", [{"watermark": -1}, {"queue_size": 0}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="watermark must be >= 0 and queue_size >= 1"):
        Watermark(**wrong)
