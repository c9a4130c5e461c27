"""Binding a policy to a robot by name, once, before anything moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.chunk import ActionChunk, ChunkRequest, checked_rows
from chunkwise.contract.errors import BindingError, InterfaceValidationError, nearest
from chunkwise.contract.kinds import get_command_kind_spec
from chunkwise.contract.layout import Array, Layout, Slot, is_pose, robot_layout, slot_of
from chunkwise.contract.rotations import Rotation
from chunkwise.contract.specs import (
    ComponentSpec,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    validate_policy_spec,
    validate_robot_spec,
)
from chunkwise.contract.values import Action, Frame, coerce_action


class Binding:
    """A robot and a policy that fit, and the permutations between them.

    Attributes:
        robot, policy: their specs.
        layout: the robot's rows: commanded components in the robot's order.
        columns: ``(width,)``: column ``j`` of the robot's row is column ``columns[j]`` of the policy's.
    """

    def __init__(
        self,
        robot: RobotSpec,
        policy: PolicySpec,
        layout: Layout,
        columns: NDArray[np.intp],
        states: Mapping[str, NDArray[np.intp]],
    ) -> None:
        self.robot, self.policy, self.layout, self.columns = robot, policy, layout, columns
        self._states = {key: order for key, order in states.items() if not _same_order(order)}
        self._permuted = not _same_order(columns)
        self._back = np.argsort(columns)

    def to_robot(self, rows: Array) -> Array:
        """Rows ``(n, width)`` in the policy's order, in the robot's."""
        return rows[:, self.columns] if self._permuted else rows

    def to_policy(self, rows: Array) -> Array:
        """Rows ``(n, width)`` in the robot's order, in the policy's."""
        return rows[:, self._back] if self._permuted else rows

    def frame(self, frame: Frame) -> Frame:
        """The frame with every state in the joint order that the policy declared."""
        if not self._states:
            return frame
        state = dict(frame.state)
        for key, order in self._states.items():
            state[key] = state[key][order]
        return replace(frame, state=state)

    def request(self, request: ChunkRequest) -> ChunkRequest:
        """The request with its prefix in the policy's order."""
        if request.prefix is None or not self._permuted:
            return request
        return replace(request, prefix=self.to_policy(request.prefix))

    def chunk(self, answer: object) -> ActionChunk:
        """What a policy returned, as a chunk of rows in the robot's order.

        Args:
            answer: an ActionChunk or an array ``(n, width)`` in the policy's column order, an Action (or its
                mapping), or a sequence of Actions.

        Raises:
            InterfaceValidationError: it is none of these, or does not match the policy's spec.
        """
        first_step: int | None = None
        if answer is None:
            raise InterfaceValidationError(
                f"policy {self.policy.name!r}: infer() returned None; it answers rows, an ActionChunk, an Action "
                "or a list of Actions"
            )
        if isinstance(answer, ActionChunk):
            first_step, meta, answer = answer.first_step, answer.meta, answer.rows
            if first_step is not None and (isinstance(first_step, bool) or not isinstance(first_step, int)):
                raise InterfaceValidationError(f"chunk.first_step must be an int, got {first_step!r}")
        else:
            meta = {}
        if isinstance(answer, (Action, Mapping)):
            answer = [answer]
        if isinstance(answer, Sequence) and len(answer) and isinstance(answer[0], (Action, Mapping)):
            rows = checked_rows(np.stack([self.layout.row(coerce_action(item)) for item in answer]))
        else:
            rows = checked_rows(self.to_robot(checked_rows(answer, len(self.columns))))
        return ActionChunk(rows, first_step, meta)

    def describe(self) -> str:
        """The binding as a table for people."""
        lines = [f"policy {self.policy.name!r} drives robot {self.robot.name!r}:"]
        for slot in self.layout.slots:
            columns = self.columns[slot.columns]
            straight = np.array_equal(columns, np.arange(columns[0], columns[0] + slot.dim))
            where = f"{columns[0]}..{columns[-1]}" if straight else ", ".join(map(str, columns))
            note = "" if straight else "   (reordered by joint name)"
            lines.append(
                f"  {slot.component:<16} {slot.command:<20} columns {slot.start}..{slot.stop - 1}"
                f"  <- policy {where}{note}"
            )
        idle = [item.name for item in self.robot.components if item.name not in self.layout.components]
        if idle:
            lines.append(f"  not commanded: {', '.join(idle)}")
        lines += [f"  state {key!r} is reordered by joint name for the policy" for key in self._states]
        return "\n".join(lines)


def connect(robot: RobotSpec, policy: PolicySpec) -> Binding:
    """Bind a policy to a robot by name.

    Raises:
        BindingError: a name that one needs the other lacks; all of them in one message, each with the
            nearest name there is.
        InterfaceValidationError: one of the specs is wrong in itself.
    """
    validate_robot_spec(robot)
    validate_policy_spec(policy)
    problems = _missing_inputs(robot, policy)
    starts: dict[str, int] = {}
    column = 0
    for output in policy.outputs:
        starts[output.target] = column
        column += output.dim
        problems += _output_problems(robot, output)
    if not policy.outputs:
        problems.append(f"policy {policy.name!r} declares no outputs")
    if problems:
        listed = "\n  - ".join(problems)
        raise BindingError(f"policy {policy.name!r} does not fit robot {robot.name!r}:\n  - {listed}")

    slots: list[Slot] = []
    columns: list[NDArray[np.intp]] = []
    for component in robot.components:
        wanted = policy.get_output(component.name)
        if wanted is None:
            continue
        slot = slot_of(component, wanted.command, wanted.dim, slots[-1].stop if slots else 0, wanted.rotation)
        slots.append(slot)
        order = _order(slot.names, wanted.names) if wanted.names else np.arange(wanted.dim)
        columns.append(starts[component.name] + order)
    states = {
        key: _order(names, _component(robot, key).names(len(names))) for key, names in policy.state_names.items()
    }
    return Binding(robot, policy, Layout(slots), np.concatenate(columns), states)


def robot_for(policy: PolicySpec) -> RobotSpec:
    """A robot that offers exactly what `policy` asks for: binding to it changes nothing."""
    components = [_component_for(output) for output in policy.outputs]
    names = [component.name for component in components]
    for key, joints in policy.state_names.items():
        if key not in names:
            components.append(ComponentSpec(key, "arm", len(joints), ["joint_position"], joint_names=list(joints)))
            names.append(key)
    for component in components:
        if component.name in policy.state_names and not component.joint_names:
            component.joint_names = list(policy.state_names[component.name])
    others = [key for key in policy.required_state_keys if key not in names]
    return RobotSpec("made_up", list(policy.required_image_keys), components, state_keys=others)


def _component_for(output: PolicyOutputSpec) -> ComponentSpec:
    kind = get_command_kind_spec(output.command)
    return ComponentSpec(
        output.target,
        kind.allowed_component_types[0] if kind.allowed_component_types else "custom",
        output.dim,
        [output.command],
        joint_names=list(output.names),
        unit=output.unit or "rad",
        hold=None if kind.hold else "repeat",
        rotation=Rotation(output.rotation) if output.rotation else None,
    )


def spec_of_answer(robot: RobotSpec, answer: object, name: str = "unnamed") -> PolicySpec:
    """The spec of a policy that has none, read off its first answer.

    Actions say by name what they command.  A bare array commands every component of the robot with its first
    command kind, in the robot's order.

    Raises:
        InterfaceValidationError: the answer is neither, or an array of another width.
    """
    rows = answer.rows if isinstance(answer, ActionChunk) else answer
    if isinstance(rows, (Action, Mapping)):
        rows = [rows]
    if isinstance(rows, Sequence) and len(rows) and isinstance(rows[0], (Action, Mapping)):
        outputs = [
            PolicyOutputSpec(target, str(command.command), command.value.size)
            for target, command in coerce_action(rows[0]).commands.items()
        ]
        return PolicySpec(name, [], [], outputs=outputs, action_horizon=len(rows))
    array = checked_rows(rows)
    slots = robot_layout(robot).slots
    outputs = [PolicyOutputSpec(slot.component, slot.command, slot.dim) for slot in slots]
    width = sum(output.dim for output in outputs)
    if array.shape[1] != width:
        listed = ", ".join(f"{output.target} {output.dim}" for output in outputs)
        raise InterfaceValidationError(
            f"policy {name!r} answers rows of {array.shape[1]} numbers, robot {robot.name!r} takes {width} "
            f"({listed}); give the policy a PolicySpec, or answer Actions, to say which is which"
        )
    return PolicySpec(name, [], [], outputs=outputs, action_horizon=len(array))


def _missing_inputs(robot: RobotSpec, policy: PolicySpec) -> list[str]:
    problems = []
    for kind, wanted, offered in (
        ("camera", policy.required_image_keys, robot.image_keys),
        ("state", policy.required_state_keys, robot.all_state_keys()),
        ("state", list(policy.state_names), robot.all_state_keys()),
    ):
        for name in wanted:
            if name not in offered:
                there = ", ".join(offered) or "none"
                problems.append(f"{kind} {name!r} is missing{nearest(name, offered)}; there are: {there}")
    for key, names in policy.state_names.items():
        component = robot.get_component(key)
        if component is not None:
            problems += _name_problems(f"state {key!r}", names, component.names(component.dof))
    return problems


def _output_problems(robot: RobotSpec, output: PolicyOutputSpec) -> list[str]:
    names = [component.name for component in robot.components]
    component = robot.get_component(output.target)
    where = f"output {output.target!r}"
    if component is None:
        there = ", ".join(names)
        return [f"{where}: no such component{nearest(output.target, names)}; there are: {there}"]
    problems = []
    if not component.supports_command(output.command):
        problems.append(f"{where}: takes {', '.join(component.command)}, not {output.command!r}")
    kind = get_command_kind_spec(output.command)
    if kind.dof_is_dim and output.dim != component.dof:
        problems.append(f"{where}: {component.dof} joints, the policy answers {output.dim} numbers")
    if output.names:
        problems += _name_problems(where, output.names, component.names(output.dim))
    if output.unit and component.unit and output.unit != component.unit:
        problems.append(f"{where}: the policy answers {output.unit}, the robot takes {component.unit}; convert it")
    if output.rotation and component.rotation and str(output.rotation) != str(component.rotation):
        problems.append(f"{where}: rotation {output.rotation!s} against the robot's {component.rotation!s}")
    written = output.rotation or component.rotation
    if is_pose(output.command) and written and output.dim != 3 + Rotation(written).dim:
        needs = 3 + Rotation(written).dim
        problems.append(f"{where}: x y z and a {written!s} are {needs} numbers, the policy answers {output.dim}")
    return problems


def _name_problems(where: str, wanted: Sequence[str], offered: Sequence[str]) -> list[str]:
    unknown = [f"{name!r}{nearest(name, offered)}" for name in wanted if name not in offered]
    missing = [repr(name) for name in offered if name not in wanted]
    if not unknown and not missing:
        return []
    return [f"{where}: unknown joints {', '.join(unknown) or 'none'}; without {', '.join(missing) or 'none'}"]


def _component(robot: RobotSpec, name: str) -> ComponentSpec:
    component = robot.get_component(name)
    if component is None:
        raise BindingError(f"state_names: {name!r} is no component of robot {robot.name!r}")
    return component


def _order(wanted: Sequence[str], offered: Sequence[str]) -> NDArray[np.intp]:
    """Where each wanted name stands among the offered ones."""
    return np.array([list(offered).index(name) for name in wanted], dtype=np.intp)


def _same_order(order: NDArray[np.intp]) -> bool:
    return bool(np.array_equal(order, np.arange(len(order))))
