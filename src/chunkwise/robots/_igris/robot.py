"""A robot behind topics: what its sensors publish is an observation, what it is told is published."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Action, Frame, RobotFailed, RobotSpec, commanded
from chunkwise.processing.igris import RuntimeParams
from chunkwise.robots._igris.body import Body, observed
from chunkwise.robots._igris.bus import Bus, InProcessBus
from chunkwise.robots._igris.cameras import Cameras
from chunkwise.robots._igris.devices import camera_modes
from chunkwise.robots._igris.eyes import Eyes
from chunkwise.robots._igris.readings import Readings
from chunkwise.robots._igris.simulation import SimulatedBody, SimulatedEyes
from chunkwise.robots._igris.topics import PREFIX, Topics
from chunkwise.transports._ros2 import Settings
from chunkwise.transports._ros2.bus import Ros2Bus

Transport = Literal["ros2", "fake"]
Stamps = Literal["header", "receipt"]
LOOK_S: Final = 0.01
"""How often `connect` looks for what has not arrived [s]."""


@dataclass(frozen=True, slots=True)
class Links:
    """What stands between a robot and the world.

    Attributes:
        bus: its topics.
        cameras: those of its cameras that no topic shows.
        stamp_clock: the time that stamps are of [s].
        simulation: the body behind the topics, where it is simulated; it moves on with every observation.
    """

    bus: Bus
    cameras: Eyes
    stamp_clock: Callable[[], float]
    simulation: SimulatedBody | None = None


class TopicRobot:
    """One robot whose sensors and motors are topics, and whose cameras are its own.

    Args:
        body: what it is made of.
        params, topics: its files.
        links: to topics and cameras.
        lockstep: a simulated body moves on by one control step with every command instead.
        stamps: whether a header's stamp, or the arrival, is the time of a capture.
        timeout_s: how long `connect` waits for every sensor.
        clock, sleep: the loop's time [s].

    Raises:
        IgrisFileError: the files do not go together.

    Attributes:
        spec: what it offers.
        bus: its topics; None where there are none yet.
        simulation: the simulated body behind them; None for a real one.
    """

    def __init__(
        self,
        body: Body,
        params: RuntimeParams,
        topics: Topics,
        links: Links,
        *,
        lockstep: bool = False,
        stamps: Stamps = "header",
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spec: RobotSpec = body.spec(params, topics)
        self.simulation = links.simulation
        self._body, self._params, self._topics = body, params, topics
        self.bus, self._cameras = links.bus, links.cameras
        self._lockstep, self._timeout_s, self._clock, self._sleep = lockstep, timeout_s, clock, sleep
        self._keys = observed(body, topics)
        rules = topics.rules()
        self._pictures = {
            name: PREFIX + name
            for name in params.camera_names
            if PREFIX + name in rules and rules[PREFIX + name][1].kind == "image"
        }
        self._texts = {key.removeprefix(PREFIX): key for key, (_, rule) in rules.items() if rule.kind == "text"}
        columns = {part.state: part.spec.dof for part in body.parts}
        columns |= {part.current: part.spec.dof for part in body.parts if part.current}
        self._readings = Readings(columns, clock, links.stamp_clock if stamps == "header" else None)
        self._target: dict[str, NDArray[np.float64]] = {}
        self._sequence_id = 0
        self._connected = False

    def connect(self) -> None:
        """Subscribe, open the cameras, and wait until everything has been seen once.  The robot is not moved.

        Raises:
            RobotFailed: a topic or a camera stays silent; it is named.
            MissingExtra: its topics are ROS 2's, and what they need is not installed.
        """
        if self._connected:
            return
        self._readings.clear()  # what an earlier connection saw is no sign of life
        try:
            for item in self._topics.subscriptions:
                self.bus.subscribe(item.topic, item.msg_type, functools.partial(self._readings.take, item))
            if self.simulation is not None:
                self.simulation.connect()
            self._cameras.start()
            self._wait()
        except BaseException:
            self._let_go()
            raise
        self._target = {
            part.spec.name: np.asarray(self._readings.newest[part.state].value, dtype=np.float64)
            for part in self._body.parts
        }
        self._connected = True

    def observe(self) -> Frame:
        """The newest of everything, each with its own time: what has stopped coming is there, and is old.

        ``frame.meta["faults"]`` says what was wrong with the newest message or camera, where something was.

        Raises:
            RobotFailed: it is not connected.
        """
        self._require_connected()
        if self.simulation is not None and not self._lockstep:
            self.simulation.advance()
        readings, seen = dict(self._readings.newest), self._cameras.newest()
        state = {name: readings[key] for name, key in self._keys.items()}
        pictures = {name: readings[key] for name, key in self._pictures.items()}
        times = {name: reading.time_ns for name, reading in (state | pictures).items()}
        images = {name: np.asarray(reading.value) for name, reading in pictures.items()}
        for name, item in seen.items():
            images[name], times[name] = item.picture, item.time_ns
        faults = self._readings.faults | self._cameras.problems()
        self._sequence_id += 1
        return Frame(
            {name: images[name] for name in self.spec.image_keys},
            {name: np.asarray(reading.value) for name, reading in state.items()},
            {name: readings[key].value for name, key in self._texts.items() if key in readings},
            {"faults": faults} if faults else {},
            timestamp_ns=max(times.values()),
            sequence_id=self._sequence_id,
            times_ns=times,
        )

    def act(self, action: Action) -> Action:
        """Publish every part's target, in the order of the wire; parts that are not named keep theirs.

        Raises:
            InterfaceValidationError: an unknown component, another command kind, or a wrong or non-finite value.
            RobotFailed: it is not connected.
        """
        self._require_connected()
        assert self.bus is not None
        target = self._target | self._checked(action)
        for publication in self._body.publications:
            topic = self._body.topic(publication, self._topics)
            self.bus.publish(topic, publication.msg_type, publication.message(target))
        self._target = target
        if self.simulation is not None and self._lockstep:
            self.simulation.step(1 / self._params.control_hz)
        return action

    def close(self) -> None:
        """Let go of topics and cameras; the robot keeps its last target.  Twice is fine."""
        self._connected = False
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._cameras.close()
        finally:
            if self.bus is not None:
                self.bus.close()

    def _require_connected(self) -> None:
        if not self._connected:
            raise RobotFailed(f"{self.spec.name} is not connected; call connect() first")

    def _wait(self) -> None:
        until_s = self._clock() + self._timeout_s
        while True:
            if self.simulation is not None:
                self.simulation.advance()
            missing = self._missing()
            if not missing:
                return
            if self._clock() > until_s:
                listed = "; ".join(missing)
                raise RobotFailed(f"{self.spec.name}: nothing arrived within {self._timeout_s:g} s of {listed}")
            self._sleep(LOOK_S)

    def _missing(self) -> list[str]:
        """What was never seen, with what is known about it."""
        rules, there = self._topics.rules(), self._readings.newest
        wanted = [*self._keys.values(), *self._pictures.values()]
        missing = {key: f"{key} ({rules[key][0].topic})" for key in wanted if key not in there}
        seen = self._cameras.newest()
        for name in self.spec.image_keys:
            if name not in self._pictures and name not in seen:
                missing[name] = f"camera {name}"
        faults = self._readings.faults | self._cameras.problems()
        return [text + (f": {faults[key]}" if key in faults else "") for key, text in missing.items()]

    def _checked(self, action: Action) -> dict[str, NDArray[np.float64]]:
        """The action's values by component, copied: a message may be kept by who gets it."""
        made = {}
        for name, command in action.commands.items():
            commanded(self.spec, name, command)
            made[name] = command.value.copy()
        return made


def links(
    body: Body,
    params: RuntimeParams,
    topics: Topics,
    *,
    transport: Transport,
    simulated: bool,
    bus: Bus | None,
    camera_mode: str,
    camera_rotate: int,
    clock: Callable[[], float],
    stamp_clock: Callable[[], float],
) -> Links:
    """The links that the options of an IGRIS robot ask for.

    Raises:
        IgrisFileError: the files do not go together, or the topics have what no simulated body has.
        InterfaceValidationError: the cameras' mode is none.
    """
    body.spec(params, topics)  # before anything is made of files that do not go together
    if simulated:
        bus = InProcessBus()
        eyes = SimulatedEyes(params.camera_names, params.image_height, params.image_width, clock)
        return Links(bus, eyes, clock, SimulatedBody(body, topics, bus, clock))
    if bus is None:
        bus = InProcessBus() if transport == "fake" else Ros2Bus(Settings(body.name))
    return Links(bus, Cameras(camera_modes(body, params, topics, camera_mode, camera_rotate)), stamp_clock)
