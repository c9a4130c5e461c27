from __future__ import annotations

import pytest

from chunkwise.chunking import NO_SOURCE, Decision
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.safety import CLEAR


def turn(step: int) -> Turn:
    return Turn(step, step / 50, 0.0, Decision(step, None, NO_SOURCE), None, CLEAR)


def emit(ring: EventRing, steps: range) -> None:
    for step in steps:
        ring.emit(turn(step))


def test_readers_see_every_event_once_and_do_not_share_a_place() -> None:
    ring = EventRing(8)
    first = ring.reader()
    emit(ring, range(3))
    second = ring.reader()
    emit(ring, range(3, 5))
    assert [event.step for event in first.take()] == [0, 1, 2, 3, 4]
    assert [event.step for event in second.take()] == [3, 4]
    assert first.take() == []
    assert first.lost == second.lost == 0


def test_a_slow_reader_loses_the_oldest_and_knows_how_many() -> None:
    ring = EventRing(4)
    reader = ring.reader()
    emit(ring, range(10))
    assert [event.step for event in reader.take()] == [6, 7, 8, 9]
    assert reader.lost == 6
    emit(ring, range(10, 12))
    assert [event.step for event in reader.take()] == [10, 11]
    assert reader.lost == 6


def test_an_event_that_is_overwritten_while_it_is_read_counts_as_lost() -> None:
    ring = EventRing(4)
    reader = ring.reader()
    emit(ring, range(4))

    class Hasty(list):  # type: ignore[type-arg]
        """Lets the writer go on in the middle of a copy."""

        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.reads += 1
            if self.reads == 2:
                emit(ring, range(4, 6))
            return super().__getitem__(index)

    ring._events = Hasty(ring._events)
    assert [event.step for event in reader.take()] == [2, 3]
    assert reader.lost == 2
    assert [event.step for event in reader.take()] == [4, 5]


def test_a_ring_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        EventRing(0)


def test_a_reader_that_is_lapped_counts_every_event_once() -> None:
    ring = EventRing(2)
    reader = ring.reader()
    emit(ring, range(1))

    class Hasty(list):  # type: ignore[type-arg]
        """Lets the writer go round more than once in the middle of a copy."""

        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.reads += 1
            if self.reads == 1:
                emit(ring, range(1, 11))
            return super().__getitem__(index)

    ring._events = Hasty(ring._events)
    assert reader.take() == []
    assert [event.step for event in reader.take()] == [9, 10]
    assert reader.lost == 9
