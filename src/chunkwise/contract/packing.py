"""Trees of plain values and arrays to bytes and back: JSON for what is small, the arrays' own bytes for the rest.

A packed tree is the length of its JSON text (uint32, little-endian), the text, and the bytes of the arrays one
after another.  The text is ``{"tree": ..., "arrays": [[path, dtype, shape], ...]}``: an array leaves a null in
the tree and its path, dtype and shape in the list.  An entry that is a path alone stands for the array that an
earlier tree had there, so that a picture that is seen twice is written once.

No pickle; every size is checked before anything is made of it.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import InterfaceValidationError

Buffer = bytes | memoryview
Path = tuple[str | int, ...]

MAX_TEXT_BYTES = 4 << 20
MAX_ARRAYS = 4096
MAX_DEPTH = 32
MAX_KNOWN_BYTES = 8 << 10
"""Longer texts are read anew each time."""
_LENGTH = struct.Struct("<I")
_PLAIN = frozenset({type(None), bool, int, float, str})
_JSON = json.JSONEncoder(separators=(",", ":"))
_DTYPE = re.compile(r"[<>|]([biu][1248]|b1|f(2|4|8|16))")


@functools.lru_cache(maxsize=256)
def _is_dtype(name: str) -> bool:
    return len(name) < 8 and _DTYPE.fullmatch(name) is not None


class PackingError(InterfaceValidationError):
    """A tree cannot be packed, or bytes are no packed tree."""


class Packed:
    """A tree as bytes.

    Attributes:
        text: the JSON text.
        arrays: the bytes of the arrays, in order; copied once, so that no checksum is of bytes that change yet.
        size: how many bytes of arrays there are.
        left_out: paths of values that are neither plain nor arrays of numbers, which became null, and of values
            whose key is no name, which are gone.

    Args:
        tree: plain values, sequences, mappings with names as keys, and arrays of numbers or booleans.
        repeats: says of an array, by its path and its bytes ``(n,)`` uint8, whether the tree before that had one
            there had the same one.
        into: writable memory that the arrays are copied into, instead of into `arrays`.
        copy: whether the arrays are copied at all; else what is sent changes with them.

    Raises:
        PackingError: its text or its number of arrays is beyond the limits, or `into` is too small.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        repeats: Callable[[Path, NDArray[Any], memoryview], bool] = lambda path, array, data: False,
        *,
        into: memoryview | None = None,
        copy: bool = True,
    ) -> None:
        self.left_out: list[str] = []
        self._arrays: list[tuple[Path, NDArray[Any]]] = []
        plain = self._plain(tree, ())
        entries: list[list[Any]] = []
        data: list[memoryview] = []
        self.size = 0
        for path, array in self._arrays:
            if into is not None:
                _copy(array, into[self.size :])
                self.size += array.nbytes
                entries.append([path, array.dtype.str, array.shape])
                continue
            whole = np.array(array, order="C") if copy else np.ascontiguousarray(array)
            piece = whole.reshape(-1).view(np.uint8).data
            self.size += len(piece)
            if repeats(path, array, piece):
                entries.append([path])
            else:
                entries.append([path, array.dtype.str, array.shape])
                data.append(piece)
        packed = {"tree": plain, "arrays": entries, "left_out": self.left_out}
        text = _JSON.encode(packed).encode()
        if len(text) > MAX_TEXT_BYTES or len(entries) > MAX_ARRAYS:
            raise PackingError(f"a tree of {len(text)} bytes of text and {len(entries)} arrays is too large")
        self.text, self.arrays = text, data

    @property
    def buffers(self) -> list[Buffer]:
        """What to write, in order."""
        return [_LENGTH.pack(len(self.text)) + self.text, *self.arrays]

    def _plain(self, value: Any, path: Path) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is np.ndarray and _is_dtype(value.dtype.str):
            self._arrays.append((path, value))
            return None
        if kind is dict and len(path) < MAX_DEPTH:
            return self._mapping(value, path)
        return self._unusual(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: Path) -> dict[str, Any]:
        made = {}
        for key, item in value.items():
            if isinstance(key, str):
                made[str(key)] = self._plain(item, (*path, str(key)))
            else:
                self.left_out.append(".".join(map(str, (*path, key))))
        return made

    def _unusual(self, value: Any, path: Path) -> Any:
        """What is like a plain value, or is none."""
        for plain in (float, str, int):
            if isinstance(value, plain):
                return plain(value)
        if isinstance(value, np.ndarray) and _is_dtype(value.dtype.str):
            self._arrays.append((path, np.asarray(value)))
            return None
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return value.item()
        if len(path) < MAX_DEPTH:
            if isinstance(value, Mapping):
                return self._mapping(value, path)
            if isinstance(value, (list, tuple)):
                return [self._plain(item, (*path, index)) for index, item in enumerate(value)]
        self.left_out.append(".".join(map(str, path)))
        return None


class Unpacker:
    """Bytes to trees, in the order in which they were packed.

    Args:
        remembers: says of a path whether its arrays may be repeated.
        copy: says of a path whether its array is new and writable; else it is a view of the bytes.
    """

    def __init__(
        self,
        remembers: Callable[[Path], bool] = lambda path: False,
        *,
        copy: Callable[[Path], bool] = lambda path: True,
    ) -> None:
        self._remembers, self._copy = remembers, copy
        self._last: dict[Path, NDArray[Any]] = {}

    def __call__(self, data: memoryview) -> dict[str, Any]:
        """The tree of a packed one, `left_out` among its keys.

        Raises:
            PackingError: the bytes are no packed tree.
        """
        if len(data) < _LENGTH.size:
            raise PackingError(f"{len(data)} bytes are no packed tree")
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        if at > len(data):
            raise PackingError(f"a text of {size} bytes does not fit")
        return self.unpack(data[_LENGTH.size : at], data[at:])

    def unpack(self, text: memoryview, arrays: memoryview) -> dict[str, Any]:
        """The same, of a text and the bytes of its arrays, which may lie elsewhere.

        Raises:
            PackingError: the bytes are no packed tree.
        """
        if len(text) > MAX_TEXT_BYTES:
            raise PackingError(f"a text of {len(text)} bytes is too long")
        try:
            tree, layout = _read(bytes(text))
            return self._filled(tree, layout, arrays)
        except PackingError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise PackingError(f"bytes that are no packed tree: {error}") from error

    def _filled(self, tree: Any, layout: Layout, arrays: memoryview) -> dict[str, Any]:
        """The tree with its arrays."""
        if not isinstance(tree, dict):
            raise PackingError("the text is no tree with arrays")
        tree["left_out"] = list(layout.left_out)
        at = 0
        for place in layout.places:
            if place.dtype is None:
                array = self._last[place.path].copy()
            else:
                end = at + place.size
                if end > len(arrays):
                    raise PackingError(f"an array {place.dtype} {place.shape} does not fit")
                array = np.frombuffer(arrays[at:end], dtype=place.dtype).reshape(place.shape)
                at = end
                array = array.copy() if self._copy(place.path) else array
                if self._remembers(place.path):
                    self._last[place.path] = array.copy()
            _put(tree, place.path, array)
        if at != len(arrays):
            raise PackingError(f"{len(arrays) - at} bytes belong to nothing")
        return tree


@dataclass(slots=True, frozen=True)
class Place:
    """Where in a tree an array belongs, and what it is; without a dtype, that of the tree before."""

    path: Path
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    size: int


@dataclass(slots=True, frozen=True)
class Layout:
    """What is the same in one tree after another: everything in the text but the tree itself."""

    places: tuple[Place, ...]
    left_out: tuple[str, ...]


def _read(text: bytes) -> tuple[Any, Layout]:
    """The tree without its arrays, and its layout, which is known already where a robot sends frame after frame.

    No string in JSON holds an unescaped quotation mark, so that the mark looked for is a key wherever it is found.
    """
    cut = text.rfind(b',"arrays":')
    if cut > 0 and len(text) - cut <= MAX_KNOWN_BYTES:
        head = json.loads(text[:cut] + b"}")
        if list(head) == ["tree"]:
            return head["tree"], _known_layout(text[cut + 1 :])
    packed = json.loads(text)
    return packed["tree"], _layout(packed)


def _layout(packed: Any) -> Layout:
    entries = packed["arrays"]
    if not isinstance(entries, list) or len(entries) > MAX_ARRAYS:
        raise PackingError("the text is no tree with arrays")
    return Layout(tuple(_place(*entry) for entry in entries), tuple(str(path) for path in packed["left_out"]))


@functools.lru_cache(maxsize=32)
def _known_layout(text: bytes) -> Layout:
    return _layout(json.loads(b"{" + text))


def _copy(array: NDArray[Any], into: memoryview) -> None:
    if array.nbytes > len(into):
        raise PackingError(f"{array.nbytes} bytes of an array do not fit into {len(into)}")
    np.frombuffer(into, dtype=array.dtype, count=array.size).reshape(array.shape)[...] = array


def _place(path: Sequence[str | int], dtype: str | None = None, shape: Sequence[int] = ()) -> Place:
    """An entry of the list of arrays."""
    if dtype is None:
        return Place(tuple(path), None, (), 0)
    if not isinstance(dtype, str) or not _is_dtype(dtype):
        raise PackingError(f"no dtype {dtype!r}")
    if len(shape) > MAX_DEPTH or any(type(side) is not int or not 0 <= side < 1 << 63 for side in shape):
        raise PackingError(f"no shape {shape!r}")
    made = np.dtype(dtype)
    return Place(tuple(path), made, tuple(shape), made.itemsize * math.prod(shape))


def _put(tree: Any, path: Path, array: NDArray[Any]) -> None:
    """Put an array where a null was left for it."""
    for key in path[:-1]:
        tree = tree[key]
    if tree[path[-1]] is not None:
        raise PackingError(f"two values at {path}")
    tree[path[-1]] = array
