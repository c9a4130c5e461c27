"""Numbers in pickles: what stands behind the names of numpy and torch, made without either's own unpickling.

A torch tensor is a view of a storage, and the storage a file of torch's older format, pickled as bytes: three
small pickles that say what it is, one with a persistent id that names the storage's type and size, one with a list
of keys, then the count (uint64) and the numbers.  All of it is read by the same machine, and nothing is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.wires import WireError
from chunkwise.wires.lerobot.pickled import Global, Known, Machine

MAX_SIDE: Final = 1 << 16
MAX_AXES: Final = 4
MAX_NUMBERS: Final = 1 << 20
"""Of a tensor."""
_TYPES: Final = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_STORAGES: Final = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class Dtype:
    """A type of numbers; numpy's pickles give its kind first and its byte order later."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or name not in _TYPES:
            raise WireError("an array must hold numbers or booleans")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Take the byte order."""
        if type(state) is not tuple or len(state) != 8 or state[1] not in ("<", ">", "|", "="):
            raise WireError("a type of numbers is none of numpy's")
        if any(item is not None for item in state[2:5]):
            raise WireError("an array must hold plain numbers")
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
            raise WireError("an array must be built once, of five things")
        _, shape, dtype, by_columns, data = state
        self.array = _shaped(data, dtype, shape, "F" if by_columns is True else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> NdArray:
    if not isinstance(kind, Global) or kind.name != "ndarray":
        raise WireError("only numpy's own arrays are read")
    return NdArray()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> NdArray:
    if order not in ("C", "F"):
        raise WireError("the order of an array must be C or F")
    return NdArray(_shaped(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> bool | int | float:
    value: bool | int | float = _shaped(data, dtype, (), "C").item()
    return value


def _shaped(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(data, memoryview) or not isinstance(dtype, Dtype) or type(shape) is not tuple:
        raise WireError("an array must be made of bytes, a type and a shape")
    if len(shape) > MAX_AXES or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in shape):
        raise WireError(f"an array has at most {MAX_AXES} axes of at most {MAX_SIDE}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise WireError("an array has another size than its bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


NUMPY: Final[Mapping[str, Known]] = {
    "numpy dtype": Known(Dtype),
    "numpy ndarray": Known(),
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


# Tensors ------------------------------------------------------------------------------------------------------


def _tensor(numbers: Any) -> NDArray[Any]:
    """``torch.tensor([...])``, as our own server writes it."""
    if type(numbers) is not list or not all(type(number) in (int, float) for number in numbers):
        raise WireError("a tensor must be made of a list of numbers")
    with np.errstate(over="ignore"):  # what is not finite is refused later
        return np.array(numbers, dtype=np.float32)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, *more: Any) -> Any:
    """A view of a storage, copied."""
    if not isinstance(storage, np.ndarray) or type(size) is not tuple or type(stride) is not tuple:
        raise WireError("a tensor must be a view of a storage")
    whole = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 2 or not all(type(each) is int and each >= 0 for each in whole):
        raise WireError("a tensor of actions has at most two axes, and no negative step")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if math.prod(size) > MAX_NUMBERS or not math.prod(size) or last >= storage.size:
        raise WireError("a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()


def _no_hooks() -> dict[str, Any]:
    return {}


def _storage(data: Any) -> NDArray[Any]:
    """What ``torch.storage._load_from_bytes`` would load: one storage, in torch's older format."""
    if not isinstance(data, memoryview):
        raise WireError("a storage must be bytes")
    kinds = {f"torch {name}": Known() for name in _STORAGES}
    machine = Machine(data, kinds, 1000, _identified)
    if machine.load() != _MAGIC or machine.load() != _PROTOCOL:
        raise WireError("a storage is none of torch's older format")
    about, found, keys = machine.load(), machine.load(), machine.load()
    if not isinstance(about, dict) or about.get("little_endian") is not True or not isinstance(found, _Stored):
        raise WireError("a storage says nothing of itself, or is big-endian")
    if type(keys) is not list or keys != [found.key]:
        raise WireError("a storage must hold itself, and nothing else")
    dtype = np.dtype(_STORAGES[found.kind])
    rest = data[machine.at :]
    if len(rest) != 8 + found.count * dtype.itemsize or int.from_bytes(rest[:8], "little") != found.count:
        raise WireError("a storage has another size than it says")
    numbers = np.frombuffer(rest[8:], dtype)
    if found.kind == "BFloat16Storage":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers


class _Stored:
    """What a persistent id says of a storage."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.kind, self.key, self.count = kind, key, count


def _identified(id: Any) -> _Stored:
    if type(id) is not tuple or len(id) != 6 or id[0] != "storage" or not isinstance(id[1], Global):
        raise WireError("a persistent id is none of a storage")
    _, kind, key, _, count, view = id
    if type(key) is not str or type(count) is not int or not 0 <= count <= MAX_NUMBERS or view is not None:
        raise WireError("a persistent id is none of a plain storage")
    return _Stored(kind.name, key, count)


TORCH: Final[Mapping[str, Known]] = {
    "torch tensor": Known(_tensor),
    "torch._utils _rebuild_tensor_v2": Known(_rebuilt),
    "torch.storage _load_from_bytes": Known(_storage),
    "collections OrderedDict": Known(_no_hooks),
}
"""What torch's tensors are pickled as, and what our own server writes for them."""
