"""Frames in shared memory, both ends in one process."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import ChunkRequest, Frame, InterfaceValidationError
from chunkwise.memory import Memory
from chunkwise.workers._ring import Placed, RingReader, RingWriter
from chunkwise.workers._trees import asked


def tree(value: int = 0, side: int = 8, **more: Any) -> dict[str, Any]:
    return asked(Frame({"eye": np.full((side, side, 3), value, dtype=np.uint8)}, **more), ChunkRequest(0))


def reader_of(writer: RingWriter) -> RingReader:
    assert writer.memory is not None
    return RingReader(Memory.received(os.dup(writer.memory.fd), most=1 << 30, writable=False), writer.slots)


def eye(reader: RingReader, placed: Placed) -> Any:
    return reader.read(Placed.of_bytes(memoryview(placed.to_bytes())))["frame"]["images"]["eye"]


def test_a_tree_is_read_in_place_and_states_are_copies() -> None:
    writer = RingWriter(4, checksum=True)
    placed = writer.write(tree(7, state={"arm": np.arange(3.0)}), ())
    reader = reader_of(writer)
    made = reader.read(placed)
    image, arm = made["frame"]["images"]["eye"], made["frame"]["state"]["arm"]
    assert (image == 7).all() and not image.flags.writeable and not image.flags.owndata
    assert arm.tolist() == [0.0, 1.0, 2.0] and arm.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        image.flags.writeable = True


def test_a_slot_that_is_looked_at_is_busy_until_the_last_view_has_gone() -> None:
    writer = RingWriter(4, checksum=False)
    placed = writer.write(tree(1), ())
    reader = reader_of(writer)
    image = eye(reader, placed)
    part = image[2:4]
    del image
    assert reader.busy() == [placed.slot]
    del part
    assert reader.busy() == []


def test_a_slot_that_is_in_use_is_not_written_to() -> None:
    writer = RingWriter(3, checksum=False)
    assert [writer.write(tree(), taken).slot for taken in ((), (0,), (0, 1), (1,))] == [0, 1, 2, 0]
    with pytest.raises(BufferError, match="all 3 slots"):
        writer.write(tree(), (0, 1, 2))


def test_pictures_are_copied_before_the_writer_runs_out_of_slots() -> None:
    writer = RingWriter(4, checksum=False)
    reader, kept = None, []
    for value in range(6):
        placed = writer.write(tree(value), reader.busy() if reader else ())
        reader = reader or reader_of(writer)
        kept.append(eye(reader, placed))
        assert len(reader.busy()) <= 2
    assert [int(image[0, 0, 0]) for image in kept] == list(range(6))
    assert not any(image.flags.writeable for image in kept)


def test_a_slot_that_was_written_over_is_noticed() -> None:
    writer = RingWriter(3, checksum=False)
    first = writer.write(tree(1), ())
    reader = reader_of(writer)
    second = writer.write(tree(2), ())
    assert first.slot == second.slot
    with pytest.raises(ValueError, match="slot 0 holds frame 2, not frame 1"):
        reader.read(first)


@pytest.mark.parametrize("at", [64, 64 + 8 * 8 * 3 - 1])
def test_a_flipped_byte_is_noticed(at: int) -> None:
    writer = RingWriter(3, checksum=True)
    placed = writer.write(tree(1), ())
    assert writer.memory is not None
    writer.memory.buffer[at] ^= 4
    with pytest.raises(ValueError, match="checksum is wrong"):
        reader_of(writer).read(placed)


def test_a_ring_grows_and_views_of_the_old_one_stay() -> None:
    writer = RingWriter(3, checksum=False)
    placed = writer.write(tree(1), ())
    old = writer.memory
    reader = reader_of(writer)
    image = eye(reader, placed)
    larger = writer.write(tree(2, side=200), (0, 1, 2))
    assert writer.memory is not old
    reader.close()
    assert (image == 1).all()
    assert (eye(reader_of(writer), larger) == 2).all()


def test_a_long_text_lies_in_the_slot() -> None:
    writer = RingWriter(3, checksum=True)
    placed = writer.write(tree(1, task={"prompt": "é" * 100_000}), ())
    assert placed.long and not placed.text
    assert reader_of(writer).read(placed)["frame"]["task"]["prompt"] == "é" * 100_000


def test_a_place_that_is_none_is_refused() -> None:
    writer = RingWriter(3, checksum=False)
    placed = writer.write(tree(), ())
    reader = reader_of(writer)
    for wrong in (placed._replace(slot=3), placed._replace(arrays=1 << 40), placed._replace(long=1 << 40)):
        with pytest.raises(ValueError, match="no slot"):
            reader.read(wrong)


def test_what_is_too_large_or_no_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkwise.workers._ring.MAX_RING_BYTES", 1 << 16)
    writer = RingWriter(3, checksum=False)
    with pytest.raises(InterfaceValidationError, match="slots may have"):
        writer.write(tree(side=256), ())
    with pytest.raises(InterfaceValidationError, match=r"frame\.meta\.driver: only plain values"):
        writer.write(tree(meta={"driver": object()}), ())
