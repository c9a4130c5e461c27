"""A robot behind topics: by name, with the times of the captures, and never anything made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Action, Command, Hold, InterfaceValidationError, RobotFailed, robot_layout
from chunkwise.robots import Robot
from chunkwise.safety import Limits
from chunkwise.testing import RobotConformance
from chunkwise.testing.world import SimulatedClock

GRAPH = Path(__file__).with_name("fake_graph.py")
Make = Callable[..., Any]


class TestConformance(RobotConformance):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def make_robot(self) -> Robot:
        with plugins.load("robots", f"{GRAPH}:bench")(self.path) as arguments:
            made: Robot = plugins.load("robots", "ros2")(**arguments)
            return made


def test_joints_by_name_and_pictures_in_rgb(robot: Make, bench: Any) -> None:
    made = robot()
    made.connect()
    frame = made.observe()
    assert frame.state["arm"].tolist() == [0.1, 0.2]
    assert frame.state["gripper"].tolist() == [0.03]
    assert frame.state["force"].tolist() == [1.0, 2.0]
    assert np.array_equal(frame.images["head"], bench.pixels[:, :, ::-1])
    assert made.spec.state_keys == ["force"] and made.spec.image_keys == ["head"]
    assert frame.meta == {}


def test_times_are_the_headers_on_the_loops_clock(robot: Make, bench: Any, clock: SimulatedClock) -> None:
    made = robot()
    made.connect()
    clock.sleep(1.0)
    bench.show("/joint_states", age_s=0.25)
    bench.show("/force")
    frame = made.observe()
    times = {name: round(ns / 1e9, 6) for name, ns in frame.times_ns.items()}
    assert times == {"arm": 100.75, "gripper": 100.75, "force": 101.0, "head": 100.0}
    assert frame.timestamp_ns == frame.times_ns["force"]


def test_a_stamp_of_the_future_counts_as_now_and_none_as_receipt(
    robot: Make, bench: Any, clock: SimulatedClock
) -> None:
    made = robot()
    made.connect()
    clock.sleep(1.0)
    bench.show("/joint_states", age_s=-30.0)
    bench.node.hear("/head/image_raw", {"height": 1, "width": 1, "encoding": "mono8", "step": 1, "data": b"\x07"})
    frame = made.observe()
    assert frame.times_ns["arm"] == frame.times_ns["head"] == round(101e9)
    assert frame.images["head"].tolist() == [[[7, 7, 7]]]


def test_what_has_stopped_coming_is_there_and_old(robot: Make, bench: Any, clock: SimulatedClock) -> None:
    made = robot()
    made.connect()
    clock.sleep(5.0)
    frame = made.observe()
    assert frame.state["arm"].tolist() == [0.1, 0.2], "the last value, not zeros"
    assert frame.times_ns["arm"] == round(100e9)


@pytest.mark.parametrize(
    ("align", "usable_s", "too_old_s"),
    [
        ("{strategy: hold}", 1e6, None),
        ("{strategy: hold, tol_ms: 1500}", 1.499, 1.501),
        ("{strategy: asof, tol_ms: 200}", 0.199, 0.201),
        ("{strategy: drop}", 0.019, 0.021),
        ("{strategy: drop, tol_ms: 10}", 0.009, 0.011),
    ],
)
def test_tol_ms_is_honoured(
    robot: Make, bench: Any, clock: SimulatedClock, align: str, usable_s: float, too_old_s: float | None
) -> None:
    text = plugins.load("robots", f"{GRAPH}:FILE").replace("names: [finger]", f"names: [finger], align: {align}")
    made = robot(text)
    made.connect()
    clock.sleep(usable_s)
    frame = made.observe()
    assert frame.times_ns["gripper"] == round(100e9) and frame.meta == {}
    if too_old_s is None:
        return
    clock.sleep(too_old_s - usable_s)
    frame = made.observe()
    assert frame.times_ns["gripper"] == 0, "before every limit of a loop, so the robot holds"
    assert frame.times_ns["arm"] == round(100e9), "of this sensor alone"
    assert frame.state["gripper"].tolist() == [0.03]
    assert "s old, and may be" in frame.meta["faults"]["gripper"]
    bench.show("/joint_states")
    frame = made.observe()
    assert frame.times_ns["gripper"] == round(1e9 * clock()) and frame.meta == {}


def test_the_loop_holds_while_a_sensor_is_older_than_its_tolerance(robot: Make, clock: SimulatedClock) -> None:
    made = robot(
        plugins.load("robots", f"{GRAPH}:FILE").replace(
            "names: [finger]", "names: [finger], align: {strategy: asof, tol_ms: 100}"
        )
    )
    made.connect()
    clock.sleep(0.2)
    frame = made.observe()
    ages = {name: clock() - ns / 1e9 for name, ns in frame.times_ns.items()}
    assert Limits(observation_age_s=1.0).stale(ages).startswith("gripper is")


@pytest.mark.parametrize("silent", ["/joint_states", "/head/image_raw", "/force"])
def test_what_is_silent_at_connect_is_named(robot: Make, bench: Any, silent: str) -> None:
    bench.node.on_subscribe = lambda topic: None if topic == silent else bench.show(topic)
    made = robot(timeout_s=1.0)
    with pytest.raises(TimeoutError) as caught:
        made.connect()
    names = {"/joint_states": "state arm", "/head/image_raw": "camera head", "/force": "state force"}
    assert f"{names[silent]} ({silent}): nobody publishes {silent}" in str(caught.value)
    assert "within 1 s" in str(caught.value)
    assert bench.node.closed == 1


def test_a_joint_that_is_missing_at_connect_is_named(robot: Make, bench: Any) -> None:
    made = robot(
        plugins.load("robots", f"{GRAPH}:FILE").replace("[shoulder, elbow]", "[shoulder, wrist]"), timeout_s=1.0
    )
    with pytest.raises(TimeoutError, match=r"state arm .*no joint wrist; the message has finger, elbow, shoulder"):
        made.connect()


def test_what_comes_too_old_at_connect_is_named(robot: Make, bench: Any) -> None:
    text = plugins.load("robots", f"{GRAPH}:FILE").replace(
        "names: [finger]", "names: [finger], align: {tol_ms: 200}"
    )
    bench.node.on_subscribe = lambda topic: bench.show(topic, age_s=3600.0)
    with pytest.raises(TimeoutError) as caught:
        robot(text, timeout_s=0.1).connect()
    assert "state gripper (/joint_states): 3600" in str(caught.value)
    assert "s old, and may be 0.2 s; where the hosts' clocks differ: align: {stamp: receive}" in str(caught.value)
    assert "state arm" not in str(caught.value)
    robot(text.replace("tol_ms: 200", "tol_ms: 200, stamp: receive")).connect()


def test_joints_of_others_are_passed_over(robot: Make, bench: Any, clock: SimulatedClock) -> None:
    made = robot()
    made.connect()
    clock.sleep(0.5)
    bench.node.hear("/joint_states", {"header": bench.header(), "name": ["finger"], "position": [0.05]})
    frame = made.observe()
    assert frame.state["gripper"].tolist() == [0.05] and frame.times_ns["gripper"] == round(100.5e9)
    assert frame.state["arm"].tolist() == [0.1, 0.2] and frame.times_ns["arm"] == round(100e9)
    assert frame.meta == {}


def test_nobody_who_takes_commands_is_named(robot: Make, bench: Any) -> None:
    bench.node.readers = 0
    with pytest.raises(TimeoutError, match="commands at /commands: nobody listens"):
        robot(timeout_s=0.5).connect()
    robot(timeout_s=0.5, await_listeners=False).connect()


def test_what_is_malformed_is_a_fault_and_the_value_before_stays(robot: Make, bench: Any) -> None:
    made = robot()
    made.connect()
    bench.node.garbage("/head/image_raw")
    bench.node.hear("/joint_states", {"name": ["finger", "elbow"], "position": [0.01, 9.0]})
    bench.node.hear("/force", {"data": [1, float("nan"), 2, 3]})
    frame = made.observe()
    faults = frame.meta["faults"]
    assert faults["/head/image_raw"] == "/head/image_raw: no message"
    assert faults["arm"].endswith("no joint shoulder; the message has finger, elbow")
    assert faults["force"] == "/force: number 0 is nan, not finite"
    assert frame.state["arm"].tolist() == [0.1, 0.2] and frame.state["force"].tolist() == [1.0, 2.0]
    for topic in ("/joint_states", "/force", "/head/image_raw"):
        bench.show(topic)
    assert made.observe().meta == {}


def test_an_older_message_does_not_take_the_place_of_a_newer(
    robot: Make, bench: Any, clock: SimulatedClock
) -> None:
    made = robot()
    made.connect()
    bench.joints = np.array([1.0, 1.0, 0.01])
    bench.show("/joint_states", age_s=0.5)
    assert made.observe().state["arm"].tolist() == [0.1, 0.2]


def test_commands_of_one_topic_go_out_together_and_within_their_clamps(robot: Make, bench: Any) -> None:
    made = robot()
    made.connect()
    layout = robot_layout(made.spec)
    applied = made.act(layout.action(np.array([7.0, 0.5, 0.05])))
    assert bench.node.sent["/commands"][-1].data.tolist() == [1.0, 0.5, 0.05]
    assert applied.commands["arm"].value.tolist() == [1.0, 0.5], "what was really sent"
    made.act(Action({"gripper": Command("gripper_position", np.array([-1.0]))}))
    assert bench.node.sent["/commands"][-1].data.tolist() == [1.0, 0.5, 0.0], "who is not named keeps its target"


def test_a_component_that_was_never_told_is_sent_where_it_stands(robot: Make, bench: Any) -> None:
    made = robot()
    made.connect()
    made.act(Action({"gripper": Command("gripper_position", np.array([0.02]))}))
    assert bench.node.sent["/commands"][-1].data.tolist() == [0.1, 0.2, 0.02]


@pytest.mark.parametrize(
    ("name", "command", "says"),
    [
        ("amr", Command("joint_position", np.zeros(2)), "no component 'amr' (did you mean 'arm'?)"),
        ("arm", Command("joint_velocity", np.zeros(2)), "arm takes 2 numbers as joint_position"),
        ("arm", Command("joint_position", np.zeros(3)), "arm takes 2 numbers"),
        ("arm", Command("joint_position", np.array([0.0, np.nan])), "not finite"),
    ],
)
def test_what_is_no_command_is_never_sent(robot: Make, bench: Any, name: str, command: Command, says: str) -> None:
    made = robot()
    made.connect()
    with pytest.raises(InterfaceValidationError) as caught:
        made.act(Action({"gripper": Command("gripper_position", np.zeros(1)), name: command}))
    assert says in str(caught.value)
    assert not bench.node.sent


def test_a_command_that_finds_no_room_is_said_and_ends_nothing(robot: Make, bench: Any) -> None:
    made = robot()
    made.connect()
    bench.node.late = True
    action = robot_layout(made.spec).action(np.zeros(3))
    made.act(action)
    assert made.observe().meta["faults"] == {"/commands": "/commands: not sent"}
    bench.node.late = False
    made.act(action)
    assert made.observe().meta == {}


def test_a_robot_that_is_not_connected_says_so(robot: Make) -> None:
    made = robot()
    with pytest.raises(RobotFailed, match=r"not connected; call connect\(\) first"):
        made.observe()
    made.connect()
    made.close()
    with pytest.raises(RobotFailed, match="not connected"):
        made.act(Action({"arm": Command("joint_position", np.zeros(2))}))


def test_it_may_connect_again(robot: Make, bench: Any) -> None:
    made = robot()
    for _ in range(2):
        made.connect()
        made.connect()
        assert made.observe().state["force"].tolist() == [1.0, 2.0]
        made.close()
    assert bench.node.closed == 2


TRAJECTORY = """\
observations:
  arm: {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [shoulder, elbow]}
  tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped}
actions:
  arm: {topic: /arm/trajectory, type: trajectory_msgs/msg/JointTrajectory, duration_s: 0.25}
  tool: {topic: /tool/target, type: geometry_msgs/msg/PoseStamped, frame_id: world}
  base: {topic: /base, type: sensor_msgs/msg/JointState, names: [left, right], clamp: [-0.5, 0.5]}
"""


def test_every_kind_of_command(robot: Make, bench: Any) -> None:
    turned = {"position": {"x": 1.0}, "orientation": {"z": 0.6, "w": 0.8}}
    bench.node.on_subscribe = lambda topic: (
        bench.node.hear("/tool", {"pose": turned}) if topic == "/tool" else bench.show(topic)
    )
    bench.node.on_publish = lambda topic, message: None
    made = robot(TRAJECTORY)
    made.connect()
    frame = made.observe()
    assert frame.state["tool"].tolist() == [1.0, 0, 0, 0, 0, 0.6, 0.8]
    assert "base" not in frame.state
    base = made.spec.get_component("base")
    assert (base.command, base.hold, base.max_rate) == (["joint_velocity"], Hold.ZERO, [0.5, 0.5])
    row = np.array([0.5, 0.25, 1, 2, 3, 0, 0, 0, 2.0, 9.0, -9.0])
    made.act(robot_layout(made.spec).action(row))
    arm = bench.node.sent["/arm/trajectory"][0]
    assert arm.joint_names == ["shoulder", "elbow"] and arm.header.stamp.sec == 0
    assert arm.points[0].positions.tolist() == [0.5, 0.25]
    assert arm.points[0].time_from_start.nanosec == 250_000_000
    tool = bench.node.sent["/tool/target"][0]
    assert tool.header.frame_id == "world" and tool.header.stamp.sec == 1_800_000_000
    assert (tool.pose.position.z, tool.pose.orientation.w) == (3.0, 1.0)
    wheels = bench.node.sent["/base"][0]
    assert (wheels.name, wheels.velocity.tolist(), wheels.position.tolist()) == (
        ["left", "right"],
        [0.5, -0.5],
        [],
    )


WHEELS = """\
actions:
  base: {topic: /drive, type: std_msgs/msg/Float32MultiArray, names: [left, right]}
  lift_base: {topic: /drive, type: std_msgs/msg/Float32MultiArray, names: [up]}
"""


def test_wheels_that_are_not_named_stand_still(robot: Make, bench: Any) -> None:
    bench.node.on_publish = lambda topic, message: None
    made = robot(WHEELS)
    made.connect()
    made.act(robot_layout(made.spec).action(np.array([0.5, 0.25, 1.0])))
    made.act(Action({"lift_base": Command("joint_velocity", np.array([2.0]))}))
    assert [message.data.tolist() for message in bench.node.sent["/drive"]] == [[0.5, 0.25, 1.0], [0, 0, 2.0]]
    frame = made.observe()
    assert frame.state == {} and frame.times_ns == {}
