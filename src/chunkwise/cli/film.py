"""A robot that is filmed while it runs: cheap snapshots now, pictures of them afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from chunkwise.contract import Action, Frame, RobotSpec
from chunkwise.robots import Robot


class Drawable(Robot, Protocol):
    """A robot that can be drawn from what it said earlier, and that counts how its task goes."""

    def snapshot(self) -> dict[str, Any]:
        """What :meth:`render` needs to draw this moment."""
        ...

    def render(self, snapshot: dict[str, Any], camera: str = ..., size: tuple[int, int] = ...) -> NDArray[Any]:
        """A picture ``(height, width, 3)``, uint8 RGB."""
        ...

    def score(self) -> dict[str, Any]:
        """How its task goes."""
        ...


class Filmed:
    """The robot itself, with a snapshot taken after a command, every `period_s`.

    Args:
        robot: any that has ``snapshot()`` and ``score()``.
        period_s: between two snapshots.
        clock: seconds.

    Attributes:
        shots: (seconds since the first one, snapshot, score).
    """

    def __init__(
        self, robot: Drawable, *, period_s: float = 0.08, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._robot, self._period_s, self._clock = robot, period_s, clock
        self._first_s: float | None = None
        self.shots: list[tuple[float, dict[str, Any], dict[str, Any]]] = []

    @property
    def spec(self) -> RobotSpec:
        return self._robot.spec

    def connect(self) -> None:
        self._robot.connect()

    def observe(self) -> Frame:
        return self._robot.observe()

    def act(self, action: Action) -> Action:
        applied = self._robot.act(action)
        now = self._clock()
        if self._first_s is None:
            self._first_s = now
        elapsed = now - self._first_s
        if elapsed >= len(self.shots) * self._period_s:
            self.shots.append((elapsed, self._robot.snapshot(), self._robot.score()))
        return applied

    def score(self) -> dict[str, Any]:
        """How the robot's task goes."""
        return self._robot.score()

    def close(self) -> None:
        self._robot.close()
