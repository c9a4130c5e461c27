"""The bimanual OpenArm in MuJoCo, in front of two belts with posts.

A robot for which time matters: between `observe` and `act` the belts run on. It can also be stepped, one
control period for each `act`, and then two runs with one seed are the same to the last bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from chunkwise.contract import (
    Action,
    Command,
    ComponentSpec,
    Frame,
    RobotSpec,
    commanded,
)
from chunkwise.contract.errors import nearest
from chunkwise.plugins import require
from chunkwise.tasks.lanes import JOINT_NAMES
from chunkwise.tasks.two_belts import CONTACT, RAIL_LIMIT, VISIBLE_BEHIND, VISIBLE_POSTS, Belts, Score

if TYPE_CHECKING:
    from chunkwise.robots.openarm_sim.cameras import CameraThread, Painter
    from chunkwise.robots.openarm_sim.physics import ArmPhysics

__all__ = ["OpenArmSim"]

CAMERAS: Final = ("ceiling", "head", "wrist_right", "wrist_left")
OPENGL_CURE: Final = (
    "on Debian and Ubuntu apt-get install libegl1 libgl1-mesa-dri (MUJOCO_GL=egl, the default), "
    "or apt-get install libosmesa6 and set MUJOCO_GL=osmesa"
)
CATCH_UP_S: Final = 0.25
"""A loop that falls farther behind than this [s] loses the time: the belts stood still meanwhile."""

ARM_LOWER: Final = (-1.39626, -0.174533, -1.5708, 0.0, -1.5708, -0.785398, -1.5708)
"""Lower limits of the right arm's joints [rad]; the left arm's joints 1 and 2 are mirrored."""
ARM_UPPER: Final = (3.49066, 3.31613, 1.5708, 2.44346, 1.5708, 0.785398, 1.5708)
GRIPPER_OPEN: Final = 0.7854
"""Widest opening of a finger [rad]: towards minus on the right hand, towards plus on the left one."""
MAX_RATE: Final = 6.0
"""Fastest change of a joint's target [rad/s]; the drives' own profile is slower."""


class OpenArmSim:
    """Two OpenArm v2, 16 joints by position, and the task "two belts" around them.

    State beyond the joints: `belts` (2 lanes, 2 posts, 2), x and y in the base frame [m] of the next two
    posts of each lane, as an overhead tracker reports them. Lanes and arms are in the order right, left.
    `frame.meta["privileged"]` holds `lane_velocity` (2,) [m/s], for policies that may cheat.

    Args:
        seed: of the posts.
        control_hz: rate of the loop [1/s]; in lockstep a divisor of 500.
        lockstep: each `act` advances one control period, and nothing else does. Else time runs by the clock.
        cameras: which to draw, of ceiling, head, wrist_right and wrist_left.
        camera_hz: sets of images per second, at most.
        camera_size: height and width of an image in pixels.
        clock: the time [s] by which the arms move when not in lockstep.

    Raises:
        ValueError: no such camera, or no such control period.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        control_hz: float = 50.0,
        lockstep: bool = False,
        cameras: tuple[str, ...] = (),
        camera_hz: float = 10.0,
        camera_size: tuple[int, int] = (240, 320),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                there = ", ".join(CAMERAS)
                raise ValueError(f"no camera {camera!r}{nearest(camera, CAMERAS)}; there are: {there}")
        if control_hz <= 0 or (lockstep and 500.0 % control_hz):
            raise ValueError(f"control_hz must be above zero, and divide 500 in lockstep; got {control_hz}")
        self._spec = _spec(control_hz, cameras)
        self._seed, self._lockstep, self._clock = seed, lockstep, clock
        self._period_substeps = round(500.0 / control_hz)
        self._cameras, self._camera_hz, self._camera_size = cameras, camera_hz, camera_size
        self._columns = _columns(self._spec)
        self._lower, self._upper = _limits(self._spec)
        self._physics: ArmPhysics | None = None
        self._camera_thread: CameraThread | None = None
        self._painter: Painter | None = None

    @property
    def spec(self) -> RobotSpec:
        """Right arm, right gripper, left arm, left gripper: OpenArm's wire order."""
        return self._spec

    def connect(self) -> None:
        """Build the world and put both hands at the middle of their lanes.

        Raises:
            MissingExtra: MuJoCo or the arm's model is not installed.
            RuntimeError: there are cameras, and OpenGL does not work here.
        """
        if self._physics is not None:
            return
        _require_mujoco()
        from chunkwise.robots.openarm_sim.physics import ArmPhysics

        self._physics = ArmPhysics()
        if self._cameras:
            from chunkwise.robots.openarm_sim.cameras import CameraThread

            self._camera_thread = CameraThread(self._cameras, self._camera_hz, self._camera_size)
        try:
            self.reset(self._seed)
        except BaseException:
            self.close()
            raise

    def reset(self, seed: int | None = None) -> None:
        """Start over: hands at the middle of their lanes, at rest, belts at time zero.

        Args:
            seed: of the new posts; None keeps the posts.
        """
        physics = self._connected()
        self._seed = self._seed if seed is None else seed
        self._belts = Belts([self._seed])
        self._score = Score(self._belts)
        self._hit_posts: set[tuple[int, int]] = set()
        physics.reset(np.zeros((1, 2)))
        self._target = physics.joints
        self._sequence_id = 0
        if self._camera_thread is not None:
            self._camera_thread.draw(self.snapshot())
        self._started_s, self._lost_s = self._clock(), 0.0  # last, so that no time runs while it is made ready

    def observe(self) -> Frame:
        """The joints as measured now, the posts, and the newest images (by reference)."""
        physics = self._catch_up()
        joints = physics.joints[0]
        state = {name: joints[columns] for name, columns in self._columns.items()}
        state["belts"] = self._belts.next_posts(physics.time_s)[0]
        meta: dict[str, Any] = {"privileged": {"lane_velocity": physics.lane_velocities[0]}}
        images: dict[str, NDArray[Any]] = {}
        if self._camera_thread is not None:
            images = dict(self._camera_thread.images)
            meta["images_time_s"] = self._camera_thread.time_s
        self._sequence_id += 1
        return Frame(
            images,
            state,
            meta=meta,
            timestamp_ns=round(1e9 * (self._started_s + self._lost_s + physics.time_s)),
            sequence_id=self._sequence_id,
        )

    def act(self, action: Action) -> Action:
        """Set joint targets; components that the action does not name keep theirs.

        Returns:
            The targets within the joints' limits, as they were applied.

        Raises:
            InterfaceValidationError: an unknown component, another command kind, or a wrong or non-finite value.
        """
        physics = self._catch_up()
        target = self._target.copy()
        for name, command in action.commands.items():
            commanded(self._spec, name, command)
            target[0, self._columns[name]] = command.value
        self._target = np.clip(target, self._lower, self._upper)
        applied = {
            name: Command(command.command, self._target[0, self._columns[name]])
            for name, command in action.commands.items()
        }
        if self._lockstep:
            self._advance(physics, self._period_substeps)
        return Action(applied, dict(action.meta))

    def _connected(self) -> ArmPhysics:
        if self._physics is None:
            raise RuntimeError("the robot is not connected; call connect() first")
        return self._physics

    def _catch_up(self) -> ArmPhysics:
        """Let the world run until now."""
        physics = self._connected()
        if not self._lockstep:
            behind_s = self._clock() - self._started_s - self._lost_s - physics.time_s
            if behind_s > CATCH_UP_S:
                self._lost_s += behind_s - CATCH_UP_S
                behind_s = CATCH_UP_S
            # A hair more than zero, so that a period of exactly ten substeps is never cut to nine by rounding.
            self._advance(physics, int(behind_s * 500.0 + 1e-6))
        return physics

    def _advance(self, physics: ArmPhysics, substeps: int) -> None:
        """Run the world for some substeps of 2 ms, and count posts passed and hit."""
        if substeps <= 0:
            return
        physics.advance(self._target, substeps)
        first_sample = physics.substeps // 5 - physics.rods.shape[1] + 1
        for sample in range(physics.rods.shape[1]):
            self._judge(0.010 * (first_sample + sample), physics.rods[:, sample, :, :2])
        if self._camera_thread is not None:
            self._camera_thread.offer(physics.time_s, self.snapshot)
            if self._lockstep:
                self._camera_thread.wait()  # so that images, too, are a matter of the step alone

    def _judge(self, time_s: float, rods: NDArray[np.float64]) -> None:
        hits = self._score.hits.copy()
        self._score.update(time_s, rods)
        for lane in np.flatnonzero(self._score.hits[0] > hits[0]):
            self._hit_posts.add((int(lane), int(self._belts.index(time_s, CONTACT + RAIL_LIMIT)[0, lane])))

    def score(self) -> dict[str, Any]:
        """How the task goes: simulated `seconds`, posts `passed` and `hits`, and whether it `failed`."""
        return {
            "seconds": self._connected().time_s,
            "passed": int(self._score.passed.sum()),
            "hits": int(self._score.hits.sum()),
            "failed": bool(self._score.failed[0]),
        }

    def snapshot(self) -> dict[str, Any]:
        """What `render` needs to draw this moment later; about 3 KB."""
        physics = self._connected()
        time_s = physics.time_s
        foremost = self._belts.index(time_s, VISIBLE_BEHIND)[0][:, None]
        numbers = foremost + (np.arange(VISIBLE_POSTS) - foremost) % VISIBLE_POSTS
        hit = [[(lane, int(number)) in self._hit_posts for number in row] for lane, row in enumerate(numbers)]
        return {
            "time_s": time_s,
            "positions": physics.positions[0].copy(),
            "posts": self._belts.visible(time_s)[0],
            "hit": np.array(hit),
        }

    def render(
        self, snapshot: dict[str, Any], camera: str = "overview", size: tuple[int, int] = (480, 640)
    ) -> NDArray[np.uint8]:
        """A picture (height, width, 3) uint8 RGB of a snapshot, on the calling thread: for after the run.

        Args:
            snapshot: from `snapshot`, of this robot or another.
            camera: one of the robot's, or `overview`.
            size: height and width, at most 960 x 1280.

        Raises:
            MissingExtra: MuJoCo or the arm's model is not installed.
            RuntimeError: OpenGL does not work here.
        """
        if self._painter is None:
            _require_mujoco()
            from chunkwise.robots.openarm_sim.cameras import Painter

            self._painter = Painter()
        return self._painter.draw(snapshot, camera, size)

    def close(self) -> None:
        """Stop the cameras and let the world go. Twice is fine."""
        if self._camera_thread is not None:
            self._camera_thread.close()
        if self._painter is not None:
            self._painter.close()
        self._camera_thread = self._painter = None
        self._physics = None


def _require_mujoco() -> None:
    require("openarm_mujoco", extra="openarm_sim")
    try:
        require("mujoco", extra="openarm_sim")
    except AttributeError as error:  # PyOpenGL's way to say that the library named by MUJOCO_GL is not there
        backend = os.environ.get("MUJOCO_GL")
        raise RuntimeError(
            f"mujoco does not load: MUJOCO_GL={backend} names an OpenGL that does not work here ({error}); "
            f"unset it (the arms need none without cameras), or: {OPENGL_CURE}"
        ) from error


def _spec(control_hz: float, cameras: tuple[str, ...]) -> RobotSpec:
    mirrored = np.array([-1, -1, 1, 1, 1, 1, 1])  # joints 1 and 2 have one-sided ranges
    ends = np.sort(np.stack([mirrored * ARM_LOWER, mirrored * ARM_UPPER]), axis=0)
    arms = {"right": (ARM_LOWER, ARM_UPPER), "left": (ends[0].tolist(), ends[1].tolist())}
    grippers = {"right": (-GRIPPER_OPEN, 0.0), "left": (0.0, GRIPPER_OPEN)}
    components = []
    for first, side in ((0, "right"), (8, "left")):
        arm_lower, arm_upper = arms[side]
        lower, upper = grippers[side]
        components += [
            ComponentSpec(
                f"{side}_arm",
                "arm",
                7,
                ["joint_position"],
                joint_names=list(JOINT_NAMES[first : first + 7]),
                unit="rad",
                lower=list(arm_lower),
                upper=list(arm_upper),
                max_rate=MAX_RATE,
            ),
            ComponentSpec(
                f"{side}_gripper",
                "gripper",
                1,
                ["gripper_position"],
                joint_names=[JOINT_NAMES[first + 7]],
                unit="rad",
                lower=[lower],
                upper=[upper],
                max_rate=MAX_RATE,
            ),
        ]
    return RobotSpec("openarm_sim", list(cameras), components, state_keys=["belts"], control_hz=control_hz)


def _columns(spec: RobotSpec) -> dict[str, slice]:
    """Where each component's joints stand among the 16."""
    starts = np.cumsum([0, *(component.dof for component in spec.components)]).tolist()
    return {
        component.name: slice(start, start + component.dof)
        for component, start in zip(spec.components, starts, strict=False)
    }


def _limits(spec: RobotSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper limits (16,) [rad] of all joints."""
    lower = np.concatenate([component.lower or [] for component in spec.components])
    upper = np.concatenate([component.upper or [] for component in spec.components])
    return lower, upper
