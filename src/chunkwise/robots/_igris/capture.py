"""One camera in a process of its own: ``python -m chunkwise.robots._igris.capture MODE FD``.

It opens the camera, and puts its newest picture into memory that the parent made, until its standard input ends:
which it does when the parent closes it, or is no more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract.errors import InterfaceValidationError
from chunkwise.memory import Memory
from chunkwise.plugins import require
from chunkwise.robots._igris.slots import Slots, slots_size

MAX_LOST: Final = 30
"""Pictures that a camera may lose in a row; then it is closed and opened again."""
ROTATIONS: Final = (0, 90, 180, 270)


@dataclass(frozen=True, slots=True)
class Mode:
    """How a camera is opened, and what becomes of its pictures: turned, scaled to `between`, then to `size`.

    Attributes:
        device: ``/dev/...``; or ``fake:``, see `chunkwise.robots._igris.fake_camera`.
        width, height: that the camera is asked for [pixels].
        fps: that it is asked for [1/s].
        fourcc: its coding: ``MJPG``.
        rotate: clockwise [degrees].
        between: (width, height) that it is first scaled to, bilinear; zeros for not at all.
        size: (width, height) of what comes out, by area.
        rate_hz: pictures that are decoded [1/s]; the others are dropped as they come.
    """

    device: str
    width: int = 1600
    height: int = 1200
    fps: float = 60.0
    fourcc: str = "MJPG"
    rotate: int = 180
    between: tuple[int, int] = (800, 600)
    size: tuple[int, int] = (320, 240)
    rate_hz: float = 60.0

    def to_json(self) -> str:
        """As text, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Mode:
        """What `to_json` made a text of."""
        tree = json.loads(text)
        return cls(**{**tree, "between": tuple(tree["between"]), "size": tuple(tree["size"])})


def checked(mode: Mode) -> Mode:
    """The mode itself.

    Raises:
        InterfaceValidationError: a number of it is none that a camera can have.
    """
    sizes = {"width": mode.width, "height": mode.height}
    sizes |= {"size": min(mode.size), "between": max(min(mode.between), 1)}
    for name, value in sizes.items():
        if not 1 <= value <= 1 << 14:
            raise InterfaceValidationError(f"camera {mode.device}: {name} must be pixels, got {value}")
    if not 0 < mode.fps <= 1000 or not mode.rate_hz > 0:
        raise InterfaceValidationError(f"camera {mode.device}: needs fps and rate above 0, got {mode.fps:g}")
    if mode.rotate not in ROTATIONS or len(mode.fourcc) != 4:
        raise InterfaceValidationError(
            f"camera {mode.device}: rotate must be one of {ROTATIONS} and the coding four letters, got "
            f"{mode.rotate}, {mode.fourcc!r}"
        )
    return mode


def open_camera(mode: Mode, cv2: Any) -> Any:
    """The camera, opened as the mode says; an object like OpenCV's ``VideoCapture``.

    Raises:
        OSError: there is none, somebody else has it, or it has no such mode.
    """
    if mode.device.startswith("fake:"):
        from chunkwise.robots._igris.fake_camera import FakeCamera

        camera: Any = FakeCamera(mode.device)
    else:
        camera = cv2.VideoCapture(mode.device, cv2.CAP_V4L2)
    if not camera.isOpened():
        raise OSError(f"cannot open {mode.device}: it is not there, or in use")
    wanted = {
        "coding": (cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*mode.fourcc)),
        "width": (cv2.CAP_PROP_FRAME_WIDTH, mode.width),
        "height": (cv2.CAP_PROP_FRAME_HEIGHT, mode.height),
        "fps": (cv2.CAP_PROP_FPS, mode.fps),
        "buffer": (cv2.CAP_PROP_BUFFERSIZE, 1),  # the newest, not a queue of old ones; not every driver can
    }
    for key, value in wanted.values():
        camera.set(key, value)
    for name in ("width", "height"):
        key, value = wanted[name]
        if round(camera.get(key)) != value:
            got = round(camera.get(key))
            camera.release()
            raise OSError(f"{mode.device} has no mode with {name} {value}: it offers {got}")
    return camera


def prepared(picture: NDArray[np.uint8], mode: Mode, cv2: Any) -> NDArray[np.uint8]:
    """A camera's picture (height, width, 3) uint8 BGR, as the mode has it; RGB."""
    turn = {90: "ROTATE_90_CLOCKWISE", 180: "ROTATE_180", 270: "ROTATE_90_COUNTERCLOCKWISE"}
    made: Any = picture
    if mode.rotate:
        made = cv2.rotate(made, getattr(cv2, turn[mode.rotate]))
    if min(mode.between):
        made = cv2.resize(made, mode.between, interpolation=cv2.INTER_LINEAR)
    made = cv2.resize(made, mode.size, interpolation=cv2.INTER_AREA)
    coloured: NDArray[np.uint8] = cv2.cvtColor(made, cv2.COLOR_BGR2RGB)
    return coloured


def capture(camera: Any, mode: Mode, slots: Slots, cv2: Any) -> None:
    """Keep the newest picture in `slots`; the time is when the driver handed it over (``time.monotonic``).

    Raises:
        OSError: the camera has lost `MAX_LOST` pictures in a row.
    """
    lost, due_ns = 0, 0
    while lost < MAX_LOST:
        there = camera.grab()
        time_ns = time.monotonic_ns()
        if there and time_ns < due_ns:
            continue
        if there:
            there, picture = camera.retrieve()
        if not there:
            lost += 1
            continue
        lost = 0
        due_ns = time_ns + round(0.9e9 / mode.rate_hz)  # a picture that comes a little early counts
        slots.write(prepared(picture, mode, cv2), time_ns)
    raise OSError(f"{mode.device} gives no pictures any more")


def main(arguments: list[str]) -> int:
    """Capture until the parent has had enough; 1 where the camera has, and a message says why."""
    mode, fd = Mode.from_json(arguments[0]), int(arguments[1])
    width, height = mode.size
    memory = Memory.received(fd, most=slots_size(height, width))
    slots = Slots(memory.buffer, height, width)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    try:
        cv2 = require("cv2", extra="igris_b")
        cv2.setNumThreads(1)
        capture(open_camera(mode, cv2), mode, slots, cv2)
    except Exception as error:  # noqa: BLE001  whatever it is, the parent is told
        slots.say(str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}")
    return 1


def _leave_with_the_parent() -> None:
    """A driver may hang for good in the other thread, so this leaves at once; the kernel frees what there is."""
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
