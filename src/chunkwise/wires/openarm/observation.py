"""One OpenArm observation: a record batch in an Arrow IPC file, and what of it the JSON line says.

Nothing in it is trusted: sizes are bounded before anything is made of them, and pictures stay where they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import Frame, InterfaceValidationError
from chunkwise.contract.values import Array
from chunkwise.wires import Buffer, WireError

PHASE: Final = "phase_classifier_result"
MAGIC: Final = b"ARROW1"
ENCODINGS: Final = ("rgb8", "bgr8")
MAX_COLUMNS, MAX_ROWS, MAX_SIDE = 256, 4096, 16384
MAX_PROMPT_BYTES, MAX_PHASE = 1 << 16, 4096


@dataclass(slots=True, frozen=True)
class Picture:
    """One camera's newest picture, where it lies in the file.

    Attributes:
        pixels: pyarrow array of uint8, ``height * width * 3``, row by row.
    """

    pixels: Any
    height: int
    width: int
    encoding: str

    def array(self) -> NDArray[np.uint8]:
        """``(height, width, 3)`` uint8 RGB: a view of the file, read only; of a bgr8 picture a copy."""
        flat: NDArray[np.uint8] = self.pixels.to_numpy(zero_copy_only=True)
        image = flat.reshape(self.height, self.width, 3)
        return image if self.encoding == "rgb8" else np.ascontiguousarray(image[:, :, ::-1])


@dataclass(slots=True, frozen=True)
class Observation:
    """The newest row of a file.

    Attributes:
        position: float64 ``(8,)`` or ``(16,)`` [rad]: per arm 7 joints and the gripper; the right arm first.
        pictures: by camera, in the file's order.
        prompt: what is to be done, or None.
        phase: what a phase classifier says: numbers float64 ``(n,)``, or a mapping of plain values, or None.
        number: of the observation in its episode, or None.
    """

    position: Array
    pictures: dict[str, Picture] = field(default_factory=dict)
    prompt: str | None = None
    phase: Array | dict[str, Any] | None = None
    number: int | None = None


def read(pa: Any, content: memoryview, metadata: Mapping[str, Any]) -> Observation:
    """The observation in a file, whose pictures are views of `content` and keep it alive.

    Args:
        pa: pyarrow.
        content: the whole file.
        metadata: of the request: ``<camera>.height``, ``.width`` and ``.encoding`` (rgb8 where it is not said).

    Raises:
        WireError: it is no such file; the message says where.
    """
    try:
        return _newest(pa, _batch(pa, content), metadata)
    except WireError:
        raise
    except (pa.ArrowException, ValueError, LookupError, TypeError, OSError, StopIteration) as error:
        raise WireError(f"not an Arrow IPC file of an observation: {_first_line(error)}") from error
    except (ArithmeticError, NotImplementedError) as error:
        raise WireError(f"not an Arrow IPC file that is understood here: {_first_line(error)}") from error
    except MemoryError as error:
        raise WireError("not an Arrow IPC file that fits into memory") from error


def _newest(pa: Any, batch: Any, metadata: Mapping[str, Any]) -> Observation:
    columns = {name: batch.column(index) for index, name in enumerate(batch.schema.names)}
    if "position" not in columns:
        raise WireError("the file has no column 'position'")
    special = ("position", PHASE)
    return Observation(
        _position(pa, columns["position"]),
        {
            name: _picture(pa, name, column, metadata)
            for name, column in columns.items()
            if name not in special and _is_list(pa, column.type) and column.type.value_type == pa.uint8()
        },
        _prompt(pa, columns.get("task_prompt")),
        _phase(pa, columns.get(PHASE)),
        _number(pa, columns.get("id")),
    )


def _batch(pa: Any, content: memoryview) -> Any:
    """The file's first record batch, without a copy of its buffers.

    Its messages are read one by one, as of a stream, because that shows whether a batch is compressed before
    anything is made as large as it claims to be.
    """
    if bytes(content[:6]) != MAGIC or bytes(content[-6:]) != MAGIC:
        raise WireError("not a whole Arrow IPC file: it does not begin and end with ARROW1")
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(content).slice(8)))
    schema = pa.ipc.read_schema(_next(messages, "schema"))
    if len(schema) > MAX_COLUMNS or len(set(schema.names)) != len(schema):
        raise WireError(f"the file has {len(schema)} columns; at most {MAX_COLUMNS} of distinct names are read")
    message = _next(messages, "record batch")
    if _compressed(memoryview(message.metadata)):
        raise WireError("the file is compressed; only a plain one is read")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    if not 1 <= batch.num_rows <= MAX_ROWS:
        raise WireError(f"the file has {batch.num_rows} rows; 1 to {MAX_ROWS} are read")
    return batch


def _next(messages: Any, kind: str) -> Any:
    """The next message, which is of the kind that is its turn: pyarrow takes it for that unasked."""
    message = messages.read_next_message()
    if message.type != kind:
        raise WireError(f"not an Arrow IPC file of an observation: a {message.type} in the place of a {kind}")
    return message


def _compressed(message: memoryview) -> bool:
    """Whether a record batch's message, a flatbuffer, names a compression."""
    try:
        (table,) = struct.unpack_from("<I", message)
        header = _at(message, table, 2)
        (offset,) = struct.unpack_from("<I", message, header)
        return _at(message, header + offset, 3) != 0
    except struct.error as error:
        raise WireError("not an Arrow IPC file: a message without a header") from error


def _at(message: memoryview, table: int, number: int) -> int:
    """Where a table of a flatbuffer has the field of that number; 0 where it has none."""
    (back,) = struct.unpack_from("<i", message, table)
    size, _, offset = struct.unpack_from(f"<HH{2 * number}xH", message, table - back)
    return table + offset if offset and size > 4 + 2 * number else 0


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _values(pa: Any, name: str, column: Any) -> Any:
    """The elements of a list column's newest row."""
    if not _is_list(pa, column.type) or not column[-1].is_valid:
        raise WireError(f"column {name!r} must hold a list, has {column.type}")
    return column[-1].values


def _position(pa: Any, column: Any) -> Array:
    """Both encodings: a list of numbers, and a list with one ``{"qpos": [...]}`` per arm."""
    values = _values(pa, "position", column)
    if pa.types.is_struct(values.type) and len(values) <= 2 and not values.null_count:
        index = values.type.get_field_index("qpos")
        arms = values.field(index) if index >= 0 else None
        if arms is not None and _is_list(pa, arms.type):
            values = arms.flatten()
    if not pa.types.is_floating(values.type) or values.null_count or len(values) not in (8, 16):
        raise WireError(f"column 'position' must hold 8 or 16 numbers, has {len(values)} of {values.type}")
    return _finite("position", values.to_numpy(zero_copy_only=False))


def _picture(pa: Any, name: str, column: Any, metadata: Mapping[str, Any]) -> Picture:
    pixels = _values(pa, name, column)
    height, width = (_side(metadata, f"{name}.{side}") for side in ("height", "width"))
    encoding = metadata.get(f"{name}.encoding", "rgb8")
    if encoding not in ENCODINGS:
        raise WireError(
            f"metadata {name + '.encoding'!r} must be one of {', '.join(ENCODINGS)}, got {encoding!r:.60}"
        )
    if len(pixels) != height * width * 3 or pixels.null_count:
        raise WireError(
            f"camera {name!r} has {len(pixels)} bytes; {height} x {width} RGB needs {height * width * 3}"
        )
    return Picture(pixels, height, width, encoding)


def _side(metadata: Mapping[str, Any], name: str) -> int:
    value = metadata.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
        raise WireError(f"metadata {name!r} must be a number of pixels up to {MAX_SIDE}, got {value!r:.60}")
    return value


def _prompt(pa: Any, column: Any) -> str | None:
    if column is None or not column[-1].is_valid:
        return None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise WireError(f"column 'task_prompt' must hold a text, has {column.type}")
    if column[-1].as_buffer().size > MAX_PROMPT_BYTES:
        raise WireError(f"column 'task_prompt' is longer than {MAX_PROMPT_BYTES} bytes")
    return str(column[-1].as_py())


def _number(pa: Any, column: Any) -> int | None:
    if column is None or not column[-1].is_valid or not pa.types.is_integer(column.type):
        return None
    return int(column[-1].as_py())


def _phase(pa: Any, column: Any) -> Array | dict[str, Any] | None:
    """Numbers or a mapping of plain values; of a list of mappings the last.  Any other type is passed by."""
    if column is None or not column[-1].is_valid:
        return None
    scalar = column[-1]
    if _is_list(pa, scalar.type):
        values = scalar.values
        if _is_number(pa, values.type):
            if values.null_count or len(values) > MAX_PHASE:
                raise WireError(f"column {PHASE!r} has nulls, or more than {MAX_PHASE} numbers")
            return _finite(PHASE, values.to_numpy(zero_copy_only=False))
        if not len(values) or not values[-1].is_valid:
            return None
        scalar = values[-1]
    if _is_number(pa, scalar.type):
        return _finite(PHASE, np.array([scalar.as_py()]))
    if not pa.types.is_struct(scalar.type):
        return None
    return {item.name: value for item in scalar.type if (value := _plain(pa, scalar[item.name])) is not None}


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _finite(name: str, numbers: NDArray[Any]) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        made = numbers.astype(np.float64)
    if not np.isfinite(made).all():
        at = int(np.flatnonzero(~np.isfinite(made))[0])
        raise WireError(f"column {name!r}: number {at} is {made[at]}")
    return made


def _plain(pa: Any, scalar: Any) -> Any:
    text = pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type)
    if not scalar.is_valid or not (text or _is_number(pa, scalar.type)):
        return None
    if text and scalar.as_buffer().size > MAX_PROMPT_BYTES:
        return None
    return scalar.as_py()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def write(
    pa: Any,
    position: Array,
    pictures: Mapping[str, NDArray[Any]],
    *,
    phase: Array | None,
    prompt: str | None,
    number: int,
) -> tuple[Buffer, dict[str, Any]]:
    """The file of an observation, and what its request's metadata say of the pictures.

    Args:
        pa: pyarrow.
        position: ``(8,)`` or ``(16,)`` [rad].
        pictures: camera -> ``(height, width, 3)`` uint8 RGB.
        phase, prompt: null in the file where they are None.
        number: of the observation in its episode.

    Raises:
        InterfaceValidationError: a picture is none.
    """
    columns: dict[str, Any] = {"position": _list_of(pa, position.astype(np.float32))}
    metadata: dict[str, Any] = {}
    for name, image in pictures.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InterfaceValidationError(
                f"image {name!r} must be (height, width, 3) uint8 RGB, got {image.dtype} {image.shape}"
            )
        columns[name] = _list_of(pa, np.ascontiguousarray(image).reshape(-1))
        metadata |= {
            f"{name}.encoding": "rgb8",
            f"{name}.height": int(image.shape[0]),
            f"{name}.width": int(image.shape[1]),
        }
    columns[PHASE] = pa.nulls(1) if phase is None else _list_of(pa, np.array(phase, dtype=np.float64).reshape(-1))
    columns["task_prompt"] = pa.array([prompt], pa.string())
    columns["id"] = pa.array([number], pa.int64())
    return _file(pa, pa.record_batch(columns)), metadata


def _list_of(pa: Any, values: NDArray[Any]) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), pa.array(values))


def _file(pa: Any, batch: Any) -> Buffer:
    """The batch as a file, written once into memory of just its size."""

    def write_to(sink: Any) -> Any:
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write(batch)
        return sink

    content = pa.allocate_buffer(write_to(pa.MockOutputStream()).size())
    write_to(pa.FixedSizeBufferWriter(content))
    return memoryview(content)


def complete(frame: Frame, pictures: Mapping[str, Picture]) -> Callable[[], Frame]:
    """Makes the frame with its pictures, whenever somebody wants it."""

    def made() -> Frame:
        images = {name: picture.array() for name, picture in pictures.items()}
        return Frame(
            images,
            frame.state,
            frame.task,
            frame.meta,
            timestamp_ns=frame.timestamp_ns,
            sequence_id=frame.sequence_id,
        )

    return made
