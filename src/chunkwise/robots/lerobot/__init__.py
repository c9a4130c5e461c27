"""Any robot of an installed LeRobot, by the names of its features; its calibration is used, never touched."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Action, Command, Frame, InterfaceValidationError, RobotFailed, RobotSpec, commanded
from chunkwise.robots.lerobot.arms import let_go, ranges, uncalibrated, zeros_kept
from chunkwise.robots.lerobot.features import Rates, Units, body_of
from chunkwise.robots.lerobot.making import fields_of, make

__all__ = ["Lerobot"]


class Lerobot:
    """A robot that LeRobot drives, bound by the names of its features.

    Its components are in the order of LeRobot's action features, so that their rows, one after the other, are
    LeRobot's own flat vectors (OpenArm's without the velocities and torques that LeRobot never sends);
    ``spec.meta["lerobot"]`` holds its names of actions and observations. Numbers are LeRobot's own: degrees where
    the robot is configured so, else -100..100, and 0..100 for grippers.

    Nothing here calibrates: a robot that is not calibrated is refused.

    Args:
        type: LeRobot's name of the robot: ``so101_follower``; may stand in `config` instead.
        id: which robot of that type; its calibration has this name.
        port: of its motor bus.
        cameras: camera -> its configuration, as LeRobot's: ``{front: {type: opencv, index_or_path: 0, ...}}``.
        use_degrees: whether its joints are in degrees; LeRobot's default for the robot where None.
        config: further fields of its configuration, as a mapping, or a YAML file of one; the others win.
        units: ``rad`` for radians (and rad/s) where the robot is in degrees.
        max_rate: fastest change of a joint's target, in degrees or LeRobot's units per second.
        gripper_rate: the same of a gripper's.
        base_speed: fastest motion of a base [m/s].
        base_turn: fastest turn of a base [degrees/s].
        control_hz: rate of the loop [1/s].
        retries: how often an observation that the bus has lost is asked for again at once. Commands are not.
        clock: time [s] of observations.

    Raises:
        ValueError: no such robot, camera or field, or a value that is none.
        InterfaceValidationError: its features do not say what they are, or are not in degrees for `units`.
        MissingExtra: LeRobot, or what this robot needs, is not installed.
    """

    def __init__(
        self,
        *,
        type: str | None = None,
        id: str | None = None,
        port: str | None = None,
        cameras: Any = None,
        use_degrees: bool | None = None,
        config: Any = None,
        units: Units = "lerobot",
        max_rate: float = 90.0,
        gripper_rate: float = 200.0,
        base_speed: float = 0.3,
        base_turn: float = 90.0,
        control_hz: float = 30.0,
        retries: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options = {"type": type, "id": id, "port": port, "cameras": cameras, "use_degrees": use_degrees}
        given = fields_of(config) | {name: value for name, value in options.items() if value is not None}
        kind = given.pop("type", None)
        if not isinstance(kind, str):
            raise ValueError("lerobot: which robot? give type, LeRobot's name of it, such as so101_follower")
        if units not in ("lerobot", "rad") or retries < 0:
            raise ValueError(f"lerobot: needs units lerobot or rad, and retries >= 0, got {units=}, {retries=}")
        self._kind, self._id, self._retries, self._clock = kind, given.get("id"), retries, clock
        self._robot = make(kind, given)
        actions, observed = self._robot.action_features, self._robot.observation_features
        rates = Rates(max_rate, gripper_rate, base_speed, base_turn)
        try:
            self._body = body_of(actions, observed, ranges(self._robot), rates, units)
        except InterfaceValidationError as error:
            raise InterfaceValidationError(f"lerobot {kind}: {error}") from error
        self.spec = RobotSpec(
            kind,
            list(self._body.cameras),
            self._body.components,
            {"lerobot": {"type": kind, "action": list(actions), "observation": list(observed)}},
            state_keys=self._body.state_keys,
            control_hz=control_hz,
        )
        self._connected = False
        self._target: dict[str, float] = {}  # of every command, in LeRobot's numbers
        self._sequence_id = 0

    def connect(self) -> None:
        """Connect motors and cameras, torque on, calibration as it is; where it stands is its first target.

        Raises:
            RobotFailed: it is not calibrated, or something of it does not answer.
        """
        if self._connected:
            return
        calibrate = f"run `lerobot-calibrate --robot.type={self._kind} --robot.id={self._id} ...`"
        if missing := uncalibrated(self._robot):
            raise RobotFailed(f"{self._name} is not calibrated: {'; '.join(missing)}; {calibrate}")
        # LeRobot's robots elsewhere, whose calibration is not ours to ask for, do not take the argument.
        takes = "calibrate" in inspect.signature(self._robot.connect).parameters
        try:
            with self._blamed("connecting"), zeros_kept(self._robot):
                self._robot.connect(**({"calibrate": False} if takes else {}))
                if self._robot.is_calibrated is False:
                    raise RobotFailed(f"its motors are calibrated otherwise than its file says; {calibrate}")
                observation = self._observation()
            with self._blamed("its first observation"):
                self._target = self._standing(observation) | self._body.halt
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                let_go(self._robot, {})
            raise
        self._connected = True

    def observe(self) -> Frame:
        """The joints now and each camera's newest picture; its time is just before the joints were asked for.

        Raises:
            RobotFailed: a motor or camera does not answer, or answers otherwise than its features say.
        """
        self._require_connected()
        asked_s = self._clock()
        with self._blamed("observing"):
            observation = self._observation()
            state = {group.name: group.read(observation) for group in self._body.measured}
            images = {camera: _picture(observation, camera) for camera in self._body.cameras}
        self._sequence_id += 1
        return Frame(images, state, timestamp_ns=round(1e9 * asked_s), sequence_id=self._sequence_id)

    def act(self, action: Action) -> Action:
        """Send every component's target; those that the action does not name keep theirs, and bases of them stop.

        Returns:
            What LeRobot says it sent to the named ones: less than asked where ``max_relative_target`` says so.

        Raises:
            InterfaceValidationError: an unknown component, another command kind, or a wrong or non-finite value.
            RobotFailed: a motor does not answer.
        """
        self._require_connected()
        goal = self._target | self._goal(action)
        with self._blamed("acting"):
            sent = self._robot.send_action(goal)
            applied = {
                name: Command(command.command, self._body.groups[name].read(sent))
                for name, command in action.commands.items()
            }
        self._target = goal | self._body.halt
        return Action(applied)

    def close(self) -> None:
        """Stop bases, let go of motors and cameras; torque goes off or stays on as LeRobot's configuration says.

        Twice is fine.

        Raises:
            RobotFailed: a part of it did not answer; what could be let go is.
        """
        if not self._connected:
            return
        self._connected = False
        with self._blamed("letting go (its torque may still be on)"):
            let_go(self._robot, self._target if self._body.halt else {})

    @property
    def _name(self) -> str:
        return f"lerobot {self._kind}" + (f" {self._id!r}" if self._id else "")

    def _require_connected(self) -> None:
        if not self._connected:
            raise RobotFailed(f"{self._name} is not connected; call connect() first")

    @contextmanager
    def _blamed(self, doing: str) -> Iterator[None]:
        """Whatever is raised meanwhile, as an error that says of which robot and when."""
        try:
            yield
        except Exception as error:
            what = "" if isinstance(error, RobotFailed) else f"{error.__class__.__name__}: "
            raise RobotFailed(f"{self._name}: {doing}: {what}{' '.join(str(error).split())}") from error

    def _observation(self) -> Mapping[str, Any]:
        """LeRobot's observation, asked for again where a packet was lost."""
        for left in range(self._retries, -1, -1):
            try:
                found: Mapping[str, Any] = self._robot.get_observation()
                return found
            except ConnectionError:
                if not left or not self._robot.is_connected:
                    raise
        raise AssertionError("range() above is never empty")

    def _standing(self, observation: Mapping[str, Any]) -> dict[str, float]:
        """The targets that hold the robot where it was seen, of the components that were."""
        commanded = [group for group in self._body.measured if group.name in self._body.groups]
        return {name: value for group in commanded for name, value in group.write(group.read(observation)).items()}

    def _goal(self, action: Action) -> dict[str, float]:
        goal: dict[str, float] = {}
        for name, command in action.commands.items():
            commanded(self.spec, name, command)
            goal |= self._body.groups[name].write(command.value)
        return goal


def _picture(observation: Mapping[str, Any], camera: str) -> NDArray[np.uint8]:
    picture = observation.get(camera)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        raise RobotFailed(f"camera {camera!r} shows no picture (height, width, 3) of uint8")
    return picture
