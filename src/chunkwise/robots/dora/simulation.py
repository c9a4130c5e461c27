"""The simulated OpenArm as one Dora node: arms, cameras and tracker, and a report of what it was told to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chunkwise import plugins
from chunkwise.contract import Action, Command, Frame
from chunkwise.robots.dora.messages import (
    ARM_JOINTS,
    CAMERAS,
    Image,
    arm_joints,
    arm_message,
    jpeg_message,
    posts_message,
)

Cameras = Literal["none", "flat", "drawn"]
CAMERA_MODES: Final = get_args(Cameras)

COLOURS: Final[Mapping[str, tuple[int, int, int]]] = {
    "camera_wrist_right": (200, 40, 40),
    "camera_wrist_left": (40, 200, 40),
    "camera_head_left": (40, 40, 200),
    "camera_head_right": (200, 200, 40),
    "camera_ceiling": (40, 200, 200),
}
"""Red, green, blue of the upper half of a flat image; its lower half is `BELOW`."""
BELOW: Final = (20, 20, 20)
SIDES: Final = ("right", "left")


def flat_image(camera: str, size: tuple[int, int]) -> Image:
    """The image (height, width, 3) that a camera shows when nothing is drawn."""
    image = np.empty((*size, 3), dtype=np.uint8)
    image[: size[0] // 2] = COLOURS[camera]
    image[size[0] // 2 :] = BELOW
    return image


def arm_action(side: str, joints: NDArray[np.float64]) -> Action:
    """The action that sends one arm to its joints (8,) [rad]; the other one keeps its target."""
    arm, gripper = joints[: ARM_JOINTS - 1], joints[ARM_JOINTS - 1 :]
    return Action(
        {
            f"{side}_arm": Command("joint_position", arm),
            f"{side}_gripper": Command("gripper_position", gripper),
        }
    )


def joints_of(frame: Frame, side: str) -> NDArray[np.float64]:
    """The joints (8,) [rad] of one arm in an observation."""
    return np.concatenate([frame.state[f"{side}_arm"], frame.state[f"{side}_gripper"]])


def _farthest(joints: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The largest difference of two sets of joints [rad]."""
    return float(np.abs(joints - others).max())


@dataclass
class Episode:
    """What happened between one `start` and the next: the score, and the commands that arrived.

    Attributes:
        seed: of the posts.
        seconds, passed, hits, failed: the robot's score when the episode was stopped.
        commands: that arrived, per arm.
        refused: commands that were not finite or not 8 numbers; the arm kept its target.
        first_offset_rad: the farthest that a joint stood from the first command.
        largest_step_rad: the farthest that a command went from the one before it.
        farthest_rad: the farthest that a command was from where its arm stood when the episode began.
        gap_p50_ms, gap_p99_ms: between commands of one arm, by the sender's time stamps.
    """

    seed: int
    seconds: float = 0.0
    passed: int = 0
    hits: int = 0
    failed: bool = False
    commands: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    refused: int = 0
    first_offset_rad: float | None = None
    largest_step_rad: float = 0.0
    farthest_rad: float = 0.0
    gap_p50_ms: float | None = None
    gap_p99_ms: float | None = None


class Simulation:
    """Both arms, five cameras and the tracker, at a fixed rate.

    It sends `position_right` and `position_left` (8,) [rad], one JPEG per camera of the observer, and the posts
    (8 numbers) as `phase_classifier_result`, the one field of OpenArm's observation that is free. It takes
    `move_position_right`, `move_position_left` and `command`: `start` puts the arms back and begins an episode,
    `stopped` ends it, `quit` ends the node. Between episodes the arms keep their targets.

    Args:
        node: a Dora node, or what behaves like one.
        hz: rate of the arms and of the tracker [1/s].
        camera_hz: rate of the images [1/s].
        cameras: ``none``, ``flat`` for test images of `COLOURS`, or ``drawn``.
        camera_size: height and width of an image in pixels; `head_size` is that of the two head cameras.
        qpos_struct: send positions as the arm drivers from 1.3 on do.
        seed: of the first episode; every further one adds 1.
        clock, sleep: time [s].

    Raises:
        MissingExtra: MuJoCo, pillow or pyarrow is not installed.
    """

    def __init__(
        self,
        node: Any,
        *,
        hz: float = 250.0,
        camera_hz: float = 30.0,
        cameras: Cameras = "flat",
        camera_size: tuple[int, int] = (48, 64),
        head_size: tuple[int, int] | None = None,
        qpos_struct: bool = False,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        views = ("ceiling", "head", "wrist_right", "wrist_left") if cameras == "drawn" else ()
        self._robot: Any = plugins.load("robots", "openarm_sim")(
            seed=seed, control_hz=hz, cameras=views, camera_hz=camera_hz, camera_size=camera_size, clock=clock
        )
        self._node, self._hz, self._qpos_struct, self._seed = node, hz, qpos_struct, seed
        self._clock, self._sleep = clock, sleep
        self._camera_period = max(1, round(hz / camera_hz))
        head_size = head_size or camera_size
        self._flat = {
            camera: jpeg_message(flat_image(camera, head_size if "head" in camera else camera_size))
            for camera in (CAMERAS if cameras == "flat" else ())
        }
        self._drawn = cameras == "drawn"
        self._episodes: list[Episode] = []
        self._log = _CommandLog()
        self._began_at: dict[str, NDArray[np.float64]] = {}
        self._running = False
        self._ticks = self._late = 0

    def run(self) -> dict[str, Any]:
        """Simulate until `quit` or the end of the dataflow, and return the report."""
        self._robot.connect()
        try:
            due_s = self._clock()
            while self._take(self._node.drain()):
                self._send()
                self._ticks += 1
                due_s += 1.0 / self._hz
                if due_s < self._clock():  # a period that was missed is not made up for
                    self._late += 1
                    due_s = self._clock()
                self._sleep(due_s - self._clock() if due_s > self._clock() else 0.0)
            self._end_episode()
            return self.report()
        finally:
            self._robot.close()

    def report(self) -> dict[str, Any]:
        """Ticks, ticks that came late, and every episode."""
        return {
            "hz": self._hz,
            "ticks": self._ticks,
            "late": self._late,
            "episodes": [asdict(episode) for episode in self._episodes],
        }

    def _take(self, events: Iterable[Mapping[str, Any]] | None) -> bool:
        """Follow the inputs that arrived; False where it is time to end."""
        if events is None:
            return False
        for event in events:
            if event["type"] == "STOP":
                return False
            if event["type"] != "INPUT":
                continue
            if event["id"] == "command":
                command = event["value"][0].as_py()
                if command == "quit":
                    return False
                self._follow(command)
            else:
                self._move(event["id"].removeprefix("move_position_"), event)
        return True

    def _follow(self, command: str) -> None:
        if command == "start":
            self._end_episode()
            seed = self._seed + len(self._episodes)
            self._robot.reset(seed)
            self._episodes.append(Episode(seed))
            self._log = _CommandLog()
            self._began_at = {side: self._joints(side) for side in SIDES}
            self._running = True
        elif command == "stopped":
            self._end_episode()

    def _end_episode(self) -> None:
        if not self._running:
            return
        self._running = False
        episode = self._episodes[-1]
        score = self._robot.score()
        episode.seconds, episode.passed = round(score["seconds"], 3), score["passed"]
        episode.hits, episode.failed = score["hits"], score["failed"]
        episode.gap_p50_ms, episode.gap_p99_ms = self._log.gaps_ms()

    def _move(self, side: str, event: Mapping[str, Any]) -> None:
        """Send one arm where the executor wants it; what is no target moves nothing."""
        if not self._running:
            return
        joints = arm_joints(event["value"])
        episode = self._episodes[-1]
        episode.commands[side] += 1
        stamp = event["metadata"].get("timestamp")
        stamp_ns = stamp if isinstance(stamp, int) else round(1e9 * self._clock())
        self._log.arrived(side, stamp_ns)
        if joints.shape != (ARM_JOINTS,) or not np.isfinite(joints).all():
            episode.refused += 1
            return
        step = self._log.step(side, joints)
        episode.largest_step_rad = max(episode.largest_step_rad, step)
        if episode.first_offset_rad is None:
            episode.first_offset_rad = _farthest(joints, self._joints(side))
        episode.farthest_rad = max(episode.farthest_rad, _farthest(joints, self._began_at[side]))
        self._robot.act(arm_action(side, joints))

    def _joints(self, side: str) -> NDArray[np.float64]:
        """Where an arm stands now (8,) [rad]."""
        return joints_of(self._robot.observe(), side)

    def _send(self) -> None:
        frame = self._robot.observe()
        for side in SIDES:
            joints = joints_of(frame, side)
            self._node.send_output(f"position_{side}", arm_message(joints, qpos_struct=self._qpos_struct))
        self._node.send_output("phase_classifier_result", posts_message(frame.state["belts"]))
        if self._ticks % self._camera_period:
            return
        for camera, message in self._flat.items():
            self._node.send_output(camera, message)
        if self._drawn:
            for camera in CAMERAS:
                view = "head" if "head" in camera else camera.removeprefix("camera_")
                self._node.send_output(camera, jpeg_message(frame.images[view]))


class _CommandLog:
    """Times and values of the commands of one episode."""

    def __init__(self) -> None:
        self._stamps_ns: dict[str, list[int]] = {side: [] for side in SIDES}
        self._last: dict[str, NDArray[np.float64]] = {}

    def arrived(self, side: str, stamp_ns: int) -> None:
        self._stamps_ns[side].append(stamp_ns)

    def step(self, side: str, joints: NDArray[np.float64]) -> float:
        """The farthest [rad] that a joint's target moved since the arm's last command."""
        last = self._last.get(side, joints)
        self._last[side] = joints
        return _farthest(joints, last)

    def gaps_ms(self) -> tuple[float | None, float | None]:
        """Median and 99th percentile between commands of one arm [ms]."""
        gaps = np.concatenate([np.diff(stamps) for stamps in self._stamps_ns.values()]) / 1e6
        if not gaps.size:
            return None, None
        p50, p99 = np.percentile(gaps, [50, 99])
        return round(float(p50), 3), round(float(p99), 3)
