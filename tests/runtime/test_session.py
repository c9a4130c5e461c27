from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import (
    ActionChunk,
    BindingError,
    ChunkRequest,
    ComponentSpec,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.plugins import load
from chunkwise.runtime import session as session_module
from chunkwise.runtime.realtime import RealTime
from chunkwise.runtime.session import Session
from chunkwise.safety import Limits
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
    entered: list[tuple[int, ...]] = []

    class Granted(RealTime):
        def __enter__(self) -> RealTime:
            entered.append(tuple(self.spare))
            self.said = ["granted"]
            return self

        def __exit__(self, *_: object) -> None:
            entered.append((-1,))

    monkeypatch.setattr(session_module, "RealTime", Granted)
    said: list[str] = []
    with simulated(robot, Ramp(), clock, realtime=True, on_message=said.append) as session:
        session.worker.pid = 4711  # type: ignore[attr-defined]  # as a worker with a process of its own has one
        session.run(seconds=0.1)
    assert said[-1] == "granted"
    assert entered == [(4711,), (-1,)]


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


def test_whoever_looks_on_and_waits_keeps_nobody_from_stopping_the_robot(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MONITOR_PERIOD_S", 0.001)
    stopped, waits, go_on = threading.Event(), threading.Event(), threading.Event()
    robot.stop = stopped.set

    def wait(turns: Any) -> None:
        waits.set()
        go_on.wait(60.0)  # as on a terminal that was stopped by Ctrl-S

    def hang(count: int) -> None:
        if count == 3:
            assert waits.wait(30.0)
            clock.sleep(10.0)
            assert stopped.wait(10.0), "the watchdog did not stop the robot"

    robot.on_act = hang
    with simulated(robot, Ramp(), clock, watchdog_s=1.0) as session:
        report = session.run(seconds=11.0, on_progress=wait)
        assert not go_on.is_set(), "the run is over, whoever still looks on"
        go_on.set()
    assert report.watchdog_trips == 1


def test_another_run_is_another_episode_and_begins_where_the_robot_stands(
    robot: Any, clock: SimulatedClock
) -> None:
    with simulated(robot, Ramp(), clock) as session:
        robot.on_act = lambda count: clock.sleep(0.03) if count == 5 else None
        first = session.run(seconds=0.2)
        robot.on_act = lambda count: None
        gate, scheduler = session.gate, session.scheduler
        clock.sleep(60.0)
        second = session.run(seconds=0.2)
    assert second.steps == first.steps == 10
    assert second.missed_periods == 0
    assert second.lateness_s["max"] < 1e-6, "the run before is not counted"
    assert session.gate is not gate and session.scheduler is not scheduler
    assert session.scheduler.delay is scheduler.delay  # what was measured stays known


def test_a_watchdog_waits_for_two_periods_at_least(robot: Any, clock: SimulatedClock) -> None:
    with simulated(robot, Ramp(), clock, watchdog_s=0.001) as session:
        assert session.watchdog.timeout_s == pytest.approx(0.04)


# Where an episode begins ------------------------------------------------------------------------------------


class Home(Ramp):
    """Holds where the robot is said to begin."""

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        return ActionChunk(np.full((10, 2), 1.0))


def at_home(robot: Any, **limits: Any) -> Any:
    component = replace(robot.spec.components[0], initial=[1.0, 1.0], max_rate=2.0)
    robot.spec = replace(robot.spec, components=[component])
    return robot


def test_an_episode_begins_with_a_ramp_to_the_initial_pose_and_never_with_a_step(
    robot: Any, clock: SimulatedClock
) -> None:
    said: list[str] = []
    with simulated(at_home(robot), Home(), clock, on_message=said.append) as session:
        report = session.run(seconds=0.5)
        assert "moving to the initial pose" in said
        steps = np.diff([0.0, *robot.told])
        assert robot.told[-1] == 1.0
        assert 0 < steps[0] < 0.001, "it sets off softly"
        assert steps.max() <= 0.5 * 2.0 / 50 + 1e-9, "at half of the greatest speed"
        assert (steps >= 0).all()
        assert (report.steps, report.motion_steps) == (25, len(robot.told) - 25)
        assert report.starved_steps == 0
        told = len(robot.told)
        session.run(seconds=0.1)
        assert len(robot.told) == told + 5, "it stands where the next episode begins"


def test_a_robot_that_does_not_say_where_it_stands_is_not_moved_to_its_initial_pose(
    robot: Any, clock: SimulatedClock
) -> None:
    robot.observe = Frame
    with pytest.raises(
        InterfaceValidationError, match=r"does not say where arm stands.*ComponentSpec\(initial=\)"
    ):
        simulated(at_home(robot), Home(), clock).open()
    assert robot.told == []


def test_a_robot_that_lags_behind_is_waited_for_and_one_that_never_comes_is_said(
    robot: Any, clock: SimulatedClock
) -> None:
    robot.observe = lambda: Frame(state={"arm": np.zeros(2)})
    said: list[str] = []
    with simulated(at_home(robot), Home(), clock, on_message=said.append) as session:
        session.run(seconds=0.1)
    assert any("did not arrive" in text for text in said)
    assert robot.told.count(1.0) >= 100, "2 s at 50 Hz"


def test_an_operator_ends_a_ramp_by_a_standstill(robot: Any, clock: SimulatedClock) -> None:
    stop = threading.Event()
    robot.on_act = lambda count: stop.set() if count == 30 else None
    with simulated(at_home(robot), Home(), clock) as session:
        report = session.run(seconds=1.0, stop=stop)
    assert report.steps == 0
    speeds = np.diff(robot.told)
    assert speeds[28] > 0 and speeds[-1] == pytest.approx(0) and robot.told[-1] < 1.0
    assert len(robot.told) == 45


# The states of a run ----------------------------------------------------------------------------------------


class Eyes:
    """A robot with a camera that can freeze."""

    def __init__(self, robot: Any, clock: SimulatedClock) -> None:
        self._robot, self._clock = robot, clock
        self.frozen_ns = 0
        self._observe = robot.observe
        robot.spec = replace(robot.spec, image_keys=["head"])
        robot.observe = self.observe

    def observe(self) -> Frame:
        frame: Frame = self._observe()
        frame.images = {"head": np.zeros((2, 2, 3), np.uint8)}
        frame.times_ns = {"head": self.frozen_ns or int(self._clock() * 1e9)}
        return frame


def test_a_camera_that_freezes_holds_the_robot_and_nothing_is_planned_with_it(
    robot: Any, clock: SimulatedClock
) -> None:
    eyes = Eyes(robot, clock)
    seen: list[int] = []

    class Watching(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            seen.append(request.request_step)
            return super().infer(frame, request)

    def freeze(count: int) -> None:
        if count == 50:
            eyes.frozen_ns = int(clock() * 1e9)
        if count == 150:
            eyes.frozen_ns = 0

    robot.on_act = freeze
    with simulated(robot, Watching(), clock, limits=Limits(0.5)) as session:
        report = session.run(seconds=4.0)
    changes = [(change["step"], change["after"]) for change in report.changes]
    assert changes == [(0, "running"), (75, "hold"), (150, "running")]
    assert "head is 0.52 s old" in report.changes[1]["why"]
    assert len(set(robot.told[74:150])) == 1, "it holds"
    assert not [step for step in seen if 75 <= step < 150], "nothing is planned with what is not seen"
    assert robot.told[150:] == [float(step) for step in range(150, 200)], "and goes on when it sees again"
    assert report.modes == {"running": 125, "hold": 75}


def test_a_hold_that_lasts_too_long_ends_the_run_and_says_why(robot: Any, clock: SimulatedClock) -> None:
    class Fails(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            if request.request_step > 20:
                raise RuntimeError("out of memory")
            return super().infer(frame, request)

    with simulated(robot, Fails(), clock, limits=Limits(hold_s=2.0)) as session:
        report = session.run(seconds=60.0)
    assert [change["after"] for change in report.changes] == ["running", "degraded", "hold", "stopped"]
    assert "out of memory" in report.changes[1]["why"]
    assert report.stopped.startswith("held for 2 s: the plan ended: policy_failed")
    assert not report.interrupted
    assert len(robot.told) == pytest.approx(30 + 100, abs=3)


def test_limits_of_a_sensor_that_is_not_there_are_refused(robot: Any, clock: SimulatedClock) -> None:
    with pytest.raises(InterfaceValidationError, match=r"no camera or state 'amr' \(did you mean 'arm'\?\)|'amr'"):
        simulated(robot, Ramp(), clock, limits=Limits({"amr": 0.2}))


# The operator -----------------------------------------------------------------------------------------------


def test_ctrl_c_once_brings_the_robot_to_a_standstill(robot: Any, clock: SimulatedClock) -> None:
    robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count == 12 else None
    before = signal.getsignal(signal.SIGINT)
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=100.0)
    assert report.interrupted and not report.stopped
    assert (report.steps, report.motion_steps) == (12, 15)
    assert robot.told[-1] == robot.told[-2] == 11.0 + 7.0, "half of the way that it would have gone"
    assert report.changes[-1]["after"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_leaves_at_once(robot: Any, clock: SimulatedClock) -> None:
    robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count in (12, 22) else None
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=100.0)
    assert report.interrupted
    assert len(robot.told) == 22


def test_one_ctrl_c_that_comes_twice_is_one(robot: Any, clock: SimulatedClock) -> None:
    robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count in (12, 13) else None
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=100.0)
    assert (report.steps, report.motion_steps) == (12, 15), "it comes to a standstill"


def test_a_signal_that_somebody_else_listens_for_is_left_alone(robot: Any, clock: SimulatedClock) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count == 12 else None
        with simulated(robot, Ramp(), clock) as session:
            report = session.run(seconds=1.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] and not report.interrupted


# What a hostile world does ----------------------------------------------------------------------------------


class Joints:
    """A robot whose joints say when they were seen, and whose arm somebody can carry elsewhere."""

    def __init__(self, robot: Any, clock: SimulatedClock) -> None:
        self._robot, self._clock = robot, clock
        self.at = 0.0
        self.frozen: tuple[float, int] | None = None
        robot.observe = self.observe

    def observe(self) -> Frame:
        at = self._robot.told[-1] if self._robot.told else self.at
        value, time_ns = self.frozen or (at, int(self._clock() * 1e9))
        return Frame(state={"arm": np.full(2, value)}, times_ns={"arm": time_ns})


def frozen_at_the_start(robot: Any, clock: SimulatedClock) -> Joints:
    """Its joints were seen at 0 a minute ago; they are at 0.6 by now, and are seen again after a second."""
    joints = Joints(robot, clock)
    joints.frozen = (0.0, int((clock() - 60.0) * 1e9))
    joints.at = 0.6
    begun_s, observe = clock(), joints.observe

    def thaws() -> Frame:
        if clock() > begun_s + 1.0:
            joints.frozen = None
        return observe()

    robot.observe = thaws
    return joints


def test_a_ramp_begins_where_the_robot_is_seen_and_not_where_it_was_seen_last(
    robot: Any, clock: SimulatedClock
) -> None:
    frozen_at_the_start(robot, clock)
    with simulated(at_home(robot), Home(), clock) as session:
        session.run(seconds=0.2)
    assert robot.told[0] == pytest.approx(0.6, abs=0.001), "not back to where it stood a minute ago"
    assert robot.told[-1] == 1.0


def test_a_robot_that_is_not_seen_is_not_held_where_it_was_seen_last(robot: Any, clock: SimulatedClock) -> None:
    class Waits(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            raise RuntimeError("not yet")

    frozen_at_the_start(robot, clock)
    with simulated(robot, Waits(), clock) as session:
        session.run(seconds=2.0)
    assert set(robot.told) == {0.6}


def test_a_robot_that_was_moved_before_the_run_is_held_where_it_is_now(robot: Any, clock: SimulatedClock) -> None:
    class Waits(Ramp):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            raise RuntimeError("not yet")

    joints = Joints(robot, clock)
    with simulated(robot, Waits(), clock) as session:
        clock.sleep(60.0)
        joints.at = 0.6
        session.run(seconds=0.1)
    assert set(robot.told) == {0.6}


def test_a_ramp_leaves_what_has_no_initial_pose_where_it_stands_now(robot: Any, clock: SimulatedClock) -> None:
    gripper = ComponentSpec("gripper", "gripper", 1, ["gripper_position"], unit="m")
    told: list[float] = []
    at = {"arm": np.zeros(2), "gripper": np.zeros(1)}
    robot = at_home(robot)
    robot.spec = replace(robot.spec, components=[*robot.spec.components, gripper])
    robot.observe = lambda: Frame(state={name: value.copy() for name, value in at.items()})

    def act(action: Any) -> Any:
        at.update({name: np.array(command.value) for name, command in action.commands.items()})
        told.append(float(at["gripper"][0]))
        return action

    robot.act = act
    policy = Home()
    policy.spec.outputs.append(PolicyOutputSpec("gripper", "gripper_position", 1))
    policy.infer = lambda frame, request: ActionChunk(np.full((10, 3), 0.03))  # type: ignore[method-assign]
    with simulated(robot, policy, clock) as session:
        at["gripper"][:] = 0.03  # somebody closes it by hand
        session.run(seconds=0.1)
    assert set(told) == {0.03}


def test_a_ramp_that_stays_blind_ends_the_run_and_says_why(robot: Any, clock: SimulatedClock) -> None:
    eyes = Eyes(robot, clock)
    eyes.frozen_ns = int((clock() - 60.0) * 1e9)
    with simulated(at_home(robot), Home(), clock, limits=Limits(hold_s=2.0)) as session:
        robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count > 1000 else None
        report = session.run(seconds=1.0, stop=after(clock, 20.0))
    assert report.stopped.startswith("held for 2 s: head is")
    assert report.changes[-1]["after"] == "stopped"
    assert report.steps == 0


def after(clock: SimulatedClock, seconds: float) -> Any:
    """Says stop from then on, so that a test that fails ends."""
    event, until_s = threading.Event(), clock() + seconds
    event.is_set = lambda: clock() > until_s  # type: ignore[method-assign]
    return event


def test_a_sensor_that_was_never_seen_ends_the_run_and_says_why(robot: Any, clock: SimulatedClock) -> None:
    eyes = Eyes(robot, clock)
    eyes.frozen_ns = int((clock() - 60.0) * 1e9)
    with simulated(robot, Ramp(), clock, limits=Limits(hold_s=2.0)) as session:
        report = session.run(seconds=60.0)
    assert report.stopped.startswith("held for 2 s: head is 6")


def test_times_of_another_clock_are_no_sign_of_life(robot: Any, clock: SimulatedClock) -> None:
    eyes = Eyes(robot, clock)
    eyes.frozen_ns = int(1.7e18)  # of the calendar, where the loop counts from the machine's start
    with simulated(robot, Ramp(), clock, limits=Limits(hold_s=2.0)) as session:
        report = session.run(seconds=60.0)
    assert "head is of another clock" in report.stopped


def test_a_joint_that_is_not_a_number_has_not_arrived(robot: Any, clock: SimulatedClock) -> None:
    robot.observe = lambda: Frame(state={"arm": np.full(2, np.nan if robot.told else 0.0)})
    said: list[str] = []
    with simulated(at_home(robot), Home(), clock, on_message=said.append) as session:
        session.run(seconds=0.1)
    assert any("did not arrive" in text for text in said)


def test_a_stop_before_anything_was_sent_is_an_event_too(robot: Any, clock: SimulatedClock) -> None:
    stop = threading.Event()
    stop.set()
    with simulated(robot, Ramp(), clock) as session:
        report = session.run(seconds=1.0, stop=stop)
    assert robot.told == []
    assert [change["after"] for change in report.changes] == ["stopped"]


def test_a_run_does_not_begin_with_the_silence_since_the_last_one(robot: Any, clock: SimulatedClock) -> None:
    with simulated(robot, Ramp(), clock) as session:
        session.run(seconds=0.1)
        clock.sleep(60.0)
        session.reset()
        assert not session.watchdog.trip(clock()), "it is armed by the first turn"
        report = session.run(seconds=0.1)
    assert report.watchdog_trips == 0


def test_a_third_ctrl_c_still_stops_what_would_go_on(robot: Any, clock: SimulatedClock) -> None:
    robot.spec.components[0].command[0] = "joint_velocity"
    policy = Ramp()
    policy.spec.outputs[0].command = "joint_velocity"
    robot.on_act = lambda count: signal.raise_signal(signal.SIGINT) if count in (4, 14) else None
    joined = threading.Thread.join

    def impatient(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "chunkwise-monitor":
            signal.raise_signal(signal.SIGINT)
        joined(thread, timeout)

    with pytest.MonkeyPatch.context() as patch, simulated(robot, policy, clock) as session:
        patch.setattr(threading.Thread, "join", impatient)
        with suppress(KeyboardInterrupt):
            session.run(seconds=100.0)
    assert robot.told[-1] == 0.0


def test_ctrl_c_while_it_closes_still_lets_the_robot_go(robot: Any, clock: SimulatedClock) -> None:
    policy = Ramp()

    def interrupted() -> None:
        raise KeyboardInterrupt

    session = simulated(robot, policy, clock)
    session.open()
    session.worker.close = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert policy.calls[-1] == "close"
    assert robot.calls[-1] == "close"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_the_terminal_and_of_the_service_is_a_standstill(
    robot: Any, clock: SimulatedClock, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        # not raised where nobody listens: that would end the tests
        robot.on_act = lambda count: (
            signal.raise_signal(number) if count == 12 and signal.getsignal(number) is not signal.SIG_DFL else None
        )
        with simulated(robot, Ramp(), clock) as session:
            report = session.run(seconds=2.0)
    finally:
        signal.signal(number, before)
    assert report.interrupted
    assert (report.steps, report.motion_steps) == (12, 15)
