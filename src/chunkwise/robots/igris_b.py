"""IGRIS-B: two arms of six joints and two hands of six, over its topics, or simulated behind the same topics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from chunkwise.contract import ComponentSpec, InterfaceValidationError
from chunkwise.processing.igris import RuntimeParams
from chunkwise.robots._igris.body import Body, Part, Publication
from chunkwise.robots._igris.bus import Bus
from chunkwise.robots._igris.devices import devices_of
from chunkwise.robots._igris.files import read_params, read_topics
from chunkwise.robots._igris.robot import Stamps, TopicRobot, Transport, links
from chunkwise.robots._igris.topics import PREFIX, topics_tree

__all__ = ["IgrisB"]

SIDES: Final = ("left", "right")
DOF: Final = 6
"""Joints of an arm, and of a hand."""
INITIAL_DEG: Final = {"right": (20, 30, 0, -120, 0, 0), "left": (-20, -30, 0, 120, 0, 0)}
"""Where an episode begins: the arms [deg]."""
PUBLICATIONS: Final = (
    Publication("/igris_b/{robot_id}/target_joints", "JointState", ("right_arm", "left_arm")),
    Publication("/igris_b/{robot_id}/finger_target", "Float32MultiArray", ("right_hand", "left_hand")),
)
CAMERAS: Final = {"head": "/dev/head_camera1", "left": "/dev/left_camera2", "right": "/dev/right_camera1"}
PARAMS: Final = RuntimeParams(20.0, 5.0, 50, 320, 240, ("head", "left", "right"), 24, 24, 50, 1, 1, 1, "")
"""The runtime parameters where no file says others: those that the engine comes with."""
TOPICS: Final[dict[str, Any]] = {
    "robot_id": "packy",
    "HZ": 20,
    "topics": {
        "joints": {
            "topic": "/igris_b/packy/joint_states",
            "msg_type": "JointState",
            "fields": {
                "/observation/joint_pos/left": {"slice": [6, 12], "attr": "position"},
                "/observation/joint_pos/right": {"slice": [0, 6], "attr": "position"},
            },
        },
        "fingers": {
            "topic": "/igris_b/packy/finger_state",
            "msg_type": "Float32MultiArray",
            "fields": {
                "/observation/hand_joint_pos/left": {"slice": [6, 12]},
                "/observation/hand_joint_pos/right": {"slice": [0, 6]},
            },
        },
    },
}
"""The topics where no file says others."""


class IgrisB(TopicRobot):
    """Two arms [rad] and two hands (no unit): 24 absolute targets, left before right.

    In its messages right stands before left.

    Args:
        params: ``inference_runtime_params.json``; the engine's own values without.
        topics_file: ``inference_runtime_topics.json``; positions of arms and hands without.
        topics: how topics reach the robot: ``ros2``, or ``fake`` for topics within this process.
        simulated: a simulated body and simulated cameras behind fake topics.
        lockstep: the simulated body moves on by one step with every command, not with the clock.
        devices: cameras whose device is another: ``head=/dev/video0``.
        camera_mode: what every device is asked for: width x height @ pictures per second.
        camera_rotate: how their pictures are turned [degrees].
        hand_rate: fastest change of a finger's target [1/s]; the arms' is ``max_delta_deg`` in every step.
        hand_initial: where the fingers are when an episode begins: left, then right; where they stand without.
        lower, upper: limits of all targets, 24 in the policy's order; none are published.
        stamps: ``header`` trusts the publishers' stamps (their clock must be this host's), ``receipt`` does not.
        timeout_s: how long `connect` waits for every topic and camera.
        bus: topics of the program's own.
        clock, sleep: the loop's time [s].
        stamp_clock: the time of the headers' stamps [s].

    Raises:
        IgrisFileError: a file is missing or wrong, or they do not go together.
        InterfaceValidationError: an option is not what it must be.
    """

    def __init__(
        self,
        *,
        params: Path | None = None,
        topics_file: Path | None = None,
        topics: Transport = "ros2",
        simulated: bool = False,
        lockstep: bool = False,
        devices: tuple[str, ...] = (),
        camera_mode: str = "1600x1200@60",
        camera_rotate: int = 180,
        hand_rate: float = 2.0,
        hand_initial: tuple[float, ...] = (),
        lower: tuple[float, ...] = (),
        upper: tuple[float, ...] = (),
        stamps: Stamps = "header",
        timeout_s: float = 10.0,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        stamp_clock: Callable[[], float] = time.time,
    ) -> None:
        runtime = PARAMS if params is None else read_params(params)
        listened = topics_tree(TOPICS, "igris_b") if topics_file is None else read_topics(topics_file)
        cameras = devices_of(CAMERAS, devices)
        body = Body("igris_b", _parts(runtime, hand_rate, hand_initial, lower, upper), PUBLICATIONS, cameras)
        made = links(
            *(body, runtime, listened),
            transport=topics,
            simulated=simulated,
            bus=bus,
            camera_mode=camera_mode,
            camera_rotate=camera_rotate,
            clock=clock,
            stamp_clock=stamp_clock,
        )
        super().__init__(
            *(body, runtime, listened, made),
            lockstep=lockstep,
            stamps=stamps,
            timeout_s=timeout_s,
            clock=clock,
            sleep=sleep,
        )


def _parts(
    params: RuntimeParams,
    hand_rate: float,
    hand_initial: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
) -> tuple[Part, ...]:
    """Arms, then hands; left, then right."""
    if not 0 < hand_rate < math.inf:
        raise InterfaceValidationError(f"igris_b: hand_rate must be above 0, got {hand_rate:g}")
    for name, values, count in (("hand_initial", hand_initial, 12), ("lower", lower, 24), ("upper", upper, 24)):
        if len(values) not in (0, count):
            raise InterfaceValidationError(f"igris_b: {name} has {count} numbers, got {len(values)}")
    parts = []
    for index, (what, side) in enumerate((what, side) for what in ("arm", "hand") for side in SIDES):
        columns = slice(DOF * index, DOF * (index + 1))
        arm = what == "arm"
        initial: Sequence[float] | None = [math.radians(angle) for angle in INITIAL_DEG[side]]
        if not arm:
            own = slice(DOF * (index - 2), DOF * (index - 1))
            initial = list(hand_initial[own]) or None
        spec = ComponentSpec(
            f"{side}_{what}",
            what,
            DOF,
            ["joint_position" if arm else "hand_joint_position"],
            joint_names=[f"{side}_{what}_{number + 1}" for number in range(DOF)],
            unit="rad" if arm else "",
            lower=list(lower[columns]) or None,
            upper=list(upper[columns]) or None,
            max_rate=[params.max_rate if arm else hand_rate] * DOF,
            initial=initial,
        )
        prefix = "" if arm else "hand_"
        current = f"{PREFIX}joint_cur/{side}" if arm else f"{PREFIX}hand_cur/{side}"
        parts.append(Part(spec, f"{PREFIX}{prefix}joint_pos/{side}", current))
    return tuple(parts)
