"""Trees of plain values and arrays to bytes and back: JSON for what is small, the arrays' own bytes for the rest.

A packed tree is the length of its JSON text (uint32, little-endian), the text, and the bytes of the arrays one
after another.  The text is ``{"tree": ..., "arrays": [[path, dtype, shape], ...]}``: an array leaves a null in
the tree and its path, dtype and shape in the list.  An entry that is a path alone stands for the array that an
earlier tree had there, so that a picture that is seen twice is written once.

No pickle; every size is checked before anything is made of it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError

Buffer = bytes | memoryview
Path = tuple[str | int, ...]

MAX_TEXT_BYTES = 4 << 20
MAX_ARRAYS = 4096
MAX_DEPTH = 32
_LENGTH = struct.Struct("<I")
_DTYPE = re.compile(r"[<>|]([biu][1248]|b1|f(2|4|8|16))")


class RecordingError(InterfaceValidationError):
    """A recording cannot be written, or a file is none, or holds what no recording holds."""


class Packed:
    """A tree as bytes.

    Attributes:
        buffers: what to write, in order; arrays are copied once, so that no checksum is of bytes that change yet.
        left_out: paths of values that are neither plain nor arrays of numbers, which became null, and of values
            whose key is no name, which are gone.

    Args:
        tree: plain values, sequences, mappings with names as keys, and arrays of numbers or booleans.
        repeats: says of an array, by its path and its bytes ``(n,)`` uint8, whether the tree before that had one
            there had the same one.

    Raises:
        RecordingError: its text or its number of arrays is beyond the limits.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        repeats: Callable[[Path, NDArray[Any], memoryview], bool] = lambda path, array, data: False,
    ) -> None:
        self.left_out: list[str] = []
        self._arrays: list[tuple[Path, NDArray[Any]]] = []
        plain = self._plain(tree, ())
        entries: list[list[Any]] = []
        data: list[Buffer] = []
        for path, array in self._arrays:
            piece = np.array(array, order="C").reshape(-1).view(np.uint8).data
            if repeats(path, array, piece):
                entries.append([path])
            else:
                entries.append([path, array.dtype.str, array.shape])
                data.append(piece)
        packed = {"tree": plain, "arrays": entries, "left_out": self.left_out}
        text = json.dumps(packed, separators=(",", ":")).encode()
        if len(text) > MAX_TEXT_BYTES or len(entries) > MAX_ARRAYS:
            raise RecordingError(f"a record of {len(text)} bytes of text and {len(entries)} arrays is too large")
        self.buffers: list[Buffer] = [_LENGTH.pack(len(text)) + text, *data]

    def _plain(self, value: object, path: Path) -> Any:
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, np.ndarray) and _DTYPE.fullmatch(value.dtype.str):
            self._arrays.append((path, value))
            return None
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return value.item()
        if len(path) < MAX_DEPTH:
            if isinstance(value, Mapping):
                named = {str(key): item for key, item in value.items() if isinstance(key, str)}
                self.left_out += [".".join(map(str, (*path, key))) for key in value if not isinstance(key, str)]
                return {key: self._plain(item, (*path, key)) for key, item in named.items()}
            if isinstance(value, (list, tuple)):
                return [self._plain(item, (*path, index)) for index, item in enumerate(value)]
        self.left_out.append(".".join(map(str, path)))
        return None


class Unpacker:
    """Bytes to trees, in the order in which they were packed.

    Args:
        remembers: the length of the paths whose arrays may be repeated.
    """

    def __init__(self, remembers: Callable[[Path], bool] = lambda path: False) -> None:
        self._remembers = remembers
        self._last: dict[Path, NDArray[Any]] = {}

    def __call__(self, data: memoryview) -> dict[str, Any]:
        """The tree of a packed record, `left_out` among its keys; its arrays are new and writable.

        Raises:
            RecordingError: the bytes are no packed tree.
        """
        try:
            return self._unpack(data)
        except RecordingError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, struct.error) as error:
            raise RecordingError(f"a record is not what it should be: {error}") from error

    def _unpack(self, data: memoryview) -> dict[str, Any]:
        (size,) = _LENGTH.unpack_from(data)
        at = _LENGTH.size + size
        if size > MAX_TEXT_BYTES or at > len(data):
            raise RecordingError(f"a record's text of {size} bytes is too long")
        packed = json.loads(bytes(data[_LENGTH.size : at]))
        tree, entries = packed["tree"], packed["arrays"]
        if not isinstance(tree, dict) or not isinstance(entries, list) or len(entries) > MAX_ARRAYS:
            raise RecordingError("a record's text is no tree with arrays")
        tree["left_out"] = [str(path) for path in packed["left_out"]]
        for entry in entries:
            path = tuple(entry[0])
            if len(entry) == 1:
                array = self._last[path].copy()
            else:
                array, at = _array(data, at, *entry[1:])
                if self._remembers(path):
                    self._last[path] = array.copy()
            _put(tree, path, array)
        if at != len(data):
            raise RecordingError(f"a record has {len(data) - at} bytes that belong to nothing")
        return tree


def _array(data: memoryview, at: int, dtype: str, shape: Sequence[int]) -> tuple[NDArray[Any], int]:
    """The array that starts `at`, and where it ends."""
    if not _DTYPE.fullmatch(dtype):
        raise RecordingError(f"no dtype {dtype!r}")
    if len(shape) > MAX_DEPTH or any(type(side) is not int or side < 0 for side in shape):
        raise RecordingError(f"no shape {shape!r}")
    made = np.dtype(dtype)
    end = at + made.itemsize * math.prod(shape)
    if end > len(data):
        raise RecordingError(f"an array {dtype} {shape} does not fit into its record")
    return np.frombuffer(data[at:end], dtype=made).reshape(shape).copy(), end


def _put(tree: Any, path: Path, array: NDArray[Any]) -> None:
    """Put an array where a null was left for it."""
    for key in path[:-1]:
        tree = tree[key]
    if tree[path[-1]] is not None:
        raise RecordingError(f"two values at {path}")
    tree[path[-1]] = array
