"""Pictures of the simulated OpenArm, drawn away from the control thread.

A snapshot is what a picture is drawn from, cheap to take and to keep: `time_s`, `positions` (nq,) of the
model, `posts` (2 lanes, 8, 2) x and y in the base frame [m], `hit` (2, 8) whether a post was touched.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from chunkwise.robots.openarm_sim import OPENGL_CURE
from chunkwise.robots.openarm_sim.scene import (
    BELT_X,
    BELT_Z,
    HIDDEN,
    HIT_RGBA,
    PASSED_RGBA,
    POST_HALF_HEIGHT,
    POST_RGBA,
    POSTS_SHOWN,
    SIDES,
    STRIPE_PITCH,
    picture_model,
)
from chunkwise.tasks.lanes import GRIP_X
from chunkwise.tasks.two_belts import BELT_SPEED, CONTACT, POST_RADIUS

Snapshot = dict[str, Any]
Image = NDArray[np.uint8]

TIMEOUT_S: Final = 60.0


class Painter:
    """Draws snapshots. It belongs to the thread that makes it.

    Raises:
        RuntimeError: OpenGL does not work here; the message names the packages that cure it.
    """

    def __init__(self) -> None:
        self._model: Any = picture_model()
        self._data: Any = mujoco.MjData(self._model)
        self._window, self._context = _opengl(self._model)
        self._scene: Any = mujoco.MjvScene(self._model, maxgeom=1000)
        self._option: Any = mujoco.MjvOption()
        self._posts: list[list[tuple[int, int]]] = [
            [self._post(f"post_{side}_{place}") for place in range(POSTS_SHOWN)] for side in SIDES
        ]
        self._stripes: list[int] = [self._model.body(f"stripes_{side}").mocapid[0] for side in SIDES]

    def _post(self, name: str) -> tuple[int, int]:
        """Indices of a post's moved body and of its shape."""
        return int(self._model.body(name).mocapid[0]), int(self._model.geom(name).id)

    def draw(self, snapshot: Snapshot, camera: str, size: tuple[int, int]) -> Image:
        """The picture (height, width, 3) uint8 RGB that a camera takes of a snapshot.

        Args:
            snapshot: see the module.
            camera: ceiling, head, wrist_right, wrist_left or overview.
            size: height and width, at most 960 x 1280.

        Raises:
            ValueError: the size is beyond that.
            KeyError: an unknown camera.
        """
        height, width = size
        if height > self._model.vis.global_.offheight or width > self._model.vis.global_.offwidth:
            raise ValueError(f"a picture has at most 960 x 1280 pixels, not {height} x {width}")
        self._arrange(snapshot)
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._model.camera(f"camera_{camera}").id
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        self._window.make_current()
        frame = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(frame, self._scene, self._context)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, frame, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest

    def _arrange(self, snapshot: Snapshot) -> None:
        """Put arms, posts and belts where the snapshot has them."""
        self._data.qpos[:] = snapshot["positions"]
        for lane, posts in enumerate(self._posts):
            for place, (body, shape) in enumerate(posts):
                x, y = snapshot["posts"][lane, place]
                on_belt = BELT_X[0] + POST_RADIUS < x < BELT_X[1] - POST_RADIUS
                self._data.mocap_pos[body] = (x, y, BELT_Z + POST_HALF_HEIGHT) if on_belt else HIDDEN
                ahead = PASSED_RGBA if x < GRIP_X - CONTACT else POST_RGBA
                self._model.geom_rgba[shape] = HIT_RGBA if snapshot["hit"][lane, place] else ahead
        travelled = BELT_SPEED * snapshot["time_s"]
        self._data.mocap_pos[self._stripes, 0] = STRIPE_PITCH - travelled % STRIPE_PITCH
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def close(self) -> None:
        """Give back the graphics memory. Twice is fine."""
        if self._context is not None:
            self._window.make_current()
            self._context.free()
            self._window.free()
            self._context = None


def _opengl(model: Any) -> tuple[Any, Any]:
    """This thread's offscreen OpenGL, the one that MUJOCO_GL names or EGL, and the model's meshes in it."""
    backend = os.environ.get("MUJOCO_GL", "").strip().lower() or "egl"
    try:
        window = importlib.import_module(f"mujoco.{backend}").GLContext(
            model.vis.global_.offwidth, model.vis.global_.offheight
        )
        window.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    except Exception as error:  # PyOpenGL raises AttributeError, its own errors and more for a missing library
        raise RuntimeError(
            f"cannot draw: the OpenGL backend {backend!r} does not work here ({type(error).__name__}: {error}); "
            f"{OPENGL_CURE}"
        ) from error
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
    return window, context


class CameraThread:
    """Draws the robot's cameras in a thread of its own, from snapshots handed to it.

    The thread that controls the robot takes no lock and waits only where it says so: it leaves a snapshot
    when a set of images is due, by simulated time, and the set before is done.

    Args:
        cameras: names as for `Painter.draw`.
        hz: sets of images per simulated second, at most.
        size: height and width in pixels.

    Attributes:
        images: camera -> newest image (height, width, 3) uint8 RGB; a new dict for every set, never written
            again.
        time_s: simulated time of that set [s].
    """

    def __init__(self, cameras: Sequence[str], hz: float, size: tuple[int, int]) -> None:
        self.images: dict[str, Image] = {}
        self.time_s = 0.0
        self._cameras, self._period_s, self._size = tuple(cameras), 1.0 / hz, size
        self._due_s = 0.0
        self._snapshot: Snapshot = {}
        self._given, self._idle = threading.Event(), threading.Event()
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="openarm_sim cameras", daemon=True)
        self._thread.start()

    def draw(self, snapshot: Snapshot) -> None:
        """Draw this snapshot now, and wait for its images.

        Raises:
            RuntimeError: OpenGL does not work here, or a picture failed.
        """
        self.wait()
        self._give(snapshot)
        self.wait()

    def offer(self, time_s: float, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot at this simulated time if a set of images is due and none is being drawn.

        Raises:
            RuntimeError: a picture failed.
        """
        if self._error is not None:
            raise self._error
        if time_s >= self._due_s and self._idle.is_set():
            self._give(take())

    def _give(self, snapshot: Snapshot) -> None:
        self._due_s = snapshot["time_s"] + self._period_s
        self._snapshot = snapshot
        self._idle.clear()
        self._given.set()

    def wait(self) -> None:
        """Wait until nothing is being drawn.

        Raises:
            RuntimeError: OpenGL does not work here, or a picture failed.
        """
        if not self._idle.wait(TIMEOUT_S):
            raise RuntimeError(f"no picture within {TIMEOUT_S:.0f} s")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            painter = Painter()
            try:
                self._draw_until_closed(painter)
            finally:
                painter.close()
        except Exception as error:  # noqa: BLE001  handed to the thread that waits for the images
            self._error = error
        self._idle.set()

    def _draw_until_closed(self, painter: Painter) -> None:
        while True:
            self._idle.set()
            self._given.wait()
            self._given.clear()
            if self._closed:
                return
            snapshot = self._snapshot
            self.images = {name: painter.draw(snapshot, name, self._size) for name in self._cameras}
            self.time_s = snapshot["time_s"]

    def close(self) -> None:
        """Stop the thread. Twice is fine."""
        self._closed = True
        self._given.set()
        self._thread.join()
