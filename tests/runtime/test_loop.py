"""The loop in lock step: what is sent at step k has the value k, or is a hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chunkwise.chunking import FaultKind, SourceKind
from chunkwise.contract import ActionChunk, ChunkRequest, Frame
from chunkwise.plugins import load
from chunkwise.runtime.loop import MAX_RESTARTS, ControlLoop
from chunkwise.safety import Mode
from chunkwise.testing.world import SimulatedClock

MakeLoop = Callable[..., ControlLoop]


@pytest.mark.parametrize("strategy", ["switch", "rtc", "blend", "temporal_ensemble", "sync"])
def test_an_answer_at_once_runs_in_the_step_it_was_asked_in(
    make_loop: MakeLoop, robot: Any, strategy: str
) -> None:
    loop = make_loop(load("strategies", strategy)())
    loop.run(steps=40)
    assert robot.told == [float(step) for step in range(40)]


def test_inference_in_line_makes_the_step_jump_and_skips_the_rows_that_are_past(
    make_loop: MakeLoop, robot: Any, clock: SimulatedClock
) -> None:
    loop = make_loop(latency_s=0.07)
    reader = loop.events.reader()
    loop.run(steps=41)
    turns = reader.take()
    chunks = [turn for turn in turns if turn.decision.request is not None]
    first, second = chunks[:2]
    assert first.step == 3  # the robot stood still meanwhile, so the first chunk runs from its first row
    assert (first.sent[0], first.decision.source.row) == (0.0, 0)
    assert second.decision.request.request_step == 4
    assert (second.step, second.sent[0]) == (7, 7.0)
    assert loop.pacer.missed > 0
    assert all(turn.sent[0] == turn.step for turn in turns[1:])


def test_every_turn_is_an_event_with_its_time(make_loop: MakeLoop, clock: SimulatedClock) -> None:
    loop = make_loop()
    reader = loop.events.reader()
    loop.run(steps=3)
    turns = reader.take()
    assert [turn.step for turn in turns] == [0, 1, 2]
    assert [turn.time_s for turn in turns] == pytest.approx([100.0, 100.02, 100.04])


def test_the_frame_and_the_request_are_stamped(make_loop: MakeLoop) -> None:
    seen: list[tuple[Frame, ChunkRequest]] = []

    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        seen.append((frame, request))
        return ActionChunk(np.zeros((5, 2)))

    make_loop(infer=infer).run(steps=2)
    assert [frame.timestamp_ns for frame, _ in seen] == pytest.approx([100_000_000_000, 100_020_000_000])
    assert [request.request_time_s for _, request in seen] == pytest.approx([100.0, 100.02])


def test_a_policy_that_raises_costs_no_turn(make_loop: MakeLoop, robot: Any) -> None:
    def infer(frame: Frame, request: ChunkRequest) -> ActionChunk:
        raise RuntimeError("out of memory")

    loop = make_loop(infer=infer)
    reader = loop.events.reader()
    loop.run(steps=5)
    turns = reader.take()
    assert robot.told == [0.0] * 5
    assert all(turn.decision.source.kind is SourceKind.WAIT for turn in turns)
    assert {fault.kind for turn in turns for fault in turn.decision.faults} == {FaultKind.POLICY_FAILED}


def test_a_row_that_the_gate_refuses_becomes_the_hold(make_loop: MakeLoop, robot: Any) -> None:
    loop = make_loop(rows=400)
    loop.gate.max_plan_age_s = 0.1
    loop.scheduler.strategy = load("strategies", "switch")(execution_horizon=100)
    reader = loop.events.reader()
    loop.run(steps=20)
    refused = [turn for turn in reader.take() if turn.verdict.refused]
    assert refused
    assert max(robot.told) <= 6.0


def test_stop_brings_the_robot_to_a_standstill_and_ends_the_run(make_loop: MakeLoop, robot: Any) -> None:
    stop = threading.Event()
    robot.on_act = lambda count: stop.set() if count == 7 else None
    loop = make_loop()
    reader = loop.events.reader()
    loop.run(stop=stop)
    speeds = np.diff(robot.told[6:])
    assert len(speeds) == 15, "0.3 s at 50 Hz"
    assert np.allclose(speeds, 1 - np.arange(1, 16) / 15), "it was one unit per step, and falls evenly"
    turns = reader.take()
    assert turns[-1].mode is Mode.STOPPED
    (change,) = [turn.change for turn in turns[1:] if turn.change]
    assert (change.step, change.before, change.why) == (7, Mode.RUNNING, "stopped by the operator")


def test_a_robot_that_was_told_nothing_is_stopped_at_once(make_loop: MakeLoop, robot: Any) -> None:
    stop = threading.Event()
    stop.set()
    loop = make_loop()
    loop.run(stop=stop)
    assert (robot.told, loop.modes.mode) == ([], Mode.STOPPED)


def test_what_the_robot_raises_is_not_hidden(make_loop: MakeLoop, robot: Any) -> None:
    def broken(count: int) -> None:
        raise ConnectionError("the bus is gone")

    robot.on_act = broken
    with pytest.raises(ConnectionError, match="bus"):
        make_loop().run(steps=5)


def test_every_turn_beats(make_loop: MakeLoop) -> None:
    loop = make_loop()
    beats: list[float] = []
    loop._beat = beats.append
    loop.run(steps=4)
    assert beats == pytest.approx([100.0, 100.02, 100.04, 100.06])


def test_what_was_too_old_to_run_is_not_run_as_a_hold(make_loop: MakeLoop, robot: Any) -> None:
    loop = make_loop(rows=30)
    loop.gate.max_plan_age_s = 0.1
    loop.scheduler.strategy = load("strategies", "switch")(execution_horizon=100)
    loop.run(steps=2)
    loop.worker.submit = lambda frame, request: None  # type: ignore[method-assign]  no further answer
    reader = loop.events.reader()
    loop.run(steps=50)
    assert reader.take()[-1].decision.source.kind is SourceKind.STARVED
    assert max(robot.told) == 6.0  # five steps after step 1, of which the newest chunk's frame is


class Silent:
    """Never answers; counts its restarts."""

    def __init__(self) -> None:
        self.restarts = 0

    def submit(self, frame: Frame, request: ChunkRequest) -> None: ...

    def arrivals(self) -> tuple[()]:
        return ()

    def restart(self) -> None:
        self.restarts += 1


@pytest.mark.parametrize(("leaves_behind", "restarts"), [(True, MAX_RESTARTS), (False, 9)])
def test_only_a_worker_that_leaves_something_behind_is_not_restarted_without_end(
    make_loop: MakeLoop, leaves_behind: bool, restarts: int
) -> None:
    loop = make_loop()
    worker: Any = Silent()
    worker.leaves_behind = leaves_behind
    loop.worker, loop._in_line = worker, False
    loop.scheduler._start_timeout = 10
    loop.run(steps=100)
    assert worker.restarts == restarts
