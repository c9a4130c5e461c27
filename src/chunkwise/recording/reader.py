"""An episode out of a file, whole or cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.packing import Unpacker
from chunkwise.recording import container
from chunkwise.recording.container import Message, TornError
from chunkwise.recording.errors import RecordingError
from chunkwise.recording.records import (
    ActionRecord,
    ChunkRecord,
    FrameRecord,
    Record,
    TurnRecord,
    action_of,
    chunk_of,
    end_of,
    frame_of,
    header_of,
    turn_of,
)

T = TypeVar("T")
_MAKERS: dict[str, Callable[..., Record]] = {
    "frame": frame_of,
    "action": action_of,
    "chunk": chunk_of,
    "turn": turn_of,
    "end": end_of,
}


class EpisodeReader:
    """The records of one file, in the order in which they were made; read again for every iteration.

    A file that a crash cut off reads up to the cut, and :attr:`truncated` says so.

    Args:
        path: of the file.

    Attributes:
        header: what is known of the episode.
        damage: why the last full iteration ended before the end of the file, or "".

    Raises:
        RecordingError: the file is no recording, here or where it is read.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage = ""
        self._length: int | None = None
        for message in self._messages():
            if message.topic != "episode":
                break
            self.header = _decoded(lambda tree, time_ns: header_of(tree), Unpacker(), message)
            return
        raise RecordingError(f"{self.path}: no recording, or one that ends before it begins")

    def __iter__(self) -> Iterator[Record]:
        unpack = Unpacker(remembers=lambda path: path[0] == "images")
        for message in self._messages():
            maker = _MAKERS.get(message.topic)
            if maker is None:
                continue
            try:
                record = _decoded(maker, unpack, message)
            except RecordingError as error:
                raise RecordingError(f"{self.path}, message {message.sequence}: {error}") from error
            yield record

    def __len__(self) -> int:
        """How many records there are; the first time, this reads the file."""
        if self._length is None:
            self._length = sum(message.topic in _MAKERS for message in self._messages())
        return self._length

    @property
    def truncated(self) -> bool:
        """Whether the file ends, or its bytes are damaged, before its end was written."""
        len(self)
        return bool(self.damage)

    def frames(self) -> Iterator[FrameRecord]:
        """The observations."""
        return (record for record in self if isinstance(record, FrameRecord))

    def actions(self) -> Iterator[ActionRecord]:
        """The commands."""
        return (record for record in self if isinstance(record, ActionRecord))

    def chunks(self) -> Iterator[ChunkRecord]:
        """The policy's answers."""
        return (record for record in self if isinstance(record, ChunkRecord))

    def turns(self) -> Iterator[TurnRecord]:
        """The turns of the control loop."""
        return (record for record in self if isinstance(record, TurnRecord))

    def _messages(self) -> Iterator[Message]:
        with open(self.path, "rb") as file:
            try:
                yield from container.messages(file)
                self.damage = ""
            except TornError as torn:
                self.damage = str(torn)
            except RecordingError as error:
                raise RecordingError(f"{self.path}: {error}") from error


def _decoded(make: Callable[[dict[str, Any], int], T], unpack: Unpacker, message: Message) -> T:
    """What `make` makes of a message's tree, whose shape nobody has checked yet."""
    try:
        return make(unpack(memoryview(message.data[0])), message.time_ns)
    except RecordingError:
        raise
    except (InterfaceValidationError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise RecordingError(f"a record is not what it should be: {type(error).__name__}: {error}") from error
