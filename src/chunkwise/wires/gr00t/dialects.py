"""The three ways in which GR00T's releases write an array, a modality's configuration, an observation, an action.

===========  ==========================================  =====================================================
dialect      observation and action                      an array
===========  ==========================================  =====================================================
N1, N1.5     ``{"video.head": ...}``,                    ``{"__ndarray_class__": True, "as_npy": ...}``, the
             ``{"action.arm": (H, D)}``                  bytes of a ``.npy`` file
N1.6         ``{"observation": {"video": {"head":        the same
             ...}}}``, ``[{"arm": (1, H, D)}, {}]``
N1.7         the same                                    ``{b"nd": True, b"type": "<f4", b"kind": b"",
                                                         b"shape": [...], b"data": ...}``
===========  ==========================================  =====================================================
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkwise.wires import Buffer, WireError

MAX_SIDES: Final = 8
MAX_NUMBERS: Final = 1 << 28
_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_TEXTS: Final = re.compile(r"<U[1-9][0-9]{0,3}")
_NPY: Final = re.compile(
    rb"\{'descr': '([^']{2,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,10}, ?)*[0-9]{0,10})\), \} *\n"
)
"""The header as every release of numpy writes it; nothing is evaluated."""


class Form(NamedTuple):
    """How one request was written, and so how it is answered.

    Attributes:
        listed: the observation stands under ``observation``, and the answer is ``[action, info]``.
        dotted: names are ``video.head``, ``state.arm``, ``action.arm``.
        batched: arrays begin with the batch, which is 1.
        nd: arrays are those of msgpack_numpy, else ``.npy`` files.
    """

    listed: bool
    dotted: bool
    batched: bool
    nd: bool


DIALECTS: Final = {
    "n1.7": Form(True, False, True, True),
    "n1.6": Form(True, False, True, False),
    "n1.5": Form(False, True, False, False),
}


# Arrays -------------------------------------------------------------------------------------------------------


def is_array(value: Any) -> bool:
    """Whether a value is written as an array."""
    return isinstance(value, dict) and (b"nd" in value or "__ndarray_class__" in value)


def is_nd(value: Any) -> bool:
    """Whether it is written as msgpack_numpy does."""
    return isinstance(value, dict) and b"nd" in value


def array_of(value: Any, where: str) -> NDArray[Any]:
    """The array that is written there: numbers, or texts (``<U``); a view of the message.

    Raises:
        WireError: there is none, of another type, or its bytes are not as many as its shape needs.
    """
    if not isinstance(value, dict):
        raise WireError(f"{where} must be an array, got {type(value).__name__}")
    try:
        if b"nd" in value:
            return _from_nd(value)
        if "__ndarray_class__" in value:
            return _from_npy(value.get("as_npy"))
    except WireError as error:
        raise WireError(f"{where}: {error}") from error
    raise WireError(
        f"{where} must be an array, got a map with {', '.join(map(str, list(value)[:4])) or 'nothing'}"
    )


def written(array: NDArray[Any], nd: bool) -> dict[str | bytes, Any]:
    """An array as the dialect writes it; a view of it where that is possible."""
    whole = np.ascontiguousarray(array).reshape(array.shape)
    data = whole.reshape(-1).view(np.uint8).data
    if nd:
        return {b"nd": True, b"type": whole.dtype.str, b"kind": b"", b"shape": list(whole.shape), b"data": data}
    return {"__ndarray_class__": True, "as_npy": b"".join((_npy_head(whole), data))}


def _from_nd(value: Mapping[str | bytes, Any]) -> NDArray[Any]:
    if value[b"nd"] is not True or value.get(b"kind", b"") not in ("", b""):
        raise WireError("neither a scalar nor an array of objects or records is taken")
    shape, data = value.get(b"shape"), value.get(b"data")
    if not isinstance(shape, list) or not isinstance(data, bytes):
        raise WireError("an array without its shape or its data")
    return _array(value.get(b"type"), shape, data, "C")


def _from_npy(data: Any) -> NDArray[Any]:
    if not isinstance(data, bytes) or data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise WireError("bytes that are no .npy file")
    start = {1: 10, 2: 12, 3: 12}.get(data[6], 0)
    end = start + int.from_bytes(data[8:start], "little")
    if not start or not start < end <= min(len(data), start + 4096):
        raise WireError("a .npy file of another version, or without its header")
    head = _NPY.fullmatch(data[start:end])
    if head is None:
        raise WireError("a .npy file whose header numpy did not write")
    descr, order, sides = head.groups()
    shape = [int(side) for side in sides.split(b",") if side.strip()]
    numbers = memoryview(data)[end:]
    return _array(descr.decode("ascii", "replace"), shape, numbers, "F" if order == b"True" else "C")


def _array(dtype: Any, shape: Sequence[Any], data: Buffer, order: Literal["C", "F"]) -> NDArray[Any]:
    made = _dtype(dtype)
    if len(shape) > MAX_SIDES or any(type(side) is not int or not 0 <= side <= MAX_NUMBERS for side in shape):
        raise WireError(f"a shape of {shape!r:.80}")
    if math.prod(shape) * made.itemsize != len(data):
        raise WireError(f"{made} {shape} needs {math.prod(shape) * made.itemsize} bytes, there are {len(data)}")
    flat = np.frombuffer(data, dtype=made)
    return flat.reshape(shape, order=order)


def _dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or not (_DTYPE.fullmatch(name) or _TEXTS.fullmatch(name)):
        raise WireError(f"no array of {name!r:.40} is taken, only of numbers, booleans and short texts")
    made: np.dtype[Any] = np.dtype(name)
    return made


def _npy_head(array: NDArray[Any]) -> bytes:
    """The head of a ``.npy`` file of version 1.0, as `numpy.save` writes it."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return head.getvalue()


# Modalities ---------------------------------------------------------------------------------------------------


def modality(keys: Sequence[str], deltas: Sequence[int], form: Form | None) -> dict[str, Any]:
    """A modality's configuration; where the dialect is not known, as N1.6 and N1.7 both read it."""
    plain = {"delta_indices": list(deltas), "modality_keys": list(keys)}
    if form is None:
        return {"__ModalityConfig_class__": True, "__ModalityConfig__": True, "as_json": plain}
    if not form.listed:
        return {"__ModalityConfig_class__": True, "as_json": json.dumps(plain)}
    return {"__ModalityConfig__" if form.nd else "__ModalityConfig_class__": True, "as_json": plain}


def modality_of(value: Any, where: str) -> tuple[list[str], int]:
    """Names, and how many steps, of a modality's configuration in any dialect.

    Raises:
        WireError: it is none.
    """
    plain = value.get("as_json") if isinstance(value, dict) else None
    if isinstance(plain, str):
        try:
            plain = json.loads(plain)
        except (ValueError, RecursionError) as error:
            raise WireError(f"{where}: as_json is no JSON: {error}") from error
    keys = plain.get("modality_keys") if isinstance(plain, dict) else None
    steps = plain.get("delta_indices") if isinstance(plain, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or not isinstance(steps, list):
        raise WireError(f"{where} must be a modality's configuration")
    return [str(key) for key in keys], len(steps)


# Texts --------------------------------------------------------------------------------------------------------


def text_of(value: Any, where: str) -> str:
    """The newest text of the first of a batch: of ``text``, ``[text]``, ``[[text]]``, or an array of these.

    Raises:
        WireError: there is none, or more than one robot's.
    """
    if is_array(value):
        array = array_of(value, where)
        if array.dtype.kind != "U" or array.ndim > 2:
            raise WireError(f"{where} must be a text, got an array of {array.dtype}")
        try:
            value = array.tolist()
        except ValueError as error:
            raise WireError(f"{where} is no text: {error}") from error
    if isinstance(value, list) and value and isinstance(value[0], list):
        if len(value) > 1:
            raise WireError(f"{where}: a batch of {len(value)}; a session is one robot (B = 1)")
        value = value[0]
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise WireError(f"{where} must be a text, [text] or [[text]]")
    return value
