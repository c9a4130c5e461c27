"""LeRobot's features as components, without LeRobot."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import InterfaceValidationError, RobotFailed, validate_component_spec
from chunkwise.robots.lerobot.arms import Range, let_go, ranges, uncalibrated, zeros_kept
from chunkwise.robots.lerobot.features import Body, Rates, body_of, joint_of
from chunkwise.robots.lerobot.making import fields_of

RATES = Rates(joint=90.0, gripper=200.0, base=0.3, turn=60.0)
SO = ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")
DEGREES = {"shoulder_pan": Range("degrees", -90, 90), "elbow_flex": Range("degrees", -80, 100)}


def body(*actions: str, observed: Any = None, known: Any = None, units: Any = "lerobot") -> Body:
    types = dict.fromkeys(actions, float)
    made = body_of(types, types if observed is None else observed, known or {}, RATES, units)
    for component in made.components:
        validate_component_spec(component)
    return made


def shapes(made: Body) -> list[tuple[str, str, str, list[str]]]:
    return [(part.name, part.type, part.command[0], part.joint_names) for part in made.components]


@pytest.mark.parametrize(
    ("actions", "parts"),
    [
        (SO, {"arm": ["shoulder_pan", "elbow_flex"], "gripper": ["gripper"]}),
        (
            ("left_elbow_flex.pos", "left_gripper.pos", "right_elbow_flex.pos", "right_gripper.pos"),
            {
                "left_arm": ["left_elbow_flex"],
                "left_gripper": ["left_gripper"],
                "right_arm": ["right_elbow_flex"],
                "right_gripper": ["right_gripper"],
            },
        ),
        (
            ("arm_wrist_roll.pos", "arm_gripper.pos", "x.vel", "y.vel", "theta.vel"),
            {"arm": ["arm_wrist_roll"], "gripper": ["arm_gripper"], "base": ["x", "y", "theta"]},
        ),
        (
            ("joint_1.pos", "joint_1.vel", "joint_1.torque", "gripper.pos", "gripper.vel"),
            {"arm": ["joint_1"], "gripper": ["gripper"]},
        ),
        (
            (
                "neck_yaw.pos",
                "l_elbow_yaw.pos",
                "l_gripper.pos",
                "r_antenna.pos",
                "mobile_base.vx",
                "mobile_base.vtheta",
            ),
            {
                "head": ["neck_yaw"],
                "left_arm": ["l_elbow_yaw"],
                "left_gripper": ["l_gripper"],
                "right_head": ["r_antenna"],
                "base": ["vx", "vtheta"],
            },
        ),
        (("thumb_cmc.pos", "pinky_pip_dip.pos"), {"hand": ["thumb_cmc", "pinky_pip_dip"]}),
        (("kWaistYaw.q", "kLeftElbow.q"), {"arm": ["kWaistYaw", "kLeftElbow"]}),
        (("linear.vel", "angular.vel"), {"base": ["linear", "angular"]}),
    ],
)
def test_parts_are_read_off_the_names(actions: tuple[str, ...], parts: dict[str, list[str]]) -> None:
    assert {part.name: part.joint_names for part in body(*actions).components} == parts


def test_every_part_has_its_kind() -> None:
    made = body("neck_yaw.pos", "l_elbow.pos", "l_gripper.pos", "index_pip.pos", "x.vel")
    assert shapes(made) == [
        ("head", "custom", "joint_position", ["neck_yaw"]),
        ("left_arm", "arm", "joint_position", ["l_elbow"]),
        ("left_gripper", "gripper", "gripper_position", ["l_gripper"]),
        ("hand", "hand", "hand_joint_position", ["index_pip"]),
        ("base", "base", "joint_velocity", ["x"]),
    ]


def test_a_gripper_of_two_motors_takes_two_numbers() -> None:
    assert shapes(body("gripper_left.pos", "gripper_right.pos")) == [
        ("gripper", "hand", "hand_joint_position", ["gripper_left", "gripper_right"])
    ]


def test_limits_and_rates_are_in_the_robots_unit() -> None:
    arm, gripper = body(*SO, known=DEGREES | {"gripper": Range("range_0_100", 0, 100)}).components
    assert (arm.unit, arm.lower, arm.upper, arm.max_rate) == ("degrees", [-90, -80], [90, 100], [90, 90])
    assert (gripper.unit, gripper.lower, gripper.upper, gripper.max_rate) == ("range_0_100", [0], [100], [200])


def test_radians_are_of_degrees_alone() -> None:
    known = DEGREES | {"gripper": Range("range_0_100", 0, 100)}
    made = body(*SO, "x.vel", "theta.vel", known=known, units="rad")
    arm, gripper, base = made.components
    assert (arm.unit, gripper.unit, base.unit) == ("rad", "range_0_100", "m/s, rad/s")
    assert np.allclose(arm.upper or [], np.radians([90, 100])) and gripper.upper == [100]
    assert np.allclose(base.max_rate or [], [0.3, math.radians(60)])
    assert made.groups["arm"].write(np.array([math.pi, 0])) == {"shoulder_pan.pos": 180.0, "elbow_flex.pos": 0.0}
    assert np.allclose(made.groups["base"].read({"x.vel": 0.1, "theta.vel": 90}), [0.1, math.pi / 2])


def test_radians_of_a_robot_without_degrees_are_refused() -> None:
    with pytest.raises(InterfaceValidationError, match=r"use_degrees: true.*it has range_m100_100"):
        body(*SO, known={"elbow_flex": Range("range_m100_100", -100, 100)}, units="rad")


def test_what_is_in_radians_by_itself_moves_as_slowly() -> None:
    (arm,) = body("kWaistYaw.q").components
    assert arm.unit == "rad" and arm.lower is None and np.allclose(arm.max_rate or [], math.pi / 2)


@pytest.mark.parametrize("feature", ["elbow", "elbow.effort", "gripper.width"])
def test_a_command_that_does_not_say_what_it_is_is_refused(feature: str) -> None:
    with pytest.raises(InterfaceValidationError, match=f"'{feature}' does not say what it is"):
        body("other.pos", feature)


def test_what_is_measured_besides_is_state() -> None:
    observed = dict.fromkeys(
        ("joint_1.pos", "joint_1.vel", "joint_1.torque", "battery.level", "linear.vel"), float
    )
    known = {"joint_1": Range("degrees", -90, 90)}
    made = body(
        "joint_1.pos",
        "linear.vel",
        "angular.vel",
        observed=observed | {"front": (4, 6, 3)},
        known=known,
        units="rad",
    )
    assert made.state_keys == ["arm.vel", "arm.torque", "battery.level", "linear.vel"]
    assert made.cameras == ["front"]
    assert [group.name for group in made.measured] == ["arm", *made.state_keys]
    assert made.measured[1].scale == math.pi / 180 and made.measured[2].scale == 1
    assert made.halt == {"linear.vel": 0.0, "angular.vel": 0.0}


def test_numbers_that_are_missing_or_none_are_named() -> None:
    arm = body(*SO).groups["arm"]
    with pytest.raises(RobotFailed, match=r"'elbow_flex.pos' is missing"):
        arm.read({"shoulder_pan.pos": 1.0})
    with pytest.raises(RobotFailed, match=r"'elbow_flex.pos': nan.*no number"):
        arm.read({"shoulder_pan.pos": 1.0, "elbow_flex.pos": math.nan})


def test_a_joint_is_its_feature_without_the_last_word() -> None:
    assert [joint_of(name) for name in ("a.b.pos", "x.vel", "mobile_base.vx")] == ["a.b", "x", "vx"]


def arm(units: str = "degrees", limits: Any = None, calibration: Any = None) -> Any:
    motor = SimpleNamespace(norm_mode=SimpleNamespace(value=units), model="m")
    return SimpleNamespace(
        bus=SimpleNamespace(motors={"elbow": motor}, model_resolution_table={"m": 4096}, is_connected=False),
        config=SimpleNamespace(joint_limits=limits),
        calibration=calibration or {},
        calibration_fpath="me.json",
    )


def test_ranges_come_from_the_configuration_or_the_calibration() -> None:
    calibration = {"elbow": SimpleNamespace(range_min=1024, range_max=3072)}
    assert ranges(arm(limits={"elbow": (-5, 9)})) == {"elbow": Range("degrees", -5, 9)}
    assert ranges(arm("range_m100_100")) == {"elbow": Range("range_m100_100", -100, 100)}
    assert ranges(arm()) == {"elbow": Range("degrees", -math.inf, math.inf)}
    both = SimpleNamespace(left_arm=arm(calibration=calibration), right_arm=arm("range_0_100"))
    assert ranges(both)["left_elbow"].upper == pytest.approx(1024 * 360 / 4095)
    assert ranges(both)["right_elbow"] == Range("range_0_100", 0, 100)
    assert uncalibrated(both) == ["me.json has no elbow"]


def test_no_motor_learns_a_new_zero_while_it_is_connected() -> None:
    zeroed: list[str] = []

    class Bus(SimpleNamespace):
        def set_zero_position(self, motors: Any = None) -> None:
            zeroed.append(self.port)

    robot = SimpleNamespace(bus=Bus(motors={}, port="can0"))
    with zeros_kept(robot):
        robot.bus.set_zero_position()
    assert zeroed == []
    robot.bus.set_zero_position()
    assert zeroed == ["can0"]


def test_every_part_is_let_go_whatever_the_others_raise() -> None:
    told: list[str] = []

    def fails(*_: object) -> None:
        told.append("camera")
        raise OSError("gone")

    left, right = arm(), arm()
    for name, part in (("left", left), ("right", right)):
        part.bus.is_connected = True
        part.bus.disconnect = lambda torque, name=name: told.append(f"{name} {torque}")
    left.config.disable_torque_on_disconnect = False
    left.stop_base = lambda: told.append("stop")
    robot = SimpleNamespace(
        is_connected=False,
        left_arm=left,
        right_arm=right,
        cameras={
            "a": SimpleNamespace(is_connected=True, disconnect=fails),
            "b": SimpleNamespace(is_connected=False),
        },
    )
    with pytest.raises(OSError, match="gone"):
        let_go(robot, {})
    assert told == ["right True", "stop", "left False", "camera"]


def test_fields_come_from_a_mapping_or_a_file(tmp_path: Any) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text("type: so101_follower\nport: /dev/a\n")
    assert fields_of(None) == {}
    assert fields_of({"port": "x"}) == {"port": "x"}
    assert fields_of(str(path)) == {"type": "so101_follower", "port": "/dev/a"}


@pytest.mark.parametrize(
    ("text", "wrong"), [("- a", "must be a mapping"), ("a: [", "is not YAML"), ("1: 2", "must be a mapping")]
)
def test_files_that_hold_no_fields_are_refused(text: str, wrong: str, tmp_path: Any) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=wrong):
        fields_of(path)


def test_files_that_are_missing_or_huge_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot read config .*no\.yaml"):
        fields_of(str(tmp_path / "no.yaml"))
    (tmp_path / "big.yaml").write_text("#" * (1 << 20) + "\na: 1")
    with pytest.raises(ValueError, match="is larger than"):
        fields_of(tmp_path / "big.yaml")
