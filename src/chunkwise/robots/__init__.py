"""The robot port: what every robot answers to.  Every other file here is one robot.

A new robot is one new file whose ``__all__`` names one class; its constructor's typed keyword arguments are
its configuration (``--robot.port`` on the command line).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from chunkwise.contract import Action, Frame, RobotSpec


@runtime_checkable
class Robot(Protocol):
    """A robot, or anything that behaves like one: a simulation, a recording, two robots side by side."""

    @property
    def spec(self) -> RobotSpec:
        """What it offers; known before :meth:`connect`."""
        ...

    def connect(self) -> None:
        """Make it ready to observe and act."""
        ...

    def observe(self) -> Frame:
        """The newest observation, without waiting for the next one; arrays the driver will not write again."""
        ...

    def act(self, action: Action) -> Action:
        """Send one command to every component named, and return what was really applied."""
        ...

    def close(self) -> None:
        """Let go of the robot.  Twice is fine."""
        ...
