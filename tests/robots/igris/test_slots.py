"""Pictures through shared memory: whole or not at all, the newest only, and no lock."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from chunkwise.robots._igris.slots import Slots, slots_size


def pair(height: int = 5, width: int = 7) -> tuple[Slots, Slots]:
    """A writer and a reader of the same memory."""
    memory = memoryview(bytearray(slots_size(height, width)))
    return Slots(memory, height, width), Slots(memory, height, width)


def picture(value: int, height: int = 5, width: int = 7) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_nothing_before_the_first() -> None:
    _, reader = pair()
    assert reader.read() is None and reader.newest == 0 and reader.said() == ""


def test_the_newest_with_its_number_and_time() -> None:
    writer, reader = pair()
    for value in (3, 4, 5):
        writer.write(picture(value), 1000 + value)
    seen = reader.read()
    assert seen is not None and (seen.number, seen.time_ns) == (3, 1005) and (seen.picture == 5).all()
    assert reader.read(after=3) is None, "no newer one"


def test_what_was_read_is_not_written_again() -> None:
    writer, reader = pair()
    writer.write(picture(1), 1)
    seen = reader.read()
    for value in range(2, 6):
        writer.write(picture(value), value)
    assert seen is not None and (seen.picture == 1).all()


@pytest.mark.parametrize("torn", ["front", "pixels", "announced"])
def test_a_writer_that_died_in_the_middle_leaves_the_picture_before(torn: str) -> None:
    writer, reader = pair()
    writer.write(picture(1), 1)
    writer._marks[0][0] = 2
    if torn != "front":
        writer._pixels[0][:2] = 9
    if torn == "announced":  # out of order: the reader must see that the number behind is not there
        writer._header[0] = 2
        assert reader.read() is None
        return
    seen = reader.read()
    assert seen is not None and seen.number == 1 and (seen.picture == 1).all()
    Slots(memoryview(writer._bytes), 5, 7).write(picture(3), 3)
    seen = reader.read(after=1)
    assert seen is not None and seen.number == 2 and (seen.picture == 3).all(), "the next writer goes on"


def test_a_picture_that_is_overwritten_while_it_is_read_is_read_again() -> None:
    writer, reader = pair()
    writer.write(picture(1), 1)

    class Overtaken:
        """The slot's pixels; the writer is two pictures further when they have been copied."""

        def copy(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
            made = pixels.copy()
            reader._pixels[1] = pixels
            writer.write(picture(2), 2)
            writer.write(picture(3), 3)
            return made

    pixels = reader._pixels[1]
    reader._pixels[1] = Overtaken()
    seen = reader.read()
    assert seen is not None and seen.number == 3 and (seen.picture == 3).all()


def test_no_reader_ever_sees_half_a_picture() -> None:
    writer, reader = pair(64, 64)
    done = threading.Event()

    def write() -> None:
        value = 0
        while not done.is_set():
            value = (value + 1) % 256
            writer.write(picture(value, 64, 64), value)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = [found for _ in range(500) if (found := reader.read()) is not None]
    finally:
        done.set()
        thread.join()
    assert all((found.picture == found.time_ns).all() for found in seen)
    numbers = [found.number for found in seen]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("message", ["", "no camera", "ü" * 1000])
def test_messages_are_cut_to_their_place(message: str) -> None:
    writer, reader = pair()
    writer.say("something longer that stood there before")
    writer.say(message)
    assert reader.said()[:200] == message[:200] and len(reader.said().encode()) <= 512
