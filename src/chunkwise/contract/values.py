"""Frame, Command, Action: what a robot saw, and what it is told to do.

The names are those of the inferaxis interface.  Arrays are kept by reference unless ``copy=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.contract.kinds import require_kind

Array = NDArray[np.float64]


def _numeric(value: object, where: str, *, copy: bool) -> NDArray[Any]:
    """`value` as an array of numbers or booleans; tensors are taken off their device."""
    if isinstance(value, np.ndarray):
        array = value.copy() if copy else value
    elif isinstance(value, (str, bytes, Mapping)) or value is None:
        raise InterfaceValidationError(f"{where} must be an array of numbers, got {type(value).__name__}")
    else:
        detach = getattr(value, "detach", None)  # a torch tensor, without importing torch
        if detach is not None:
            value = detach().cpu().numpy()
        try:
            array = np.array(value) if copy else np.asarray(value)
        except ValueError as error:
            raise InterfaceValidationError(f"{where} must be a rectangular array: {error}") from error
    if array.dtype.kind not in "iufb":
        raise InterfaceValidationError(f"{where} must hold numbers, got dtype {array.dtype}")
    return array


def _mapping(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise InterfaceValidationError(f"{where} must be a dict, got {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise InterfaceValidationError(f"{where} must have names as keys, got {key!r}")


def _arrays(values: dict[str, Any], where: str, *, copy: bool, numbers: bool) -> dict[str, NDArray[Any]]:
    """The dict itself where it holds arrays already, else a new one of arrays.

    Args:
        values: name -> array-like.
        where: the field, for errors.
        copy: copy every array.
        numbers: whether a single number is allowed; it becomes ``(1,)``.
    """
    _mapping(values, where)
    if not copy and all(isinstance(v, np.ndarray) and v.ndim and v.dtype.kind in "iufb" for v in values.values()):
        return values
    made = {}
    for key, value in values.items():
        array = _numeric(value, f"{where}[{key!r}]", copy=copy)
        if array.ndim == 0:
            if not numbers:
                raise InterfaceValidationError(f"{where}[{key!r}] is a single number, not an image")
            array = array.reshape(1)
        made[key] = array
    return made


@dataclass(slots=True)
class Frame:
    """One observation.

    Attributes:
        images: camera name -> array of any shape, usually ``(height, width, 3)`` uint8 RGB.
        state: name -> array of numbers, in SI units, in the order the robot's spec declares.
        task: what is to be done, for example ``{"prompt": "fold the towel"}``.
        meta: anything else.
        timestamp_ns: capture time; 0 where the robot did not say, and the loop fills it in.
        sequence_id: number of the frame in its stream, or None.
        times_ns: camera or state name -> capture time of its newest value, on the clock that the loop runs in
            (``time.monotonic``), for sensors that can die one by one; one that is not named has no age,
            and 0 says that the robot itself finds it too old to go by
    """

    images: dict[str, NDArray[Any]] = field(default_factory=dict)
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    copy: InitVar[bool] = False
    timestamp_ns: int = field(default=0, kw_only=True)
    sequence_id: int | None = field(default=None, kw_only=True)
    times_ns: dict[str, int] = field(default_factory=dict, kw_only=True)

    def __post_init__(self, copy: bool) -> None:
        self.images = _arrays(self.images, "frame.images", copy=copy, numbers=False)
        self.state = _arrays(self.state, "frame.state", copy=copy, numbers=True)
        _mapping(self.task, "frame.task")
        _mapping(self.meta, "frame.meta")


@dataclass(slots=True)
class Command:
    """One component's order.

    Attributes:
        command: the command kind, a :class:`BuiltinCommandKind` or ``custom:...``.
        value: float64 ``(n,)``; a single number becomes ``(1,)``.
        ref_frame: reference frame of a cartesian value, or None.
        meta: anything else.
    """

    command: str
    value: Array
    ref_frame: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    copy: InitVar[bool] = False

    def __post_init__(self, copy: bool) -> None:
        if not isinstance(self.command, str) or not self.command.strip():
            raise InterfaceValidationError(f"command.command must be a command kind, got {self.command!r}")
        if self.command != self.command.strip():
            self.command = self.command.strip()
        array = _numeric(self.value, "command.value", copy=copy)
        if array.dtype.kind == "b":
            raise InterfaceValidationError("command.value must hold numbers, got booleans")
        if array.ndim > 1:
            raise InterfaceValidationError(f"command.value must be one row of numbers, got shape {array.shape}")
        self.value = np.asarray(array, dtype=np.float64).reshape(-1)
        _mapping(self.meta, "command.meta")


@dataclass(slots=True)
class Action:
    """What every commanded component does in one control step: component name -> Command."""

    commands: dict[str, Command]
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def single(
        cls,
        *,
        target: str,
        command: str,
        value: ArrayLike,
        ref_frame: str | None = None,
        command_meta: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
        copy: bool = False,
    ) -> Self:
        """An action of one component; a value of any shape is flattened."""
        flat = _numeric(value, "command.value", copy=copy).reshape(-1)
        order = Command(command=command, value=flat, ref_frame=ref_frame, meta=command_meta or {})
        return cls(commands={target: order}, meta=meta or {})

    @classmethod
    def from_commands(
        cls,
        commands: Mapping[str, Command | Mapping[str, Any]],
        *,
        meta: dict[str, Any] | None = None,
        trusted: bool = False,
        copy: bool = False,
    ) -> Self:
        """An action from Commands, or from mappings ``{command, value[, ref_frame, meta, target]}``.

        Args:
            commands: component name -> command.
            meta: the action's own.
            trusted: take a dict of Commands as it is, unchecked.
            copy: copy the values.
        """
        if trusted:
            return cls(commands=commands, meta=meta or {})  # type: ignore[arg-type]
        if not isinstance(commands, Mapping):
            raise InterfaceValidationError(f"action.commands must be a mapping, got {type(commands).__name__}")
        made = {name: _command(name, value, copy=copy) for name, value in commands.items()}
        return cls(commands=made, meta=meta or {})

    def get_command(self, target: str) -> Command | None:
        """The component's command, or None."""
        return self.commands.get(target)


def _command(target: str, value: Command | Mapping[str, Any], *, copy: bool) -> Command:
    where = f"action.commands[{target!r}]"
    if isinstance(value, Command):
        return Command(value.command, value.value, value.ref_frame, value.meta, copy=True) if copy else value
    if not isinstance(value, Mapping):
        raise InterfaceValidationError(f"{where} must be a Command or a mapping, got {type(value).__name__}")
    unknown = set(value) - {"command", "value", "ref_frame", "meta", "target"}
    missing = {"command", "value"} - set(value)
    if unknown or missing:
        raise InterfaceValidationError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    if value.get("target", target) != target:
        raise InterfaceValidationError(f"{where} names another target, {value['target']!r}")
    try:
        return Command(
            value["command"], value["value"], value.get("ref_frame"), dict(value.get("meta") or {}), copy=copy
        )
    except InterfaceValidationError as error:
        raise InterfaceValidationError(f"invalid {where}: {error}") from error


def trusted_command(command: str, value: Array) -> Command:
    """A Command without a check, for values that were checked already; a fifth of the constructor's cost."""
    made = Command.__new__(Command)
    made.command, made.value, made.ref_frame, made.meta = command, value, None, {}
    return made


def validate_command(command: Command) -> None:
    """Check kind, shape, finiteness, reference frame and the kind's fixed length.

    Raises:
        InterfaceValidationError: naming the field.
    """
    if not isinstance(command, Command):
        raise InterfaceValidationError(f"command must be a Command, got {type(command).__name__}")
    kind = require_kind(command.command, "command.command")
    value = command.value
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iuf":
        raise InterfaceValidationError("command.value must be a 1-D array of numbers")
    if not np.isfinite(value).all():
        at = int(np.flatnonzero(~np.isfinite(value))[0])
        raise InterfaceValidationError(f"command.value[{at}] is {value[at]}, not a finite number")
    if kind.default_dim is not None and value.size != kind.default_dim:
        raise InterfaceValidationError(
            f"command.value of kind {kind.name!r} needs {kind.default_dim} numbers, got {value.size}"
        )
    if command.ref_frame is None:
        if kind.requires_ref_frame:
            raise InterfaceValidationError(f"command kind {kind.name!r} needs command.ref_frame")
    elif not isinstance(command.ref_frame, str) or not command.ref_frame.strip():
        raise InterfaceValidationError(f"command.ref_frame must be a name, got {command.ref_frame!r}")
    _mapping(command.meta, "command.meta")


def validate_action(action: Action) -> None:
    """Check every command of an action; an action of nothing is refused.

    Raises:
        InterfaceValidationError: naming the component and the field.
    """
    if not isinstance(action, Action):
        raise InterfaceValidationError(f"action must be an Action, got {type(action).__name__}")
    _mapping(action.commands, "action.commands")
    if not action.commands:
        raise InterfaceValidationError("action.commands must not be empty")
    for name, command in action.commands.items():
        try:
            validate_command(command)
        except InterfaceValidationError as error:
            raise InterfaceValidationError(f"invalid action.commands[{name!r}]: {error}") from error
    _mapping(action.meta, "action.meta")


def validate_frame(frame: Frame) -> None:
    """Check a frame: numeric arrays, finite state, sane stamp.

    Raises:
        InterfaceValidationError: naming the field.
    """
    if not isinstance(frame, Frame):
        raise InterfaceValidationError(f"frame must be a Frame, got {type(frame).__name__}")
    for where, arrays in (("frame.images", frame.images), ("frame.state", frame.state)):
        _mapping(arrays, where)
        for key, value in arrays.items():
            _numeric(value, f"{where}[{key!r}]", copy=False)
    for key, value in frame.state.items():
        if not np.isfinite(value).all():
            raise InterfaceValidationError(f"frame.state[{key!r}] holds a number that is not finite")
    _mapping(frame.task, "frame.task")
    _mapping(frame.meta, "frame.meta")
    if not isinstance(frame.timestamp_ns, int) or frame.timestamp_ns < 0:
        raise InterfaceValidationError(f"frame.timestamp_ns must be an int >= 0, got {frame.timestamp_ns!r}")
    if frame.sequence_id is not None and not isinstance(frame.sequence_id, int):
        raise InterfaceValidationError(f"frame.sequence_id must be an int or None, got {frame.sequence_id!r}")


def coerce_frame(value: Frame | Mapping[str, Any]) -> Frame:
    """A Frame as it is, or one made of a mapping with ``images`` and ``state``.

    Raises:
        TypeError: neither.
        InterfaceValidationError: a field is wrong.
    """
    if isinstance(value, Frame):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"frame must be a Frame or mapping, got {type(value).__name__}")
    for key in ("images", "state"):
        if key not in value:
            raise InterfaceValidationError(f"frame has no {key!r}")
    frame = Frame(
        images=dict(value["images"]),
        state=dict(value["state"]),
        task=dict(value.get("task") or {}),
        meta=dict(value.get("meta") or {}),
    )
    frame.timestamp_ns = int(value.get("timestamp_ns") or 0)
    frame.sequence_id = value.get("sequence_id")
    return frame


def coerce_action(value: Action | Mapping[str, Any]) -> Action:
    """An Action as it is, or from ``{"commands": {...}}`` or the compact ``{component: {command, value}}``.

    Raises:
        InterfaceValidationError: it is neither.
    """
    if isinstance(value, Action):
        return value
    if not isinstance(value, Mapping):
        raise InterfaceValidationError(f"action must be an Action or mapping, got {type(value).__name__}")
    if "commands" in value:
        return Action.from_commands(value["commands"], meta=dict(value.get("meta") or {}))
    if "meta" in value:
        raise InterfaceValidationError('action: "meta" goes beside "commands", not beside component names')
    return Action.from_commands(value)


def frame_to_dict(frame: Frame) -> dict[str, Any]:
    """A frame as plain values; arrays become nested lists and lose their dtype.  To keep frames, record them."""
    return {
        "timestamp_ns": frame.timestamp_ns,
        "images": {key: value.tolist() for key, value in frame.images.items()},
        "state": {key: value.tolist() for key, value in frame.state.items()},
        "task": dict(frame.task),
        "meta": dict(frame.meta),
        "sequence_id": frame.sequence_id,
    }


def action_to_dict(action: Action, *, compact: bool = True, commands_as_mapping: bool = True) -> dict[str, Any]:
    """An action as plain values.

    Args:
        action: the action.
        compact: leave out what is empty.
        commands_as_mapping: component name -> command; else a list of commands that name their ``target``.
    """
    commands = {}
    for target, command in action.commands.items():
        plain: dict[str, Any] = {"command": str(command.command), "value": command.value.tolist()}
        if command.ref_frame is not None or not compact:
            plain["ref_frame"] = command.ref_frame
        if command.meta or not compact:
            plain["meta"] = dict(command.meta)
        commands[target] = plain
    made: dict[str, Any] = {"commands": commands}
    if not commands_as_mapping:
        made["commands"] = [{"target": target, **plain} for target, plain in commands.items()]
    if action.meta or not compact:
        made["meta"] = dict(action.meta)
    return made
