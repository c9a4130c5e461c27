from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import (
    ActionChunk,
    BindingError,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.plugins import load
from chunkwise.runtime import session as session_module
from chunkwise.runtime.session import Session
from chunkwise.testing.world import SimulatedClock


class Ramp:
    """Answers the request's step and on, and writes down what it is told."""

    def __init__(self, **spec: Any) -> None:
        self.spec = PolicySpec("ramp", [], ["arm"], outputs=[PolicyOutputSpec("arm", "joint_position", 2)], **spec)
        self.calls: list[str] = []

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        steps = np.arange(request.request_step, request.request_step + 10.0)
        return ActionChunk(np.stack([steps, steps], axis=1))

    def warmup(self) -> None:
        self.calls.append("warmup")

    def reset(self) -> None:
        self.calls.append("reset")

    def close(self) -> None:
        self.calls.append("close")


def simulated(robot: Any, policy: Any, clock: SimulatedClock, **options: Any) -> Session:
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    strategy = options.pop("strategy", "switch")
    return Session(robot, policy, strategy, worker=worker, clock=clock, sleep=clock.sleep, **options)


def test_a_run_from_connect_to_close(robot: Any, clock: SimulatedClock) -> None:
    policy, said = Ramp(), []
    with simulated(robot, policy, clock, on_message=said.append) as session:
        assert policy.calls == ["warmup", "reset"]
        report = session.run(seconds=0.5)
    assert report.steps == 25
    assert robot.told == [float(step) for step in range(25)]
    assert report.control_hz == 50.0
    assert report.control_hz_achieved == pytest.approx(50.0)
    assert (report.starved_steps, report.faults, report.missed_periods) == (0, 0, 0)
    assert robot.calls == ["connect", "close"]
    assert policy.calls[-1] == "close"
    assert "drives robot 'counter'" in said[0]


def test_closing_goes_worker_then_policy_then_robot_once(robot: Any, clock: SimulatedClock) -> None:
    order: list[str] = []
    policy = Ramp()
    policy.close = lambda: order.append("policy")  # type: ignore[method-assign]
    robot.close = lambda: order.append("robot")
    session = simulated(robot, policy, clock)
    session.open()
    session.worker.close = lambda: order.append("worker")  # type: ignore[method-assign]
    session.close()
    session.close()
    assert order == ["worker", "policy", "robot"]


def test_a_policy_without_a_spec_gets_one_from_its_first_answer(robot: Any, clock: SimulatedClock) -> None:
    class Bare:
        def infer(self, frame: Frame, request: ChunkRequest) -> list[list[float]]:
            return [[1.0, 2.0]] * 4

    said: list[str] = []
    with simulated(robot, Bare(), clock, on_message=said.append) as session:
        report = session.run(seconds=0.1)
    assert report.faults == 0
    assert set(robot.told) == {1.0}
    assert "has no spec" in said[0]


def test_a_policy_for_another_rate_is_refused_with_both_numbers(robot: Any, clock: SimulatedClock) -> None:
    with pytest.raises(InterfaceValidationError, match=r"30 Hz.*50 Hz.*set control_hz to 30"):
        simulated(robot, Ramp(control_hz=30.0), clock).open()
    assert robot.calls == ["connect", "close"]


def test_a_policy_for_another_robot_is_refused_and_the_robot_is_let_go(robot: Any, clock: SimulatedClock) -> None:
    policy = Ramp()
    policy.spec.outputs[0].target = "arn"
    with pytest.raises(BindingError, match="did you mean 'arm'"), simulated(robot, policy, clock):
        pass
    assert robot.calls == ["connect", "close"]


def test_ctrl_c_ends_the_run_and_still_reports(robot: Any, clock: SimulatedClock) -> None:
    def interrupt(count: int) -> None:
        if count == 12:
            raise KeyboardInterrupt

    robot.on_act = interrupt
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=100.0)
    assert report.interrupted
    assert report.steps == 11
    assert robot.calls[-1] == "close"


def test_what_the_robot_raises_comes_out_and_everything_is_closed(robot: Any, clock: SimulatedClock) -> None:
    def broken(count: int) -> None:
        raise ConnectionError("the bus is gone")

    robot.on_act = broken
    policy = Ramp()
    with pytest.raises(ConnectionError, match="bus"), simulated(robot, policy, clock) as session:
        session.run(seconds=1.0)
    assert robot.calls == ["connect", "close"]
    assert policy.calls[-1] == "close"
    assert "chunkwise-monitor" not in [thread.name for thread in threading.enumerate()]


def test_a_loop_that_stands_still_trips_the_watchdog_and_stops_the_robot(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MONITOR_PERIOD_S", 0.001)
    stopped = threading.Event()
    said: list[str] = []
    robot.stop = stopped.set

    def hang(count: int) -> None:
        if count == 3:
            clock.sleep(10.0)
            assert stopped.wait(30.0), "the watchdog did not stop the robot"

    robot.on_act = hang
    with simulated(robot, Ramp(), clock, watchdog_s=1.0, on_message=said.append) as session:
        report = session.run(seconds=11.0)
    assert report.watchdog_trips == 1
    assert "the control loop has stood still for 1 s" in said


def test_a_robot_that_does_not_say_where_it_stands_gets_nothing_before_the_first_chunk(
    robot: Any, clock: SimulatedClock
) -> None:
    class Failing(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            raise RuntimeError("not yet")

    robot.observe = lambda: Frame()
    said: list[str] = []
    with simulated(robot, Failing(), clock, on_message=said.append) as session:
        report = session.run(seconds=0.2)
    assert robot.told == []
    assert report.steps == 10
    assert report.faults_by_kind == {"policy_failed": 10}
    assert "nothing is sent before the first chunk" in said[-1]


def test_progress_sees_the_turns_and_the_score_is_the_robots(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MONITOR_PERIOD_S", 0.001)
    seen = threading.Event()
    robot.score = lambda: {"passed": 3}
    robot.on_act = lambda count: seen.wait(30.0) if count == 5 else None
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=0.2, on_progress=lambda turns: seen.set() if len(turns) >= 4 else None)
    assert seen.is_set()
    assert report.score == {"passed": 3}


def test_real_time_is_asked_for_and_what_was_granted_is_said(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module.realtime, "enable", lambda: ["granted"])
    said: list[str] = []
    with simulated(robot, Ramp(), clock, realtime=True, on_message=said.append) as session:
        session.run(seconds=0.1)
    assert said[-1] == "granted"


def test_a_robot_that_moved_while_the_policy_loaded_is_held_where_it_is_now(
    robot: Any, clock: SimulatedClock
) -> None:
    class Slow(Ramp):
        def warmup(self) -> None:
            robot.told.append(-1.0)  # it sags; its state is what it was told last

        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            raise RuntimeError("not yet")

    with simulated(robot, Slow(), clock) as session:
        session.run(seconds=0.1)
    assert set(robot.told) == {-1.0}


@pytest.mark.parametrize("ends", ["in time", "by Ctrl-C", "by the robot"])
def test_the_last_command_of_a_run_stops_what_would_go_on(robot: Any, clock: SimulatedClock, ends: str) -> None:
    class Onwards(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            return ActionChunk(np.full((10, 2), 0.5))

    def end(count: int) -> None:
        if count == 4 and ends != "in time":
            raise KeyboardInterrupt if ends == "by Ctrl-C" else ConnectionError("the bus is gone")

    robot.spec.components[0].command[0] = "joint_velocity"
    robot.on_act = end
    policy = Onwards()
    policy.spec.outputs[0].command = "joint_velocity"
    with simulated(robot, policy, clock) as session:
        if ends == "by the robot":
            with pytest.raises(ConnectionError, match="the bus is gone"):
                session.run(seconds=0.1)
        else:
            session.run(seconds=0.1)
    assert robot.told[-2:] == [0.5, 0.0]


def test_whoever_looks_on_and_fails_does_not_end_the_watch(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MONITOR_PERIOD_S", 0.001)
    stopped, failed, said = threading.Event(), threading.Event(), []
    robot.stop = stopped.set

    def fail(turns: Any) -> None:
        failed.set()
        raise OSError("the terminal is gone")

    def hang(count: int) -> None:
        if count == 3:
            assert failed.wait(30.0)
            clock.sleep(10.0)
            assert stopped.wait(30.0), "the watchdog did not stop the robot"

    robot.on_act = hang
    with simulated(robot, Ramp(), clock, watchdog_s=1.0, on_message=said.append) as session:
        report = session.run(seconds=11.0, on_progress=fail)
    assert report.watchdog_trips == 1
    assert sum("the terminal is gone" in line for line in said) == 1


def test_another_run_is_another_episode_and_begins_where_the_robot_stands(
    robot: Any, clock: SimulatedClock
) -> None:
    with simulated(robot, Ramp(), clock) as session:
        first = session.run(seconds=0.2)
        gate, scheduler = session.gate, session.scheduler
        clock.sleep(60.0)
        second = session.run(seconds=0.2)
    assert second.steps == first.steps == 10
    assert second.missed_periods == 0
    assert session.gate is not gate and session.scheduler is not scheduler
    assert session.scheduler.delay is scheduler.delay  # what was measured stays known


def test_a_watchdog_waits_for_two_periods_at_least(robot: Any, clock: SimulatedClock) -> None:
    with simulated(robot, Ramp(), clock, watchdog_s=0.001) as session:
        assert session.watchdog.timeout_s == pytest.approx(0.04)
