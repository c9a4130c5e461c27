"""MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), of which every size is checked first.

Maps, arrays, texts, bytes and numbers; extension types are refused.  Bytes are views of what they were read from,
so that a message costs no more than itself and :data:`MAX_VALUES` values.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from chunkwise.wires import Buffer, WireError

MAX_VALUES: Final = 8192
"""Values in one message, keys and containers counted."""
MAX_DEPTH: Final = 16
MAX_TEXT_BYTES: Final = 1 << 16

_NUMBERS: Final = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_LENGTHS: Final = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}
_BIN: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_STR: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY: Final = {0xDC: 2, 0xDD: 4}
_MAP: Final = {0xDE: 2, 0xDF: 4}
_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}


def unpacked(data: Buffer) -> Any:
    """The one value in a message.

    Texts are str, bytes are views of `data`, keys are str or bytes.

    Raises:
        WireError: the bytes are no message, hold more than one value, or are beyond the limits.
    """
    reader = _Reader(memoryview(data).cast("B"))
    value = reader.value(0)
    if reader.at != len(reader.data):
        raise WireError(f"{len(reader.data) - reader.at} bytes stand behind the message")
    return value


class _Reader:
    """Reads values one after the other.

    Args:
        data: the message.
    """

    __slots__ = ("at", "data", "left")

    def __init__(self, data: memoryview) -> None:
        self.data, self.at, self.left = data, 0, MAX_VALUES

    def value(self, depth: int) -> Any:
        """The next value."""
        self.left -= 1
        if self.left < 0:
            raise WireError(f"a message of more than {MAX_VALUES} values")
        if self.at >= len(self.data):
            raise WireError("a message that ends too early")
        first = self.data[self.at]
        self.at += 1
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._array(first & 0x0F, depth)
        if first < 0xC0:
            return self._text(first & 0x1F)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            number = _NUMBERS[first]
            return number.unpack(self._take(number.size))[0]
        if first in _STR:
            return self._text(self._length(_STR[first]))
        if first in _BIN:
            return self._take(self._length(_BIN[first]))
        if first in _ARRAY:
            return self._array(self._length(_ARRAY[first]), depth)
        if first in _MAP:
            return self._map(self._length(_MAP[first]), depth)
        raise WireError(f"a value of type 0x{first:02x} at byte {self.at - 1}; extensions are not taken")

    def _take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise WireError(f"a message that ends {self.at - len(self.data)} bytes too early")
        return self.data[start : self.at]

    def _length(self, size: int) -> int:
        length: int = _LENGTHS[size].unpack(self._take(size))[0]
        return length

    def _text(self, size: int) -> str:
        if size > MAX_TEXT_BYTES:
            raise WireError(f"a text of {size} bytes; at most {MAX_TEXT_BYTES} are taken")
        try:
            return str(self._take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"a text that is no UTF-8: {error.reason}") from error

    def _array(self, size: int, depth: int) -> list[Any]:
        self._room(size, depth)
        return [self.value(depth + 1) for _ in range(size)]

    def _map(self, size: int, depth: int) -> dict[str | bytes, Any]:
        self._room(2 * size, depth)
        made: dict[str | bytes, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if isinstance(key, memoryview) and len(key) <= MAX_TEXT_BYTES:
                key = bytes(key)
            if not isinstance(key, (str, bytes)):
                raise WireError("a key that is neither a text nor bytes")
            made[key] = self.value(depth + 1)
        return made

    def _room(self, size: int, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise WireError(f"a message of more than {MAX_DEPTH} levels")
        if size > self.left:
            raise WireError(f"a message of more than {MAX_VALUES} values")


def packed(value: Any) -> bytes:
    """A value as a message, each number and length as short as it can be.

    Args:
        value: None, numbers, texts, bytes and views of bytes, lists, tuples, and mappings of these.

    Raises:
        TypeError: it holds something else.
        OverflowError: a whole number has more than 64 bits, or something is 4 GiB long.
    """
    pieces: list[Buffer] = []
    _put(value, pieces)
    return b"".join(pieces)


def _put(value: Any, pieces: list[Buffer]) -> None:
    if value is None or isinstance(value, bool):
        pieces.append({None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value])
    elif isinstance(value, str):
        text = value.encode()
        pieces += [_head(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB)), text]
    elif isinstance(value, (bytes, bytearray, memoryview)):
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        pieces += [_head(size, 0, 0, (0xC4, 0xC5, 0xC6)), value]
    elif isinstance(value, int):
        pieces.append(_whole(value))
    elif isinstance(value, float):
        pieces.append(b"\xcb" + struct.pack(">d", value))
    elif isinstance(value, Mapping):
        pieces.append(_head(len(value), 0x80, 16, (0, 0xDE, 0xDF)))
        for key, item in value.items():
            _put(key, pieces)
            _put(item, pieces)
    elif isinstance(value, (list, tuple)):
        pieces.append(_head(len(value), 0x90, 16, (0, 0xDC, 0xDD)))
        for item in value:
            _put(item, pieces)
    else:
        raise TypeError(f"{type(value).__name__} cannot be written as MessagePack")


def _head(size: int, short: int, shorter_than: int, types: tuple[int, int, int]) -> bytes:
    """Type and length; a type of 0 does not exist."""
    if size < shorter_than:
        return bytes([short | size])
    for kind, width in zip(types, (1, 2, 4), strict=True):
        if kind and size < 1 << 8 * width:
            return bytes([kind]) + size.to_bytes(width, "big")
    raise OverflowError(f"{size} bytes or values in one")


def _whole(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes([value & 0xFF])
    for kind, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        if 0 <= value < 1 << 8 * width:
            return bytes([kind]) + value.to_bytes(width, "big")
    for kind, width in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        if -1 << 8 * width - 1 <= value < 0:
            return bytes([kind]) + value.to_bytes(width, "big", signed=True)
    raise OverflowError(f"{value} has more than 64 bits")
