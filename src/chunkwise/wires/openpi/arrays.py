"""Trees of plain values and arrays as msgpack, in the ways in which this family of protocols marks an array.

==================================================================  ========================================
``{b"__ndarray__": True, b"data", b"dtype", b"shape"}``              openpi, and what is sent from here
``{b"__npgeneric__": True, b"data": value, b"dtype"}``               openpi, a single number
``{b"nd": True, b"type", b"kind": b"", b"shape", b"data"}``          msgpack_numpy (``nd`` False: one number)
==================================================================  ========================================

Markers may be texts in the place of bytes.  Arrays of objects, of records and of texts are refused: nothing here
can hold code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.wires import Buffer, WireError
from chunkwise.wires._messagepack import packed, unpacked

MAX_AXES: Final = 6
DTYPES: Final = frozenset(
    f"{order}{kind}"
    for order, kinds in (
        ("|", "b1 u1 i1"),
        ("<", "u2 u4 u8 i2 i4 i8 f2 f4 f8"),
        (">", "u2 u4 u8 i2 i4 i8 f2 f4 f8"),
    )
    for kind in kinds.split()
)
_MISSING: Final = object()


def unpack(data: Buffer, max_bytes: int) -> Any:
    """The tree in a message; its arrays are views of copies, and read-only.

    Raises:
        WireError: it is none, or too large.
    """
    return unpacked(data, max_bytes, _array_in)


def pack(tree: Any) -> bytes:
    """A tree as a message.

    Raises:
        TypeError, ValueError, OverflowError: it holds what is no plain value and no array of numbers.
    """
    return packed(tree, _marked)


def _array_in(found: dict[Any, Any]) -> Any:
    """The array that a map is marked to be, or the map."""
    if _marker(found, "__ndarray__") is True:
        return _array(found, _marker(found, "dtype"))
    if _marker(found, "__npgeneric__") is True:
        return _number(_marker(found, "data"), _marker(found, "dtype"))
    nd = _marker(found, "nd")
    if nd is True and _marker(found, "kind") in (b"", ""):
        return _array(found, _marker(found, "type"))
    if nd is True or (nd is False and _marker(found, "type") is not _MISSING):
        if nd is True:
            raise WireError("an array of objects or records is never read")
        dtype, data = _dtype(_marker(found, "type")), _marker(found, "data")
        return _from_bytes(data, dtype, ())
    return found


def _marker(found: Mapping[Any, Any], name: str) -> Any:
    value = found.get(name.encode(), _MISSING)
    return found.get(name, _MISSING) if value is _MISSING else value


def _array(found: Mapping[Any, Any], dtype: object) -> NDArray[Any]:
    shape = _marker(found, "shape")
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise WireError(f"an array's shape must be a list of at most {MAX_AXES} sizes")
    if any(type(side) is not int or not 0 <= side <= 1 << 31 for side in shape):
        raise WireError(f"no shape {shape!r:.100}")
    return _from_bytes(_marker(found, "data"), _dtype(dtype), tuple(shape))


def _from_bytes(data: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != size:
        got = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"an array {dtype.str} of shape {list(shape)} has {size} bytes, got {got}")
    return np.frombuffer(data, dtype).reshape(shape)


def _number(value: object, dtype: object) -> NDArray[Any]:
    if isinstance(value, (bool, int, float)):
        with np.errstate(all="ignore"):
            try:
                return np.array(value).astype(_dtype(dtype))
            except (OverflowError, TypeError) as error:
                raise WireError(f"no number {value!r:.40} as {dtype!r:.20}") from error
    raise WireError(f"a single number is a {type(value).__name__}")


def _dtype(name: object) -> np.dtype[Any]:
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if not isinstance(text, str) or text not in DTYPES:
        raise WireError(f"no dtype {text!r:.40}; numbers and booleans are read")
    return np.dtype(text)


def _marked(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.str not in DTYPES:
        raise ValueError(f"arrays of {value.dtype} are never sent")
    if isinstance(value, np.ndarray):
        whole = np.ascontiguousarray(value)
        data = whole.reshape(-1).view(np.uint8).data if whole.size else b""
        return {b"__ndarray__": True, b"data": data, b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent")
