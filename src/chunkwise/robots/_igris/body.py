"""What an IGRIS robot is made of, and whether its files say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import ComponentSpec, RobotSpec
from chunkwise.contract.errors import nearest
from chunkwise.processing.igris import IgrisFileError, RuntimeParams
from chunkwise.robots._igris import messages
from chunkwise.robots._igris.topics import PREFIX, Topics


@dataclass(frozen=True, slots=True)
class Part:
    """One component, and where it is seen.

    Attributes:
        spec: the component.
        state: the key of its measured values in an observation.
        current: the key of its currents, where the topics have one.
    """

    spec: ComponentSpec
    state: str
    current: str = ""

    @property
    def current_name(self) -> str:
        """The name of its currents in a frame's state."""
        return f"{self.spec.name}.current"


@dataclass(frozen=True, slots=True)
class Publication:
    """A topic that commands go to.

    Attributes:
        topic: with ``{robot_id}`` where the robot's own name stands.
        msg_type: ``JointState`` or ``Float32MultiArray``.
        components: whose values it holds, one after the other, in the order of the wire.
    """

    topic: str
    msg_type: str
    components: tuple[str, ...]

    @property
    def attr(self) -> str:
        """The array of the message that holds them."""
        return "position" if self.msg_type == "JointState" else "data"

    def message(self, values: dict[str, NDArray[np.float64]]) -> Any:
        """The message that says `values`, by component."""
        row = np.concatenate([values[name] for name in self.components])
        if self.msg_type == "JointState":
            return messages.JointState(position=row)
        return messages.Float32MultiArray(row.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Body:
    """A robot behind topics.

    Attributes:
        name: the robot's.
        parts: in the policy's order.
        publications: together they name every part once.
        cameras: name -> device.
    """

    name: str
    parts: tuple[Part, ...]
    publications: tuple[Publication, ...]
    cameras: dict[str, str]

    @property
    def dof(self) -> int:
        """Columns of an action."""
        return sum(part.spec.dof for part in self.parts)

    def topic(self, publication: Publication, topics: Topics) -> str:
        """Where it is published, with the robot's own name in it."""
        return publication.topic.replace("{robot_id}", topics.robot_id)

    def spec(self, params: RuntimeParams, topics: Topics) -> RobotSpec:
        """What the robot offers, with these files.

        Raises:
            IgrisFileError: they do not go together, or not with the robot; the message names the keys.
        """
        state_keys = [name for name, key in observed(self, topics).items() if key not in _states(self)]
        self._check_widths(params, topics)
        pictures = {key.removeprefix(PREFIX) for key, (_, rule) in topics.rules().items() if rule.kind == "image"}
        known = {*self.cameras, *pictures}
        for name in params.camera_names:
            if name not in known:
                raise IgrisFileError(
                    f"camera_names: {self.name} has no {name!r}{nearest(name, known)}; there are: "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
        return RobotSpec(
            self.name,
            list(params.camera_names),
            [part.spec for part in self.parts],
            {"igris": {"robot_id": topics.robot_id, "max_delta_deg": params.max_delta_deg}},
            state_keys=state_keys,
            control_hz=params.control_hz,
        )

    def _check_widths(self, params: RuntimeParams, topics: Topics) -> None:
        if topics.hz != params.control_hz:
            raise IgrisFileError(
                f"HZ is {params.control_hz:g} in the runtime parameters and {topics.hz:g} in {topics.where}: "
                "one rate for both"
            )
        for part in self.parts:
            topics.need(part.state, part.spec.dof, part.spec.name)
        if params.action_dim != self.dof:
            listed = ", ".join(f"{part.spec.name} {part.spec.dof}" for part in self.parts)
            raise IgrisFileError(f"action_dim is {params.action_dim}, and {self.name} has {self.dof} ({listed})")
        seen = set(observed(self, topics).values())
        currents = [part for part in self.parts if part.current]
        absent = [part.current for part in currents if part.current not in seen]
        whole = self.dof + sum(part.spec.dof for part in currents)
        if params.proprio_state_dim not in (self.dof, whole):
            raise IgrisFileError(
                f"proprio_state_dim is {params.proprio_state_dim}; {self.name} has {self.dof} positions"
                + (f", and {whole} columns with currents" if currents else "")
            )
        if params.proprio_state_dim != self.dof and absent:
            raise IgrisFileError(
                f"proprio_state_dim is {whole}, with currents, and {topics.where} has no {', '.join(absent)}"
            )


def observed(body: Body, topics: Topics) -> dict[str, str]:
    """Names in a frame's state -> keys of the topics file: the components', their currents', then all others' that
    are numbers, without ``/observation/``.

    Raises:
        IgrisFileError: currents have another number of columns than their component.
    """
    rules = topics.rules()
    made = {part.spec.name: part.state for part in body.parts}
    for part in body.parts:
        if part.current in rules:
            topics.need(part.current, part.spec.dof, part.current_name)
            made[part.current_name] = part.current
    taken = set(made.values())
    for key, (_, rule) in rules.items():
        if key not in taken and rule.kind not in ("image", "text"):
            made[key.removeprefix(PREFIX)] = key
    return made


def _states(body: Body) -> set[str]:
    return {part.state for part in body.parts}
