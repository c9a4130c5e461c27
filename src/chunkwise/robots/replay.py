"""A recording as a robot: shows what was seen, and keeps what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from numpy.typing import NDArray

from chunkwise.contract import Action, ComponentSpec, Frame, Hold, RobotSpec, get_command_kind_spec
from chunkwise.recording import EpisodeReader, FrameRecord, RecordingError

__all__ = ["ReplayRobot"]


class ReplayRobot:
    """The observations of a recording, in order.

    ``pace="recorded"`` shows the newest one whose time has come, counted from `connect` on, by the recorded
    capture times; ``pace="fast"`` shows the next one at every `observe`.  After the last one, that one stays.
    A camera whose image was dropped shows the one before.

    Args:
        path: of the recording.
        pace: by the recorded times, or as fast as it is asked.
        clock: the time [s] that ``recorded`` runs by.

    Attributes:
        sent: every command that it was given, in order.
        finished: whether the last observation was shown.

    Raises:
        RecordingError: the file is no recording, or nothing was seen in it.
    """

    def __init__(
        self,
        *,
        path: str,
        pace: Literal["recorded", "fast"] = "recorded",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if pace not in ("recorded", "fast"):
            raise ValueError(f"pace must be recorded or fast, got {pace!r}")
        self._reader, self._fast, self._clock = EpisodeReader(path), pace == "fast", clock
        first = next(self._reader.frames(), None)
        if first is None:
            raise RecordingError(f"{path}: no observations were recorded")
        action = next(self._reader.actions(), None)
        self.spec = self._reader.header.robot or _spec_of(first.frame, action.commanded if action else None)
        self.sent: list[Action] = []
        self.finished = False
        self._frames: Iterator[FrameRecord] | None = None

    def connect(self) -> None:
        """Begin at the first observation, or begin again."""
        self._frames = self._reader.frames()
        self._images: dict[str, NDArray[Any]] = {}
        first = self._take()
        if first is None:
            raise RecordingError(f"{self._reader.path}: the observations are gone")
        self._shown: FrameRecord = first
        self._next: FrameRecord | None = first
        self.sent, self.finished = [], False
        self._began_s, self._first_ns = self._clock(), _time_ns(first)

    def observe(self) -> Frame:
        if self._frames is None:
            raise RuntimeError("connect() comes before observe()")
        if self._fast:
            self._forward()
        else:
            # A microsecond of slack: a simulated clock that lands on a time may be a rounding short of it.
            elapsed_ns = (self._clock() - self._began_s) * 1e9 + 1e3
            while self._next is not None and _time_ns(self._next) - self._first_ns <= elapsed_ns:
                self._forward()
        self.finished = self._next is None
        return self._shown.frame

    def act(self, action: Action) -> Action:
        """Keep a copy of the command; a recording cannot be moved."""
        self.sent.append(Action.from_commands(action.commands, copy=True))
        return action

    def differences(self) -> list[int]:
        """Which of the commands sent, counted from 0, are not bit for bit those that were recorded.

        Those beyond the last recorded one count as different.
        """
        recorded = [record.commanded for record in self._reader.actions()]
        return [
            index
            for index, action in enumerate(self.sent)
            if index >= len(recorded) or not _same(action, recorded[index])
        ]

    def close(self) -> None:
        self._frames = None

    def _forward(self) -> None:
        if self._next is not None:
            self._shown, self._next = self._next, self._take()

    def _take(self) -> FrameRecord | None:
        """The next observation, with the images that were seen last."""
        assert self._frames is not None
        record = next(self._frames, None)
        if record is not None:
            self._images |= record.frame.images
            record.frame.images = dict(self._images)
        return record


def _time_ns(record: FrameRecord) -> int:
    """When it was seen; when it was recorded, where the robot did not say."""
    return record.frame.timestamp_ns or record.time_ns


def _same(one: Action, other: Action) -> bool:
    """Whether two actions command the same to the last bit."""
    return one.commands.keys() == other.commands.keys() and all(
        command.command == (like := other.commands[name]).command
        and command.ref_frame == like.ref_frame
        and command.value.tobytes() == like.value.tobytes()
        for name, command in one.commands.items()
    )


def _spec_of(frame: Frame, action: Action | None) -> RobotSpec:
    """A robot as its first observation and command show it, for a recording that has no spec."""
    commands = action.commands if action is not None else {}
    components = []
    for name, command in commands.items():
        hold = None if get_command_kind_spec(command.command).hold else Hold.REPEAT
        components.append(ComponentSpec(name, "custom", command.value.size, [command.command], hold=hold))
    others = [name for name in frame.state if name not in commands]
    return RobotSpec("replay", list(frame.images), components, state_keys=others)
