"""What a robot behind topics is made of, whichever file said so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from numpy.typing import NDArray

from chunkwise.contract import ComponentSpec, Hold, RobotSpec, validate_robot_spec
from chunkwise.contract.errors import nearest
from chunkwise.robots.ros2.trees import Ros2FileError
from chunkwise.transports._ros2 import Qos

Strategy = Literal["hold", "asof", "drop"]
Read = Callable[[Any], NDArray[Any] | None]
"""The value in a message; None where the message is about something else."""

COMMAND_TYPES: Final = (
    "std_msgs/msg/Float64MultiArray",
    "std_msgs/msg/Float32MultiArray",
    "sensor_msgs/msg/JointState",
    "trajectory_msgs/msg/JointTrajectory",
    "geometry_msgs/msg/PoseStamped",
)
"""What commands are published as."""


@dataclass(frozen=True, slots=True)
class Align:
    """Until when a value counts.

    Attributes:
        strategy: ``hold``: until the next one, but no longer than ``tol_s``; ``asof``: for ``tol_s``; ``drop``:
            for one control step, and no longer than ``tol_s``.
        tol_s: [s]; None for no limit, which ``asof`` must have.
        stamp: whether a capture's time is its header's stamp, or its arrival.
    """

    strategy: Strategy = "hold"
    tol_s: float | None = None
    stamp: Literal["header", "receive"] = "header"

    def limit_s(self, step_s: float) -> float | None:
        """The oldest that a value may be; None for any age."""
        if self.strategy == "drop":
            return min(step_s, self.tol_s or step_s)
        return self.tol_s


@dataclass(frozen=True, slots=True)
class Observation:
    """One value that a topic has.

    Attributes:
        key: its name in a frame.
        topic, type: where it comes from.
        read: takes it out of a message.
        picture: whether it is a camera's.
        names: of its numbers, where they have some.
        columns: how many numbers; None where the message decides.
        qos, align: as ROS 2 has them.
    """

    key: str
    topic: str
    type: str
    read: Read
    picture: bool = False
    names: tuple[str, ...] = ()
    columns: int | None = None
    qos: Qos = Qos()  # noqa: RUF009  frozen
    align: Align = Align()


@dataclass(frozen=True, slots=True)
class Output:
    """One component, and where its commands go.

    Attributes:
        component: whose ``lower`` and ``upper`` are the clamp.
        topic, type: where its commands go; components of one topic stand in it one after the other.
        state: the observation that has its measured values; empty for none.
        state_columns: which of that observation's numbers; None for all.
        names: of its joints in the message.
        frame_id: of a pose.
        duration_s: in which a trajectory's point is to be reached [s].
        qos: as ROS 2 has it.
    """

    component: ComponentSpec
    topic: str
    type: str
    state: str = ""
    state_columns: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    frame_id: str = ""
    duration_s: float = 0.02
    qos: Qos = Qos()  # noqa: RUF009  frozen


@dataclass(frozen=True, slots=True)
class Body:
    """A robot behind topics.

    Attributes:
        name: of the robot.
        control_hz: the rate of its loop.
        observations, outputs: in the file's order.
        joined: state that is several observations one after the other: name -> their keys.
        where: the file, for messages.
    """

    name: str
    control_hz: float
    observations: tuple[Observation, ...]
    outputs: tuple[Output, ...]
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: str = "ros2"

    def sources(self, state: str) -> tuple[Observation, ...]:
        """The observations that a state is made of."""
        keys = self.joined.get(state, (state,))
        return tuple(item for key in keys for item in self.observations if item.key == key)

    def spec(self) -> RobotSpec:
        """What the robot offers.

        Raises:
            Ros2FileError: observations and actions do not go together.
        """
        parts = {key for keys in self.joined.values() for key in keys}
        states = [item.key for item in self.observations if not item.picture and item.key not in parts]
        states += list(self.joined)
        if not self.outputs:
            raise Ros2FileError(f"{self.where}: no actions: nothing that a policy could command")
        self._check_topics()
        for output in self.outputs:
            self._check_state(output, states)
        names = {output.component.name for output in self.outputs}
        spec = RobotSpec(
            self.name,
            [item.key for item in self.observations if item.picture],
            [output.component for output in self.outputs],
            state_keys=[key for key in states if key not in names],
            control_hz=self.control_hz,
        )
        validate_robot_spec(spec)
        return spec

    def _check_topics(self) -> None:
        heard: dict[str, tuple[str, Qos]] = {}
        sent: dict[str, tuple[str, Qos]] = {}
        for item in self.observations:
            if heard.setdefault(item.topic, (item.type, item.qos)) != (item.type, item.qos):
                raise Ros2FileError(
                    f"{self.where}: {item.topic} has two types or two QoS; {item.key} is the second"
                )
        for output in self.outputs:
            shape = output.type, output.qos
            if sent.setdefault(output.topic, shape) != shape:
                name = output.component.name
                raise Ros2FileError(f"{self.where}: {output.topic} has two types or two QoS; {name} is the second")
            alone = [other.topic for other in self.outputs].count(output.topic) == 1
            if not (alone or output.state or output.component.hold == Hold.ZERO):
                raise Ros2FileError(
                    f"{self.where}: {output.component.name} shares {output.topic}, and without a state nothing "
                    "says what to send for it before it is commanded: name its state, or give it its own topic"
                )
            if output.type == "geometry_msgs/msg/PoseStamped":
                if not alone:
                    raise Ros2FileError(f"{self.where}: {output.topic}: a pose is of one component")
            elif "Joint" in output.type and not output.names:
                raise Ros2FileError(f"{self.where}: {output.component.name}: a {output.type} needs names")

    def _check_state(self, output: Output, states: list[str]) -> None:
        name, dof = output.component.name, output.component.dof
        if not output.state:
            return
        if output.state not in states:
            there = ", ".join(states) or "none"
            raise Ros2FileError(
                f"{self.where}: action {name}: no observation {output.state!r}{nearest(output.state, states)}, "
                f"which would say where it stands; there are: {there}"
            )
        columns = [item.columns for item in self.sources(output.state)]
        total = sum(count or 0 for count in columns) if None not in columns else None
        chosen = output.state_columns
        pose = output.component.command[0] == "cartesian_pose"
        if chosen is not None and total is not None and max(chosen) >= total:
            raise Ros2FileError(
                f"{self.where}: action {name}: {output.state} has {total} numbers, and it needs that with index "
                f"{max(chosen)}"
            )
        have = len(chosen) if chosen is not None else total
        if have is not None and have != (7 if pose else dof):
            raise Ros2FileError(f"{self.where}: action {name} has {dof} numbers, and {output.state} {have}")
