"""Pictures from one process to another, through memory that both have mapped: two slots, and no lock.

The writer fills the slot that is not the newest, then says that it is.  Every slot has the picture's number in
front and behind: a reader that finds the two different, or changed while it copied, looks again.  A writer that
dies in the middle of a picture leaves the one before it readable, and nothing to be released.

::

    number of the newest | length of the message | message     | slot 0 | slot 1
    int64                | int64                 | 496 bytes   |

    slot:  number in front | captured, ns | number behind | unused | pixels
           int64             int64          int64           int64    uint8 (height, width, 3)
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES: Final = 512
MESSAGE_AT: Final = 16
SLOT_HEADER_BYTES: Final = 32
ATTEMPTS: Final = 4
"""How often a reader looks: a writer would have to fill two slots during each."""


class Numbered(NamedTuple):
    """A picture as it was read.

    Attributes:
        number: from 1 on, over every writer that this memory has had.
        time_ns: when it was captured [ns], by the writer's clock.
        picture: (height, width, 3) uint8, a copy.
    """

    number: int
    time_ns: int
    picture: NDArray[np.uint8]


def slots_size(height: int, width: int) -> int:
    """Bytes that slots for pictures of this size take."""
    return HEADER_BYTES + 2 * _slot_bytes(height, width)


def _slot_bytes(height: int, width: int) -> int:
    return SLOT_HEADER_BYTES + -(-height * width * 3 // 8) * 8


class Slots:
    """Two slots in a piece of memory.

    Args:
        buffer: `slots_size` bytes, zeros at first.
        height, width: of every picture [pixels].
    """

    def __init__(self, buffer: memoryview, height: int, width: int) -> None:
        self._bytes = np.frombuffer(buffer, dtype=np.uint8)
        self._header = self._bytes[:MESSAGE_AT].view(np.int64)
        self._marks, self._pixels = [], []
        size = _slot_bytes(height, width)
        for start in (HEADER_BYTES, HEADER_BYTES + size):
            pixels = start + SLOT_HEADER_BYTES
            self._marks.append(self._bytes[start:pixels].view(np.int64))
            self._pixels.append(self._bytes[pixels : pixels + height * width * 3].reshape(height, width, 3))

    @property
    def newest(self) -> int:
        """The number of the newest picture; 0 before the first."""
        return int(self._header[0])

    def write(self, picture: NDArray[np.uint8], time_ns: int) -> None:
        """Make a picture the newest."""
        number = self.newest + 1
        marks, pixels = self._marks[number % 2], self._pixels[number % 2]
        marks[0] = number
        pixels[...] = picture
        marks[1] = time_ns
        marks[2] = number
        self._header[0] = number

    def read(self, after: int = 0) -> Numbered | None:
        """The newest picture; None where none is newer than number `after`, or it was overwritten every time."""
        for _ in range(ATTEMPTS):
            number = self.newest
            if number <= after:
                return None
            marks, pixels = self._marks[number % 2], self._pixels[number % 2]
            if int(marks[2]) != number:
                continue
            made, time_ns = pixels.copy(), int(marks[1])
            if int(marks[0]) == number:
                return Numbered(number, time_ns, made)
        return None

    def say(self, message: str) -> None:
        """Leave a message for the reader, cut to what there is room for."""
        data = message.encode("utf-8", "replace")[: HEADER_BYTES - MESSAGE_AT]
        self._header[1] = 0
        self._bytes[MESSAGE_AT : MESSAGE_AT + len(data)] = np.frombuffer(data, dtype=np.uint8)
        self._header[1] = len(data)

    def said(self) -> str:
        """The newest message of a writer; empty where there is none."""
        length = min(max(int(self._header[1]), 0), HEADER_BYTES - MESSAGE_AT)
        return self._bytes[MESSAGE_AT : MESSAGE_AT + length].tobytes().decode("utf-8", "replace")
