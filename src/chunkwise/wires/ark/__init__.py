"""ARK Aloha's ``POST /predict``: state and pictures in, the fourteen numbers of one control step out.

The robot posts a form at up to 50 Hz, each over a new TCP connection, and gets one action.  The protocol has no
chunk, no episode and no clock, so the server schedules: every call is one control step, answered from the running
plan, and only a call that a plan is made of has its pictures decoded.

A failure is a motion here: the robot's published client turns *any* exception, time-out or status but 200 into
fourteen zeros, "go to the zero pose".  What passes by itself (a policy that loads, fails or is late) is answered
200 with the state that was sent, which keeps the robot where it is, and a header says so.  A request that is wrong
in itself, a missing token and a policy that does not fit the robot stay 4xx and 503: they never pass, and show up
when the robot is set up.  With that client they do move the robot, so let it move only after a call was answered.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple

from chunkwise import plugins
from chunkwise.contract import ComponentSpec, ImageRule, PolicyOutputSpec, PolicySpec, RobotSpec, nearest
from chunkwise.wires import ClientHalf, HttpRequest, HttpResponse, ServerHalf
from chunkwise.wires.ark.pictures import Codec

__all__ = ["Ark"]

PARTS: Final[tuple[tuple[str, int], ...]] = (
    ("left_arm", 6),
    ("left_gripper", 1),
    ("right_arm", 6),
    ("right_gripper", 1),
)
"""The fourteen numbers, in the protocol's order: the robot's parts and how many joints each has."""
WIDTH: Final = sum(dof for _, dof in PARTS)
CAMERAS: Final[tuple[str, ...]] = ("cam_high", "cam_left_wrist", "cam_right_wrist")
MAX_SESSIONS: Final = 1024
HOLD_HEADER: Final = "x-chunkwise-hold"
FAULT_HEADER: Final = "x-chunkwise-fault"
SESSION_HEADER: Final = "x-session"


class Episode(NamedTuple):
    """What is remembered of a session between its calls.

    Attributes:
        task: as it was sent.
        seen_s: when the last call came, or was answered [s].
        robot: with the cameras that the first call of the episode had.
    """

    task: str
    seen_s: float
    robot: RobotSpec


class Ark:
    """The server that an ARK Aloha robot asks, and a client of such servers.

    The protocol says nothing of units, limits or joint names: they are the deployment's, given here.  Without
    limits, only the policy and the gate's own rules bound what is sent.

    Args:
        names: ``theirs:ours`` names of the parts left_arm, left_gripper, right_arm and right_gripper.
        cameras: ``theirs:ours`` names of cam_high, cam_left_wrist, cam_right_wrist; ``cam_high:`` leaves one out.
        joints: six names of an arm's joints, or twelve, the left arm's first; ``joint1`` to ``joint6`` if none.
        unit, gripper_unit: of an arm's and of a gripper's numbers; empty for one that is not known.
        lower, upper: fourteen limits in the protocol's order, or none.
        max_rate: fourteen fastest changes per second, or none.
        control_hz: rate of the calls; None for the policy's.
        errors: ``hold`` answers what passes with the state that was sent, ``status`` with 500, 503 or 504.
        idle_s: a call after such a pause begins an episode, as does another task.
        start_patience_s: how long the first answer of an episode may wait for its chunk.
        max_side: of a picture, in pixels.
        side: of the pictures that the server behind a client was made for, in pixels; 0 for any.
        task: what a client sends for a frame that has no ``prompt``.
        session: a client's name for itself; empty for none, as the protocol has none.
        send_reset: a client posts ``/reset`` between episodes, which only this server knows.

    Raises:
        ValueError: an option is out of range, or a name is none of the protocol's.
        MissingExtra: multipart, or a codec for JPEG, is not installed.
    """

    transports: ClassVar[tuple[str, ...]] = ("http",)

    def __init__(
        self,
        *,
        names: tuple[str, ...] = (),
        cameras: tuple[str, ...] = (),
        joints: tuple[str, ...] = (),
        unit: str = "rad",
        gripper_unit: str = "",
        lower: tuple[float, ...] = (),
        upper: tuple[float, ...] = (),
        max_rate: tuple[float, ...] = (),
        control_hz: float | None = 50.0,
        errors: Literal["hold", "status"] = "hold",
        idle_s: float = 1.0,
        start_patience_s: float = 5.0,
        max_side: int = 4096,
        side: int = 224,
        task: str = "",
        session: str = "",
        send_reset: bool = False,
    ) -> None:
        if errors not in ("hold", "status"):
            raise ValueError(f"errors must be hold or status, got {errors!r}")
        if control_hz is not None and not (math.isfinite(control_hz) and control_hz > 0):
            raise ValueError(f"control_hz must be above zero, got {control_hz}")
        for name, value, most in (("idle_s", idle_s, 3600.0), ("start_patience_s", start_patience_s, 25.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be 0 to {most:g}, got {value}")  # the robot waits for 30 s
        if not 1 <= max_side <= 8192 or not 0 <= side <= 8192:
            raise ValueError(f"max_side must be 1 to 8192 and side 0 to 8192, got {max_side} and {side}")
        if len(joints) not in (0, 6, 12):
            raise ValueError(f"joints must be six or twelve names, got {len(joints)}")
        if len(session) > 128 or not (session.isascii() and session.isprintable()):
            raise ValueError(f"session must be at most 128 printable ASCII letters, got {session!r:.160}")
        self.parts = _renamed("names", names, [name for name, _ in PARTS])
        self.cameras = {theirs: ours for theirs, ours in _renamed("cameras", cameras, CAMERAS).items() if ours}
        if not all(self.parts.values()):
            raise ValueError("names: every part is in the fourteen numbers, none can be left out")
        self.errors, self.idle_s, self.start_patience_s = errors, idle_s, start_patience_s
        self.max_side, self.control_hz = max_side, control_hz
        self.task, self.session, self.send_reset = task, session, send_reset
        self.components = _components(self.parts, joints, (unit, gripper_unit), (lower, upper, max_rate))
        self.policy = self._policy(side)
        self.multipart: Any = plugins.require("multipart", extra="ark")
        self.codec = Codec()
        self.episodes: OrderedDict[str, Episode] = OrderedDict()
        self._robots: dict[tuple[str, ...], RobotSpec] = {}

    def server(self) -> ServerHalf[HttpRequest, HttpResponse]:
        """The server's end of a new request."""
        from chunkwise.wires.ark.server import ArkServer

        return ArkServer(self)

    def client(self) -> ClientHalf:
        """The client's end of a new connection."""
        from chunkwise.wires.ark.client import ArkClient

        return ArkClient(self)

    def robot(self, cameras: Sequence[str]) -> RobotSpec:
        """The robot, with those of the protocol's cameras; the same object for the same cameras."""
        key = tuple(cameras)
        made = self._robots.get(key)
        if made is None:
            seen = [self.cameras[name] for name in key]
            made = RobotSpec("ark_aloha", seen, self.components, control_hz=self.control_hz)
            self._robots[key] = made
        return made

    def _policy(self, side: int) -> PolicySpec:
        """What the server behind a client is known to be."""
        cameras = list(self.cameras.values())
        outputs = [
            PolicyOutputSpec(part.name, part.command[0], part.dof, names=list(part.joint_names), unit=part.unit)
            for part in self.components
        ]
        return PolicySpec(
            "ark",
            cameras,
            [part.name for part in self.components],
            outputs=outputs,
            state_names={part.name: list(part.joint_names) for part in self.components},
            action_horizon=1,
            control_hz=self.control_hz,
            images={name: ImageRule(side, side) for name in cameras} if side else {},
        )


def _renamed(option: str, texts: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """All of the protocol's names with ours, which are the same where nothing else is said."""
    names = {name: name for name in known}
    for text in texts:
        theirs, colon, ours = (piece.strip() for piece in text.partition(":"))
        if theirs not in names:
            raise ValueError(f"{option}: no {theirs!r}{nearest(theirs, known)}; there are: {', '.join(known)}")
        names[theirs] = ours if colon else theirs
    ours_all = [name for name in names.values() if name]
    if len(set(ours_all)) != len(ours_all):
        raise ValueError(f"{option}: a name stands twice in {', '.join(ours_all)}")
    return names


def _components(
    names: dict[str, str], joints: Sequence[str], units: tuple[str, str], limits: Sequence[Sequence[float]]
) -> list[ComponentSpec]:
    """The robot's parts; `limits` are lower, upper and max_rate of all fourteen numbers, each or empty."""
    for option, numbers in zip(("lower", "upper", "max_rate"), limits, strict=True):
        if len(numbers) not in (0, WIDTH) or any(math.isnan(number) for number in numbers):
            raise ValueError(f"{option} must be {WIDTH} numbers in the protocol's order, got {len(numbers)}")
    both = list(joints) or [f"joint{number}" for number in range(1, 7)]
    arms = [both[:6], both[-6:]]
    made, start = [], 0
    for part, dof in PARTS:
        lower, upper, rate = ([float(x) for x in numbers[start : start + dof]] or None for numbers in limits)
        arm = dof > 1
        made.append(
            ComponentSpec(
                names[part],
                "arm" if arm else "gripper",
                dof,
                ["joint_position" if arm else "gripper_position"],
                joint_names=arms[part == "right_arm"] if arm else ["gripper"],
                unit=units[not arm],
                lower=lower,
                upper=upper,
                max_rate=rate,
            )
        )
        start += dof
    return made
