"""Where in a message a value lies: the RULEs of a topics file, checked against the message's type, and read."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import InterfaceValidationError, nearest
from chunkwise.processing.igris import IgrisFileError, Tree
from chunkwise.robots._igris import messages

Value = NDArray[Any] | str
MAX_COLUMNS: Final = 4096
ENCODINGS: Final = {"rgb8": 3, "mono8": 1, "8UC1": 1}
"""Of images that are read, and their channels."""


class MessageError(InterfaceValidationError):
    """A message lacks a field, or a field has another shape or kind than its rule says."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a value lies in a message, and what it is.

    Attributes:
        path: attributes with dots between them: ``pose.position``.
        kind: ``number`` (one, or an array as it comes), ``slice`` (float32), ``point`` (x, y, z, float32),
            ``quaternion`` (x, y, z, w, float32), ``image`` (uint8) or ``text``.
        start, stop: of a slice.
    """

    path: str
    kind: Literal["number", "slice", "point", "quaternion", "image", "text"]
    start: int = 0
    stop: int = 0

    @property
    def columns(self) -> int | None:
        """How many numbers it gives; None where the message decides."""
        return {"slice": self.stop - self.start, "point": 3, "quaternion": 4}.get(self.kind)

    def read(self, message: Any) -> Value:
        """The value in a message: a new array, or a text.

        Raises:
            MessageError: the field is not there, has another shape, or holds what is no finite number.
        """
        value = message
        for name in self.path.split("."):
            try:
                value = getattr(value, name)
            except AttributeError:
                raise MessageError(f"a {type(message).__name__} without {self.path}") from None
        if self.kind == "image":
            return _picture(message, value)
        if self.kind == "text":
            if not isinstance(value, str):
                raise MessageError(f"{self.path} is {type(value).__name__}, not a text")
            return value
        if self.kind in ("point", "quaternion"):
            value = [getattr(value, axis, None) for axis in ("x", "y", "z", "w")[: self.columns]]
        return self._numbers(value)

    def _numbers(self, value: Any) -> NDArray[Any]:
        try:
            array = np.atleast_1d(np.array(value))
        except ValueError:
            raise MessageError(f"{self.path} is no row of numbers") from None
        if array.dtype.kind not in "iufb" or array.ndim != 1:
            raise MessageError(f"{self.path} is no row of numbers, but {array.dtype} of shape {array.shape}")
        if self.kind == "slice":
            if len(array) < self.stop:
                raise MessageError(f"{self.path} has {len(array)} numbers, [{self.start}:{self.stop}] needs more")
            array = array[self.start : self.stop]
        if not np.isfinite(array).all():
            raise MessageError(f"{self.path} holds a number that is not finite")
        return array if self.kind == "number" else array.astype(np.float32)


def rule_of(value: object, msg_type: str, where: str) -> Rule:
    """A RULE of a topics file.

    A mapping has ``attr`` (default ``data``) and perhaps ``slice: [start, end)``.  A text is a path of attributes:
    one with ``position`` in it is a point, with ``orientation`` a quaternion, the data of an Image a picture, and
    any other the value itself.

    Args:
        value: as it stands in the file.
        msg_type: of the topic.
        where: the key, for messages.

    Raises:
        IgrisFileError: it is no rule, or names what such a message does not have.
    """
    if isinstance(value, str):
        return _of_path(value, msg_type, where)
    tree = Tree(value, where, ("attr", "slice"))
    path = tree.text("attr", "an attribute") if "attr" in tree.values else "data"
    leaf = _leaf(path, msg_type, f"{where}: attr")
    if "slice" not in tree.values:
        if _is_array(leaf) and msg_type == "Image":
            raise IgrisFileError(f'{where}: the data of an Image is read by the rule "data"')
        return Rule(path, _plain_kind(leaf, path, where))
    if not _is_array(leaf):
        raise IgrisFileError(f"{where}: slice needs an array, and {path} of a {msg_type} is none")
    span = tree.values["slice"]
    whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    if not whole or not 0 <= span[0] < span[1] <= MAX_COLUMNS:
        raise tree.wrong("slice", f"must be [start, end), 0 <= start < end <= {MAX_COLUMNS}")
    return Rule(path, "slice", span[0], span[1])


def _of_path(path: str, msg_type: str, where: str) -> Rule:
    leaf = _leaf(path, msg_type, where)
    if "position" in path or "orientation" in path:
        kind: Literal["point", "quaternion"] = "point" if "position" in path else "quaternion"
        if leaf is not (messages.Point if kind == "point" else messages.Quaternion):
            array = f'; for its numbers write {{"attr": "{path}"}}' if _is_array(leaf) else ""
            raise IgrisFileError(f"{where}: {path} of a {msg_type} is no {kind}{array}")
        return Rule(path, kind)
    if _is_array(leaf):
        if msg_type != "Image":
            raise IgrisFileError(f'{where}: {path} of a {msg_type} is no picture; write {{"attr": "{path}"}}')
        return Rule(path, "image")
    return Rule(path, _plain_kind(leaf, path, where))


def _leaf(path: str, msg_type: str, where: str) -> Any:
    """The type that a path ends at."""
    found: Any = messages.TYPES[msg_type]
    for name in path.split("."):
        fields = get_type_hints(found) if hasattr(found, "__dataclass_fields__") else {}
        if name not in fields:
            there = ", ".join(fields) or "none"
            raise IgrisFileError(
                f"{where}: {path!r}: no {name!r} in a {msg_type}{nearest(name, fields)}; there are: {there}"
            )
        found = fields[name]
    return found


def _plain_kind(leaf: Any, path: str, where: str) -> Literal["number", "text"]:
    if leaf is str:
        return "text"
    if leaf in (bool, int, float) or _is_numbers(leaf):
        return "number"
    raise IgrisFileError(f"{where}: {path} is no number, text or array, but has parts; name one of them")


def _is_array(leaf: Any) -> bool:
    return _is_numbers(leaf) or bytes in get_args(leaf)


def _is_numbers(leaf: Any) -> bool:
    return get_origin(leaf) in (Union, UnionType) and bytes not in get_args(leaf)


def _picture(message: Any, data: Any) -> NDArray[np.uint8]:
    """(height, width, 3) of rgb8, (height, width) of one channel; uint8, copied."""
    height, width, encoding = message.height, message.width, message.encoding
    if encoding not in ENCODINGS:
        raise MessageError(f"an image in {encoding!r}; {', '.join(ENCODINGS)} are read")
    flat = np.frombuffer(bytes(data), dtype=np.uint8)
    row = width * ENCODINGS[encoding]
    stride = message.step or row
    if height < 1 or width < 1 or stride < row or flat.size != height * stride:
        raise MessageError(f"an image of {width} x {height} {encoding} in {flat.size} bytes, {stride} to a row")
    pixels = flat.reshape(height, stride)[:, :row]
    return np.array(pixels.reshape(height, width, 3) if encoding == "rgb8" else pixels)
