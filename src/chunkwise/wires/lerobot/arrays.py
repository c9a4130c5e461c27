"""Tensors in pickles: what stands behind the names of torch, made without torch.

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

from chunkwise.processing.pickled import Global, Known, Machine
from chunkwise.wires import WireError

MAX_NUMBERS: Final = 1 << 20
"""Of a tensor."""
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
