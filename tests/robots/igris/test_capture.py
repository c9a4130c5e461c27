"""One camera's pictures: opened as asked, turned, scaled, and what is said when there are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from chunkwise.contract import InterfaceValidationError
from chunkwise.plugins import load
from chunkwise.processing.images import ImageRule, fit
from chunkwise.robots._igris.capture import MAX_LOST, Mode, capture, checked, open_camera, prepared
from chunkwise.robots._igris.devices import camera_modes
from chunkwise.robots._igris.fake_camera import FakeCamera
from chunkwise.robots._igris.slots import Slots, slots_size

SMALL = Mode("fake:", 64, 48, 1000.0, between=(32, 24), size=(16, 12), rate_hz=1000.0)


class Scripted:
    """A camera like OpenCV's that gives some pictures and then none; it remembers what it was asked for."""

    def __init__(self, pictures: list[Any], *, opened: bool = True, width: int = 64) -> None:
        self._pictures, self._opened, self._width = list(pictures), opened, width
        self.asked: dict[int, float] = {}
        self.released = False

    def isOpened(self) -> bool:
        return self._opened

    def set(self, key: int, value: float) -> bool:
        self.asked[key] = value
        return True

    def get(self, key: int) -> float:
        return self._width if key == cv2.CAP_PROP_FRAME_WIDTH else self.asked.get(key, 0.0)

    def grab(self) -> bool:
        return bool(self._pictures)

    def retrieve(self) -> tuple[bool, Any]:
        found = self._pictures.pop(0)
        return found is not None, found

    def release(self) -> None:
        self.released = True


def test_a_mode_there_and_back() -> None:
    assert Mode.from_json(SMALL.to_json()) == SMALL


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0}, "width must be pixels"),
        ({"size": (0, 5)}, "size must be pixels"),
        ({"between": (99999, 99999)}, "between must be pixels"),
        ({"fps": 0.0}, "fps and rate above 0"),
        ({"rate_hz": 0.0}, "fps and rate above 0"),
        ({"rotate": 45}, "rotate must be one of"),
        ({"fourcc": "MJPEG"}, "the coding four letters"),
    ],
)
def test_a_mode_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InterfaceValidationError, match=said):
        checked(replace(SMALL, **change))


def test_a_camera_is_asked_for_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Scripted([], width=1600)
    monkeypatch.setattr(cv2, "VideoCapture", lambda device, api: camera)
    open_camera(Mode("/dev/head_camera1"), cv2)
    assert camera.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter_fourcc(*"MJPG")
    assert [camera.asked[key] for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)] == [1600, 1200]
    assert (camera.asked[cv2.CAP_PROP_FPS], camera.asked[cv2.CAP_PROP_BUFFERSIZE]) == (60, 1)


def test_a_camera_that_is_not_there_or_has_no_such_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Scripted([], opened=False)
    monkeypatch.setattr(cv2, "VideoCapture", lambda device, api: camera)
    with pytest.raises(OSError, match="cannot open /dev/head_camera1: it is not there, or in use"):
        open_camera(Mode("/dev/head_camera1"), cv2)
    camera = Scripted([], width=640)
    with pytest.raises(OSError, match="/dev/head_camera1 has no mode with width 1600: it offers 640"):
        open_camera(Mode("/dev/head_camera1"), cv2)
    assert camera.released
    with pytest.raises(OSError, match="a fake camera is fake: or fake:WAY=COUNT"):
        open_camera(Mode("fake:explode=3"), cv2)


def test_pictures_are_turned_red_first_and_scaled_as_the_engine_does() -> None:
    rng = np.random.default_rng(0)
    taken = rng.integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    made = prepared(taken, Mode("/dev/x"), cv2)
    halved = fit(taken[::-1, ::-1], ImageRule(600, 800, "stretch", antialias=False))
    whole = fit(halved, ImageRule(240, 320, "stretch", interpolation="area"))
    assert made.shape == (240, 320, 3) and made.dtype == np.uint8
    assert np.abs(made.astype(int) - whole[..., ::-1]).max() <= 1


@pytest.mark.parametrize(("rotate", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_the_upper_left_corner_goes_where_it_is_turned_to(rotate: int, corner: tuple[int, int]) -> None:
    camera = FakeCamera("fake:")
    camera.set(cv2.CAP_PROP_FRAME_WIDTH, 16), camera.set(cv2.CAP_PROP_FRAME_HEIGHT, 12)
    size = (16, 12) if rotate % 180 == 0 else (12, 16)
    made = prepared(camera.retrieve()[1], replace(SMALL, rotate=rotate, between=(0, 0), size=size), cv2)
    assert made[corner].tolist() == [255, 255, 255] and made.sum() <= 4 * 255


def test_pictures_are_kept_until_the_camera_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.full((48, 64, 3), value, np.uint8) for value in (7, 8)]
    slots = Slots(memoryview(bytearray(slots_size(12, 16))), 12, 16)
    with pytest.raises(OSError, match="fake: gives no pictures any more"):
        capture(Scripted([pictures[0], None, pictures[1]]), replace(SMALL, rate_hz=1e9), slots, cv2)
    seen = slots.read()
    assert seen is not None and seen.number == 2 and (seen.picture == 8).all() and seen.time_ns > 0
    assert MAX_LOST > 1, "one lost picture is no reason to begin again"


def test_only_as_many_pictures_are_decoded_as_somebody_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10**12, 10**7))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(times))
    pictures = [np.full((48, 64, 3), value, np.uint8) for value in range(5)]
    slots, grabs = Slots(memoryview(bytearray(slots_size(12, 16))), 12, 16), []
    camera = Scripted(pictures)
    grab = camera.grab
    camera.grab = lambda: (grabs.append(1), grab())[1]  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(OSError, match="no pictures"):
        capture(camera, replace(SMALL, rate_hz=40.0), slots, cv2)  # 100 pictures a second come
    assert slots.newest == 5 and len(grabs) - MAX_LOST == 1 + 4 * 3


def test_the_modes_of_the_robots_cameras(files: Any) -> None:
    robot = load("robots", "igris_b")(params=files.params(), devices=("left=fake:",))
    modes = robot._cameras._modes
    assert {name: mode.device for name, mode in modes.items()} == {
        "head": "/dev/head_camera1",
        "left": "fake:",
        "right": "/dev/right_camera1",
    }
    assert modes["head"] == Mode("/dev/head_camera1", rate_hz=40.0)
    robot = load("robots", "igris_b")(params=files.params(), camera_mode="640x480@30", camera_rotate=0)
    mode = robot._cameras._modes["head"]
    assert (mode.width, mode.height, mode.fps, mode.rotate, mode.rate_hz) == (640, 480, 30.0, 0, 30.0)
    assert mode.between == (0, 0), "half of it is no larger than what comes out"
    assert callable(camera_modes)
