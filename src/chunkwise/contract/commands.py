"""Whether a command is one that a robot's component takes: what every driver asks before it sends anything."""

from __future__ import annotations

import numpy as np

from chunkwise.contract.errors import InterfaceValidationError, nearest
from chunkwise.contract.specs import ComponentSpec, RobotSpec
from chunkwise.contract.values import Command


def commanded(spec: RobotSpec, name: str, command: Command) -> ComponentSpec:
    """The component that a command is for, once it is known that it takes it.

    Args:
        spec: the robot.
        name: of the component.
        command: one number for each of its joints.

    Raises:
        InterfaceValidationError: no such component, another command kind, another count of numbers, or a number
            that is not finite.
    """
    component = spec.get_component(name)
    if component is None:
        known = [part.name for part in spec.components]
        raise InterfaceValidationError(f"no component {name!r}{nearest(name, known)}")
    if not component.supports_command(command.command) or command.value.shape != (component.dof,):
        raise InterfaceValidationError(
            f"{name} takes {component.dof} numbers as {component.command[0]}, not {command.command} of "
            f"{command.value.shape}"
        )
    if not np.isfinite(command.value).all():
        raise InterfaceValidationError(f"{name} is sent a target that is not finite")
    return component
