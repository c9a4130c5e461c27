"""The recorder port: what keeps an episode.  The one adapter here writes it into a file.

::

    with EpisodeWriter("episode.mcap", robot=robot.spec) as writer:
        ...                                    # writer.frame(frame); writer.action(commanded, applied, step=step)

    for record in EpisodeReader("episode.mcap"):
        ...
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from chunkwise.recording.errors import RecordingError
from chunkwise.recording.reader import EpisodeReader
from chunkwise.recording.records import (
    ActionRecord,
    ChunkRecord,
    EndRecord,
    Event,
    FrameRecord,
    Header,
    Record,
    TurnRecord,
)
from chunkwise.recording.taps import RecordedRobot, recorded
from chunkwise.recording.writer import EpisodeWriter

__all__ = [
    "ActionRecord",
    "ChunkRecord",
    "EndRecord",
    "EpisodeReader",
    "EpisodeWriter",
    "Event",
    "FrameRecord",
    "Header",
    "Record",
    "RecordedRobot",
    "Recorder",
    "RecordingError",
    "TurnRecord",
    "recorded",
]


@runtime_checkable
class Recorder(Protocol):
    """Keeps the events of a run, and never makes the loop wait."""

    def open(self) -> None:
        """Make it ready to write."""
        ...

    def write(self, event: Event) -> None:
        """Keep one event; at once, whatever it costs later."""
        ...

    def close(self) -> None:
        """Keep what waits, and end.  Twice is fine."""
        ...
