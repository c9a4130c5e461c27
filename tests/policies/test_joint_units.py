"""LeRobot's units for a robot that has radians: both ways, by name, and nothing guessed."""

from __future__ import annotations

import json
import math
from pathlib import Path
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
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.policies._joint_units import JointUnits

ROBOT = RobotSpec(
    "so101",
    [],
    [
        ComponentSpec("arm", "arm", 2, ["joint_position"], joint_names=["pan", "lift"]),
        ComponentSpec("gripper", "gripper", 1, ["gripper_position"], joint_names=["jaw"]),
    ],
    state_keys=["observation.state"],
)
TICK = 2 * math.pi / 4096
RANGES = {"lift": (1024, 3072), "jaw": (2048, 3072), "pan": (1948, 3148)}


class Told:
    """A policy that says what it was told, and answers what it is given."""

    def __init__(self) -> None:
        outputs = [
            PolicyOutputSpec("gripper", "gripper_position", 1),
            PolicyOutputSpec("arm", "joint_position", 2),
        ]
        self.spec = PolicySpec("told", [], ["arm", "gripper"], outputs=outputs)
        self.rows: Any = np.zeros((1, 3))
        self.robot: Any = None
        self.ended = 0

    def meet(self, robot: RobotSpec) -> None:
        self.robot = robot

    def infer(self, frame: Frame, request: ChunkRequest) -> Any:
        self.frame, self.request = frame, request
        return ActionChunk(self.rows, 7, {"kept": 1}) if isinstance(self.rows, np.ndarray) else self.rows

    def close(self) -> None:
        self.ended += 1


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "so101.json"
    tree = {
        name: {"id": at, "drive_mode": 0, "homing_offset": 5, "range_min": low, "range_max": high}
        for at, (name, (low, high)) in enumerate(RANGES.items())
    }
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def made(calibration: Path, told: Any, **options: Any) -> Any:
    policy = JointUnits(policy=told, calibration=calibration, **{"grippers": ("jaw",), **options})
    policy.meet(ROBOT)
    return policy


def frame_at(**ticks: float) -> Frame:
    rad = {name: (tick - 2048) * TICK for name, tick in ticks.items()}
    return Frame({}, {"arm": np.array([rad["pan"], rad["lift"]]), "gripper": np.array([rad["jaw"]])})


def test_the_ends_of_a_range_are_100_either_way_and_a_grippers_0_and_100(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told)
    for end, arm, jaw in ((0, -100, 0), (1, 100, 100)):
        policy.infer(frame_at(**{name: ends[end] for name, ends in RANGES.items()}), ChunkRequest(0))
        np.testing.assert_allclose(told.frame.state["arm"], [arm, arm])
        np.testing.assert_allclose(told.frame.state["gripper"], [jaw], atol=1e-9)


def test_degrees_count_from_the_middle_as_lerobots_motors_do(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told, mode="degrees")
    policy.infer(frame_at(pan=1948, lift=2048, jaw=2560), ChunkRequest(0))
    np.testing.assert_allclose(told.frame.state["arm"], [-600 * 360 / 4095, 0], atol=1e-9)
    np.testing.assert_allclose(told.frame.state["gripper"], [50])


def test_rows_and_the_running_plan_go_the_other_way_in_the_columns_of_the_policy(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told)
    told.rows = np.array([[0.0, 100.0, -100.0], [100.0, 0.0, 0.0]])  # gripper, pan, lift
    chunk = policy.infer(frame_at(pan=2048, lift=2048, jaw=2048), ChunkRequest(0))
    wanted = np.array([[2048, 3148, 1024], [3072, 2548, 2048]])
    np.testing.assert_allclose(chunk.rows, (wanted - 2048) * TICK, atol=1e-12)
    assert (chunk.first_step, chunk.meta) == (7, {"kept": 1})
    policy.infer(frame_at(pan=2048, lift=2048, jaw=2048), ChunkRequest(0, prefix=chunk.rows))
    np.testing.assert_allclose(told.request.prefix, told.rows, atol=1e-9)


def test_a_policy_that_names_its_joints_has_them_in_its_own_order(calibration: Path) -> None:
    """What comes to it was brought into that order already, and its rows are brought back later."""
    told = Told()
    told.spec = PolicySpec(
        "told",
        [],
        ["arm"],
        outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=["lift", "pan"])],
        state_names={"arm": ["lift", "pan"]},
    )
    policy = made(calibration, told)
    told.rows = np.array([[100.0, -100.0]])
    state = (np.array([3072, 1948]) - 2048) * TICK
    chunk = policy.infer(Frame({}, {"arm": state}), ChunkRequest(0, prefix=state[None]))
    np.testing.assert_allclose(told.frame.state["arm"], [100, -100])
    np.testing.assert_allclose(told.request.prefix, [[100, -100]])
    np.testing.assert_allclose(chunk.rows, state[None])


def test_a_state_as_a_whole_is_by_its_own_names(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told, state_names=("jaw", "lift", "pan"))
    frame = frame_at(pan=2548, lift=3072, jaw=2048)
    frame.state["observation.state"] = np.array([0.0, 1024 * TICK, 500 * TICK])
    frame.state["force"] = np.array([9.0])
    policy.infer(frame, ChunkRequest(0))
    np.testing.assert_allclose(told.frame.state["observation.state"], [0, 100, 0], atol=1e-9)
    assert told.frame.state["force"].tolist() == [9], "what is no joint is left alone"


def test_wheels_are_100_at_their_highest_speed(calibration: Path) -> None:
    robot = RobotSpec("base", [], [ComponentSpec("base", "base", 1, ["joint_velocity"], joint_names=["wheel"])])
    told = Told()
    told.spec = PolicySpec("told", [], [], outputs=[PolicyOutputSpec("base", "joint_velocity", 1)])
    policy = JointUnits(policy=told, calibration=calibration, velocities=("wheel",), max_velocity=4.0)
    policy.meet(robot)
    told.rows = np.array([[50.0]])
    assert policy.infer(Frame({}, {"base": np.array([-4.0])}), ChunkRequest(0)).rows.tolist() == [[2.0]]
    assert told.frame.state["base"].tolist() == [-100]


def test_the_other_policy_is_met_and_closed(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told)
    assert told.robot is ROBOT and policy.spec is told.spec
    policy.warmup()
    policy.reset()
    policy.close()
    assert told.ended == 1


def test_a_policy_may_be_named(calibration: Path) -> None:
    policy = JointUnits(policy={"name": "wave", "components": "arm:2"}, calibration=calibration)
    assert policy.spec.outputs[0].target == "arm"


def test_who_has_met_no_robot_knows_no_joints(calibration: Path) -> None:
    with pytest.raises(InterfaceValidationError, match="does not know which robot"):
        JointUnits(policy=Told(), calibration=calibration).infer(Frame({}, {}), ChunkRequest(0))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["pan", "lif"], "did you mean 'lift'"), ([], "arm has no joint_names")],
)
def test_a_joint_without_a_calibration_is_refused_by_name(
    calibration: Path, names: list[str], message: str
) -> None:
    policy = JointUnits(policy=Told(), calibration=calibration)
    with pytest.raises(BindingError, match=message):
        policy.meet(RobotSpec("r", [], [ComponentSpec("arm", "arm", 2, ["joint_position"], joint_names=names)]))


def test_what_has_another_number_of_joints_is_refused(calibration: Path) -> None:
    told = Told()
    policy = made(calibration, told)
    with pytest.raises(InterfaceValidationError, match="arm has the shape"):
        policy.infer(Frame({}, {"arm": np.zeros(3), "gripper": np.zeros(1)}), ChunkRequest(0))
    told.rows = np.zeros((2, 4))
    with pytest.raises(PolicyFailed, match="there are 3 joints"):
        policy.infer(frame_at(pan=2048, lift=2048, jaw=2048), ChunkRequest(0))
    told.rows = []
    with pytest.raises(PolicyFailed, match="got list"):
        policy.infer(frame_at(pan=2048, lift=2048, jaw=2048), ChunkRequest(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "JSON object of joints"),
        ('{"pan": {"range_min": 5, "range_max": 5}}', "pan must have range_min < range_max"),
        ('{"pan": {"range_min": 5}}', "pan must have"),
        ('{"pan": 3}', "pan must have"),
        ('{"pan": {"range_min": true, "range_max": 5}}', "pan must have"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InterfaceValidationError, match=message):
        JointUnits(policy=Told(), calibration=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grippers": ("jawe",)}, "did you mean 'jaw'"),
        ({"velocities": ("wheel",)}, "max_velocity above 0"),
        ({"mode": "ticks"}, "range_m100_100 or degrees"),
        ({"policy": {"nam": "x"}}, "mapping with one"),
    ],
)
def test_options_that_are_none_are_refused(calibration: Path, options: Any, message: str) -> None:
    with pytest.raises(InterfaceValidationError, match=message):
        JointUnits(**{"policy": Told(), "calibration": calibration, **options})
