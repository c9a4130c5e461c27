"""Cameras, each in a process of its own, watched: one that dies or freezes is opened again."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from chunkwise.memory import Memory
from chunkwise.robots._igris.capture import Mode, checked
from chunkwise.robots._igris.eyes import Seen
from chunkwise.robots._igris.slots import Slots, slots_size

WATCH_S: Final = 0.1
"""How often cameras are looked after [s]."""
FROZEN_S: Final = 1.0
"""A camera that has shown pictures, and shows none for so long, is opened again [s]."""
OPENING_S: Final = 10.0
"""The same before its first picture [s]."""
END_S: Final = 2.0
"""How long a process that was killed is waited for [s]."""
BACK_OFF_S: Final = (0.2, 10.0)
"""How long a camera that has failed is left alone: at first, doubled each time, at most [s]."""


class Camera:
    """One camera and its process, started again by `watch`.

    Args:
        mode: of the camera.
        clock: time [s]; pictures have theirs from ``time.monotonic``, whatever this is.

    Attributes:
        problem: what is wrong with it; empty for nothing.
        starts: how often its process was started.
    """

    def __init__(self, mode: Mode, clock: Callable[[], float] = time.monotonic) -> None:
        self.mode, self._clock = checked(mode), clock
        width, height = mode.size
        self._memory = Memory.new(slots_size(height, width), "chunkwise-camera", reserve=True)
        self._slots = Slots(self._memory.buffer, height, width)
        self._process: subprocess.Popen[bytes] | None = None
        self._newest: Seen | None = None
        self._number = self._watched = 0
        self._since_s = self._started_s = self._again_s = -math.inf
        self._pause_s, self._opening = BACK_OFF_S[0], True
        self.problem, self.starts = "", 0

    @property
    def pid(self) -> int | None:
        """Of its process; None where there is none now."""
        return None if self._process is None else self._process.pid

    def newest(self) -> Seen | None:
        """The newest picture, without waiting; it stays, with its time, when no other comes."""
        found = self._slots.read(after=self._number)
        if found is not None:
            self._number = found.number
            self._newest = Seen(found.picture, found.time_ns)
        return self._newest

    def watch(self) -> None:
        """Start its process where there is none, and end one that has frozen; not from two threads at once."""
        now, number = self._clock(), self._slots.newest
        process = self._process
        if process is None:
            if now >= self._again_s:
                self._start(now)
            return
        if number != self._watched:
            self._watched, self._since_s = number, now
            self.problem, self._opening = "", False
            if now - self._started_s > BACK_OFF_S[1]:  # one that fails after every first picture is no well one
                self._pause_s = BACK_OFF_S[0]
        code = process.poll()
        if code is not None:
            self._failed(self._slots.said() or f"its process ended with {code}")
        elif now - self._since_s > (OPENING_S if self._opening else max(FROZEN_S, 5 / self.mode.rate_hz)):
            self._failed(f"no picture for {now - self._since_s:.1f} s")

    def close(self) -> None:
        """End its process; what it showed last stays.  Twice is fine."""
        self._end()
        self._memory.close()

    def _start(self, now: float) -> None:
        self._slots.say("")
        self._watched, self._opening = self._slots.newest, True
        self._since_s = self._started_s = now
        self.starts += 1
        module = "chunkwise.robots._igris.capture"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, self.mode.to_json(), str(self._memory.fd)],
                stdin=subprocess.PIPE,  # its end tells the process to leave
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a driver complains often; what matters comes by the memory
                pass_fds=(self._memory.fd,),
                process_group=0,  # Ctrl-C is for the robot, which needs its eyes to come to a standstill
            )
        except OSError as error:
            self._failed(f"no process for it: {error}")

    def _failed(self, why: str) -> None:
        self._end()
        self.problem = why
        self._again_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, BACK_OFF_S[1])

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it keeps nothing that would have to be put in order
        with suppress(subprocess.TimeoutExpired):  # one that the kernel holds in a driver dies when that lets go
            process.wait(END_S)
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()


class Cameras:
    """Several of them, looked after by a thread.

    Args:
        modes: camera -> its mode.
    """

    def __init__(self, modes: Mapping[str, Mode]) -> None:
        self._modes = {name: checked(mode) for name, mode in modes.items()}
        self._cameras: dict[str, Camera] = {}
        self._thread: threading.Thread | None = None
        self._done = threading.Event()

    def start(self) -> None:
        if self._thread is not None or not self._modes:
            return
        self._cameras = {name: Camera(mode) for name, mode in self._modes.items()}
        self._done.clear()
        self._thread = threading.Thread(target=self._look_after, name="chunkwise-cameras", daemon=True)
        self._thread.start()

    def newest(self) -> dict[str, Seen]:
        found = {name: camera.newest() for name, camera in self._cameras.items()}
        return {name: seen for name, seen in found.items() if seen is not None}

    def problems(self) -> dict[str, str]:
        return {name: camera.problem for name, camera in self._cameras.items() if camera.problem}

    def close(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for camera in self._cameras.values():
            camera.close()

    def _look_after(self) -> None:
        while True:
            for camera in self._cameras.values():
                camera.watch()
            if self._done.wait(WATCH_S):
                return
