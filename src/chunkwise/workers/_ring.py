"""Frames in shared memory: written once by the program, looked at in place by the policy.

A ring is memory of equal slots.  A slot is 64 bytes with the number of what lies in it (uint64, written last),
then the arrays of a packed tree one after another, then its text where that is long.  The writer chooses a slot
that nobody reads.  The message that names it has the text else, and says how long the parts are, which number they
have, and in debugging their checksum.
"""

from __future__ import annotations

import struct
import weakref
import zlib
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.packing import Packed, Path, Unpacker
from chunkwise.memory import Memory
from chunkwise.workers._trees import refuse_left_out

_PLACE = struct.Struct("<IQQQI")
INFER = struct.Struct("<QQ?")
"""Before a place in a message: numbers of the call and of the conversation, and whether it is bound."""
HEAD = 64
PAGE = 4096
MAX_TEXT_BYTES = 32 << 10
"""A longer text lies in the slot."""
MIN_SLOTS = 3
"""One that is read, one that waits, one that is written."""
MAX_RING_BYTES = 4 << 30


class Placed(NamedTuple):
    """A tree in a ring.

    Attributes:
        slot: where.
        number: of what lies there.
        arrays: bytes of them in the slot.
        long: bytes of text behind them; 0 where `text` has it.
        checksum: CRC-32 of what lies in the slot; 0 where none is asked for.
        text: of the tree.
    """

    slot: int
    number: int
    arrays: int
    long: int = 0
    checksum: int = 0
    text: bytes = b""

    def to_bytes(self) -> bytes:
        """As it stands in a message."""
        return _PLACE.pack(*self[:-1]) + self.text

    @classmethod
    def of_bytes(cls, data: memoryview) -> Placed:
        """Of a message.

        Raises:
            struct.error: it is too short.
        """
        slot, number, arrays, long, checksum = _PLACE.unpack_from(data)
        return cls(slot, number, arrays, long, checksum, bytes(data[_PLACE.size :]))


class RingWriter:
    """The program's end.  It grows: where a tree is larger than a slot, :meth:`write` makes another ring.

    Args:
        slots: how many, at least :data:`MIN_SLOTS`.
        checksum: whether every tree gets one.

    Attributes:
        memory: the newest ring; None before there is one.  The reader has to be given it whenever it is another.
    """

    def __init__(self, slots: int, *, checksum: bool) -> None:
        self.slots, self._checksum = slots, checksum
        self.memory: Memory | None = None
        self._slot_bytes = 0
        self._number = 0

    def write(self, tree: dict[str, Any], taken: Container[int]) -> Placed:
        """Copy a tree into a slot.

        Args:
            tree: plain values and arrays.
            taken: slots that are in use.

        Raises:
            InterfaceValidationError: something in it cannot be given to another process, or it is too large.
            OSError: there is no memory.
            BufferError: every slot is in use.
        """
        packed = Packed(tree, copy=False)
        refuse_left_out(packed)
        long = len(packed.text) if len(packed.text) > MAX_TEXT_BYTES else 0
        room = HEAD + packed.size + long
        if room > self._slot_bytes:
            self._grow(room)
            taken = ()  # of the ring before
        slot = next((slot for slot in range(self.slots) if slot not in taken), None)
        if slot is None:
            raise BufferError(f"all {self.slots} slots are in use")
        assert self.memory is not None
        place = self.memory.buffer[slot * self._slot_bytes : (slot + 1) * self._slot_bytes]
        head = place[:8].cast("Q")
        head[0] = 0
        at = HEAD
        pieces: list[bytes | memoryview] = [*packed.arrays, packed.text[:long]]
        for piece in pieces:
            place[at : at + len(piece)] = piece
            at += len(piece)
        self._number += 1
        head[0] = self._number
        checksum = zlib.crc32(place[HEAD:at]) if self._checksum else 0
        return Placed(slot, self._number, packed.size, long, checksum, b"" if long else packed.text)

    def _grow(self, room: int) -> None:
        """Another ring, whose slots have a quarter more room than is needed."""
        size = -(-room * 5 // 4 // PAGE) * PAGE
        if size * self.slots > MAX_RING_BYTES:
            raise InterfaceValidationError(
                f"a frame of {room >> 20} MiB; {self.slots} slots may have {MAX_RING_BYTES >> 20} MiB together"
            )
        self.close()
        self.memory = Memory.new(size * self.slots, "chunkwise-frames", reserve=True)
        self._slot_bytes = size

    def close(self) -> None:
        """Let the memory go; the reader has its own hold of it."""
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.close()


class RingReader:
    """The policy's end: trees whose images are views of the ring, read-only.

    A slot whose views are still held, by a policy that remembers frames, is told with :meth:`busy` and is not
    written to.  When so many are held that the writer would run out of slots, images are copied.

    Args:
        memory: the ring; this object's from now on.
        slots: how many it has.
    """

    def __init__(self, memory: Memory, slots: int) -> None:
        self._memory, self._slots = memory, slots
        self._slot_bytes = memory.buffer.nbytes // slots
        self._views: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def read(self, placed: Placed) -> dict[str, Any]:
        """The tree.

        Raises:
            ValueError: the slot holds something else, or not what was written.
            PackingError: it is no packed tree.
        """
        start = placed.slot * self._slot_bytes
        middle = start + HEAD + placed.arrays
        end = middle + placed.long
        if placed.slot >= self._slots or end > start + self._slot_bytes:
            raise ValueError(f"no slot {placed.slot} with {placed.arrays} + {placed.long} bytes")
        self.check(placed)
        if placed.checksum and zlib.crc32(self._memory.buffer[start + HEAD : end]) != placed.checksum:
            raise ValueError(f"frame {placed.number}: the checksum is wrong, the shared memory has been changed")
        place = np.frombuffer(self._memory.buffer, np.uint8, placed.arrays, start + HEAD)
        in_place = len(self.busy()) < self._slots - MIN_SLOTS + 1
        if in_place:
            self._views[placed.slot] = weakref.ref(place)
        unpack = Unpacker(copy=lambda path: not in_place or not _is_image(path))
        text = self._memory.buffer[middle:end] if placed.long else memoryview(placed.text)
        tree = unpack.unpack(text, place.data)
        images = tree["frame"]["images"]
        for name, image in images.items():
            if not image.flags.aligned:
                images[name] = image = image.copy()
            image.flags.writeable = False
        return tree

    def check(self, placed: Placed) -> None:
        """See that the slot holds what it is said to hold, still.

        Raises:
            ValueError: it was written over.
        """
        start = placed.slot * self._slot_bytes
        number = self._memory.buffer[start : start + 8].cast("Q")[0]
        if number != placed.number:
            raise ValueError(f"slot {placed.slot} holds frame {number}, not frame {placed.number}")

    def busy(self) -> list[int]:
        """Slots that somebody still looks at."""
        return [slot for slot, view in self._views.items() if view() is not None]

    def close(self) -> None:
        """Let the memory go, once the last view has gone."""
        self._memory.close()


def _is_image(path: Path) -> bool:
    return path[:2] == ("frame", "images")
