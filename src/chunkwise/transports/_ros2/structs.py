"""Message types as Cyclone DDS wants them declared: what they are made of, while the bytes are ours."""

from __future__ import annotations

from typing import Any

from chunkwise.plugins import require
from chunkwise.transports._ros2 import Ros2Error
from chunkwise.transports._ros2.names import dds_type
from chunkwise.transports._ros2.types import Kind, Types


class Structs:
    """Classes of ``cyclonedds`` for message types, each with its whole structure, which peers may compare.

    A class of `of` codes nothing: its instances hold CDR, made with ``holding(data)`` and read as ``data``.

    Args:
        types: that are known.
    """

    def __init__(self, types: Types) -> None:
        self._types = types
        self._idl, self._kinds = (
            require("cyclonedds.idl", extra="ros2"),
            require("cyclonedds.idl.types", extra="ros2"),
        )
        self._final = require("cyclonedds.idl.annotations", extra="ros2").final
        self._made: dict[str, Any] = {}
        self._inner: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        """The class of a message type."""
        if name not in self._made:
            made = self._struct(name)
            made.serialize, made.deserialize = _serialize, classmethod(_deserialize)
            made.holding = classmethod(_holding)
            self._made[name] = made
        return self._made[name]

    def _struct(self, name: str) -> Any:
        fields = {key: self._hint(kind, f"{name}.{key}") for key, kind in self._types.fields(name).items()}
        typename = dds_type(name).replace("::", ".")
        return self._final(self._idl.make_idl_struct(name.rpartition("/")[2] + "_", typename, fields))

    def _nested(self, name: str) -> Any:
        if name not in self._inner:
            self._inner[name] = self._struct(name)
        return self._inner[name]

    def _hint(self, kind: Kind, where: str) -> Any:
        idl = self._kinds
        if kind[0] == 2:
            return self._nested(kind[1])
        if kind[0] == 1:
            base, bound = kind[1]
            if base == "string":
                return idl.bounded_str[bound] if bound else str
            if base == "bool":
                return bool
            if base == "wstring":
                raise Ros2Error(f"{where} is a wstring, which is not supported")
            return getattr(idl, {"byte": "uint8", "char": "uint8"}.get(base, base))
        inner, size = kind[1]
        made = self._hint(inner, where)
        if kind[0] == 3:
            return idl.array[made, size]
        return idl.sequence[made, size] if size else idl.sequence[made]


def _holding(cls: Any, /, data: bytes) -> Any:
    made = cls.__new__(cls)
    made.data = data
    return made


def _serialize(self: Any, *_: object, **__: object) -> bytes:
    data: bytes = self.data
    return data


def _deserialize(cls: Any, /, data: bytes, *_: object, **__: object) -> Any:
    return _holding(cls, data)
