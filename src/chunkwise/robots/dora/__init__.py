"""OpenArm in a Dora dataflow, of which the control loop is a node.

The package also holds nodes of our own, a simulated OpenArm and a controller: ``python -m chunkwise.robots.dora``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import Action, Frame, RobotSpec, commanded
from chunkwise.robots.dora.messages import arm_joints, arm_message, jpeg_image, posts_of

__all__ = ["Dora"]

SIDES: Final = ("right", "left")
TRACKER: Final = "phase_classifier_result"
LOOK_S: Final = 0.01
"""How often `connect` looks for what has not arrived [s]."""


def _node(node_id: str) -> Any:
    """This process's node where Dora started it, else the dynamic node of that name."""
    dora = plugins.require("dora", extra="dora")
    return dora.Node() if "DORA_NODE_CONFIG" in os.environ else dora.Node(node_id)


class Dora:
    """Two OpenArms whose drivers and cameras are nodes of a dataflow.

    The dataflow starts the control loop (``path: chunkwise``, ``args: run --robot dora ...``), or lets it join
    while it runs (``path: dynamic``). The node's inputs are named as the observer's: `arm_right`, `arm_left`
    (8 numbers each [rad]), `camera_...` (JPEG) and `phase_classifier_result`; its outputs are
    `move_position_right` and `move_position_left`. An observation is the newest of each that arrived.

    Args:
        node_id: the dynamic node's name in the dataflow.
        cameras: inputs with images.
        tracker: the posts of the task "two belts" come as `phase_classifier_result`, for state `belts`
            (2 lanes, 2 posts, 2) [m].
        control_hz: rate of the loop [1/s].
        timeout_s: how long `connect` waits for every input.
        node_factory: makes the node from its name; None asks Dora for it.
        clock, sleep: time [s].
    """

    def __init__(
        self,
        *,
        node_id: str = "chunkwise",
        cameras: tuple[str, ...] = (),
        tracker: bool = True,
        control_hz: float = 50.0,
        timeout_s: float = 10.0,
        node_factory: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # The limits and names of the joints are those of the simulated twin.
        twin: RobotSpec = plugins.load("robots", "openarm_sim")(control_hz=control_hz).spec
        state_keys = ["belts"] if tracker else []
        self.spec = RobotSpec("dora", list(cameras), twin.components, state_keys=state_keys, control_hz=control_hz)
        self._inputs = {*(f"arm_{side}" for side in SIDES), *cameras, *([TRACKER] if tracker else [])}
        self._node_id, self._timeout_s = node_id, timeout_s
        self._make, self._clock, self._sleep = node_factory or _node, clock, sleep
        self._node: Any = None
        self._newest: dict[str, NDArray[Any]] = {}
        self._target: dict[str, NDArray[np.float64]] = {}
        self._received_ns: dict[str, int] = {}
        self._sequence_id = 0

    def connect(self) -> None:
        """Join the dataflow and wait until every input has arrived once.

        Raises:
            MissingExtra: dora-rs is not installed.
            TimeoutError: an input is silent; the message names it.
        """
        if self._node is not None:
            return
        self._node = self._make(self._node_id)
        until_s = self._clock() + self._timeout_s
        self._take()
        while missing := self._inputs - self._newest.keys():
            if self._clock() > until_s:
                self.close()
                raise TimeoutError(f"nothing arrived within {self._timeout_s:g} s at {', '.join(sorted(missing))}")
            self._sleep(LOOK_S)
            self._take()
        self._target = {side: self._newest[f"arm_{side}"] for side in SIDES}

    def observe(self) -> Frame:
        """The newest joints, posts and images, each with the time it arrived here.

        Raises:
            ConnectionError: the dataflow has ended.
        """
        self._take()
        state = {}
        for side in SIDES:
            state[f"{side}_arm"], state[f"{side}_gripper"] = np.split(self._newest[f"arm_{side}"], [7])
        if TRACKER in self._inputs:
            state["belts"] = self._newest[TRACKER]
        images = {camera: self._newest[camera] for camera in self.spec.image_keys}
        received = self._received_ns
        times = {camera: received[camera] for camera in images}
        for side in SIDES:
            times[f"{side}_arm"] = times[f"{side}_gripper"] = received[f"arm_{side}"]
        self._sequence_id += 1
        return Frame(
            images, state, timestamp_ns=max(received.values()), sequence_id=self._sequence_id, times_ns=times
        )

    def act(self, action: Action) -> Action:
        """Send both arms' targets; components that the action does not name keep theirs.

        Raises:
            InterfaceValidationError: an unknown component, another command kind, or a wrong or non-finite value.
        """
        if self._node is None:
            raise RuntimeError("the robot is not connected; call connect() first")
        target = {side: joints.copy() for side, joints in self._target.items()}
        for name, command in action.commands.items():
            commanded(self.spec, name, command)
            side, _, part = name.partition("_")
            target[side][slice(7) if part == "arm" else slice(7, 8)] = command.value
        self._target = target
        for side, joints in target.items():
            self._node.send_output(f"move_position_{side}", arm_message(joints))
        return action

    def close(self) -> None:
        """Leave the dataflow. Twice is fine."""
        self._node = None  # Dora's node leaves when it is dropped
        self._newest = {}

    def _take(self) -> None:
        """Keep the newest of each input."""
        if self._node is None:
            raise RuntimeError("the robot is not connected; call connect() first")
        events: list[Mapping[str, Any]] | None = self._node.drain()
        if events is None or any(event["type"] == "STOP" for event in events):
            raise ConnectionError("the dataflow has ended")
        arrived = {
            event["id"]: event["value"]
            for event in events
            if event["type"] == "INPUT" and event["id"] in self._inputs
        }
        if arrived:
            # Read at once: a message may lie in memory that its sender wants back.
            self._newest |= {name: _read(name, message) for name, message in arrived.items()}
            self._received_ns |= dict.fromkeys(arrived, round(1e9 * self._clock()))


def _read(name: str, message: Any) -> NDArray[Any]:
    """What arrived at an input, as an array that nobody writes again."""
    if name == TRACKER:
        return posts_of(message)
    return arm_joints(message) if name.startswith("arm_") else jpeg_image(message)
