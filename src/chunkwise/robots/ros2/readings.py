"""Messages to arrays: joints by name, pictures, rows of numbers, poses.

Fields are read as attributes, so messages of rosbags and of rclpy read the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import InterfaceValidationError
from chunkwise.plugins import require
from chunkwise.robots.ros2.body import Read

MAX_SIDE: Final = 1 << 14
MAX_PIXELS: Final = 1 << 26
MAX_COMPRESSED: Final = 32 << 20

ARRAYS: Final = ("std_msgs/msg/Float32MultiArray", "std_msgs/msg/Float64MultiArray")
SINGLE: Final = tuple(f"std_msgs/msg/{name}" for name in ("Bool", "Int32", "Int64", "Float32", "Float64"))
PICTURES: Final = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TYPES: Final = ("sensor_msgs/msg/JointState", *PICTURES, *ARRAYS, *SINGLE, "geometry_msgs/msg/PoseStamped")
"""What observations can be of."""
JOINT_FIELDS: Final = ("position", "velocity", "effort")

COLOURS: Final = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra", "mono8": "grey"}
"""Encodings of eight bits, and the order of their channels."""
DEPTHS: Final = {"16uc1": (np.uint16, 0.001), "32fc1": (np.float32, 1.0)}
"""Encodings of distances, and the metres that one unit is."""
UNNAMED: Final = ("8uc1", "8uc3", "8uc4")
"""Encodings that do not say what the channels are."""


class ReadingError(InterfaceValidationError):
    """A message does not have what it should; the message says what."""


def joints(names: tuple[str, ...], field: str = "position", span: tuple[int, int] | None = None) -> Read:
    """Reads a JointState: float64, of the joints named, in this order, whatever the message's is.

    A message that has none of them is about others: None.

    Args:
        names: of the joints; without, the values as they stand.
        field: ``position``, ``velocity`` or ``effort``.
        span: of the values where there are no names.
    """
    known: dict[tuple[str, ...], NDArray[np.intp]] = {}  # most robots send one order for ever

    def read(message: Any) -> NDArray[np.float64] | None:
        values = np.asarray(getattr(message, field), dtype=np.float64)
        if not names:
            return _finite(_cut(values, span, field))
        there = tuple(message.name)
        order = known.get(there)
        if order is None:
            missing = [name for name in names if name not in there]
            if len(missing) == len(names):
                return None
            if missing:
                raise ReadingError(f"no joint {', '.join(missing)}; the message has {', '.join(there)}")
            order = np.array([there.index(name) for name in names])
            known.clear()
            known[there] = order
        if len(values) != len(there):
            raise ReadingError(f"{len(there)} joints, and {len(values)} values of {field}")
        return _finite(values[order])

    return read


def numbers(span: tuple[int, int] | None = None, columns: int | None = None) -> Read:
    """Reads the ``data`` of an array or a single number: float64 ``(n,)``.

    Args:
        span: the part of it that is meant.
        columns: how many there must be.
    """

    def read(message: Any) -> NDArray[np.float64]:
        offset = getattr(getattr(message, "layout", None), "data_offset", 0)
        values = np.atleast_1d(np.asarray(message.data, dtype=np.float64))[offset:]
        values = _cut(values, span, "data")
        if columns is not None and len(values) != columns:
            raise ReadingError(f"{len(values)} numbers, not {columns}")
        return _finite(values)

    return read


def pose(message: Any) -> NDArray[np.float64]:
    """Reads a PoseStamped: x y z [m], then the unit quaternion x y z w."""
    place, turn = message.pose.position, message.pose.orientation
    values = np.array([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w], dtype=np.float64)
    length = np.linalg.norm(values[3:])
    if not abs(length - 1) < 0.01:
        raise ReadingError(f"the orientation is no rotation: a quaternion of length {length:.3g}")
    return _finite(values)


def picture(encoding: str = "", size: tuple[int, int] | None = None) -> Read:
    """Reads an Image.

    ``rgb8``, ``bgr8``, ``rgba8``, ``bgra8`` and ``mono8`` become RGB, ``(height, width, 3)`` uint8: alpha is left
    out, grey stands three times.  ``16UC1`` (millimetres) and ``32FC1`` (metres) become metres,
    ``(height, width)`` float32, 0 where the camera saw none: REP 118 has 0 for that in the one, NaN in the other.

    Args:
        encoding: of messages whose own does not say what the channels are (``8UC3``).
        size: (height, width) that it is brought to by taking the nearest pixel; None leaves it.
    """

    def read(message: Any) -> NDArray[Any]:
        return _resized(_image(message, encoding.lower()), size)

    return read


def compressed(size: tuple[int, int] | None = None) -> Read:
    """Reads a CompressedImage, JPEG or PNG of eight bits: RGB, ``(height, width, 3)`` uint8.

    Args:
        size: as of `picture`.
    """

    def read(message: Any) -> NDArray[Any]:
        return _resized(_decoded(bytes(message.data), str(message.format)), size)

    return read


def _image(message: Any, encoding: str) -> NDArray[Any]:
    height, width, step = int(message.height), int(message.width), int(message.step)
    given = str(message.encoding).lower()
    name = (encoding or given) if given in UNNAMED else given
    if name not in COLOURS and name not in DEPTHS:
        cure = "; say image: {encoding: bgr8}, or what it is" if given in UNNAMED else ""
        there = ", ".join([*COLOURS, "16UC1", "32FC1"])
        raise ReadingError(f"an image in {message.encoding!r}; {there} are read{cure}")
    order = COLOURS.get(name, "")
    kind, scale = (np.dtype(np.uint8), 1.0) if order else (np.dtype(DEPTHS[name][0]), DEPTHS[name][1])
    channels = 1 if order in ("", "grey") else len(order)
    row = width * channels * kind.itemsize
    data = np.frombuffer(message.data, dtype=np.uint8)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ReadingError(f"an image of {height} x {width} pixels; 1 to {MAX_SIDE} are taken")
    if step < row or data.size != height * step:
        raise ReadingError(
            f"an image of {height} x {width} {message.encoding} in {data.size} bytes, {step} to a row"
        )
    rows = data.reshape(height, step)[:, :row]
    if order:
        return _rgb(rows.reshape(height, width, channels), order)
    distances = np.ascontiguousarray(rows).view(kind.newbyteorder(">" if message.is_bigendian else "<"))
    metres = distances.astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(metres), metres, np.float32(0))


def _rgb(pixels: NDArray[np.uint8], order: str) -> NDArray[np.uint8]:
    if order == "grey":
        return np.repeat(pixels, 3, axis=2)
    if order.startswith("bgr"):
        pixels = pixels[:, :, 2::-1]
    return np.ascontiguousarray(pixels[:, :, :3])


def _decoded(data: bytes, kind: str) -> NDArray[np.uint8]:
    if "compresseddepth" in kind.lower():
        raise ReadingError(f"a picture of {kind!r}; distances are read from Image, not from CompressedImage")
    if len(data) > MAX_COMPRESSED:
        raise ReadingError(f"a compressed picture of {len(data)} bytes; at most {MAX_COMPRESSED} are taken")
    pillow = require("PIL.Image", extra="ros2")
    try:
        with pillow.open(io.BytesIO(data), formats=("JPEG", "PNG")) as opened:
            width, height = opened.size
            if not (width <= MAX_SIDE and height <= MAX_SIDE and width * height <= MAX_PIXELS):
                raise ReadingError(f"a picture of {height} x {width} pixels; at most {MAX_PIXELS} are decoded")
            if opened.mode not in ("RGB", "RGBA", "L", "P"):
                raise ReadingError(f"a picture of {opened.mode}; eight bits of grey, RGB or RGBA are read")
            return np.asarray(opened.convert("RGB"))
    except ReadingError:
        raise
    except Exception as error:  # whatever the bytes make a decoder raise
        raise ReadingError(f"no JPEG or PNG in {len(data)} bytes: {' '.join(str(error).split())}") from error


def _resized(pixels: NDArray[Any], size: tuple[int, int] | None) -> NDArray[Any]:
    if size is None or pixels.shape[:2] == size:
        return pixels
    rows, columns = (
        np.linspace(0, have - 1, want).astype(np.intp) for have, want in zip(pixels.shape, size, strict=False)
    )
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def _cut(values: NDArray[np.float64], span: tuple[int, int] | None, what: str) -> NDArray[np.float64]:
    if span is None:
        return values
    if len(values) < span[1]:
        raise ReadingError(f"{what} has {len(values)} numbers, [{span[0]}, {span[1]}) needs more")
    return values[span[0] : span[1]]


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ReadingError(f"number {at} is {values[at]}, not finite")
    return np.array(values)


def of_type(
    type_name: str,
    *,
    names: tuple[str, ...] = (),
    field: str = "position",
    span: tuple[int, int] | None = None,
    encoding: str = "",
    size: tuple[int, int] | None = None,
) -> Read:
    """The reader of a type in `TYPES`."""
    makers: dict[str, Callable[[], Read]] = {
        "sensor_msgs/msg/JointState": lambda: joints(names, field, span),
        "sensor_msgs/msg/Image": lambda: picture(encoding, size),
        "sensor_msgs/msg/CompressedImage": lambda: compressed(size),
        "geometry_msgs/msg/PoseStamped": lambda: pose,
    }
    return makers.get(type_name, lambda: numbers(span, len(names) or None))()
