"""Whether an observation is what the robot's spec declares."""

from __future__ import annotations

from chunkwise.contract.errors import InterfaceValidationError, nearest
from chunkwise.contract.kinds import get_command_kind_spec
from chunkwise.contract.specs import ComponentSpec, RobotSpec
from chunkwise.contract.values import Frame, validate_frame


def observation_problems(spec: RobotSpec, frame: Frame, *, every_component: bool = True) -> list[str]:
    """What is wrong with an observation, one line each; empty when nothing is.

    Args:
        spec: the robot's.
        frame: from its ``observe``.
        every_component: whether a component without a state is a problem; a gripper that cannot measure itself
            is one that can be driven all the same.
    """
    problems = []
    try:
        validate_frame(frame)
    except InterfaceValidationError as error:
        problems.append(str(error))
    wanted = spec.all_state_keys() if every_component else spec.state_keys
    for kind, names, there in (("camera", spec.image_keys, frame.images), ("state", wanted, frame.state)):
        problems += [
            f"the robot declares {kind} {name!r}, the frame does not have it{nearest(name, there)}"
            for name in names
            if name not in there
        ]
    for component in spec.components:
        value = frame.state.get(component.name)
        if value is not None and not _measures(component, value.shape):
            shape = f"shape {value.shape}, it has {component.dof} joints"
            problems.append(f"state {component.name!r} has {shape}")
    return problems


def _measures(component: ComponentSpec, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be the component's measured state."""
    if any(not get_command_kind_spec(kind).dof_is_dim for kind in component.command):
        return len(shape) == 1  # it may report its pose in the place of its joints
    return shape == (component.dof,)
