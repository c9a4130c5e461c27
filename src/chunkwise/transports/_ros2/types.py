"""Message types and their CDR: those of a ROS 2 distribution, and others from the text of their ``.msg`` files.

CDR is written and read by ``rosbags``: an image costs it a fifth of a millisecond, DDS's own Python code forty.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.transports._ros2 import MAX_BYTES, MalformedMessage, Ros2Error
from chunkwise.transports._ros2.names import type_name

MAX_TEXT: Final = 1 << 18
"""Of one ``.msg`` file."""
MAX_TYPES: Final = 256
MAX_PARTS: Final = 1 << 14
"""Texts and messages within one message: each is an object, a hundred times as large as its bytes."""
_SIZES: Final = {
    **dict.fromkeys(("bool", "byte", "char", "octet", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64"), 8),
}
_BASE, _NAME, _ARRAY = 1, 2, 3  # rosbags.interfaces.Nodetype; a sequence is what is left
_TEXTS: Final = ("string", "wstring")

Kind = tuple[int, Any]
"""A field's type as rosbags describes it: (kind of kind, what of)."""


class Types:
    """Message types by name.

    Args:
        distro: ``humble``, ``jazzy`` ...
        texts: ``package/msg/Type`` -> the text of its ``.msg`` file.
        max_bytes: of a message.

    Raises:
        Ros2Error: no such distribution, or a text that is no message.
        MissingExtra: rosbags is not installed.
    """

    def __init__(
        self, distro: str = "jazzy", texts: Mapping[str, str] | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        typesys = require("rosbags.typesys", extra="ros2")
        self._error = require("rosbags.serde", extra="ros2").SerdeError
        known = {
            store.name.removeprefix("ROS2_").lower(): store for store in typesys.Stores if "ROS2" in store.name
        }
        if distro not in known:
            there = ", ".join(known)
            raise Ros2Error(f"no ROS 2 distribution {distro!r}{nearest(distro, known)}; there are: {there}")
        self._store = typesys.get_typestore(known[distro])
        self._store.max_sequence_length = max_bytes
        self.distro, self.max_bytes = distro, max_bytes
        self._add(texts or {}, typesys)

    def fields(self, name: str) -> dict[str, Kind]:
        """The fields of a type, in order.

        Raises:
            Ros2Error: there is no such type.
        """
        try:
            return dict(self._store.fielddefs[name][1])
        except KeyError:
            known = self._store.fielddefs
            raise Ros2Error(
                f"no message type {name!r}{nearest(name, known)}; others come from the text of a .msg file"
            ) from None

    def hash(self, name: str) -> str:
        """What tells two versions of a type apart: ``RIHS01_...``."""
        self.fields(name)
        return str(self._store.hash_rihs01(name))

    def make(self, name: str, given: Any) -> Any:
        """A message.

        Args:
            name: of its type.
            given: its fields, as a mapping or as an object with attributes, whose messages may be such again; a
                field that is not there is zero or empty.

        Raises:
            Ros2Error: a field that the type does not have, or a value that does not fit.
        """
        kinds = self.fields(name)
        if isinstance(given, Mapping):
            for key in given:
                if key not in kinds:
                    there = ", ".join(kinds)
                    raise Ros2Error(f"{name} has no field {key!r}{nearest(str(key), kinds)}; there are: {there}")
            found = {key: self._value(kind, given.get(key), f"{name}.{key}") for key, kind in kinds.items()}
        else:
            found = {
                key: self._value(kind, getattr(given, key, None), f"{name}.{key}") for key, kind in kinds.items()
            }
        return self._store.types[name](*found.values())

    def encode(self, name: str, given: Any) -> bytes:
        """A message in CDR, little-endian, with its four bytes of header.

        Raises:
            Ros2Error: as of `make`, and where it is longer than ``max_bytes``.
        """
        message = self.make(name, given)
        try:
            data = bytes(self._store.serialize_cdr(message, name))
        except Exception as error:  # struct.error, AttributeError, OverflowError: generated code
            raise Ros2Error(f"a {name} cannot be written: {error}") from error
        if len(data) > self.max_bytes:
            raise Ros2Error(f"a {name} of {len(data)} bytes; at most {self.max_bytes} are sent")
        return data

    def decode(self, name: str, data: bytes) -> Any:
        """The message in CDR of either byte order; its arrays are views of `data`.

        Raises:
            MalformedMessage: it is none, or longer than ``max_bytes``.
        """
        if len(data) > self.max_bytes:
            raise MalformedMessage(f"a {name} of {len(data)} bytes; at most {self.max_bytes} are taken")
        if len(data) > MAX_PARTS:  # each is a byte or more
            self._require_few(name, data)
        try:
            return self._store.deserialize_cdr(data, name)
        except Exception as error:  # generated code: whatever the bytes make it raise
            raise MalformedMessage(f"no {name} in {len(data)} bytes: {' '.join(str(error).split())}") from error

    def _require_few(self, name: str, data: bytes) -> None:
        """Raise where a message has more parts than are taken; what is no message is left to the decoder."""
        try:
            few = _Parts(self, data).skip((_NAME, name))
        except (struct.error, IndexError, KeyError):
            return
        if not few:
            raise MalformedMessage(f"a {name} of {len(data)} bytes has more than {MAX_PARTS} texts and messages")

    def _add(self, texts: Mapping[str, str], typesys: Any) -> None:
        if len(texts) > MAX_TYPES:
            raise Ros2Error(f"{len(texts)} message types; at most {MAX_TYPES}")
        found: dict[str, Any] = {}
        for given, text in texts.items():
            name = type_name(given)
            if not isinstance(text, str) or len(text) > MAX_TEXT:
                raise Ros2Error(f"{name} must be the text of a .msg file, of at most {MAX_TEXT} letters")
            try:
                found |= typesys.get_types_from_msg(text, name)
            except typesys.TypesysError as error:
                raise Ros2Error(f"{name} is no .msg: {' '.join(str(error).split())}") from error
        try:
            self._store.register(found)
        except typesys.TypesysError as error:
            raise Ros2Error(str(error)) from error
        for name in found:
            self._require_whole(name, name, set())

    def _require_whole(self, name: str, of: str, seen: set[str]) -> None:
        """Raise where a type that a type is made of is not there."""
        for kind in {} if name in seen else self.fields(name).values():
            inner = kind if kind[0] in (_BASE, _NAME) else kind[1][0]
            if inner[0] == _NAME:
                if inner[1] not in self._store.fielddefs:
                    raise Ros2Error(f"{of} has a {inner[1]}, which is no known type: give its .msg text too")
                self._require_whole(inner[1], of, seen | {name})

    def _value(self, kind: Kind, given: Any, where: str) -> Any:
        if kind[0] == _NAME:
            return self.make(kind[1], {} if given is None else given)
        if kind[0] == _BASE:
            return self._single(kind[1][0], given, where)
        inner, size = kind[1]
        fixed = size if kind[0] == _ARRAY else None
        if inner[0] == _BASE and inner[1][0] not in _TEXTS:
            return _numbers(inner[1][0], given, fixed, where)
        items = list(given) if given is not None else [None] * (fixed or 0)
        if fixed is not None and len(items) != fixed:
            raise Ros2Error(f"{where} has {fixed} entries, got {len(items)}")
        return [self._value(inner, item, f"{where}[{at}]") for at, item in enumerate(items)]

    def _single(self, base: str, given: Any, where: str) -> Any:
        if base in _TEXTS:
            if given is not None and not isinstance(given, str):
                raise Ros2Error(f"{where} is a text, got {type(given).__name__}")
            return given or ""
        if given is None:
            given = 0
        try:
            return bool(given) if base == "bool" else float(given) if "float" in base else operator.index(given)
        except (TypeError, ValueError) as error:
            raise Ros2Error(f"{where} is one {base}, got {type(given).__name__}") from error


class _Parts:
    """A walk through the CDR of a message that makes nothing of it.

    Args:
        types: that are known.
        data: the message with its four bytes of header.
    """

    def __init__(self, types: Types, data: bytes) -> None:
        self._types, self._data, self._at, self._left = types, data, 4, MAX_PARTS
        self._count = struct.Struct("<I" if data[1] & 1 else ">I").unpack_from

    def skip(self, kind: Kind) -> bool:
        """Go behind a value; False where it has more parts than are left."""
        if kind[0] == _NAME:
            self._left -= 1
            return self._left >= 0 and all(map(self.skip, self._types.fields(kind[1]).values()))
        if kind[0] == _BASE:
            return self._skip_single(kind[1][0])
        inner, size = kind[1]
        count = size if kind[0] == _ARRAY else self._read()
        if inner[0] == _BASE and inner[1][0] not in _TEXTS:
            if count:
                width = _SIZES[inner[1][0]]
                self._align(width)
                self._at += count * width
            return True
        return count <= self._left and all(self.skip(inner) for _ in range(count))

    def _skip_single(self, base: str) -> bool:
        if base in _TEXTS:
            length = self._read()
            self._at += length
            self._left -= 1
            return self._left >= 0
        self._align(_SIZES[base])
        self._at += _SIZES[base]
        return True

    def _read(self) -> int:
        self._align(4)
        (count,) = self._count(self._data, self._at)
        self._at += 4
        return int(count)

    def _align(self, width: int) -> None:
        self._at += (4 - self._at) % width  # the header does not count


def _numbers(base: str, given: Any, size: int | None, where: str) -> np.ndarray[Any, Any]:
    """An array of a ROS type, without copying where it is one already."""
    dtype = np.dtype({"byte": "uint8", "char": "uint8", "bool": "bool"}.get(base, base))
    if given is None:
        return np.zeros(size or 0, dtype)
    if isinstance(given, (bytes, bytearray, memoryview)):
        given = np.frombuffer(given, dtype)
    try:
        array = np.asarray(given)
        if dtype.kind != "f" and array.dtype.kind == "f" and array.size:
            raise TypeError("got fractions")
        array = np.ascontiguousarray(given, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise Ros2Error(f"{where} is a row of {base}: {error}") from error
    if array.ndim != 1:
        raise Ros2Error(f"{where} is a row of {base}, got shape {array.shape}")
    if size is not None and len(array) != size:
        raise Ros2Error(f"{where} has {size} entries, got {len(array)}")
    return array
