"""Pickles written by hand, of our own values; arrays are joined in, and copied once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from chunkwise.processing.pickled import Instance
from chunkwise.wires import Buffer

Write = Callable[[Buffer], None]


def dumps(value: Any) -> bytes:
    """A pickle of protocol 4.

    Args:
        value: None, bool, int, float, str, a tuple, list or dict of such, an array of numbers, or an instance.
    """
    pieces: list[Buffer] = [b"\x80\x04"]
    _write(pieces.append, value)
    pieces.append(b".")
    return b"".join(pieces)


def _write(put: Write, value: Any) -> None:
    match value:
        case None | True | False:
            put({None: b"N", True: b"\x88", False: b"\x89"}[value])
        case int():
            size = value.bit_length() // 8 + 1
            put(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))
        case float():
            put(b"G" + struct.pack(">d", value))
        case str():
            data = value.encode()
            put(b"X" + len(data).to_bytes(4, "little") + data)
        case tuple() | list():
            put(b"(" if isinstance(value, tuple) else b"](")
            for item in value:
                _write(put, item)
            put(b"t" if isinstance(value, tuple) else b"e")
        case dict():
            put(b"}(")
            for key, item in value.items():
                _write(put, key)
                _write(put, item)
            put(b"u")
        case Instance():
            put(_name(value.module, value.name) + b")\x81")
            _write(put, value.fields)
            put(b"b")
        case _:
            _write_array(put, value)


def _name(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


_EMPTY = (
    _name("numpy._core.multiarray", "_reconstruct") + _name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01"
)


def _write_array(put: Write, value: Any) -> None:
    """As numpy's own pickles have it: made empty, then built of shape, type and bytes."""
    put(_EMPTY)
    _write(put, tuple(map(int, value.shape)))
    put(_name("numpy", "dtype"))
    _write(put, (value.dtype.str[1:], False, True))
    put(b"R")
    _write(put, (3, value.dtype.str[0], None, None, None, -1, -1, 0))
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b""
    put(b"b\x89B" + len(data).to_bytes(4, "little"))
    put(data)
    put(b"tb")
