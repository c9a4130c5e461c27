"""Recording a robot and a policy from the outside: wrappers that behave like what they wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chunkwise.contract import Action, ActionChunk, ChunkRequest, Frame, RobotSpec
from chunkwise.recording.writer import EpisodeWriter
from chunkwise.robots import Robot
from chunkwise.workers import Infer


class RecordedRobot:
    """A robot whose observations and commands are recorded on their way.

    Whatever else the robot can do (``score``, ``stop``, ``reset``) it still can.

    Args:
        robot: the robot.
        writer: open.
        step: tells the control step that it is, or None; by default nobody knows.
    """

    def __init__(self, robot: Robot, writer: EpisodeWriter, step: Callable[[], int | None] = lambda: None) -> None:
        self._robot, self._writer, self._step = robot, writer, step

    @property
    def spec(self) -> RobotSpec:
        """The robot's."""
        return self._robot.spec

    def connect(self) -> None:
        self._robot.connect()

    def observe(self) -> Frame:
        frame = self._robot.observe()
        self._writer.frame(frame, step=self._step())
        return frame

    def act(self, action: Action) -> Action:
        applied = self._robot.act(action)
        self._writer.action(action, applied, step=self._step())
        return applied

    def close(self) -> None:
        self._robot.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._robot, name)


def recorded(infer: Infer, writer: EpisodeWriter) -> Infer:
    """A policy's inference whose answers are recorded; give it to a worker in its place."""

    def inferred(frame: Frame, request: ChunkRequest) -> ActionChunk:
        chunk = infer(frame, request)
        writer.chunk(chunk, request=request.id, request_step=request.request_step)
        return chunk

    return inferred
