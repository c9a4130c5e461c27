"""Messages to arrays: joints in any order, pictures of every encoding, and nothing made up."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chunkwise.robots.ros2 import readings
from chunkwise.robots.ros2.readings import ReadingError


def joint_state(names: list[str], position: list[float], **others: Any) -> Any:
    return SimpleNamespace(name=names, position=np.array(position), **others)


def image(encoding: str, pixels: Any, *, step: int | None = None, big: bool = False) -> Any:
    height, width = pixels.shape[:2]
    row = pixels.reshape(height, -1).view(np.uint8)
    step = row.shape[1] if step is None else step
    data = np.zeros((height, step), np.uint8)
    data[:, : row.shape[1]] = row
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, step=step, is_bigendian=int(big), data=data.reshape(-1)
    )


@given(order=st.permutations(["a", "b", "c", "d"]))
def test_joints_are_found_by_name_in_any_order(order: list[str]) -> None:
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    read = readings.joints(("c", "a"))
    for names in (order, list(reversed(order)), order):
        value = read(joint_state(names, [values[name] for name in names]))
        assert value is not None and value.tolist() == [3.0, 1.0] and value.dtype == np.float64


@pytest.mark.parametrize(
    ("names", "position", "says"),
    [
        (["a", "c"], [1.0, 2.0], "no joint b; the message has a, c"),
        (["a", "b"], [1.0], "2 joints, and 1 values of position"),
        (["a", "b"], [1.0, float("inf")], "number 1 is inf, not finite"),
    ],
)
def test_what_is_no_joint_state_is_said(names: list[str], position: list[float], says: str) -> None:
    with pytest.raises(ReadingError, match=says):
        readings.joints(("a", "b"))(joint_state(names, position))


def test_a_message_about_other_joints_is_passed_over() -> None:
    assert readings.joints(("a", "b"))(joint_state(["x"], [1.0])) is None


def test_other_fields_and_slices() -> None:
    message = joint_state(["a", "b", "c"], [1, 2, 3], velocity=[4, 5, 6], effort=[])
    assert readings.joints(("b",), "velocity")(message).tolist() == [5.0]  # type: ignore[union-attr]
    assert readings.joints((), span=(1, 3))(message).tolist() == [2.0, 3.0]  # type: ignore[union-attr]
    with pytest.raises(ReadingError, match="3 joints, and 0 values of effort"):
        readings.joints(("b",), "effort")(message)


def test_rows_of_numbers() -> None:
    layout = SimpleNamespace(data_offset=1)
    assert readings.numbers()(SimpleNamespace(data=[9, 1, 2], layout=layout)).tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert readings.numbers()(SimpleNamespace(data=True)).tolist() == [1.0]  # type: ignore[union-attr]
    with pytest.raises(ReadingError, match=r"data has 2 numbers, \[1, 3\) needs more"):
        readings.numbers((1, 3))(SimpleNamespace(data=[1, 2]))
    with pytest.raises(ReadingError, match="2 numbers, not 3"):
        readings.numbers(columns=3)(SimpleNamespace(data=[1, 2]))


def test_a_pose_is_a_place_and_a_rotation() -> None:
    place, turn = SimpleNamespace(x=1.0, y=2.0, z=3.0), SimpleNamespace(x=0.0, y=0.0, z=0.6, w=0.8)
    message = SimpleNamespace(pose=SimpleNamespace(position=place, orientation=turn))
    assert readings.pose(message).tolist() == [1, 2, 3, 0, 0, 0.6, 0.8]
    message.pose.orientation = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(ReadingError, match="no rotation"):
        readings.pose(message)


PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
RGB = PIXELS[:, :, :3]


@pytest.mark.parametrize(
    ("encoding", "sent", "seen"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB, RGB[:, :, ::-1]),
        ("rgba8", PIXELS, RGB),
        ("bgra8", PIXELS, PIXELS[:, :, 2::-1]),
        ("mono8", RGB[:, :, 0], np.repeat(RGB[:, :, :1], 3, axis=2)),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_colours(encoding: str, sent: Any, seen: Any, padding: int) -> None:
    sent = np.ascontiguousarray(sent)
    row = sent[0].size
    value = readings.picture()(image(encoding, sent, step=row + padding))
    assert value is not None and value.dtype == np.uint8 and np.array_equal(value, seen)


@pytest.mark.parametrize("big", [False, True])
def test_distances_are_metres_and_zero_where_there_is_none(big: bool) -> None:
    end = ">" if big else "<"
    millimetres = np.array([[0, 1500], [65535, 1]], dtype=f"{end}u2")
    value = readings.picture()(image("16UC1", millimetres, big=big))
    assert value is not None and value.dtype == np.float32
    assert np.allclose(value, [[0.0, 1.5], [65.535, 0.001]])
    metres = np.array([[np.nan, 1.5], [np.inf, 0.25]], dtype=f"{end}f4")
    value = readings.picture()(image("32FC1", metres, big=big))
    assert value is not None and value.tolist() == [[0.0, 1.5], [0.0, 0.25]]


def test_unnamed_channels_are_asked_for() -> None:
    message = image("8UC3", np.ascontiguousarray(RGB))
    with pytest.raises(ReadingError, match=r"an image in '8UC3'.*say image: \{encoding: bgr8\}"):
        readings.picture()(message)
    assert np.array_equal(readings.picture("bgr8")(message), RGB[:, :, ::-1])  # type: ignore[arg-type]
    assert np.array_equal(
        readings.picture("bgr8")(image("rgb8", np.ascontiguousarray(RGB))),  # type: ignore[arg-type]
        RGB,
    ), "a message that says what it is, is believed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "yuv422"}, "an image in 'yuv422'"),
        ({"height": 0}, "0 x 3 pixels"),
        ({"width": 1 << 20}, "pixels; 1 to 16384"),
        ({"height": 3}, "an image of 3 x 3 rgb8 in 18 bytes"),
        ({"step": 3}, "3 to a row"),
        ({"data": np.zeros(17, np.uint8)}, "in 17 bytes"),
    ],
)
def test_what_is_no_image_is_said(change: dict[str, Any], says: str) -> None:
    message = image("rgb8", np.ascontiguousarray(RGB))
    vars(message).update(change)
    with pytest.raises(ReadingError, match=says):
        readings.picture()(message)


def test_the_nearest_pixels_of_another_size() -> None:
    big = np.arange(16, dtype=np.uint8).reshape(4, 4)
    value = readings.picture(size=(2, 3))(image("mono8", big))
    assert value is not None and value[:, :, 0].tolist() == [[0, 1, 3], [12, 13, 15]]


def encoded(kind: str, pixels: Any, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(stream, kind)
    return stream.getvalue()


def packed(data: bytes, kind: str = "png") -> Any:
    return SimpleNamespace(data=data, format=kind)


@pytest.mark.parametrize("mode", [None, "L", "RGBA", "P"])
def test_png_and_jpeg(mode: str | None) -> None:
    grey = np.full((4, 6, 3), 51, np.uint8)
    png = readings.compressed()(packed(encoded("PNG", grey, mode)))
    assert np.array_equal(png, grey)  # type: ignore[arg-type]
    jpeg = readings.compressed()(packed(encoded("JPEG", grey), "bgr8; jpeg compressed bgr8"))
    assert jpeg is not None and jpeg.shape == (4, 6, 3) and abs(int(jpeg.mean()) - 51) <= 1


def bomb() -> bytes:
    """A PNG that says that it has 16384 x 16384 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1 << 14, 1 << 14, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (lambda: packed(b"nonsense"), "no JPEG or PNG in 8 bytes"),
        (lambda: packed(b""), "no JPEG or PNG in 0 bytes"),
        (lambda: packed(encoded("BMP", RGB)), "no JPEG or PNG"),
        (lambda: packed(encoded("JPEG", RGB)[:-20]), "no JPEG or PNG"),
        (lambda: packed(encoded("PNG", np.zeros((2, 2), np.uint16))), "eight bits of grey, RGB or RGBA"),
        (lambda: packed(b"", "32FC1; compressedDepth"), "distances are read from Image"),
        (lambda: packed(bytes(readings.MAX_COMPRESSED + 1)), "at most 33554432 are taken"),
        (lambda: packed(bomb()), "16384 x 16384|exceeds limit"),
    ],
)
def test_what_is_no_picture_is_said(message: Callable[[], Any], says: str) -> None:
    with pytest.raises(ReadingError, match=says):
        readings.compressed()(message())


@given(data=st.binary(max_size=300))
def test_garbage_in_a_picture_is_a_typed_error(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):
        with pytest.raises(ReadingError):
            readings.compressed()(packed(head + data))
