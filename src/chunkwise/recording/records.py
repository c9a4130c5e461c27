"""What a recording holds: one class per kind of record, and each as a tree of plain values and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from chunkwise.chunking import Decision
from chunkwise.contract import (
    Action,
    ActionChunk,
    Command,
    Frame,
    PolicySpec,
    RobotSpec,
    policy_spec_from_dict,
    robot_spec_from_dict,
)
from chunkwise.contract.values import Array
from chunkwise.recording.errors import RecordingError
from chunkwise.safety import Verdict

T = TypeVar("T")

FORMAT = 1
"""Raised when a reader of the old one would misread a file."""


class Event(Protocol):
    """One turn of the control loop, as the loop emits it (`runtime.events.Turn`)."""

    @property
    def step(self) -> int: ...
    @property
    def time_s(self) -> float: ...
    @property
    def late_s(self) -> float: ...
    @property
    def decision(self) -> Decision: ...
    @property
    def sent(self) -> Array | None: ...
    @property
    def verdict(self) -> Verdict: ...


@dataclass(slots=True)
class Header:
    """What is known of an episode before it begins.

    Attributes:
        robot, policy: their specs, where they are known.
        control_hz: the rate of the loop, or None.
        meta: anything plain.
        versions: of chunkwise, python and numpy that wrote it.
        wall_ns, monotonic_ns: both clocks at the same moment, which relates a frame's capture time to the time of
            a record.
    """

    robot: RobotSpec | None = None
    policy: PolicySpec | None = None
    control_hz: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    wall_ns: int = 0
    monotonic_ns: int = 0


@dataclass(slots=True)
class FrameRecord:
    """An observation, bit for bit.

    Attributes:
        frame: without the images that were dropped.
        step: the control step it was taken in, or None.
        dropped: cameras whose images were dropped because the disk was too slow.
        left_out: paths of values in its task and meta that are neither plain nor arrays, which are None, and of
            values whose key is no name, which are gone.
        time_ns: when it was recorded, wall clock.
    """

    frame: Frame
    step: int | None = None
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    time_ns: int = 0


@dataclass(slots=True)
class ActionRecord:
    """A command, bit for bit.

    Attributes:
        commanded: what the robot was told.
        applied: what it said that it did; None where it was not asked.
        step: the control step, or None.
        left_out: as for a frame.
        time_ns: when it was recorded, wall clock.
    """

    commanded: Action
    applied: Action | None = None
    step: int | None = None
    left_out: list[str] = field(default_factory=list)
    time_ns: int = 0


@dataclass(slots=True)
class ChunkRecord:
    """A policy's answer.

    Attributes:
        rows: float64 ``(action_horizon, action_dim)``, in the column order of whoever recorded it.
        first_step: the step of row 0; None means that of the request.
        request: number of the request, or None.
        request_step: the step whose frame it answers, or None.
        time_ns: when it was recorded, wall clock.
    """

    rows: Array
    first_step: int | None = None
    request: int | None = None
    request_step: int | None = None
    time_ns: int = 0


@dataclass(slots=True)
class TurnRecord:
    """The essentials of one turn of the control loop.

    Attributes:
        step: the control step.
        time_s: when it began, on the loop's clock.
        late_s: how long after its deadline.
        source: where the row came from: its kind, the request behind it, and its number there.
        age: steps since the frame behind the row was captured.
        row, sent: float64 ``(width,)``, the scheduler's row and the one that the gate let through, or None.
        request: number of the request made in this turn, or None.
        faults: kind, request and detail of each.
        broken: component and rule, for every rule of the gate that the row broke.
        time_ns: when it was recorded, wall clock.
    """

    step: int
    time_s: float
    late_s: float
    source: tuple[str, int, int]
    age: int = 0
    row: Array | None = None
    sent: Array | None = None
    request: int | None = None
    faults: list[tuple[str, int, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    time_ns: int = 0


@dataclass(slots=True)
class EndRecord:
    """What a recorder that was closed properly knows of itself.

    Attributes:
        written, dropped: records by kind; ``images`` are counted one by one.
        events_lost: turns that the recorder was too slow to see.
    """

    written: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    events_lost: int = 0
    time_ns: int = 0


Record = FrameRecord | ActionRecord | ChunkRecord | TurnRecord | EndRecord
Tree = dict[str, Any]


def header_tree(header: Header) -> Tree:
    """A header as a tree."""
    return {"format": FORMAT, **asdict(header)}


def frame_tree(frame: Frame, step: int | None, *, images: Mapping[str, NDArray[Any]], dropped: list[str]) -> Tree:
    """A frame as a tree that later changes to it do not reach; images are kept by reference."""
    return {
        "step": step,
        "timestamp_ns": frame.timestamp_ns,
        "sequence_id": frame.sequence_id,
        "images": dict(images),
        "state": {name: value.copy() for name, value in frame.state.items()},
        "task": dict(frame.task),
        "meta": dict(frame.meta),
        "dropped": dropped,
    }


def action_tree(commanded: Action, applied: Action | None, step: int | None) -> Tree:
    """Commands as a tree that later changes to them do not reach."""
    same = applied is commanded
    return {
        "step": step,
        "commanded": _commands(commanded),
        "applied": True if same else None if applied is None else _commands(applied),
    }


def chunk_tree(chunk: ActionChunk, request: int | None, request_step: int | None) -> Tree:
    """A chunk as a tree."""
    rows = np.array(chunk.rows, dtype=np.float64)
    return {"rows": rows, "first_step": chunk.first_step, "request": request, "request_step": request_step}


def turn_tree(turn: Event) -> Tree:
    """The essentials of a turn as a tree; its rows are read only already."""
    decision = turn.decision
    return {
        "step": turn.step,
        "time_s": turn.time_s,
        "late_s": turn.late_s,
        "source": list(decision.source),
        "age": decision.age,
        "row": decision.row,
        "sent": turn.sent,
        "request": None if decision.request is None else decision.request.id,
        "faults": [list(fault) for fault in decision.faults],
        "broken": [list(pair) for pair in turn.verdict.broken],
    }


def header_of(tree: Tree) -> Header:
    """The header in a tree.

    Raises:
        RecordingError: of a later format, or with specs that are wrong.
    """
    if tree["format"] != FORMAT:
        raise RecordingError(f"the file has format {tree['format']!r}, this version reads {FORMAT}")
    header = _made(Header, tree)
    robot: Any = header.robot
    policy: Any = header.policy
    header.robot = None if robot is None else robot_spec_from_dict(robot)
    header.policy = None if policy is None else policy_spec_from_dict(policy)
    if header.control_hz is not None and not 0 < header.control_hz < 1e6:
        raise RecordingError(f"no control rate: {header.control_hz!r}")
    return header


def frame_of(tree: Tree, time_ns: int) -> FrameRecord:
    """The frame in a tree."""
    frame = Frame(
        tree["images"],
        tree["state"],
        tree["task"],
        tree["meta"],
        timestamp_ns=_whole(tree["timestamp_ns"]),
        sequence_id=_whole_or_none(tree["sequence_id"]),
    )
    return FrameRecord(frame, _whole_or_none(tree["step"]), list(tree["dropped"]), tree["left_out"], time_ns)


def action_of(tree: Tree, time_ns: int) -> ActionRecord:
    """The commands in a tree."""
    commanded, applied = _action(tree["commanded"]), tree["applied"]
    done = commanded if applied is True else None if applied is None else _action(applied)
    return ActionRecord(commanded, done, _whole_or_none(tree["step"]), tree["left_out"], time_ns)


def chunk_of(tree: Tree, time_ns: int) -> ChunkRecord:
    """The chunk in a tree."""
    first_step, request, request_step = (
        _whole_or_none(tree[name]) for name in ("first_step", "request", "request_step")
    )
    return ChunkRecord(_doubles(tree["rows"], 2), first_step, request, request_step, time_ns)


def turn_of(tree: Tree, time_ns: int) -> TurnRecord:
    """The turn in a tree."""
    kind, chunk, row = tree["source"]
    made = _made(TurnRecord, tree | {"time_ns": time_ns, "source": (kind, chunk, row)})
    made.step, made.time_s, made.late_s = _whole(made.step), float(made.time_s), float(made.late_s)
    made.row, made.sent = (None if item is None else _doubles(item, 1) for item in (made.row, made.sent))
    made.faults = [(kind, request, detail) for kind, request, detail in made.faults]
    made.broken = [(component, rule) for component, rule in made.broken]
    return made


def end_of(tree: Tree, time_ns: int) -> EndRecord:
    """The end in a tree."""
    return _made(EndRecord, tree | {"time_ns": time_ns})


def _commands(action: Action) -> Tree:
    commands = {
        name: {
            "command": item.command,
            "value": item.value.copy(),
            "ref_frame": item.ref_frame,
            "meta": dict(item.meta),
        }
        for name, item in action.commands.items()
    }
    return {"commands": commands, "meta": dict(action.meta)}


def _action(tree: Tree) -> Action:
    commands = {
        name: Command(item["command"], _doubles(item["value"], 1), item["ref_frame"], item["meta"])
        for name, item in tree["commands"].items()
    }
    return Action(commands, tree["meta"])


def _doubles(value: object, ndim: int) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim != ndim:
        raise RecordingError(f"needs a float64 array of {ndim} dimensions, has {type(value).__name__}")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordingError(f"needs a whole number, has {value!r:.40}")
    return value


def _whole_or_none(value: object) -> int | None:
    return None if value is None else _whole(value)


def _made(kind: type[T], tree: Tree) -> T:
    """The dataclass of a tree; what a later version added is left aside."""
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in tree.items() if name in known})
