"""A policy that knows joints as LeRobot's motors do, for a robot that has radians: ``lerobot_norm_mode``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    ActionChunk,
    BindingError,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    PolicyFailed,
    PolicySpec,
    RobotSpec,
)
from chunkwise.contract.errors import nearest
from chunkwise.policies import Policy, Recipe

MAX_BYTES: Final = 1 << 20
TICKS: Final = 4096
"""Of one turn of a motor; 2048 is where a joint's zero is."""
STATE: Final = "observation.state"


class JointUnits:
    """Another policy behind a change of units: states to LeRobot's, its rows and the running plan back to radians.

    With ``range_m100_100`` a joint's calibrated range is -100 to 100, a gripper's 0 to 100; with ``degrees`` a
    joint has degrees from the middle of its range.  As in IB-Robot, ``drive_mode`` changes nothing.

    Args:
        policy: a name, or a mapping of ``name`` and options; in Python also a recipe or a policy.
        calibration: LeRobot's JSON: joint -> ``range_min`` and ``range_max`` in ticks of the motor.
        mode: ``range_m100_100`` or ``degrees``.
        grippers: joints that are 0 to 100 in either mode.
        velocities: joints that turn freely, and are commanded by their speed.
        max_velocity: of those, which is 100 [rad/s].
        state_names: the joints of ``observation.state``, where the policy reads that of the robot as a whole.

    Raises:
        InterfaceValidationError: the calibration is none.
        FileNotFoundError: there is no such file.

    Source:
        LeRobot's ``MotorNormMode``; the conversion in IB-Robot's ``lerobot_policy_node``.
    """

    def __init__(
        self,
        *,
        policy: Any,
        calibration: Path,
        mode: Literal["range_m100_100", "degrees"] = "range_m100_100",
        grippers: tuple[str, ...] = (),
        velocities: tuple[str, ...] = (),
        max_velocity: float = 0.0,
        state_names: tuple[str, ...] = (),
    ) -> None:
        if velocities and not max_velocity > 0:
            raise InterfaceValidationError("velocities need a max_velocity above 0, which is their 100")
        self._where = Path(calibration)
        self._lines = _lines(self._where, mode, frozenset(grippers))
        self._lines |= {name: _through(-max_velocity, max_velocity, 200.0, -100.0) for name in velocities}
        self._states: dict[str, _Columns] = {}
        if state_names:
            self._states[STATE] = self._columns(state_names)
        self._rows: _Columns | None = None
        self._components: dict[str, Sequence[str]] = {}
        self._policy: Policy = _made(policy)

    @property
    def spec(self) -> PolicySpec | None:
        """The other policy's."""
        spec: PolicySpec | None = getattr(self._policy, "spec", None)
        return spec

    def meet(self, robot: RobotSpec) -> None:
        """Take the names of its joints.

        Raises:
            BindingError: a joint has no name, or no calibration.
        """
        for component in robot.components:
            names = component.joint_names
            if len(names) != component.dof:
                raise BindingError(f"{component.name} has no joint_names, and {self._where} is by their names")
            self._states[component.name] = self._columns(names)
            self._components[component.name] = names
        self._rows = None
        _call(self._policy, "meet", robot)

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        """The other policy's chunk, in the robot's units.

        Raises:
            InterfaceValidationError: no robot was met, or a state has another number of joints.
            Exception: whatever the other policy raises.
        """
        rows = self._of_rows()
        state = {
            key: self._states[key].there(value, key) if key in self._states else value
            for key, value in frame.state.items()
        }
        if request.prefix is not None:
            request = dataclasses.replace(request, prefix=rows.there(request.prefix, "the running plan"))
        answer = self._policy.infer(dataclasses.replace(frame, state=state), request)
        if not isinstance(answer, ActionChunk):
            raise PolicyFailed(f"a chunk is needed to change its units, got {type(answer).__name__}")
        return dataclasses.replace(answer, rows=rows.back(answer.rows))

    def warmup(self) -> None:
        """Warm the other one up."""
        _call(self._policy, "warmup")

    def reset(self) -> None:
        """An episode ends."""
        _call(self._policy, "reset")

    def close(self) -> None:
        """Let go of it.  Twice is fine."""
        _call(self._policy, "close")

    def _of_rows(self) -> _Columns:
        spec = self.spec
        if self._rows is None:
            if spec is None or not self._components:
                raise InterfaceValidationError(
                    "joint_units does not know which robot it drives: meet(robot) first"
                )
            for key, names in spec.state_names.items():  # in the policy's order, in which the binding brings them
                self._states[key] = self._columns(names)
            named = [out.names or self._components[out.target] for out in spec.outputs]
            self._rows = self._columns([name for names in named for name in names])
        return self._rows

    def _columns(self, names: Iterable[str]) -> _Columns:
        found = []
        for name in names:
            if name not in self._lines:
                known = ", ".join(self._lines)
                raise BindingError(
                    f"joint {name!r} has no calibration{nearest(name, self._lines)}; {self._where} has: {known}"
                )
            found.append(self._lines[name])
        return _Columns(np.array([line.scale for line in found]), np.array([line.offset for line in found]))


class _Line(NamedTuple):
    """What a joint's number becomes: ``scale * radians + offset``."""

    scale: float
    offset: float


class _Columns(NamedTuple):
    """The lines of several joints, side by side."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def there(self, values: NDArray[Any], what: str) -> NDArray[np.float64]:
        """Radians (..., n) as the policy has them."""
        if values.shape[-1:] != self.scale.shape:
            raise InterfaceValidationError(f"{what} has the shape {values.shape}, and {len(self.scale)} joints")
        made: NDArray[np.float64] = values * self.scale + self.offset
        return made

    def back(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The policy's numbers (..., n) as radians."""
        if values.shape[-1:] != self.scale.shape:
            raise PolicyFailed(f"rows have the shape {values.shape}, and there are {len(self.scale)} joints")
        made: NDArray[np.float64] = (values - self.offset) / self.scale
        return made


def _through(low: float, high: float, span: float, offset: float) -> _Line:
    """The line through (low, offset) and (high, offset + span)."""
    scale = span / (high - low)
    return _Line(scale, offset - scale * low)


def _lines(path: Path, mode: str, grippers: frozenset[str]) -> dict[str, _Line]:
    """The line of every joint in a calibration."""
    if mode not in ("range_m100_100", "degrees"):
        raise InterfaceValidationError(f"mode must be range_m100_100 or degrees, got {mode!r}")
    with open(path.expanduser(), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        tree = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise InterfaceValidationError(f"{path} is no JSON: {error}") from None
    if not isinstance(tree, Mapping) or not tree:
        raise InterfaceValidationError(f"{path} must be a JSON object of joints, of at most {MAX_BYTES} bytes")
    for name in grippers:
        if name not in tree:
            raise InterfaceValidationError(f"gripper {name!r} is none of {path}'s joints{nearest(name, tree)}")
    lines = {}
    for name, entry in tree.items():
        least, most = _range(path, name, entry)
        low, high = ((tick - TICKS / 2) * 2 * math.pi / TICKS for tick in (least, most))
        degrees = (most - least) * 360 / (TICKS - 1)
        if name in grippers:
            span, offset = 100.0, 0.0
        elif mode == "degrees":
            span, offset = degrees, -degrees / 2
        else:
            span, offset = 200.0, -100.0
        lines[name] = _through(low, high, span, offset)
    return lines


def _range(path: Path, name: str, entry: Any) -> tuple[int, int]:
    tree = entry if isinstance(entry, Mapping) else {}
    low, high = tree.get("range_min"), tree.get("range_max")
    if type(low) is not int or type(high) is not int or not -(1 << 20) < low < high < 1 << 20:
        raise InterfaceValidationError(f"{path}: {name} must have range_min < range_max, whole numbers of ticks")
    return low, high


def _made(policy: Any) -> Policy:
    if isinstance(policy, Mapping):
        name = policy.get("name")
        if not isinstance(name, str):
            raise InterfaceValidationError(f"a policy is a name, or a mapping with one; got {dict(policy)}")
        policy = Recipe(name, {key: value for key, value in policy.items() if key != "name"})
    elif isinstance(policy, str):
        policy = Recipe(policy)
    made: Policy = policy.make() if isinstance(policy, Recipe) else policy
    return made


def _call(policy: Policy, name: str, *arguments: Any) -> None:
    method = getattr(policy, name, None)
    if method is not None:
        method(*arguments)
