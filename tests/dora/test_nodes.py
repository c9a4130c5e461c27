"""Our Dora nodes and the robot that joins a dataflow, without Dora."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.contract import Action, Command, InterfaceValidationError
from chunkwise.robots.dora import Dora
from chunkwise.robots.dora.controller import control
from chunkwise.robots.dora.messages import (
    CAMERAS,
    arm_joints,
    arm_message,
    arrow,
    jpeg_image,
    jpeg_message,
    posts_message,
    posts_of,
    words,
)
from chunkwise.robots.dora.simulation import BELOW, COLOURS, Simulation, flat_image

JOINTS = np.arange(8) / 8 - 0.4


def executors_message(new: np.ndarray, other: np.ndarray) -> Any:
    """Two arms' command as the actions executor sends it to one of them."""
    arrays = [arrow().array(joints.astype(np.float32)) for joints in (new, other)]
    return arrow().StructArray.from_arrays(arrays, names=("new_position", "other_arm_position"))


class Script:
    """A node to which one thing happens in each period, and that keeps what is sent."""

    def __init__(self, *happens: list[tuple[str, Any]]) -> None:
        self._happens, self.sent = list(happens), list[tuple[str, Any]]()

    def drain(self) -> list[dict[str, Any]] | None:
        if not self._happens:
            return None
        inputs = self._happens.pop(0)
        return [{"type": "INPUT", "id": name, "value": value, "metadata": {}} for name, value in inputs]

    def send_output(self, output_id: str, data: Any, metadata: dict[str, Any] | None = None) -> None:
        self.sent.append((output_id, data))


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def simulate(*happens: list[tuple[str, Any]], **options: Any) -> tuple[Script, dict[str, Any]]:
    """A simulation to which this happens, one entry a period; what it sent, and its report."""
    node, clock = Script(*happens), Clock()
    simulation = Simulation(node, clock=clock, sleep=clock.sleep, camera_size=(6, 8), **options)
    return node, simulation.run()


@pytest.mark.parametrize("qpos_struct", [False, True])
def test_an_arm_in_either_form_comes_back(qpos_struct: bool) -> None:
    assert arm_joints(arm_message(JOINTS, qpos_struct=qpos_struct)) == pytest.approx(JOINTS)


def test_of_a_command_for_two_arms_the_new_position_counts() -> None:
    assert arm_joints(executors_message(JOINTS, -JOINTS)) == pytest.approx(JOINTS)


def test_an_arm_in_an_unknown_form_is_refused_by_name() -> None:
    message = arrow().array([{"torque": [1.0]}])
    with pytest.raises(ValueError, match="torque"):
        arm_joints(message)


def test_posts_come_back() -> None:
    posts = np.arange(8.0).reshape(2, 2, 2)
    assert np.array_equal(posts_of(posts_message(posts)), posts)


def test_a_picture_comes_back_in_its_colours() -> None:
    image = jpeg_image(jpeg_message(flat_image("camera_head_left", (6, 8))))
    assert image.shape == (6, 8, 3)
    assert np.abs(image[0, 0].astype(int) - COLOURS["camera_head_left"]).max() <= 4
    assert np.abs(image[-1, -1].astype(int) - BELOW).max() <= 4


def test_the_controller_says_its_words_in_order() -> None:
    node, clock = Script(), Clock()
    control(node, episodes=2, seconds=3.0, pause=1.0, sleep=clock.sleep)
    said = [message[0].as_py() for _, message in node.sent]
    assert said == ["start", "stopped", "start", "stopped", "quit"]
    assert clock.now_s == 9.0


def test_the_simulation_sends_arms_tracker_and_cameras_and_ends_on_quit() -> None:
    node, report = simulate([("command", words("start"))], [], [("command", words("quit"))], [])
    names = [name for name, _ in node.sent]
    assert names.count("position_right") == names.count("position_left") == 2
    assert names.count("phase_classifier_result") == 2
    assert [name for name in names if name.startswith("camera")] == list(CAMERAS), "30 Hz, not 250"
    assert [episode["seed"] for episode in report["episodes"]] == [0]


def test_an_arm_follows_its_commands_and_the_report_tells_of_them() -> None:
    first, _ = simulate([])
    start = arm_joints(next(message for name, message in first.sent if name == "position_right"))
    wanted = start + 0.1
    command = [("move_position_right", executors_message(wanted, start))]
    node, report = simulate([("command", words("start"))], *([command] * 200), [("command", words("stopped"))])
    positions = [arm_joints(message) for name, message in node.sent if name == "position_right"]
    assert np.abs(positions[-1][:7] - wanted[:7]).max() < 0.02
    (episode,) = report["episodes"]
    assert episode["commands"] == {"right": 200, "left": 0} and episode["refused"] == 0
    assert episode["first_offset_rad"] == pytest.approx(0.1, abs=1e-3)
    assert episode["farthest_rad"] == pytest.approx(0.1, abs=1e-3)
    assert episode["largest_step_rad"] == 0.0
    assert episode["gap_p50_ms"] == pytest.approx(4.0)


@pytest.mark.parametrize("bad", [np.full(8, np.nan), np.zeros(7)])
def test_what_is_no_target_moves_nothing_and_is_counted(bad: np.ndarray) -> None:
    command = [("move_position_left", arm_message(bad))]
    node, report = simulate([("command", words("start"))], *([command] * 20), [])
    positions = [arm_joints(message) for name, message in node.sent if name == "position_left"]
    assert np.abs(positions[-1] - positions[0]).max() < 1e-3
    assert report["episodes"][0]["refused"] == 20


def test_each_start_is_an_episode_with_posts_of_its_own() -> None:
    start, stopped = [("command", words("start"))], [("command", words("stopped"))]
    _, report = simulate(start, [], stopped, [], start, [], seed=7)
    assert [episode["seed"] for episode in report["episodes"]] == [7, 8]


def test_the_robot_observes_what_arrived(fake_node: Any) -> None:
    cameras = ("camera_ceiling",)
    robot = Dora(cameras=cameras, node_factory=lambda name: fake_node(name, cameras, qpos_struct=True))
    robot.connect()
    frame = robot.observe()
    assert frame.state["belts"].shape == (2, 2, 2)
    assert frame.images["camera_ceiling"].shape == (6, 8, 3)
    assert frame.state["right_arm"][0] == pytest.approx(-frame.state["left_arm"][0]), "the arms are mirrored"


def test_the_robot_moves_both_arms_and_keeps_what_is_not_named(fake_node: Any) -> None:
    node = fake_node()
    robot = Dora(node_factory=lambda name: node)
    robot.connect()
    before = robot.observe()
    robot.act(Action({"left_gripper": Command("gripper_position", np.array([0.3]))}))
    assert [name for name, _ in node.sent] == ["move_position_right", "move_position_left"]
    after = robot.observe()
    assert after.state["left_gripper"] == pytest.approx([0.3])
    for name in ("right_arm", "right_gripper", "left_arm"):
        assert after.state[name] == pytest.approx(before.state[name])


@pytest.mark.parametrize(
    "action",
    [
        Action({"tail": Command("joint_position", np.zeros(7))}),
        Action({"left_arm": Command("joint_position", np.zeros(6))}),
        Action({"left_arm": Command("joint_velocity", np.zeros(7))}),
        Action({"left_arm": Command("joint_position", np.full(7, np.nan))}),
    ],
)
def test_what_the_robot_cannot_do_is_refused_and_nothing_is_sent(action: Action, fake_node: Any) -> None:
    node = fake_node()
    robot = Dora(node_factory=lambda name: node)
    robot.connect()
    with pytest.raises(InterfaceValidationError):
        robot.act(action)
    assert not node.sent


def test_a_silent_input_is_named(fake_node: Any) -> None:
    node, clock = fake_node(), Clock()
    node.silent = {"arm_left"}
    robot = Dora(node_factory=lambda name: node, clock=clock, sleep=clock.sleep, timeout_s=1.0)
    with pytest.raises(TimeoutError, match="arm_left"):
        robot.connect()


def test_an_input_that_falls_silent_grows_old(fake_node: Any) -> None:
    cameras = ("camera_ceiling",)
    node, clock = fake_node("", cameras), Clock()
    robot = Dora(cameras=cameras, node_factory=lambda name: node, clock=clock, sleep=clock.sleep)
    robot.connect()
    node.silent = {"camera_ceiling", "arm_left"}
    clock.sleep(3.0)
    times_s = {name: time_ns / 1e9 for name, time_ns in robot.observe().times_ns.items()}
    now = clock()
    assert {name: now - time_s for name, time_s in times_s.items()} == pytest.approx(
        {"camera_ceiling": 3.0, "left_arm": 3.0, "left_gripper": 3.0, "right_arm": 0.0, "right_gripper": 0.0}
    )


def test_the_end_of_the_dataflow_is_said(fake_node: Any) -> None:
    node = fake_node()
    robot = Dora(node_factory=lambda name: node)
    robot.connect()
    node.ended = True
    with pytest.raises(ConnectionError, match="dataflow has ended"):
        robot.observe()
