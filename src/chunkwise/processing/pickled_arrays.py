"""Arrays and numbers in pickles: what stands behind the names of numpy, made without numpy's own unpickling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.processing.errors import PickleError
from chunkwise.processing.pickled import Global, Known

MAX_SIDE: Final = 1 << 16
MAX_AXES: Final = 4
MAX_DEPTH: Final = 16
_TYPES: Final = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}


class Dtype:
    """A type of numbers; numpy's pickles give its kind first and its byte order later."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or name not in _TYPES:
            raise PickleError("an array must hold numbers or booleans")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Take the byte order."""
        if type(state) is not tuple or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise PickleError("a type of numbers is none of numpy's")
        if any(item is not None for item in state[2:5]):
            raise PickleError("an array must hold plain numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class NdArray:
    """An array, once it is built.

    Attributes:
        array: a view of the pickle's bytes; None before.
    """

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.array = array

    def build(self, state: Any) -> None:
        """Take version, shape, type, order and bytes; once."""
        if type(state) is not tuple or len(state) != 5 or self.array is not None:
            raise PickleError("an array must be built once, of five things")
        _, shape, dtype, by_columns, data = state
        self.array = _shaped(data, dtype, shape, "F" if by_columns is True else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> NdArray:
    if not isinstance(kind, Global) or kind.name != "ndarray":
        raise PickleError("only numpy's own arrays are read")
    return NdArray()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> NdArray:
    if order not in ("C", "F"):
        raise PickleError("the order of an array must be C or F")
    return NdArray(_shaped(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> bool | int | float:
    value: bool | int | float = _shaped(data, dtype, (), "C").item()
    return value


def _shaped(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(data, memoryview) or not isinstance(dtype, Dtype) or type(shape) is not tuple:
        raise PickleError("an array must be made of bytes, a type and a shape")
    if len(shape) > MAX_AXES or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape):
        raise PickleError(f"an array has at most {MAX_AXES} axes of at most {MAX_SIDE}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise PickleError("an array has another size than its bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _encoded(text: Any, encoding: Any) -> memoryview:
    """Bytes as protocol 2, which has none, writes them."""
    if type(text) is not str or encoding != "latin1":
        raise PickleError("bytes must be written as latin1")
    return memoryview(text.encode("latin1"))


def plain(value: Any, most: int) -> Any:
    """A value that `Machine` has loaded with `NUMPY`, with arrays in the place of what they are made from.

    Args:
        value: the value.
        most: values in it, at most; one that is recalled counts wherever it stands, so that a small pickle of
            lists of the same lists does not become billions.

    Raises:
        PickleError: it holds a name, bytes, an array that was never built, too many values, or nests too deep.
    """
    return _Plain(most).of(value, MAX_DEPTH)


class _Plain:
    """Counts what it makes plain."""

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth == 0 or self._left < 0:
            raise PickleError("pickle: too many values, or nested too deep")
        match value:
            case NdArray(array=np.ndarray() as array):
                return array
            case None | bool() | int() | float() | str():
                return value
            case list() | tuple():
                return type(value)([self.of(item, depth - 1) for item in value])
            case dict():
                return {key: self.of(item, depth - 1) for key, item in value.items()}
        raise PickleError(f"pickle: it holds {type(value).__name__}, which is no array and no plain value")


NUMPY: Final[Mapping[str, Known]] = {
    "numpy dtype": Known(Dtype),
    "numpy ndarray": Known(),
    "_codecs encode": Known(_encoded),
    **{
        f"numpy.{core}.{name}": Known(made)
        for core in ("_core", "core")
        for name, made in (
            ("multiarray _reconstruct", _reconstruct),
            ("multiarray scalar", _scalar),
            ("numeric _frombuffer", _frombuffer),
        )
    },
}
"""What numpy's arrays and numbers are pickled as."""
