"""The safetensors format, read into numpy with nothing believed.

::

    uint64 (little-endian)   bytes of the header
    JSON                     {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    numbers                  little-endian, in rows, without gaps

Source:
    https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.processing.errors import SafetensorsError

MAX_HEADER: Final = 16 << 20
MAX_TENSORS: Final = 1 << 16
MAX_AXES: Final = 16
METADATA: Final = "__metadata__"
_DTYPES: Final = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
_NAMES: Final = {np.dtype(code): name for name, code in _DTYPES.items()}
_BRAIN: Final = "BF16"
"""The upper half of a float32."""

Buffer = bytes | bytearray | memoryview


def read(data: Buffer) -> dict[str, NDArray[Any]]:
    """Every tensor of a file, by name.

    Args:
        data: the whole file.

    Returns:
        Read-only views of `data`, in the file's order of offsets; what is bfloat16 in the file is float32, copied.

    Raises:
        SafetensorsError: it is no such file, is cut off, has gaps or overlaps, or numbers unknown to numpy.
    """
    header, body = _parts(data)
    entries = sorted(
        ((name, *_entry(name, entry)) for name, entry in header.items() if name != METADATA),
        key=lambda each: each[3:],
    )
    made, at = dict[str, NDArray[Any]](), 0
    for name, dtype, shape, begin, end in entries:
        if begin != at or end > len(body):
            raise SafetensorsError(
                f"tensor {name!r} must begin at byte {at} and end within {len(body)}, has [{begin}, {end}]"
            )
        made[name] = _tensor(name, dtype, shape, body[begin:end])
        at = end
    if at != len(body):
        raise SafetensorsError(f"{len(body) - at} bytes follow the last tensor")
    return made


def metadata(data: Buffer) -> dict[str, str]:
    """What a file says of itself: texts by name.

    Raises:
        SafetensorsError: it is no such file, or says something that is no text.
    """
    header, _ = _parts(data)
    found = header.get(METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise SafetensorsError(f"{METADATA} must be texts by name")
    return found


def write(tensors: Mapping[str, NDArray[Any]], about: Mapping[str, str] | None = None) -> bytes:
    """A file of tensors, in their order.

    Args:
        tensors: arrays by name.
        about: texts by name that stand in its header.

    Raises:
        SafetensorsError: a name is taken, or numbers are none of the format's.
    """
    header: dict[str, Any] = {METADATA: dict(about)} if about else {}
    pieces, at = list[bytes](), 0
    for name, array in tensors.items():
        little = array.dtype.newbyteorder("<")
        if name == METADATA or little not in _NAMES:
            raise SafetensorsError(f"tensor {name!r} of {array.dtype} cannot be written")
        piece = array.astype(little).tobytes()
        header[name] = {"dtype": _NAMES[little], "shape": list(array.shape), "data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _parts(data: Buffer) -> tuple[dict[str, Any], memoryview]:
    """Header and numbers."""
    view = memoryview(data).toreadonly().cast("B")
    size = int.from_bytes(view[:8], "little")
    if len(view) < 8 or size > len(view) - 8:
        raise SafetensorsError(
            "no safetensors file, or one that is cut off: its header is longer than what is there"
        )
    if size > MAX_HEADER:
        raise SafetensorsError(f"the header has {size} bytes, at most {MAX_HEADER} are read")
    try:
        header = json.loads(bytes(view[8 : 8 + size]), object_pairs_hook=_once)
    except SafetensorsError:
        raise
    except (ValueError, RecursionError) as error:
        raise SafetensorsError(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise SafetensorsError(f"the header must name at most {MAX_TENSORS} tensors")
    return header, view[8 + size :]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise SafetensorsError("the header has the same name twice")
    return made


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and where it lies."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"tensor {name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in _DTYPES and dtype != _BRAIN):
        raise SafetensorsError(f"tensor {name!r}: numbers of type {dtype!r:.40} are not read")
    if not _counts(shape) or len(shape) > MAX_AXES:
        raise SafetensorsError(f"tensor {name!r}: shape must be at most {MAX_AXES} whole numbers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsError(f"tensor {name!r}: data_offsets must be where it begins and ends")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    kind = np.dtype("<u2" if dtype == _BRAIN else _DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != len(data):
        raise SafetensorsError(f"tensor {name!r}: {dtype} {list(shape)} does not take {len(data)} bytes")
    try:
        found: NDArray[Any] = np.frombuffer(data, kind).reshape(shape)
    except ValueError as error:  # empty, with sides beyond what numpy counts
        raise SafetensorsError(f"tensor {name!r}: shape {list(shape)}: {error}") from error
    return (found.astype(np.uint32) << 16).view(np.float32) if dtype == _BRAIN else found
