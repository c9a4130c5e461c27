"""The flat layout: which column of a row is which joint of which component, both ways.

Rows of numbers exist between a policy and the gate only; everywhere else commands go by component name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import BindingError, InterfaceValidationError, nearest
from chunkwise.contract.kinds import Hold, Motion, get_command_kind_spec
from chunkwise.contract.rotations import IDENTITY, Rotation, from_quaternion
from chunkwise.contract.specs import ComponentSpec, RobotSpec
from chunkwise.contract.values import Action, Command, Frame, trusted_command

Array = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Slot:
    """One component's columns ``start:stop`` of a row.

    Attributes:
        component, command: whose they are, and the command kind.
        start, stop: the columns.
        names: joint names, in order.
        unit: of the numbers.
        motion: how they move the robot; None for a custom kind that has not said.
        hold: what holds the component still.
        blends: whether two values may be averaged.
        rotation: how the columns after the first three write a rotation; None for none.
        lower, upper, max_rate: limits per column; infinite where there is none.
    """

    component: str
    command: str
    start: int
    stop: int
    names: tuple[str, ...]
    unit: str
    motion: Motion | None
    hold: Hold
    blends: bool
    rotation: Rotation | None
    lower: Array
    upper: Array
    max_rate: Array

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.stop - self.start

    @property
    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.start, self.stop)


class Layout:
    """The columns of a robot's rows, in the robot's order.

    Attributes:
        slots: one per commanded component.
        width: columns in a row.
        names: joint names, one per column.
        zero_hold: per column, whether holding still means zero; None when it nowhere does.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self.width = self.slots[-1].stop if self.slots else 0
        self.names = [name for slot in self.slots for name in slot.names]
        mask = np.array([slot.hold is Hold.ZERO for slot in self.slots for _ in range(slot.dim)], dtype=bool)
        self.zero_hold: NDArray[np.bool_] | None = mask if mask.any() else None
        self._zero = np.zeros(self.width)  # no motion; no turn is not always written as zeros
        for slot in self.slots:
            if slot.rotation is not None:
                self._zero[slot.start + 3 : slot.stop] = from_quaternion(IDENTITY, slot.rotation)
        self._pieces = [(slot.component, slot.command, slot.start, slot.stop) for slot in self.slots]

    def slot(self, component: str) -> Slot:
        """The component's slot.

        Raises:
            KeyError: the component is not commanded.
        """
        for slot in self.slots:
            if slot.component == component:
                return slot
        raise KeyError(f"no commanded component {component!r}{nearest(component, self.components)}")

    @property
    def components(self) -> list[str]:
        """The commanded components, in order."""
        return [slot.component for slot in self.slots]

    def action(self, row: Array) -> Action:
        """A row ``(width,)`` as commands by component name; the values are views of the row."""
        return Action({name: trusted_command(kind, row[a:b]) for name, kind, a, b in self._pieces})

    def row(self, action: Action) -> Array:
        """Commands by component name as a row ``(width,)``.

        Raises:
            InterfaceValidationError: a component is missing, unknown, of another kind or length, or its
                value is not finite.
        """
        unknown = [name for name in action.commands if name not in self.components]
        missing = [name for name in self.components if name not in action.commands]
        if unknown or missing:
            hint = nearest(unknown[0], self.components) if unknown else ""
            raise InterfaceValidationError(f"action: missing {missing}, unknown {unknown}{hint}")
        row = np.empty(self.width)
        for slot in self.slots:
            row[slot.columns] = self._value(slot, action.commands[slot.component])
        return row

    @staticmethod
    def _value(slot: Slot, command: Command) -> Array:
        where = f"action.commands[{slot.component!r}]"
        if command.command != slot.command:
            raise InterfaceValidationError(f"{where} is {command.command!r}, the robot runs {slot.command!r}")
        if command.value.shape != (slot.dim,):
            raise InterfaceValidationError(f"{where} has {command.value.size} numbers, needs {slot.dim}")
        if not np.isfinite(command.value).all():
            at = int(np.flatnonzero(~np.isfinite(command.value))[0])
            raise InterfaceValidationError(f"{where}: {slot.names[at]} is {command.value[at]}, not a number")
        return command.value

    def hold(self, last: Array) -> Array:
        """The row that holds still after `last` was sent: targets repeat, deltas and velocities are zero."""
        if self.zero_hold is None:
            return last
        return np.where(self.zero_hold, self._zero, last)

    def measured(self, frame: Frame) -> Array | None:
        """The row that holds the robot where it is, or None where its state does not tell."""
        row = self.standing(frame)
        return row if np.isfinite(row).all() else None

    def standing(self, frame: Frame) -> Array:
        """The row that holds the robot where it is; NaN for components whose state does not tell.

        A target kind needs the component's measured values, in the same number and unit, under its name.
        """
        row = self._zero.copy()
        for slot in self.slots:
            if slot.hold is Hold.ZERO:
                continue
            value = frame.state.get(slot.component)
            joint_like = slot.motion is Motion.TARGET and not slot.command.startswith("cartesian")
            if value is None or not joint_like or value.shape != (slot.dim,) or not np.isfinite(value).all():
                value = np.full(slot.dim, np.nan)
            row[slot.columns] = value
        return row


def is_pose(command: str) -> bool:
    """Whether values of this kind are three lengths and a rotation."""
    return command in ("cartesian_pose", "cartesian_pose_delta")


def slot_of(component: ComponentSpec, command: str, dim: int, start: int, rotation: str | None = None) -> Slot:
    """The slot of a component that runs `command` with `dim` numbers from column `start`.

    Raises:
        BindingError: the kind does not say what holding still means and the component does not either.
    """
    kind = get_command_kind_spec(command)
    hold = Hold(component.hold) if component.hold is not None else kind.hold
    if hold is None:
        raise BindingError(
            f"component {component.name!r}: kind {command!r} does not say what holding still means; "
            "declare ComponentSpec(hold='repeat' or 'zero') or register the kind with a motion"
        )
    written = rotation or component.rotation
    # Limits are the joints' where the component has joint commands: they say nothing about x, y, z.
    jointed = any(get_command_kind_spec(name).dof_is_dim for name in component.command)
    limited = dim == component.dof and not (jointed and command.startswith("cartesian"))

    def limits(values: Sequence[float] | float | None, none: float) -> Array:
        if values is None or not (limited or isinstance(values, (int, float))):
            return np.full(dim, none)
        return np.array(np.broadcast_to(np.asarray(values, dtype=np.float64), (dim,)))

    absolute = kind.motion is Motion.TARGET
    return Slot(
        component=component.name,
        command=str(command),
        start=start,
        stop=start + dim,
        names=tuple(component.names(dim)),
        unit=component.unit,
        motion=kind.motion,
        hold=hold,
        blends=kind.blends,
        rotation=Rotation(written) if is_pose(command) and written else None,
        lower=limits(component.lower if absolute else None, -np.inf),
        upper=limits(component.upper if absolute else None, np.inf),
        max_rate=limits(component.max_rate, np.inf),
    )


def robot_layout(spec: RobotSpec, commands: Mapping[str, str] | None = None) -> Layout:
    """The layout of a robot whose every component runs its first command kind, or the one in `commands`.

    Args:
        spec: the robot.
        commands: component -> command kind; components that are not named run their first.

    Raises:
        BindingError: an unknown component or a kind that it does not take.
    """
    chosen = dict(commands or {})
    names = [component.name for component in spec.components]
    for name in chosen:
        if name not in names:
            raise BindingError(f"robot {spec.name!r} has no component {name!r}{nearest(name, names)}")
    slots: list[Slot] = []
    for component in spec.components:
        command = chosen.get(component.name, component.command[0])
        if not component.supports_command(command):
            raise BindingError(
                f"component {component.name!r} does not take {command!r}; it takes {', '.join(component.command)}"
            )
        kind = get_command_kind_spec(command)
        dim = kind.default_dim or component.dof
        if is_pose(command) and component.rotation:
            dim = 3 + Rotation(component.rotation).dim
        slots.append(slot_of(component, command, dim, slots[-1].stop if slots else 0))
    return Layout(slots)
