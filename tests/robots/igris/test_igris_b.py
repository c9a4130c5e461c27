"""IGRIS-B: its columns, its wire, its files, and sensors that fall silent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from chunkwise.contract import (
    Action,
    ActionChunk,
    ChunkRequest,
    Command,
    Frame,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotFailed,
    robot_layout,
    validate_frame,
)
from chunkwise.plugins import load
from chunkwise.processing.igris import IgrisFileError
from chunkwise.robots import Robot
from chunkwise.robots._igris.bus import InProcessBus
from chunkwise.robots._igris.messages import Float32MultiArray, Header, JointState, String, Time
from chunkwise.runtime.session import Session
from chunkwise.testing import RobotConformance

IgrisB = load("robots", "igris_b")
EXAMPLE = Path(__file__).parents[3] / "examples" / "igris_b"
JOINTS, FINGERS = "/igris_b/packy/target_joints", "/igris_b/packy/finger_target"
STATES, HANDS = "/igris_b/packy/joint_states", "/igris_b/packy/finger_state"


class TestConformance(RobotConformance):
    def make_robot(self) -> Robot:
        robot: Robot = IgrisB(simulated=True, lockstep=True)
        return robot


def simulated(clock: Any, **options: Any) -> Any:
    return IgrisB(simulated=True, clock=clock, sleep=clock.sleep, **options)


def on_a_bus(clock: Any, files: Any, **options: Any) -> Any:
    """A robot without cameras, on topics of the test's own, whose stamps are of the loop's clock."""
    params = files.params(camera_names=[])
    return IgrisB(bus=InProcessBus(), params=params, clock=clock, sleep=clock.sleep, stamp_clock=clock, **options)


def publish(bus: Any, joints: Any = None, fingers: Any = None) -> None:
    """What the robot's sensors would say: 0, 1, 2 ... in the order of the wire."""
    bus.publish(STATES, "JointState", JointState(position=np.arange(12.0) if joints is None else joints))
    hands = np.arange(12.0, 24.0) if fingers is None else fingers
    bus.publish(HANDS, "Float32MultiArray", Float32MultiArray(hands))


def connected(robot: Any, clock: Any) -> Any:
    """The robot, whose sensors speak while it waits for them."""
    robot._sleep = lambda seconds: (clock.sleep(seconds), publish(robot.bus))
    robot.connect()
    return robot


def listened(robot: Any) -> dict[str, list[Any]]:
    """Every command that it publishes from now on, by topic."""
    heard: dict[str, list[Any]] = {JOINTS: [], FINGERS: []}
    robot.bus.subscribe(JOINTS, "JointState", lambda message: heard[JOINTS].append(message.position))
    robot.bus.subscribe(FINGERS, "Float32MultiArray", lambda message: heard[FINGERS].append(message.data))
    return heard


def test_the_spec_is_in_the_policys_order(clock: Any) -> None:
    spec = simulated(clock).spec
    assert [(part.name, part.type, part.dof, part.unit) for part in spec.components] == [
        ("left_arm", "arm", 6, "rad"),
        ("right_arm", "arm", 6, "rad"),
        ("left_hand", "hand", 6, ""),
        ("right_hand", "hand", 6, ""),
    ]
    assert spec.control_hz == 20 and spec.image_keys == ["head", "left", "right"] and not spec.state_keys
    arms, hands = spec.components[:2], spec.components[2:]
    assert np.allclose([part.max_rate for part in arms], np.deg2rad(5) * 20)
    assert np.allclose([part.max_rate for part in hands], 2.0) and [part.initial for part in hands] == [None] * 2
    assert np.allclose(np.rad2deg(arms[0].initial), [-20, -30, 0, 120, 0, 0])
    assert np.allclose(np.rad2deg(arms[1].initial), [20, 30, 0, -120, 0, 0])


def test_limits_and_hands_are_options(files: Any, clock: Any) -> None:
    options = {"lower": tuple(-np.arange(1.0, 25)), "upper": tuple(np.arange(3.0, 27)), "hand_rate": 0.5}
    spec = simulated(
        clock, params=files.params(HZ=50, max_delta_deg=1), topics_file=files.topics(HZ=50), **options
    ).spec
    assert [part.lower[0] for part in spec.components] == [-1, -7, -13, -19]
    assert [part.upper[5] for part in spec.components] == [8, 14, 20, 26]
    assert np.allclose([part.max_rate[0] for part in spec.components], [np.deg2rad(50)] * 2 + [0.5] * 2)
    spec = simulated(clock, hand_initial=tuple(np.arange(12.0))).spec
    assert [part.initial for part in spec.components[2:]] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lower": (0.0,) * 12}, "lower has 24 numbers, got 12"),
        ({"hand_initial": (0.0,)}, "hand_initial has 12 numbers, got 1"),
        ({"hand_rate": 0.0}, "hand_rate must be above 0"),
        ({"devices": ("haed=/dev/video0",)}, r"must be CAMERA=DEVICE \(did you mean 'head'\?\)"),
        ({"devices": ("head",)}, "'head' must be CAMERA=DEVICE"),
        ({"simulated": False, "camera_mode": "big"}, "camera_mode must be WIDTHxHEIGHT@RATE"),
        ({"simulated": False, "camera_rotate": 45}, "rotate must be one of"),
    ],
)
def test_an_option_that_cannot_be_is_refused(clock: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InterfaceValidationError, match=said):
        IgrisB(**({"simulated": True} | options))


@pytest.mark.parametrize(
    ("params", "topics", "said"),
    [
        ({"HZ": 25}, {}, "HZ is 25 in the runtime parameters and 20 in .*topics.json: one rate for both"),
        ({"action_dim": 16}, {}, "action_dim is 16, and igris_b has 24 .left_arm 6, right_arm 6"),
        ({"proprio_state_dim": 23}, {}, "proprio_state_dim is 23; igris_b has 24 positions, and 48 columns with"),
        ({"camera_names": ["head", "rihgt"]}, {}, r"igris_b has no 'rihgt' \(did you mean 'right'\?\)"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    files: Any, clock: Any, params: dict[str, Any], topics: dict[str, Any], said: str
) -> None:
    for simulated_too in (True, False):
        with pytest.raises(IgrisFileError, match=said):
            IgrisB(simulated=simulated_too, params=files.params(**params), topics_file=files.topics(**topics))


LEFT = "/observation/joint_pos/left"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda topics: topics["joints"]["fields"].update({LEFT: {"attr": "position", "slice": [6, 11]}}),
            "topics.joints: /observation/joint_pos/left is 5, and left_arm needs 6 numbers",
        ),
        (
            lambda topics: topics["joints"]["fields"].pop(LEFT),
            "no topic has /observation/joint_pos/left .left_arm.",
        ),
        (
            lambda topics: topics["joints"]["fields"].update({LEFT: "header.frame_id"}),
            "joint_pos/left is text, and left_arm needs 6",
        ),
        (
            lambda topics: topics["finger_currents"]["fields"].update(
                {"/observation/hand_cur/left": {"slice": [0, 3]}}
            ),
            "hand_cur/left is 3, and left_hand.current needs 6",
        ),
    ],
)
def test_topics_that_lack_a_part_of_the_robot_are_refused(files: Any, change: Any, said: str) -> None:
    with pytest.raises(IgrisFileError, match=said):
        IgrisB(simulated=True, topics_file=files.topics(change))


def test_currents_are_state_and_may_be_columns_of_the_policy(files: Any, clock: Any) -> None:
    robot = simulated(clock, params=files.params(proprio_state_dim=48), topics_file=files.topics())
    assert robot.spec.state_keys == [
        "left_arm.current",
        "right_arm.current",
        "left_hand.current",
        "right_hand.current",
    ]
    robot.connect()
    robot.act(robot_layout(robot.spec).action(np.arange(24.0)))
    frame = robot.observe()
    np.testing.assert_allclose(frame.state["right_arm.current"], np.arange(6.0, 12.0))
    np.testing.assert_allclose(frame.state["left_hand.current"], np.arange(12.0, 18.0))
    with pytest.raises(IgrisFileError, match=r"with currents, and .* has no /observation/hand_cur/left, /obs"):
        simulated(
            clock,
            params=files.params(proprio_state_dim=48),
            topics_file=files.topics(lambda topics: topics.pop("finger_currents")),
        )


def test_the_wire_has_right_before_left(clock: Any) -> None:
    robot = simulated(clock)
    robot.connect()
    heard = listened(robot)
    robot.act(robot_layout(robot.spec).action(np.arange(24.0)))
    assert heard[JOINTS][0].tolist() == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]
    assert heard[FINGERS][0].tolist() == [18, 19, 20, 21, 22, 23, 12, 13, 14, 15, 16, 17]
    assert heard[FINGERS][0].dtype == np.float32


def test_what_is_measured_comes_back_to_its_side(files: Any, clock: Any) -> None:
    frame = connected(on_a_bus(clock, files), clock).observe()
    validate_frame(frame)
    assert {name: value.tolist() for name, value in frame.state.items()} == {
        "left_arm": [6, 7, 8, 9, 10, 11],
        "right_arm": [0, 1, 2, 3, 4, 5],
        "left_hand": [18, 19, 20, 21, 22, 23],
        "right_hand": [12, 13, 14, 15, 16, 17],
    }


def test_the_robots_own_name_is_in_the_topics_that_commands_go_to(files: Any, clock: Any) -> None:
    robot = simulated(clock, topics_file=files.topics(robot_id="nemo"))
    robot.connect()
    robot.act(robot_layout(robot.spec).action(np.zeros(24)))
    assert robot.bus.published["/igris_b/nemo/target_joints"] == 1 and JOINTS not in robot.bus.published


def test_parts_that_are_not_named_keep_their_target_at_first_where_they_stood(files: Any, clock: Any) -> None:
    robot = connected(on_a_bus(clock, files), clock)
    heard = listened(robot)
    robot.act(Action({"left_arm": Command("joint_position", np.zeros(6))}))
    robot.act(Action({"right_hand": Command("hand_joint_position", np.full(6, 0.5))}))
    assert heard[JOINTS][1].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0]
    assert heard[FINGERS][0].tolist() == list(range(12, 24))
    assert heard[FINGERS][1].tolist() == [0.5] * 6 + list(range(18, 24))


@pytest.mark.parametrize(
    ("name", "kind", "value", "said"),
    [
        ("left_amr", "joint_position", np.zeros(6), r"no component 'left_amr' \(did you mean 'left_arm'\?\)"),
        ("left_arm", "joint_velocity", np.zeros(6), "left_arm takes 6 numbers as joint_position"),
        ("left_hand", "hand_joint_position", np.zeros(5), "left_hand takes 6 numbers"),
        ("left_arm", "joint_position", np.full(6, np.nan), "left_arm is sent a target that is not finite"),
    ],
)
def test_a_command_that_cannot_be_is_refused_and_nothing_sent(
    clock: Any, name: str, kind: str, value: Any, said: str
) -> None:
    robot = simulated(clock)
    robot.connect()
    with pytest.raises(InterfaceValidationError, match=said):
        robot.act(Action({name: Command(kind, value)}))
    assert JOINTS not in robot.bus.published


def test_nothing_is_sent_by_connecting(clock: Any) -> None:
    robot = simulated(clock)
    robot.connect()
    robot.observe()
    assert not {JOINTS, FINGERS} & robot.bus.published.keys()
    robot.close()
    robot.close()
    with pytest.raises(RobotFailed, match="not connected"):
        robot.observe()
    robot.connect()
    assert robot.observe().state["left_arm"].shape == (6,)


def test_what_an_earlier_connection_saw_is_no_sign_of_life(clock: Any) -> None:
    robot = simulated(clock)
    robot.connect()
    robot.close()
    robot.simulation.silent.add("fingers")
    with pytest.raises(
        RobotFailed, match=r"nothing arrived within 10 s of /observation/hand_joint_pos/left .*; /obs"
    ):
        robot.connect()


def test_silent_topics_are_named(files: Any, clock: Any) -> None:
    robot = on_a_bus(clock, files, timeout_s=0.5)
    robot._sleep = lambda seconds: (clock.sleep(seconds), publish(robot.bus, joints=np.zeros(7)))
    with pytest.raises(RobotFailed) as raised:
        robot.connect()
    said = str(raised.value)
    assert "nothing arrived within 0.5 s of /observation/joint_pos/left (/igris_b/packy/joint_states)" in said
    assert "position has 7 numbers, [6:12] needs more" in said and "hand_joint_pos" not in said


def test_a_dead_topic_is_old_and_the_others_are_not(clock: Any) -> None:
    robot = simulated(clock)
    robot.connect()
    robot.simulation.silent.add("joints")
    clock.sleep(2.0)
    frame = robot.observe()
    now_ns = round(clock() * 1e9)
    ages = {name: (now_ns - time_ns) / 1e9 for name, time_ns in frame.times_ns.items()}
    assert ages == {
        "left_arm": 2,
        "right_arm": 2,
        "left_hand": 0,
        "right_hand": 0,
        "head": 0,
        "left": 0,
        "right": 0,
    }
    assert frame.timestamp_ns == now_ns and not frame.meta


def test_a_broken_message_is_old_and_said(files: Any, clock: Any) -> None:
    robot = connected(on_a_bus(clock, files), clock)
    clock.sleep(1.0)
    publish(robot.bus, joints=np.full(12, np.nan))
    frame = robot.observe()
    assert frame.state["left_arm"].tolist() == [6, 7, 8, 9, 10, 11]
    ages = {name: clock() - time_ns / 1e9 for name, time_ns in frame.times_ns.items()}
    assert ages["left_arm"] == pytest.approx(1.0) and ages["left_hand"] == pytest.approx(0.0)
    assert "not finite" in frame.meta["faults"][LEFT]


def test_the_stamp_of_a_header_is_the_time_of_capture(files: Any, clock: Any) -> None:
    robot = connected(on_a_bus(clock, files), clock)
    clock.sleep(1.0)
    stamp = Time(int(clock() - 0.25), round((clock() - 0.25) % 1 * 1e9))
    robot.bus.publish(STATES, "JointState", JointState(Header(stamp), position=np.zeros(12)))
    assert clock() - robot.observe().times_ns["left_arm"] / 1e9 == pytest.approx(0.25)


def test_a_text_is_the_task_and_other_numbers_are_state(files: Any, clock: Any) -> None:
    def add(topics: dict[str, Any]) -> None:
        topics["say"] = {"topic": "/say", "msg_type": "String", "fields": {"/observation/prompt": "data"}}
        topics["lift"] = {"topic": "/lift", "msg_type": "Float32", "fields": {"/observation/lift": {}}}
        del topics["finger_currents"]
        for side in ("left", "right"):
            del topics["joints"]["fields"][f"/observation/joint_cur/{side}"]

    robot = on_a_bus(clock, files, topics_file=files.topics(add))
    assert robot.spec.state_keys == ["lift"]
    lift = type("Float32", (), {"data": 0.5})()
    robot.bus.subscribe(STATES, "JointState", lambda message: robot.bus.publish("/lift", "Float32", lift))
    frame = connected(robot, clock).observe()
    assert frame.state["lift"].tolist() == [0.5] and frame.task == {}
    robot.bus.publish("/say", "String", String("fold the towel"))
    assert robot.observe().task == {"prompt": "fold the towel"}


def test_a_simulated_body_refuses_sensors_that_it_does_not_have(files: Any, clock: Any) -> None:
    def add(topics: dict[str, Any]) -> None:
        topics["lift"] = {"topic": "/lift", "msg_type": "Float32", "fields": {"/observation/lift": {}}}

    with pytest.raises(
        IgrisFileError, match=r"topics.lift: the simulated igris_b has no /observation/lift; it has"
    ):
        simulated(clock, topics_file=files.topics(add))


def test_a_picture_may_come_by_a_topic(files: Any, clock: Any) -> None:
    def add(topics: dict[str, Any]) -> None:
        topics["belly"] = {"topic": "/belly", "msg_type": "Image", "fields": {"/observation/belly": "data"}}

    from chunkwise.robots._igris.messages import Image

    params = files.params(camera_names=["belly"])
    robot = IgrisB(
        bus=InProcessBus(), params=params, topics_file=files.topics(add), clock=clock, sleep=clock.sleep
    )
    shown = Image(height=2, width=3, encoding="rgb8", data=bytes(range(18)))

    def speak(seconds: float) -> None:
        clock.sleep(seconds)
        robot.bus.publish("/belly", "Image", shown)
        currents = np.zeros(12)
        robot.bus.publish(STATES, "JointState", JointState(position=currents, effort=currents))
        for topic in (HANDS, "/igris_b/packy/finger_current"):
            robot.bus.publish(topic, "Float32MultiArray", Float32MultiArray(currents))

    robot._sleep = speak
    robot.connect()
    frame = robot.observe()
    assert robot.spec.image_keys == ["belly"] and frame.images["belly"].shape == (2, 3, 3)
    assert "belly" in frame.times_ns and "belly" not in frame.state


def test_joints_follow_their_targets_as_first_order_does(clock: Any) -> None:
    robot = simulated(clock)
    robot.connect()
    goal = np.arange(24.0) / 24
    robot.act(robot_layout(robot.spec).action(goal))
    clock.sleep(0.05)
    at = robot_layout(robot.spec).measured(robot.observe())
    np.testing.assert_allclose(at, goal * (1 - np.exp(-1.0)), rtol=1e-6)
    clock.sleep(5.0)
    np.testing.assert_allclose(robot_layout(robot.spec).measured(robot.observe()), goal, rtol=1e-6)


class Jump:
    """Asks for a target far away, at once, and back again."""

    def __init__(self, robot: Any, rows: int = 50) -> None:
        outputs = [PolicyOutputSpec(part.name, part.command[0], part.dof) for part in robot.spec.components]
        self.spec = PolicySpec("jump", [], [], outputs=outputs, action_horizon=rows, control_hz=20.0)
        self._rows = rows

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        rows = np.full((self._rows, 24), 3.0)
        rows[self._rows // 2 :] = -3.0
        return ActionChunk(rows)


@pytest.mark.parametrize(("hz", "degrees"), [(20, 5), (50, 2)])
def test_no_joint_is_ever_moved_further_in_a_step_than_configured(
    files: Any, clock: Any, hz: int, degrees: float
) -> None:
    robot = simulated(
        clock, params=files.params(HZ=hz, max_delta_deg=degrees), topics_file=files.topics(HZ=hz), hand_rate=1.0
    )
    policy = Jump(robot)
    policy.spec.control_hz = float(hz)
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    with Session(robot, policy, "sync", worker=worker, clock=clock, sleep=clock.sleep) as session:
        heard = listened(robot)
        first = np.concatenate([robot.observe().state[name] for name in ("right_arm", "left_arm")])
        session.run(seconds=5.0)
    for topic, most, start in ((JOINTS, np.deg2rad(degrees), first), (FINGERS, 1.0 / hz, np.zeros(12))):
        steps = np.abs(np.diff(np.stack([start, *heard[topic]]).astype(np.float64), axis=0))
        assert steps.max() <= most + 1e-6, "no step beyond the limit"
        assert steps.max() >= most - 1e-6, "the limit is what holds it, not something below it"
    assert len(heard[JOINTS]) >= 5 * hz


def test_an_overrun_is_no_leave_to_go_further(clock: Any) -> None:
    robot = simulated(clock)
    policy = Jump(robot)
    answer, sent_at = policy.infer, []

    def think(frame: Frame, request: ChunkRequest) -> ActionChunk:
        clock.sleep(0.23)  # in the loop: five periods are missed
        return answer(frame, request)

    policy.infer = think  # type: ignore[method-assign]
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    with Session(robot, policy, "sync", worker=worker, clock=clock, sleep=clock.sleep) as session:
        heard = listened(robot)
        robot.bus.subscribe(JOINTS, "JointState", lambda message: sent_at.append(clock()))
        report = session.run(seconds=8.0)
    assert report.missed_periods >= 8, "there were overruns"
    times, sent = np.array(sent_at), np.rad2deg(np.stack(heard[JOINTS]))
    for index, start in enumerate(times):
        window = (times >= start) & (times < start + 0.1)  # two steps, of 5 degrees each, to where they began
        travel = np.abs(np.diff(sent[max(index - 1, 0) :][: window.sum() + 1], axis=0)).sum(axis=0)
        assert travel.max() <= 3 * 5 + 1e-4


def test_an_episode_begins_at_the_initial_pose_and_goes_there_by_steps(clock: Any) -> None:
    robot = simulated(clock)
    policy = Jump(robot)
    policy.infer = lambda frame, request: ActionChunk(  # type: ignore[method-assign]
        np.tile(robot_layout(robot.spec).measured(frame), (50, 1))
    )
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    with Session(robot, policy, "sync", worker=worker, clock=clock, sleep=clock.sleep) as session:
        heard = listened(robot)
        session.run(seconds=1.0)
    sent = np.rad2deg(np.stack(heard[JOINTS]))
    assert np.abs(np.diff(sent, axis=0)).max() <= 5 + 1e-4
    np.testing.assert_allclose(sent[-1], [20, 30, 0, -120, 0, 0, -20, -30, 0, 120, 0, 0], atol=1.5)


@pytest.mark.parametrize("strategy", ["sync", "rtc"])
def test_the_examples_policy_takes_the_robot_to_its_pose(strategy: str, clock: Any) -> None:
    robot = simulated(clock, params=EXAMPLE / "inference_runtime_params.json")
    policy = load("policies", "igris")(config=EXAMPLE / "reach_policy.yaml")
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    with Session(robot, policy, strategy, worker=worker, clock=clock, sleep=clock.sleep) as session:
        report = session.run(seconds=15.0)
        at = robot_layout(robot.spec).measured(robot.observe())
    assert report.faults == 0 and not report.gate
    pose = np.concatenate(yaml.safe_load((EXAMPLE / "components" / "reach.yaml").read_text())["params"]["pose"])
    np.testing.assert_allclose(at, pose, atol=0.05)


def test_frozen_joints_hold_the_robot(clock: Any) -> None:
    robot = simulated(clock)
    policy = Jump(robot)
    answer, asked = policy.infer, []

    def go_blind(frame: Frame, request: ChunkRequest) -> ActionChunk:
        asked.append(request.request_step)
        if len(asked) == 2:
            robot.simulation.silent.add("joints")
        return answer(frame, request)

    policy.infer = go_blind  # type: ignore[method-assign]
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    with Session(robot, policy, "sync", worker=worker, clock=clock, sleep=clock.sleep) as session:
        heard = listened(robot)
        session.run(seconds=10.0)
    sent = np.stack(heard[JOINTS])
    assert np.ptp(sent[-150:], axis=0).max() == 0.0, "nothing moves by what nobody sees"
    assert len(asked) == 2, "a policy is not asked about what nobody sees"
