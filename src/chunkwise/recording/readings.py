"""What a message says, for people and for a comparison that leaves some of it out; and where two messages differ.

A message is read by its own bytes, whatever the wire: one of the native wire, JSON, or MessagePack.  What is none
of these is compared byte by byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import numpy as np

from chunkwise.contract import InterfaceValidationError
from chunkwise.contract.packing import Unpacker
from chunkwise.plugins import MissingExtra
from chunkwise.wires import HttpResponse, WireError
from chunkwise.wires._messagepack import unpacked

UNREAD: Final = object()
"""What is said of a message that cannot be read."""
MAX_SHOWN: Final = 10
_NATIVE: Final = struct.Struct("<2sBBII")
_ROW: Final = 16


class Framing(StrEnum):
    """Where the messages of a stream end."""

    NATIVE = "native"
    LINES = "lines"
    NONE = "none"  # nobody knows: what was written at once counts as one


def framing_of(beginning: bytes, end: bytes) -> Framing:
    """How a stream that begins and ends so is cut into messages."""
    if beginning[:3] == b"CW\x01":
        return Framing.NATIVE
    return Framing.LINES if end.endswith(b"\n") else Framing.NONE


def first_message(data: bytes | bytearray, framing: Framing) -> int:
    """How many bytes the first whole message of a stream has; 0 where none is whole yet."""
    if framing is Framing.NONE:
        return len(data)
    if framing is Framing.LINES:
        return data.find(b"\n") + 1
    if len(data) < _NATIVE.size:
        return 0
    size: int = _NATIVE.size + sum(_NATIVE.unpack_from(data)[3:])
    return size if size <= len(data) else 0


def reading(data: Any) -> Any:
    """The tree of a message: mappings, lists, plain values, arrays, bytes; :data:`UNREAD` where there is none."""
    if isinstance(data, HttpResponse):
        body = reading(data.body) if data.body else b""
        if body is UNREAD:
            return UNREAD
        return {"status": data.status, "content_type": data.content_type, "body": body}
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if raw[:3] == b"CW\x01":
        return _native(raw)
    if raw[:1] in (b"{", b"["):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return UNREAD
    try:
        tree = unpacked(raw, len(raw))
    except (WireError, MissingExtra):
        return UNREAD
    return tree if isinstance(tree, (dict, list)) else UNREAD


def _native(raw: bytes) -> Any:
    try:
        _, _, kind, text, _ = _NATIVE.unpack_from(raw)
        body = memoryview(raw)[_NATIVE.size :]
        return {"kind": kind, **Unpacker().unpack(body[:text], body[text:])}
    except (struct.error, InterfaceValidationError):
        return UNREAD


def without(tree: Any, names: Collection[str]) -> Any:
    """A tree without the entries of these names, wherever in it they stand."""
    if isinstance(tree, Mapping):
        return {key: without(item, names) for key, item in tree.items() if _word(key) not in names}
    return [without(item, names) for item in tree] if isinstance(tree, list) else tree


def tree_differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two trees differ, each as ``path: one | other``."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys((*one, *other)):
            where = f"{path}.{_word(key)}".lstrip(".")
            if key not in one or key not in other:
                yield f"{where}: {_there(key in one)} | {_there(key in other)}"
            else:
                yield from tree_differences(one[key], other[key], where)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{path}: {len(one)} entries | {len(other)} entries"
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from tree_differences(*pair, f"{path}[{index}]")
    elif isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        yield from _array_differences(one, other, path)
    elif isinstance(one, (bytes, memoryview)) and isinstance(other, (bytes, memoryview)):
        at = first_difference(bytes(one), bytes(other))
        if at is not None:
            yield f"{path}: {len(one)} bytes | {len(other)} bytes, from byte {at} on"
    elif type(one) is not type(other) or (one != other and not (one != one and other != other)):
        yield f"{path}: {one!r:.80} | {other!r:.80}"


def _array_differences(one: Any, other: Any, path: str) -> Iterator[str]:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        yield f"{path}: {one.dtype} {one.shape} | {other.dtype} {other.shape}"
        return
    equal = (one == other) | ((one != one) & (other != other))
    places = np.argwhere(~equal)
    if len(places):
        first = tuple(int(index) for index in places[0])
        yield f"{path}{list(first)}: {one[first]!r} | {other[first]!r} ({len(places)} of {one.size} differ)"


def _there(is_there: bool) -> str:
    return "there" if is_there else "nothing"


def _word(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def first_difference(one: bytes, other: bytes) -> int | None:
    """The first byte in which two messages differ; None where they are the same."""
    if one == other:
        return None
    short = min(len(one), len(other))
    differs = np.frombuffer(one, np.uint8, short) != np.frombuffer(other, np.uint8, short)
    return int(differs.argmax()) if differs.any() else short


def hexdump(data: bytes, at: int, rows: int = 1) -> list[str]:
    """The row of 16 bytes around byte `at`, and so many before and behind it."""
    start = max(at // _ROW - rows, 0) * _ROW
    lines = []
    for row in range(start, min((at // _ROW + rows + 1) * _ROW, len(data)), _ROW):
        piece = data[row : row + _ROW]
        digits = " ".join(f"{byte:02x}" for byte in piece)
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{row:08x}  {digits:<47}  {letters}")
    return lines or [f"{len(data):08x}  (the end)"]


def bytes_of(data: Any) -> bytes:
    """A message as bytes, to be compared and shown."""
    if isinstance(data, HttpResponse):
        return f"{data.status} {data.content_type}\n".encode() + data.body
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)


def differences(one: Any, other: Any, ignored: Collection[str] = ()) -> list[str]:
    """In what two messages differ, in lines for people; none where they are the same, but for what is ignored.

    Args:
        one: of the tape.
        other: that was answered now.
        ignored: names of entries that may differ; messages that cannot be read are compared whole.
    """
    here, there = bytes_of(one), bytes_of(other)
    at = first_difference(here, there)
    if at is None and type(one) is type(other):
        return []
    trees = reading(one), reading(other)
    found: list[str] = []
    if not any(tree is UNREAD for tree in trees):
        found = list(tree_differences(without(trees[0], ignored), without(trees[1], ignored)))
        if ignored and not found:
            return []
    at = at or 0
    shown = [f"first differing byte: {at} of {len(here)} (tape) and {len(there)} (now)"]
    shown += [f"  tape  {line}" for line in hexdump(here, at)] + [f"  now   {line}" for line in hexdump(there, at)]
    shown += [f"  {line}" for line in found[:MAX_SHOWN]]
    if len(found) > MAX_SHOWN:
        shown.append(f"  and {len(found) - MAX_SHOWN} more")
    return shown
