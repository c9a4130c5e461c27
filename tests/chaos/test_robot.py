from __future__ import annotations

from typing import Any

import numpy as np

from chunkwise.chaos.plan import Harm, Injection
from chunkwise.chaos.policy import ORDERS
from chunkwise.chaos.robot import FaultyRobot
from chunkwise.contract import Action, Command, Frame
from chunkwise.robots import Robot
from chunkwise.testing.world import SimulatedClock


class Moving:
    """Everything that it sees is another number every time."""

    def __init__(self, robot: Any, times: bool = False) -> None:
        self.spec, self.count, self.times = robot.spec, 0, times

    def connect(self) -> None: ...

    def observe(self) -> Frame:
        self.count += 1
        seen = np.full(3, self.count)
        times = {"arm": self.count} if self.times else {}
        return Frame({"head": seen[None], "wrist": seen[None]}, {"arm": seen, "gripper": seen}, times_ns=times)

    def act(self, action: Action) -> Action:
        return action

    def close(self) -> None: ...

    def score(self) -> dict[str, int]:
        return {"waved": 3}


def test_it_is_a_robot_with_everything_that_the_other_one_has(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    assert isinstance(made, Robot)
    assert made.score() == {"waved": 3}
    assert not hasattr(made, "stop")


def test_frames_say_when_each_sensor_saw_what_it_shows(robot: Any, clock: SimulatedClock) -> None:
    now_ns = int(clock() * 1e9)
    frame = FaultyRobot(Moving(robot), clock).observe()
    assert frame.times_ns == dict.fromkeys(["head", "wrist", "arm", "gripper"], now_ns)
    frame = FaultyRobot(Moving(robot, times=True), clock).observe()
    assert frame.times_ns == dict.fromkeys(["head", "wrist", "gripper"], now_ns) | {"arm": 1}


def test_a_sensor_that_dies_shows_what_it_showed_last_with_that_time(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    dead = [
        (Injection(Harm.DEAD_CAMERA, 0, 1, {"camera": "head"}), 1.0),
        (Injection(Harm.FROZEN_STATE, 0, 1, {"state": "arm"}), 1.0),
    ]
    made.observe()
    made.attend = lambda now: dead
    for _ in range(3):
        clock.sleep(0.01)
        frame = made.observe()
        assert (frame.images["head"][0, 0], frame.state["arm"][0]) == (1, 1)
    assert (frame.images["wrist"][0, 0], frame.state["gripper"][0]) == (4, 4)
    ages = {name: round(clock() * 1e9) - ns for name, ns in frame.times_ns.items()}
    assert ages["head"] == ages["arm"] > 29_000_000 and ages["wrist"] < 1000
    made.attend = lambda now: ()
    assert made.observe().images["head"][0, 0] == 5


def test_a_sensor_that_has_shown_nothing_yet_cannot_die(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    made.attend = lambda now: [(Injection(Harm.DEAD_CAMERA, 0, 1, {"camera": "head"}), 1.0)]
    assert made.observe().images["head"][0, 0] == 1


def test_a_clock_step_moves_the_stamp_and_nothing_else(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    made.attend = lambda now: [(Injection(Harm.CLOCK_STEP, 0, 1, {"by_s": -100.0}), 1.0)]
    frame = made.observe()
    assert frame.timestamp_ns == int((clock() - 100.0) * 1e9)
    assert frame.times_ns["head"] == int(clock() * 1e9)


def test_the_policys_orders_travel_in_the_task(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    made.attend = lambda now: [
        (Injection(Harm.STALL, 0, 2), 1.25),
        (Injection(Harm.CPU_HOG, 0, 1, {"processes": 2}), 0.5),
        (Injection(Harm.BUSY, 0, 1, {"hold_s": 0.1}), 0.5),
    ]
    assert made.observe().task == {
        ORDERS: [{"harm": "stall", "left_s": 1.25}, {"harm": "busy", "left_s": 0.5, "hold_s": 0.1}]
    }


def test_every_command_is_heard_with_its_time(robot: Any, clock: SimulatedClock) -> None:
    made = FaultyRobot(Moving(robot), clock)
    heard: list[tuple[float, Action]] = []
    made.heard = lambda now, action: heard.append((now, action))
    action = Action({"arm": Command("joint_position", np.zeros(7))})
    assert made.act(action) is action
    assert heard == [(clock(), action)]
