"""The four messages of ``transport.AsyncInference``: one field of bytes, and a state beside it in observations.

====================  ============================================================================
``Empty``             nothing
``PolicySetup``       ``bytes data = 1``
``Actions``           ``bytes data = 1``
``Observation``       ``TransferState transfer_state = 1; bytes data = 2``
====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from chunkwise.wires import Buffer, WireError

SLICE_BYTES: Final = 2 << 20
"""Of an observation, in one message."""
_VARINT, _LENGTH = 0, 2


class Transfer(IntEnum):
    """Where a slice stands; an observation of one slice is sent as END."""

    BEGIN = 1
    MIDDLE = 2
    END = 3


def payload(data: Buffer) -> bytes:
    """A `PolicySetup` or `Actions`; of nothing, as of `Empty`, it is nothing."""
    return b"".join((b"\x0a", _varint(len(data)), data)) if len(data) else b""


def payload_of(message: memoryview) -> memoryview:
    """The bytes in a `PolicySetup` or `Actions`.

    Raises:
        WireError: it is none.
    """
    data = _fields(message, {1: _LENGTH}).get(1, memoryview(b""))
    assert isinstance(data, memoryview)
    return data


def sliced(data: Buffer) -> list[bytes]:
    """An observation as its messages."""
    view = memoryview(data)
    starts = range(0, max(len(view), 1), SLICE_BYTES)
    made = []
    for start in starts:
        state = Transfer.END if start == starts[-1] else Transfer.MIDDLE if start else Transfer.BEGIN
        piece = view[start : start + SLICE_BYTES]
        made.append(b"".join((b"\x08", _varint(state), b"\x12", _varint(len(piece)), piece)))
    return made


def joined(messages: Sequence[memoryview], most: int) -> Buffer:
    """The observation in its messages, of a single one as a view; one that begins again is begun again.

    Raises:
        WireError: a message is none, one follows the end, the end is missing, or it has more than `most` bytes.
    """
    found, size, ended = list[memoryview](), 0, False
    for message in messages:
        fields = _fields(message, {1: _VARINT, 2: _LENGTH})
        state, data = fields.get(1, 0), fields.get(2, memoryview(b""))
        assert isinstance(data, memoryview)
        if state not in (Transfer.BEGIN, Transfer.MIDDLE, Transfer.END):
            raise WireError("transfer_state must be 1 to 3")
        if ended:
            raise WireError("a slice follows the end of the observation")
        if state == Transfer.BEGIN:
            found, size = [], 0
        size += len(data)
        if size > most:
            raise WireError(f"an observation has at most {most} bytes")
        found.append(data)
        ended = state == Transfer.END
    if not ended:
        raise WireError("an observation without its end")
    return found[0] if len(found) == 1 else b"".join(found)


def _fields(message: memoryview, known: dict[int, int]) -> dict[int, int | memoryview]:
    """Field number -> value; each at most once.

    Raises:
        WireError: the message is cut off, or has another field, or one of another type.
    """
    found: dict[int, int | memoryview] = {}
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if known.get(number) != kind or number in found:
            raise WireError(f"a message has a field {number} of type {kind} that is not its own")
        value, at = _read_varint(message, at)
        if kind == _VARINT:
            found[number] = value
            continue
        if value > len(message) - at:
            raise WireError("a message is cut off")
        found[number] = message[at : at + value]
        at += value
    return found


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise WireError("a number in a message is cut off, or has more than 35 bits")
