"""Pickles written by hand, of our own values."""

from __future__ import annotations

import struct
from typing import Any

from chunkwise.wires.lerobot.pickled import Instance


def dumps(value: Any) -> bytes:
    """A pickle of protocol 4.

    Args:
        value: None, bool, int, float, str, a tuple, list or dict of such, an array of numbers, or an instance.
    """
    out = bytearray(b"\x80\x04")
    _write(out, value)
    return bytes(out + b".")


def _write(out: bytearray, value: Any) -> None:
    match value:
        case None | True | False:
            out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            size = value.bit_length() // 8 + 1
            out += b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            out += b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            out += b"X" + len(data).to_bytes(4, "little") + data
        case tuple() | list():
            closes = b"t" if isinstance(value, tuple) else b"e"
            out += b"(" if isinstance(value, tuple) else b"]("
            for item in value:
                _write(out, item)
            out += closes
        case dict():
            out += b"}("
            for key, item in value.items():
                _write(out, key)
                _write(out, item)
            out += b"u"
        case Instance():
            _write_name(out, value.module, value.name)
            out += b")\x81"
            _write(out, value.fields)
            out += b"b"
        case _:
            _write_array(out, value)


def _write_name(out: bytearray, module: str, name: str) -> None:
    out += b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _write_array(out: bytearray, value: Any) -> None:
    """As numpy's own pickles have it: made empty, then built of shape, type and bytes."""
    _write_name(out, "numpy._core.multiarray", "_reconstruct")
    _write_name(out, "numpy", "ndarray")
    out += b"K\x00\x85C\x01b\x87R(K\x01"
    _write(out, tuple(map(int, value.shape)))
    _write_name(out, "numpy", "dtype")
    _write(out, (value.dtype.str[1:], False, True))
    out += b"R"
    _write(out, (3, value.dtype.str[0], None, None, None, -1, -1, 0))
    data = value.tobytes()
    out += b"b\x89B" + len(data).to_bytes(4, "little") + data + b"tb"
