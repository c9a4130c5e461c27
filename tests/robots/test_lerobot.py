"""Robots of LeRobot's own classes, on simulated servos: bound by name, driven, and let go."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Action, Command, InterfaceValidationError, RobotFailed, robot_layout
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.options import chosen
from chunkwise.robots import Robot
from chunkwise.robots.lerobot import Lerobot
from chunkwise.runtime.session import Session
from chunkwise.testing import RobotConformance
from chunkwise.testing.world import SimulatedClock

pytestmark = pytest.mark.slow  # LeRobot's import alone takes seconds
CAMERA = {"type": "synthetic", "width": 8, "height": 6, "fps": 30}


def beside(name: str) -> ModuleType:
    """The module of that name in this folder."""
    known = f"tests_robots_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


simulated = beside("simulated_servos")
ARM = {name: index + 1 for index, name in enumerate(simulated.ARM)}
LEKIWI = {f"arm_{name}": id for name, id in ARM.items()} | {
    f"base_{side}_wheel": 7 + index for index, side in enumerate(("left", "back", "right"))
}


@dataclass
class Bench:
    """A table with robots whose servos are simulated.

    Attributes:
        folder: of their calibrations.
        servos: of the Feetech arms, unless a Koch was made.
        limits: port -> motor -> ticks.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    servos: Any = None
    limits: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def so101(self, **options: Any) -> Lerobot:
        self._wire(simulated.FEETECH, {"me": ("/dev/a", ARM)})
        return self._made({"type": "so101_follower", "port": "/dev/a"}, options)

    def koch(self, **options: Any) -> Lerobot:
        self._wire(simulated.DYNAMIXEL, {"me": ("/dev/a", ARM)})
        return self._made({"type": "koch_follower", "port": "/dev/a"}, options)

    def both(self, **options: Any) -> Lerobot:
        self._wire(simulated.FEETECH, {"me_left": ("/dev/l", ARM), "me_right": ("/dev/r", ARM)})
        arms = {
            "left_arm_config": {"port": "/dev/l", "cameras": {"wrist": CAMERA}},
            "right_arm_config": {"port": "/dev/r"},
        }
        return self._made({"type": "bi_so_follower", "config": arms}, options)

    def lekiwi(self, **options: Any) -> Lerobot:
        self._wire(simulated.FEETECH, {"me": ("/dev/a", LEKIWI)})
        return self._made({"type": "lekiwi", "port": "/dev/a", "cameras": {"front": CAMERA}}, options)

    def ticks(self, port: str, id: int) -> int:
        """Where a servo stands."""
        length = 2 if self.servos.family is simulated.FEETECH else 4
        return int(self.servos.read(port, id, self.servos.family.present, length))

    def wheels(self) -> list[int]:
        return [self.servos.read("/dev/a", id, self.servos.family.speed, 2) for id in (7, 8, 9)]

    def torque(self, port: str = "/dev/a", ids: range = range(1, 7)) -> set[bool]:
        return {self.servos.torque(port, id) for id in ids}

    def _wire(self, family: Any, buses: dict[str, tuple[str, dict[str, int]]]) -> None:
        self.servos = simulated.Servos(family)
        for name, module in self.servos.modules().items():
            self.monkeypatch.setitem(sys.modules, name, module)
        for name, (port, motors) in buses.items():
            self.limits[port] = simulated.calibrated(self.servos, self.folder, name, port, motors)

    def _made(self, own: dict[str, Any], options: dict[str, Any]) -> Lerobot:
        given = {"id": "me"} | own | options
        config = own.get("config", {}) | options.get("config", {}) | {"calibration_dir": str(self.folder)}
        return Lerobot(**given | {"config": config})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    simulated.synthetic_camera()
    return Bench(tmp_path, monkeypatch)


def told(robot: Robot, **values: Any) -> Action:
    """An action by component."""
    commands = {}
    for name, value in values.items():
        component = robot.spec.get_component(name)
        assert component is not None
        commands[name] = Command(component.command[0], np.array(value, dtype=np.float64))
    return Action(commands)


ROBOTS: dict[str, Callable[[Bench], Lerobot]] = {
    "so101": lambda bench: bench.so101(cameras={"front": CAMERA}),
    "so101_normalised": lambda bench: bench.so101(use_degrees=False),
    "so101_radians": lambda bench: bench.so101(units="rad"),
    "koch": lambda bench: bench.koch(use_degrees=True),
    "both": lambda bench: bench.both(),
    "lekiwi": lambda bench: bench.lekiwi(),
}


class TestConformance(RobotConformance):
    @pytest.fixture(autouse=True, params=ROBOTS)
    def _bench(self, request: pytest.FixtureRequest, bench: Bench) -> None:
        self.made, self.bench = ROBOTS[request.param], bench

    def make_robot(self) -> Robot:
        return self.made(self.bench)


def test_rows_are_lerobots_vectors(bench: Bench) -> None:
    for robot in (bench.so101(), bench.both(), bench.lekiwi()):
        names = [name.rpartition(".")[0] for name in robot.spec.meta["lerobot"]["action"]]
        assert robot_layout(robot.spec).names == names


def test_limits_are_those_of_the_calibration(bench: Bench) -> None:
    arm, gripper = bench.so101().spec.components
    lower, upper = bench.limits["/dev/a"]["elbow_flex"]
    assert arm.unit == "degrees" and gripper.unit == "range_0_100"
    assert arm.upper is not None and arm.upper[2] == pytest.approx((upper - lower) / 2 * 360 / 4095)
    assert arm.lower is not None and arm.lower[2] == -arm.upper[2]
    arm, gripper = bench.koch().spec.components
    assert (arm.unit, arm.lower, arm.upper) == ("range_m100_100", [-100.0] * 5, [100.0] * 5)


@pytest.mark.parametrize("units", ["lerobot", "rad"])
def test_numbers_reach_the_motor_they_are_for(units: str, bench: Bench) -> None:
    robot = bench.so101(units=units)
    robot.connect()
    degrees = np.array([10.0, -20.0, 30.0, -40.0, 50.0])
    value = np.radians(degrees) if units == "rad" else degrees
    applied = robot.act(told(robot, arm=value, gripper=[25.0]))
    assert np.allclose(applied.commands["arm"].value, value)
    for id, (name, (lower, upper)) in enumerate(bench.limits["/dev/a"].items(), start=1):
        share = (upper - lower) * 0.25 + lower
        want = share if name == "gripper" else (lower + upper) / 2 + degrees[id - 1] * 4095 / 360
        assert bench.ticks("/dev/a", id) == pytest.approx(want, abs=1)
    state = robot.observe().state
    assert np.allclose(state["arm"], value, atol=0.1) and state["gripper"] == pytest.approx(25, abs=0.1)
    robot.close()


def test_options_are_texts_on_the_command_line(bench: Bench) -> None:
    bench.so101()
    given = {
        "type": "so101_follower",
        "port": "/dev/a",
        "id": "me",
        "cameras": "{front: {type: synthetic, width: 8, height: 6, fps: 30}}",
        "config": f"{{calibration_dir: {bench.folder}, max_relative_target: 5}}",
        "units": "rad",
        "max_rate": "45",
    }
    maker = plugins.load("robots", "lerobot")
    robot = maker(**chosen(maker, given, "robot lerobot"))
    assert robot.spec.image_keys == ["front"]
    assert robot.spec.components[0].max_rate == pytest.approx([math.pi / 4] * 5)


def test_what_lerobot_really_sent_is_returned(bench: Bench) -> None:
    robot = bench.so101(config={"max_relative_target": 5})
    robot.connect()
    before = robot.observe().state["arm"]
    applied = robot.act(told(robot, arm=before + np.array([20, 1, 0, 0, -20])))
    assert np.allclose(applied.commands["arm"].value, before + np.array([5, 1, 0, 0, -5]))
    robot.close()


def test_an_arm_that_is_not_named_stays_where_it_is(bench: Bench) -> None:
    robot = bench.both()
    robot.connect()
    assert robot.spec.image_keys == ["left_wrist"]
    before = [bench.ticks("/dev/r", id) for id in range(1, 7)]
    applied = robot.act(told(robot, left_arm=[5.0] * 5))
    assert list(applied.commands) == ["left_arm"]
    after = [bench.ticks("/dev/r", id) for id in range(1, 7)]
    assert np.allclose(after, before, atol=1) and bench.ticks("/dev/l", 5) > 2047
    robot.act(told(robot, right_gripper=[80.0]))
    robot.act(told(robot, left_arm=[6.0] * 5))
    assert robot.observe().state["right_gripper"] == pytest.approx(80, abs=0.1)
    robot.close()


def test_a_base_that_is_not_named_stops(bench: Bench) -> None:
    robot = bench.lekiwi()
    robot.connect()
    robot.act(told(robot, base=[0.1, 0.0, 30.0]))
    assert any(bench.wheels())
    assert np.allclose(robot.observe().state["base"], [0.1, 0.0, 30.0], atol=0.2)
    robot.act(told(robot, arm=[0.0] * 5))
    assert bench.wheels() == [0, 0, 0]
    robot.close()


def test_closing_stops_a_base_even_when_a_camera_is_gone(bench: Bench) -> None:
    for broken in (False, True):
        robot = bench.lekiwi()
        robot.connect()
        robot.act(told(robot, base=[0.1, 0.0, 0.0]))
        if broken:  # LeRobot's own disconnect() refuses such a robot
            robot._robot.cameras["front"].disconnect()
        robot.close()
        assert bench.wheels() == [0, 0, 0] and not bench.servos.open and bench.torque() == {False}


def test_calibrations_are_never_written(bench: Bench) -> None:
    robot = bench.so101()
    file = bench.folder / "me.json"
    before, offset = file.read_bytes(), bench.servos.family.offset[0]
    robot.connect()
    robot.act(told(robot, arm=[1.0] * 5))
    robot.close()
    assert file.read_bytes() == before
    addresses = {address for _, _, address in bench.servos.written}
    assert not addresses & {offset, bench.servos.family.lower[0], bench.servos.family.upper[0]}


def test_a_robot_without_calibration_is_refused_before_it_is_touched(bench: Bench) -> None:
    bench.so101()
    (bench.folder / "me.json").unlink()
    robot = Lerobot(type="so101_follower", port="/dev/a", id="me", config={"calibration_dir": str(bench.folder)})
    cure = r"me\.json has no shoulder_pan, .*lerobot-calibrate --robot\.type=so101_follower --robot\.id=me"
    with pytest.raises(RobotFailed, match=cure):
        robot.connect()
    assert not bench.servos.written and not bench.servos.open


@pytest.mark.parametrize("text", ["{", '{"gripper": 3}', '{"gripper": {"id": "x"}}'])
def test_a_damaged_calibration_is_refused(text: str, bench: Bench) -> None:
    bench.so101()
    (bench.folder / "me.json").write_text(text)
    with pytest.raises(ValueError, match="lerobot so101_follower cannot be made: "):
        Lerobot(type="so101_follower", port="/dev/a", id="me", config={"calibration_dir": str(bench.folder)})


def test_motors_calibrated_otherwise_are_refused_and_let_go(bench: Bench) -> None:
    robot = bench.so101()
    bench.servos.memory["/dev/a", 3][bench.servos.family.lower[0]] += 1
    with pytest.raises(RobotFailed, match="calibrated otherwise than its file says; run `lerobot-calibrate"):
        robot.connect()
    assert not bench.servos.open and bench.torque() == {False}


def test_a_camera_that_does_not_connect_leaves_nothing_connected(bench: Bench) -> None:
    robot = bench.so101(cameras={"front": CAMERA, "wrist": CAMERA | {"broken": True}})
    with pytest.raises(
        RobotFailed, match="lerobot so101_follower 'me': connecting: ConnectionError: no such device"
    ):
        robot.connect()
    assert not bench.servos.open and not robot._robot.cameras["front"].is_connected
    robot.close()


def test_a_port_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(RobotFailed, match="Could not connect on port '/dev/b'"):
        bench.so101(port="/dev/b").connect()


def test_lost_packets_are_asked_for_again_a_little(bench: Bench) -> None:
    robot = bench.so101()
    robot.connect()
    bench.servos.lose = 2
    robot.observe()
    bench.servos.lose = 3
    with pytest.raises(RobotFailed, match="observing: ConnectionError: Failed to sync read 'Present_Position'"):
        robot.observe()
    robot.close()


def test_a_cable_that_is_pulled_is_an_error_by_name_and_the_other_arm_is_let_go(bench: Bench) -> None:
    robot = bench.both()
    robot.connect()
    bench.servos.gone = {"/dev/l"}
    with pytest.raises(RobotFailed, match="'me': acting: ConnectionError: Failed to sync write"):
        robot.act(told(robot, left_arm=[1.0] * 5))
    with pytest.raises(RobotFailed, match="its torque may still be on"):
        robot.close()
    assert bench.torque("/dev/r") == {False} and "/dev/r" not in bench.servos.open
    assert not robot._robot.left_arm.cameras["wrist"].is_connected
    robot.close()
    bench.servos.gone = set()  # else LeRobot's destructor tries in vain


@pytest.mark.parametrize("off", [True, False])
def test_torque_afterwards_is_as_lerobot_is_configured(off: bool, bench: Bench) -> None:
    robot = bench.so101(config={"disable_torque_on_disconnect": off})
    robot.connect()
    assert bench.torque() == {True}
    robot.close()
    assert bench.torque() == {not off}


def test_what_the_robot_cannot_do_is_refused_and_nothing_is_sent(bench: Bench) -> None:
    robot = bench.so101()
    with pytest.raises(RobotFailed, match="not connected; call connect"):
        robot.observe()
    robot.connect()
    before = bench.servos.written.copy()
    for action, wrong in (
        (Action({"arn": Command("joint_position", np.zeros(5))}), "no component 'arn'.*'arm'"),
        (Action({"arm": Command("joint_velocity", np.zeros(5))}), "takes 5 numbers as joint_position"),
        (Action({"arm": Command("joint_position", np.zeros(4))}), r"not joint_position of \(4,\)"),
        (Action({"arm": Command("joint_position", np.full(5, np.nan))}), "not finite"),
    ):
        with pytest.raises(InterfaceValidationError, match=wrong):
            robot.act(action)
    assert bench.servos.written == before
    robot.close()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "which robot"),
        ({"type": "so101_folower"}, "no robot 'so101_folower' .did you mean 'so101_follower'"),
        ({"type": "so101_follower"}, "Missing required field.*port"),
        ({"type": "so101_follower", "config": {"prt": 1}}, "no field 'prt' .did you mean 'port'"),
        ({"type": "so101_follower", "port": "x", "use_degrees": "perhaps"}, "use_degrees.*perhaps"),
        ({"type": "so101_follower", "port": "x", "units": "turns"}, "needs units lerobot or rad"),
        (
            {"type": "bi_so_follower", "config": {"left_arm_config": {"prt": 1}}},
            "left_arm_config has no field 'prt'",
        ),
        ({"cameras": {"front": {"type": "opncv"}}}, "cameras: front: no type 'opncv' .did you mean 'opencv'"),
        ({"cameras": {"front": CAMERA | {"widht": 1}}}, "front has no field 'widht' .did you mean 'width'"),
        ({"cameras": {"front": {"type": "opencv", "index_or_path": 0}}}, "Specifying 'width' is required"),
        (
            {"cameras": {"front": CAMERA | {"type": "opencv", "index_or_path": 0, "color_mode": "bgr"}}},
            "front has another color_mode than rgb",
        ),
    ],
)
def test_what_lerobot_does_not_know_is_refused_by_name(given: Any, wrong: str, bench: Bench) -> None:
    so101 = {"type": "so101_follower", "port": "/dev/a"} if "cameras" in given else {}
    with pytest.raises(ValueError, match=wrong):
        Lerobot(**so101, **given)


def test_missing_software_of_the_motors_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scservo_sdk", None)
    with pytest.raises(plugins.MissingExtra, match="needs scservo_sdk: pip install feetech-servo-sdk"):
        Lerobot(type="so101_follower", port="/dev/a", config={"calibration_dir": str(bench.folder)})


@pytest.mark.parametrize("amplitude", [5.0, 0.0], ids=["wave", "hold"])
@pytest.mark.parametrize("strategy", ["rtc", "sync"])
def test_a_policy_drives_it_on_a_simulated_clock(amplitude: float, strategy: str, bench: Bench) -> None:
    clock = SimulatedClock(100.0)
    robot = bench.so101(cameras={"front": CAMERA}, clock=clock)
    policy = plugins.load("policies", "wave")(components="arm:5", amplitude=amplitude, control_hz=30.0)
    with Session(robot, policy, strategy, worker="inline", clock=clock, sleep=clock.sleep) as session:
        report = session.run(seconds=4.0)
        rows = np.array([turn.sent for turn in session.turns])
        where = np.array(list(robot._target.values()))[:5]
    assert report.steps == 120 and not report.gate and not report.faults
    assert np.allclose(np.ptp(rows, axis=0), 2 * amplitude, atol=0.2)
    assert np.allclose(where, rows[-1])
    assert not bench.servos.open


class TestPluginRobot:
    """A robot of another package, elsewhere on the network: no bus, no calibration of its own, no argument."""

    @pytest.fixture(autouse=True)
    def _rover(self) -> None:
        robots = import_lerobot("lerobot.robots")
        if "rover" in robots.RobotConfig.get_known_choices():
            return

        class Rover(robots.Robot):  # type: ignore[misc, name-defined]
            name = "rover"
            action_features = observation_features = is_connected = is_calibrated = calibrate = configure = None

            def __init__(self, config: Any) -> None:
                self.action_features = {"linear.vel": float, "theta.vel": float}
                self.observation_features = {"linear.vel": float, "battery.level": float, "front": (2, 3, 3)}
                self.is_connected = False
                super().__init__(config)
                self.config, self.sent = config, list[dict[str, float]]()

            def connect(self) -> None:
                self.is_connected = True

            def get_observation(self) -> dict[str, Any]:
                seen = {"linear.vel": 0.1, "battery.level": 0.9, "front": np.zeros((2, 3, 3), np.uint8)}
                return {name: seen[name] for name in seen if name != self.config.blind_to}

            def send_action(self, action: dict[str, float]) -> dict[str, float]:
                self.sent.append(action)
                return {} if self.config.silent else action

            def disconnect(self) -> None:
                self.is_connected = False

        @robots.RobotConfig.register_subclass("rover")  # type: ignore[untyped-decorator]
        @dataclass
        class RoverConfig(robots.RobotConfig):  # type: ignore[misc, name-defined]
            silent: bool = False
            blind_to: str = ""

        plugin: Any = ModuleType("lerobot_robot_rover")
        plugin.Rover, plugin.RoverConfig = Rover, RoverConfig
        RoverConfig.__module__ = plugin.__name__
        sys.modules[plugin.__name__] = plugin

    def made(self, folder: Path, **config: Any) -> Lerobot:
        return Lerobot(type="rover", config=config | {"calibration_dir": str(folder)})

    def test_it_drives_and_stops(self, tmp_path: Path) -> None:
        robot = self.made(tmp_path)
        robot.connect()
        robot.connect()
        frame = robot.observe()
        assert frame.state["battery.level"] == [0.9] and frame.images["front"].shape == (2, 3, 3)
        assert "base" not in frame.state and robot.spec.state_keys == ["linear.vel", "battery.level"]
        robot.act(told(robot, base=[0.2, 10.0]))
        robot.close()
        assert robot._robot.sent == [{"linear.vel": 0.2, "theta.vel": 10.0}, {"linear.vel": 0.0, "theta.vel": 0.0}]

    def test_a_robot_that_does_not_say_what_it_sent_is_told_so(self, tmp_path: Path) -> None:
        robot = self.made(tmp_path, silent=True)
        robot.connect()
        with pytest.raises(RobotFailed, match=r"lerobot rover: acting: 'linear\.vel' is missing"):
            robot.act(told(robot, base=[0.2, 10.0]))
        robot.close()

    @pytest.mark.parametrize(
        ("blind_to", "wrong"),
        [("front", "camera 'front' shows no picture"), ("battery.level", "'battery.level' is")],
    )
    def test_what_is_not_observed_is_named_and_never_made_up(
        self, blind_to: str, wrong: str, tmp_path: Path
    ) -> None:
        robot = self.made(tmp_path, blind_to=blind_to)
        robot.connect()
        with pytest.raises(RobotFailed, match=wrong):
            robot.observe()
        robot.close()
