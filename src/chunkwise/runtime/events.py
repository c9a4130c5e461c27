"""The one event stream: the loop writes, readers look, and no reader can slow the loop."""

from __future__ import annotations

from typing import NamedTuple

from chunkwise.chunking import Decision
from chunkwise.contract.values import Array
from chunkwise.safety import Change, Mode, Verdict


class Turn(NamedTuple):
    """One turn of the control loop.

    Attributes:
        step: the control step.
        time_s: when it began, on the loop's clock.
        late_s: how long after its deadline.
        decision: the scheduler's.
        sent: the row that the gate let through; None when nothing was sent.
        verdict: the gate's.
        mode: the state of the run after it.
        change: the change of the state that it brought, if it brought one.
    """

    step: int
    time_s: float
    late_s: float
    decision: Decision
    sent: Array | None
    verdict: Verdict
    mode: Mode = Mode.RUNNING
    change: Change | None = None


class EventRing:
    """The newest `capacity` events.  One writer, any number of readers, no lock.

    A reader that falls behind by more than `capacity` loses the oldest events and is told how many.
    """

    def __init__(self, capacity: int = 4096) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        # One place more than promised: the one that is being written is never among the newest `capacity`.
        self._places = capacity + 1
        self._events: list[Turn | None] = [None] * self._places
        self.written = 0

    def emit(self, event: Turn) -> None:
        """Write one event over the oldest."""
        self._events[self.written % self._places] = event
        self.written += 1

    def reader(self) -> Reader:
        """A reader that begins with the next event."""
        return Reader(self)


class Reader:
    """One reader's place in the stream."""

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        self._next = ring.written
        self.lost = 0

    def take(self) -> list[Turn]:
        """Every event since the last call, oldest first, without waiting."""
        ring = self._ring
        written = ring.written
        first = max(self._next, written - ring.capacity)
        events = [ring._events[index % ring._places] for index in range(first, written)]
        # What the writer reached while we copied may be newer than its place says: those are lost.
        overrun = min(max(ring.written - ring.capacity - first, 0), len(events))
        self.lost += first - self._next + overrun
        self._next = written
        return [event for event in events[overrun:] if event is not None]
