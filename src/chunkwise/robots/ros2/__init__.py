"""A robot behind ROS 2 topics, with or without a ROS installation; a file says which topic is what."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Action, Command, Frame, Hold, InterfaceValidationError, RobotFailed, commanded
from chunkwise.robots.ros2 import own
from chunkwise.robots.ros2.body import Body, Observation, Output
from chunkwise.robots.ros2.contracts import contract_body, igris_body
from chunkwise.robots.ros2.newest import Newest, Reading, joined
from chunkwise.robots.ros2.trees import Ros2FileError, read
from chunkwise.robots.ros2.writings import message_of
from chunkwise.transports._ros2 import Api, Node, Publisher, Settings, open_node

__all__ = ["Ros2"]

LOOK_S: Final = 0.01
"""How often `connect` looks for what has not arrived [s]."""
UNUSABLE_NS: Final = 0
"""The capture time of what is older than its ``tol_ms``: before every limit that a loop can have."""


class Ros2:
    """Joints, cameras and commands that are topics.

    Args:
        config: the file that says which topic is what: our own YAML (see docs/robots/ros2.md), IB-Robot's
            ``robot_config`` YAML, or the topics JSON of the IGRIS engine.
        actions: a YAML of ours with ``actions``, for a topics JSON, which has none.
        api: ``dds`` needs no ROS; ``rclpy`` uses the one that is installed; ``auto`` prefers it.
        node_name: in the graph.
        domain: ROS domain; ``ROS_DOMAIN_ID`` without.
        loopback: speak to this host only; ``ROS_LOCALHOST_ONLY`` without.
        distro: whose message types are spoken.
        max_message_mb: larger messages are refused [MiB].
        timeout_s: how long `connect` waits for every observation, and for who takes commands.
        await_listeners: whether `connect` waits until somebody listens at every topic of commands.
        node: a node of the program's own.
        clock, sleep: the loop's time [s].
        wall: the time of the headers' stamps [s].

    Raises:
        FileNotFoundError: there is no such file.
        Ros2FileError: it is not what it must be.

    Attributes:
        spec: what it offers.
    """

    def __init__(
        self,
        *,
        config: Path,
        actions: Path | None = None,
        api: Api = "auto",
        node_name: str = "chunkwise",
        domain: int | None = None,
        loopback: bool | None = None,
        distro: str = "jazzy",
        max_message_mb: int = 64,
        timeout_s: float = 10.0,
        await_listeners: bool = True,
        node: Node | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if max_message_mb < 1:
            raise InterfaceValidationError(f"ros2: max_message_mb must be above 0, got {max_message_mb}")
        self._body = _body(Path(config), None if actions is None else Path(actions))
        self.spec = self._body.spec()
        settings = Settings(node_name, domain, loopback, distro, {}, max_message_mb << 20)
        self._given, self._open = node, functools.partial(open_node, settings, api)
        self._timeout_s, self._await_listeners = timeout_s, await_listeners
        self._clock, self._sleep, self._wall = clock, sleep, wall
        self._outputs = {output.component.name: output for output in self._body.outputs}
        self._together: dict[str, list[Output]] = {}
        for output in self._body.outputs:
            self._together.setdefault(output.topic, []).append(output)
        self._node: Node | None = None
        self._connected = False
        self._sequence_id = 0

    def connect(self) -> None:
        """Join the graph, and wait until everything was seen once, and counted.  The robot is not moved.

        Raises:
            TimeoutError: a joint, a camera or another topic stays silent or comes too old, or nobody takes
                commands; the message names each, and what is known about why.
            MissingExtra: what the way into the graph needs is not installed.
            OSError: there is no such network.
        """
        if self._connected:
            return
        step_s = 1 / self._body.control_hz
        limits = {item.key: item.align.limit_s(step_s) for item in self._body.observations}
        self._newest = Newest(
            {key: limit for key, limit in limits.items() if limit is not None}, self._wall, self._clock
        )
        self._node = self._given or self._open()
        try:
            self._join(self._node)
            self._wait(self._node)
        except BaseException:
            self._let_go()
            raise
        readings, _, _ = self._newest.now()
        seen = readings | {name: joined(readings, keys) for name, keys in self._body.joined.items()}
        self._target = {
            name: self._measured(output, seen).value if output.state else np.zeros(output.component.dof)
            for name, output in self._outputs.items()
        }
        self._unsent: dict[str, str] = {}
        self._connected = True

    def observe(self) -> Frame:
        """The newest of everything, each with the time of its capture; what stopped coming is there, and is old.

        What is older than its ``tol_ms`` has the capture time 0.  ``frame.meta["faults"]`` says by name what was
        wrong with the newest message, how old what is too old is, and which command could not be sent.

        Raises:
            RobotFailed: it is not connected.
        """
        self._require_connected()
        readings, faults, old = self._newest.now()
        usable = {
            key: item._replace(time_ns=UNUSABLE_NS) if key in old else item for key, item in readings.items()
        }
        for name, keys in self._body.joined.items():
            usable[name] = joined(usable, keys)
        for name, output in self._outputs.items():
            if output.state:
                usable[name] = self._measured(output, usable)
        images = {key: usable[key].value for key in self.spec.image_keys}
        state = {key: usable[key].value for key in self.spec.all_state_keys() if key in usable}
        self._sequence_id += 1
        return Frame(
            images,
            state,
            meta={"faults": faults | self._unsent} if faults or self._unsent else {},
            timestamp_ns=max((item.time_ns for item in readings.values()), default=0),
            sequence_id=self._sequence_id,
            times_ns={key: usable[key].time_ns for key in (*images, *state)},
        )

    def act(self, action: Action) -> Action:
        """Publish the commands, within their clamps.

        Components of the same topic that are not named keep their targets, and stand still where they have
        velocities.

        Raises:
            InterfaceValidationError: an unknown component, another command kind, or a wrong or non-finite value.
            RobotFailed: it is not connected.
        """
        self._require_connected()
        applied = {name: self._checked(name, command) for name, command in action.commands.items()}
        for name, output in self._outputs.items():
            if name in applied:
                self._target[name] = applied[name].value
            elif output.component.hold == Hold.ZERO:
                self._target[name] = np.zeros(output.component.dof)
        for topic, outputs in self._together.items():
            if any(output.component.name in applied for output in outputs):
                self._send(topic, outputs, applied)
        return Action(applied)

    def close(self) -> None:
        """Leave the graph; the robot keeps its last command.  Twice is fine."""
        self._connected = False
        self._let_go()

    def _let_go(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.close()

    def _require_connected(self) -> None:
        if not self._connected:
            raise RobotFailed(f"{self.spec.name} is not connected; call connect() first")

    # Into the graph -------------------------------------------------------------------------------------------

    def _join(self, node: Node) -> None:
        wanted: dict[str, list[Observation]] = {}
        for item in self._body.observations:
            wanted.setdefault(item.topic, []).append(item)
        for topic, items in wanted.items():
            node.subscribe(
                topic,
                items[0].type,
                functools.partial(_take, self._newest, topic, items),
                qos=items[0].qos,
                on_fault=functools.partial(self._newest.fault, topic),
            )
        self._publishers: dict[str, Publisher] = {
            topic: node.publisher(topic, outputs[0].type, qos=outputs[0].qos)
            for topic, outputs in self._together.items()
        }

    def _wait(self, node: Node) -> None:
        until_s = self._clock() + self._timeout_s
        counted: set[str] = set()  # it is enough that each has counted once
        while True:
            readings, faults, old = self._newest.now()
            counted |= readings.keys() - old
            silent = [item for item in self._body.observations if item.key not in counted]
            deaf = [topic for topic, sender in self._publishers.items() if not sender.listeners()]
            if not silent and not (deaf and self._await_listeners):
                return
            if self._clock() > until_s:
                break
            self._sleep(LOOK_S)
        said = []
        for item in silent:
            why = faults.get(item.key) or faults.get(item.topic) or self._newest.strangers.get(item.key)
            what = "camera" if item.picture else "state"
            clocks = "; where the hosts' clocks differ: align: {stamp: receive}" if item.key in old else ""
            said.append(f"{what} {item.key} ({item.topic}): {why or node.silence(item.topic)}{clocks}")
        if self._await_listeners:
            said += [
                f"commands at {topic}: nobody listens (with await_listeners=false that is fine)" for topic in deaf
            ]
        raise TimeoutError(f"{self.spec.name}: within {self._timeout_s:g} s, not there: {'; '.join(said)}")

    # Observations and commands --------------------------------------------------------------------------------

    @staticmethod
    def _measured(output: Output, readings: dict[str, Reading]) -> Reading:
        """Where a component stands."""
        seen = readings[output.state]
        if output.state_columns is None:
            return seen
        return Reading(seen.value[list(output.state_columns)], seen.time_ns)

    def _checked(self, name: str, command: Command) -> Command:
        """A command as it is sent."""
        spec = commanded(self.spec, name, command)
        value: NDArray[np.float64] = np.array(command.value)
        if spec.lower is not None or spec.upper is not None:
            value = np.clip(value, spec.lower, spec.upper)
        return Command(command.command, value, command.ref_frame, command.meta)

    def _send(self, topic: str, outputs: list[Output], applied: dict[str, Command]) -> None:
        frame = next(
            (applied[item.component.name].ref_frame for item in outputs if item.component.name in applied), ""
        )
        fields: dict[str, Any] = message_of(outputs, self._target, round(1e9 * self._wall()), frame or "")
        try:
            self._publishers[topic].publish(fields)
        except TimeoutError as error:  # the next one comes in a period; a slow reader costs no more than this one
            self._unsent[topic] = str(error)
        else:
            self._unsent.pop(topic, None)


def _take(newest: Newest, topic: str, items: list[Observation], message: Any, _: int) -> None:
    newest.take(topic, items, message)


def _body(config: Path, actions: Path | None) -> Body:
    """The robot of whichever file it is."""
    value, where = read(config), config.name
    keys = set(value) if isinstance(value, dict) else set()
    if {"robot_id", "topics"} & keys:
        if actions is None:
            raise Ros2FileError(f"{where} is a topics JSON, which has no commands: actions names a YAML with them")
        return igris_body(value, read(actions), where)
    if actions is not None:
        raise Ros2FileError(f"{where} has its own actions; a file of actions is for a topics JSON")
    return contract_body(value, where) if "robot" in keys else own.body_of(value, where)
