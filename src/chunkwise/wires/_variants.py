"""IB-Robot's ``VariantsList``: tensors and texts by name in one ROS 2 message.

A ``Variant`` has a key, a word for its type, and one array for each type, of which one is filled.  Its tensors are
int32, int64, float32 or float64 with their sizes in ``layout.dim``, or flat booleans.  Here an array's bytes go in
and come out as they are; the original makes a Python list of every picture, and looks at each number three times.

Between two ends of this project further dtypes travel too, ``packed``: the bytes in little-endian int32 words, the
true sizes in ``layout.dim``, the dtype's name as the first dimension's label, which the original leaves empty.

Source: the messages that IB-Robot's ``pure_inference_node`` publishes and reads, as observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.wires import WireError

Value = NDArray[Any] | tuple[str, ...]
"""A tensor, or texts."""

MAX_VARIANTS: Final = 128
MAX_KEY: Final = 256
MAX_TEXTS: Final = 64
"""Of one variant."""
MAX_TEXT: Final = 1 << 18
MAX_DIMS: Final = 8
_FIELDS: Final = {
    "int32": "int_32_array",
    "int64": "int_64_array",
    "float32": "float_32_array",
    "float64": "float_64_array",
}
_BOOLS, _TEXTS = "bool_array", "string_array"
_WORDS: Final = {
    field.replace("_", "").removesuffix("array"): field for field in (*_FIELDS.values(), _BOOLS, _TEXTS)
}
_DTYPES: Final = {field: np.dtype(name).newbyteorder("=") for name, field in _FIELDS.items()}
_PACKED: Final = frozenset(
    ("bool", "int8", "uint8", "int16", "uint16", "uint32", "uint64", "float16"),
)
_WORD: Final = np.dtype("<i4")


def message_texts(package: str) -> dict[str, str]:
    """The two message types, as the text of their ``.msg`` files.

    Args:
        package: that they belong to: ``ibrobot_msgs``.
    """
    variant = (
        "string key\nstring type\nbool[] bool_array\nstring[] string_array\n"
        "std_msgs/Int32MultiArray int_32_array\nstd_msgs/Int64MultiArray int_64_array\n"
        "std_msgs/Float32MultiArray float_32_array\nstd_msgs/Float64MultiArray float_64_array\n"
    )
    return {f"{package}/msg/Variant": variant, f"{package}/msg/VariantsList": "Variant[] variants\n"}


def fields_of(values: Mapping[str, NDArray[Any] | Sequence[str] | str], *, packed: bool = False) -> dict[str, Any]:
    """The fields of a ``VariantsList``; arrays are not copied where they are contiguous.

    Args:
        values: tensors, texts, or lists of texts, by name.
        packed: for an end of this project: every dtype may be sent, and booleans keep their shape.

    Raises:
        WireError: a dtype that the message does not have, or more than fits.
    """
    if len(values) > MAX_VARIANTS:
        raise WireError(f"{len(values)} values; a message has at most {MAX_VARIANTS}")
    return {"variants": [_variant(key, value, packed) for key, value in values.items()]}


def values_of(message: Any) -> dict[str, Value]:
    """What a ``VariantsList`` holds, by name; tensors are views of the message.

    Raises:
        WireError: it is not what it must be; the text names the key.
    """
    variants = message.variants
    if len(variants) > MAX_VARIANTS:
        raise WireError(f"{len(variants)} variants; at most {MAX_VARIANTS} are taken")
    values: dict[str, Value] = {}
    for variant in variants:
        key = variant.key
        if not key or len(key) > MAX_KEY:
            raise WireError(f"a variant's key has 1 to {MAX_KEY} letters, got {key[:40]!r}")
        if key in values:
            raise WireError(f"two variants are {key!r}")
        values[key] = _value(key, variant)
    return values


def texts_at(message: Any, key: str) -> tuple[str, ...]:
    """The texts of one variant, without a look at the others; none where it is not there, or has none."""
    for variant in message.variants[:MAX_VARIANTS]:
        if variant.key == key:
            return tuple(text[:MAX_KEY] for text in variant.string_array[:MAX_TEXTS])
    return ()


def _variant(key: str, value: NDArray[Any] | Sequence[str] | str, packed: bool) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        return {"key": key, "type": _TEXTS, _TEXTS: [value] if isinstance(value, str) else list(value)}
    name = value.dtype.name
    if name in _FIELDS:
        return _tensor(key, _FIELDS[name], np.ravel(value), value.shape)
    if not packed and name == "bool":
        return {"key": key, "type": _BOOLS, _BOOLS: np.ravel(value)}
    if not packed or name not in _PACKED:
        can = ", ".join((*_FIELDS, "bool", *(sorted(_PACKED) if packed else ())))
        raise WireError(f"{key} is {name}; a message has {can}")
    data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    if data.size % _WORD.itemsize:
        data = np.pad(data, (0, -data.size % _WORD.itemsize))
    return _tensor(key, _FIELDS["int32"], data.view(_WORD), value.shape or (1,), name)


def _tensor(key: str, field: str, data: NDArray[Any], shape: Sequence[int], label: str = "") -> dict[str, Any]:
    dim = [{"label": "" if at else label, "size": size} for at, size in enumerate(shape)]
    return {"key": key, "type": field, field: {"layout": {"dim": dim}, "data": data}}


def _value(key: str, variant: Any) -> Value:
    field = _WORDS.get(variant.type.replace("_", "").removesuffix("array"))
    if field is None:
        raise WireError(f"{key} has the type {variant.type[:40]!r}; there are: {', '.join(_WORDS.values())}")
    if field == _TEXTS:
        texts = tuple(variant.string_array)
        if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT for text in texts):
            raise WireError(f"{key} has more than {MAX_TEXTS} texts, or one of more than {MAX_TEXT} letters")
        return texts
    if field == _BOOLS:
        return np.asarray(variant.bool_array, np.bool_)[None]  # as the original reads it: the shape is lost
    array = getattr(variant, field)
    dims = array.layout.dim
    if len(dims) > MAX_DIMS or array.layout.data_offset:
        raise WireError(f"{key} has more than {MAX_DIMS} dimensions, or an offset")
    data = np.ascontiguousarray(array.data, _DTYPES[field])
    shape = tuple(int(dim.size) for dim in dims) or (len(data),)
    label = dims[0].label if dims else ""
    if label in _PACKED and field == _FIELDS["int32"]:
        return _unpacked(key, data, shape, np.dtype(label))
    if math.prod(shape) != len(data):
        raise WireError(f"{key} says that it has the shape {shape}, and has {len(data)} numbers")
    return data.reshape(shape)


def _unpacked(key: str, words: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    if -(-size // _WORD.itemsize) != len(words):
        raise WireError(f"{key} says that it is {dtype} {shape}, and has {len(words)} words")
    data = words.astype(_WORD, copy=False).view(np.uint8)[:size]
    if dtype == np.bool_:
        truths: NDArray[np.bool_] = data != 0
        return truths.reshape(shape)
    tensor: NDArray[Any] = data.view(dtype.newbyteorder("<")).astype(dtype, copy=False)
    return tensor.reshape(shape)
