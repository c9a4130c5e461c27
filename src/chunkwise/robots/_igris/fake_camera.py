"""A camera without a device, that answers as OpenCV's ``VideoCapture`` does; for tests, and first steps.

``fake:`` alone runs for ever.  After a number of pictures ``fake:die=5`` ends its process as a crash would,
``fake:freeze=5`` never returns from ``grab()``, and ``fake:lose=5`` has no picture any more.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WAYS: Final = ("die", "freeze", "lose")
WIDTH, HEIGHT, FPS = 3, 4, 5
"""OpenCV's numbers of these properties."""


class FakeCamera:
    """Every picture is black, with one white pixel in its upper left corner, and the picture's number in the red
    of its lower right one.

    Args:
        device: ``fake:``, or ``fake:WAY=COUNT``.

    Raises:
        OSError: it is neither.
    """

    def __init__(self, device: str) -> None:
        way, _, count = device.removeprefix("fake:").partition("=")
        if way and (way not in WAYS or not count.isdecimal()):
            raise OSError(f"{device}: a fake camera is fake: or fake:WAY=COUNT, WAY one of {', '.join(WAYS)}")
        self._way, self._left = way, int(count) if way else -1
        self._values: dict[int, float] = {WIDTH: 640, HEIGHT: 480, FPS: 30}
        self._count, self._due_s = 0, time.monotonic()

    def isOpened(self) -> bool:
        return True

    def set(self, key: int, value: float) -> bool:
        self._values[key] = value
        return True

    def get(self, key: int) -> float:
        return self._values.get(key, 0.0)

    def grab(self) -> bool:
        """Wait for the next picture."""
        if self._left == 0:
            return self._end()
        self._left -= 1
        self._due_s = max(self._due_s + 1 / self._values[FPS], time.monotonic() - 1)
        time.sleep(max(self._due_s - time.monotonic(), 0.0))
        self._count += 1
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        """The picture that was grabbed: (height, width, 3) uint8 BGR."""
        picture = np.zeros((int(self._values[HEIGHT]), int(self._values[WIDTH]), 3), dtype=np.uint8)
        picture[0, 0] = 255
        picture[-1, -1, 2] = self._count % 256
        return True, picture

    def read(self) -> tuple[bool, Any]:
        """The next picture."""
        return self.retrieve() if self.grab() else (False, None)

    def release(self) -> None: ...

    def _end(self) -> bool:
        if self._way == "die":
            os._exit(9)
        while self._way == "freeze":
            threading.Event().wait()
        return False
