"""Cameras in processes of their own: what they show, and what becomes of one that dies, freezes or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunkwise.plugins import load
from chunkwise.robots._igris.cameras import BACK_OFF_S, FROZEN_S, OPENING_S, Camera, Cameras
from chunkwise.robots._igris.capture import Mode

pytestmark = pytest.mark.slow

MODE = Mode("fake:", 64, 48, 200.0, rotate=0, between=(0, 0), size=(16, 12), rate_hz=1e4)  # none is dropped


def until(true: Callable[[], Any]) -> Any:
    """Wait for something of another process; it is there in a moment, or the test has failed."""
    give_up_s, waiting = time.monotonic() + 30, threading.Event()
    while not (found := true()):
        if time.monotonic() > give_up_s:
            raise AssertionError("it never came")
        waiting.wait(0.005)
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process, one that has ended and was not asked for aside."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def camera(clock: Any) -> Iterator[Callable[[str], Camera]]:
    made: list[Camera] = []

    def make(device: str) -> Camera:
        made.append(Camera(replace(MODE, device=device), clock))
        made[-1].watch()
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_pictures_come_with_the_time_of_their_capture(camera: Any) -> None:
    before_ns = time.monotonic_ns()
    one = camera("fake:")
    first = until(one.newest)
    assert first.picture.shape == (12, 16, 3) and before_ns < first.time_ns <= time.monotonic_ns()
    later = until(lambda: (seen := one.newest()) is not first and seen)
    assert later.time_ns > first.time_ns
    one.watch()
    assert (one.starts, one.problem) == (1, "")
    assert os.getpgid(one.pid) != os.getpgid(0), "Ctrl-C in the terminal is not for it"


def test_a_camera_that_dies_shows_its_last_picture_and_is_started_again(camera: Any, clock: Any) -> None:
    one = camera("fake:die=3")
    until(lambda: (one.watch(), one.pid is None)[1])
    last = one.newest()
    assert one.problem == "its process ended with 9" and one.pid is None and last is not None
    assert one.newest() is last, "old, and with its old time"
    one.watch()
    assert one.starts == 1, "not at once"
    clock.sleep(BACK_OFF_S[0])
    one.watch()
    assert one.starts == 2
    until(lambda: one.newest() is not last)


def test_it_is_left_alone_for_longer_each_time(camera: Any, clock: Any) -> None:
    one = camera("/dev/no_such_camera")
    pauses = []
    for _ in range(3):
        until(lambda: (one.watch(), one.pid is None)[1])
        assert one.problem == "cannot open /dev/no_such_camera: it is not there, or in use"
        failed_s = clock()
        while one.pid is None:
            clock.sleep(0.05)
            one.watch()
        pauses.append(clock() - failed_s)
    np.testing.assert_allclose(pauses, [BACK_OFF_S[0] * 2**n for n in range(3)], atol=0.06)


def test_a_camera_that_freezes_is_ended_and_started_again(camera: Any, clock: Any) -> None:
    one = camera("fake:freeze=3")
    pid = one.pid
    until(lambda: one._slots.newest == 3)
    one.watch()
    clock.sleep(0.9 * FROZEN_S)
    one.watch()
    assert one.pid == pid
    clock.sleep(0.2 * FROZEN_S)
    one.watch()
    assert one.pid is None and "no picture for 1.1 s" in one.problem and not alive(pid)
    clock.sleep(BACK_OFF_S[0])
    one.watch()
    until(lambda: one._slots.newest > 3)
    one.watch()
    assert (one.starts, one.problem) == (2, "")


def test_one_that_is_stopped_by_a_signal_counts_as_frozen(camera: Any, clock: Any) -> None:
    one = camera("fake:")
    pid = one.pid
    until(one.newest)
    one.watch()
    os.kill(pid, signal.SIGSTOP)
    number = until(lambda: one._slots.newest)
    while number != one._slots.newest:
        number = one._slots.newest
    one.watch()
    clock.sleep(1.5 * FROZEN_S)
    one.watch()
    one.watch()
    assert not alive(pid)


def test_one_that_never_shows_anything_is_given_time_to_open(camera: Any, clock: Any) -> None:
    one = camera("fake:freeze=0")
    pid = one.pid
    clock.sleep(0.9 * OPENING_S)
    one.watch()
    assert one.pid == pid
    clock.sleep(0.2 * OPENING_S)
    one.watch()
    assert one.pid is None and "no picture for 11.0 s" in one.problem


def test_one_that_loses_its_device_says_so(camera: Any) -> None:
    one = camera("fake:lose=2")
    until(lambda: (one.watch(), one.pid is None)[1])
    assert one.problem == "fake:lose=2 gives no pictures any more"


def test_kill_9_leaves_the_memory_readable(camera: Any, clock: Any) -> None:
    one = camera("fake:")
    until(one.newest)
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: (one.watch(), one.pid is None)[1])
    assert one.problem == f"its process ended with {-signal.SIGKILL}" and one.newest() is not None


PARENT = """
import sys, time
from chunkwise.robots._igris.cameras import Camera
from chunkwise.robots._igris.capture import Mode
camera = Camera(Mode.from_json(sys.argv[1]))
camera.watch()
print(camera.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("device", ["fake:", "fake:freeze=1"])
def test_a_camera_does_not_outlive_its_robot(device: str) -> None:
    mode = replace(MODE, device=device).to_json()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until(lambda: not alive(pid))


def test_a_robot_with_cameras_sees_waits_for_them_and_lets_them_go(files: Any) -> None:
    from chunkwise.robots._igris.bus import InProcessBus
    from chunkwise.robots._igris.messages import Float32MultiArray, JointState

    bus = InProcessBus()
    robot = load("robots", "igris_b")(
        bus=bus,
        params=files.params(mono_image_resize={"width": 16, "height": 12}),
        devices=("head=fake:", "left=fake:", "right=fake:"),
        camera_mode="64x48@100",
        timeout_s=30.0,
    )
    wait = robot._sleep

    def speak(seconds: float) -> None:
        wait(seconds)
        bus.publish("/igris_b/packy/joint_states", "JointState", JointState(position=np.zeros(12)))
        bus.publish("/igris_b/packy/finger_state", "Float32MultiArray", Float32MultiArray(np.zeros(12)))

    robot._sleep = speak
    robot.connect()
    frame = robot.observe()
    assert {name: image.shape for name, image in frame.images.items()} == dict.fromkeys(
        ("head", "left", "right"), (12, 16, 3)
    )
    corner = frame.images["head"][-1, -1]
    assert (corner > 0).all(), "turned upside down: the white pixel is below"
    assert set(frame.images) < set(frame.times_ns)
    pids = [camera.pid for camera in robot._cameras._cameras.values()]
    robot.close()
    robot.close()
    assert not any(alive(pid) for pid in pids)


def test_a_camera_that_is_not_there_is_named_when_the_robot_connects(files: Any, clock: Any) -> None:
    robot = load("robots", "igris_b")(
        topics="fake", params=files.params(camera_names=["head"]), devices=("head=fake:lose=0",), clock=clock
    )

    def wait(seconds: float) -> None:
        until(robot._cameras.problems)
        clock.sleep(robot._timeout_s)

    robot._sleep = wait
    with pytest.raises(ValueError, match=r"camera head: fake:lose=0 gives no pictures any more"):
        robot.connect()
    assert not robot._cameras._cameras["head"].pid


def test_no_cameras_need_no_thread() -> None:
    none = Cameras({})
    none.start()
    assert none.newest() == {} and none.problems() == {} and none._thread is None
    none.close()
