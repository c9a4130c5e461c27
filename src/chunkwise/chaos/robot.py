"""A robot around another one: its sensors fail by a plan, and what it is told is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chunkwise.chaos.plan import IN_POLICY, Harm, Injection
from chunkwise.chaos.policy import ORDERS
from chunkwise.contract import Action, Frame, RobotSpec
from chunkwise.robots import Robot


class FaultyRobot:
    """Another robot, every observation and every command of which passes here.

    A sensor that dies shows what it showed last, with the time at which it showed it.  Robots whose frames say no
    such times get them here, so that their loop can tell.

    Args:
        robot: the robot.
        clock: of the loop, s.

    Attributes:
        attend: asked once per observation with the time for the faults that last now, each with the seconds that
            are left of it.
        heard: called with the time and with every command.
        frame, frame_before: the newest observation and the one before it, as the loop was given them.
    """

    def __init__(self, robot: Robot, clock: Callable[[], float]) -> None:
        self._robot, self._clock = robot, clock
        self.attend: Callable[[float], Sequence[tuple[Injection, float]]] = lambda now: ()
        self.heard: Callable[[float, Action], None] = lambda now, action: None
        self.frame = self.frame_before = Frame()

    @property
    def spec(self) -> RobotSpec:
        """The robot's."""
        return self._robot.spec

    def __getattr__(self, name: str) -> Any:
        """What else the robot has: score, stop."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._robot, name)

    def connect(self) -> None:
        """Make it ready."""
        self._robot.connect()

    def observe(self) -> Frame:
        """What it observes, or what its plan makes of that."""
        now = self._clock()
        lasting = self.attend(now)
        frame = self._robot.observe()
        frame = replace(frame, times_ns=_times(frame, int(now * 1e9)))
        for injection, left_s in lasting:
            _spoil(frame, self.frame, injection, left_s, now)
        self.frame_before, self.frame = self.frame, frame
        return frame

    def act(self, action: Action) -> Action:
        """Send a command, and write it down."""
        self.heard(self._clock(), action)
        return self._robot.act(action)

    def close(self) -> None:
        """Let go of it."""
        self._robot.close()


def _times(frame: Frame, now_ns: int) -> dict[str, int]:
    """When every camera and every state was captured: now, where the robot does not say."""
    return dict.fromkeys([*frame.images, *frame.state], now_ns) | frame.times_ns


def _spoil(frame: Frame, before: Frame, injection: Injection, left_s: float, now: float) -> None:
    """Let a fault act on a frame, which is the loop's own."""
    options = injection.options
    match injection.harm:
        case Harm.DEAD_CAMERA:
            frame.images = _frozen(frame, before, frame.images, before.images, options["camera"])
        case Harm.FROZEN_STATE:
            frame.state = _frozen(frame, before, frame.state, before.state, options["state"])
        case Harm.CLOCK_STEP:
            stamp = frame.timestamp_ns or int(now * 1e9)
            frame.timestamp_ns = max(stamp + int(options["by_s"] * 1e9), 1)
        case harm if harm in IN_POLICY:
            order = {"harm": str(harm), "left_s": left_s, **options}
            frame.task = {**frame.task, ORDERS: [*frame.task.get(ORDERS, ()), order]}


def _frozen(
    frame: Frame, before: Frame, now: Mapping[str, Any], then: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """What is seen now, with one of it as it was seen then; that it is of then is said in the frame's times."""
    if name not in now or name not in then:
        return dict(now)
    frame.times_ns[name] = before.times_ns[name]
    return {**now, name: then[name]}
