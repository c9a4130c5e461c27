"""Every robot there is keeps the contract of a robot."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from chunkwise.robots import Robot
from chunkwise.testing import RobotConformance


@pytest.mark.usefixtures("adapter")
class TestRobots(RobotConformance):
    kind = "robots"
    adapter: Any

    def make_robot(self) -> Robot:
        # A simulator that can be stepped by its commands alone does not depend on how busy the machine is.
        lockstep = {"lockstep": True} if "lockstep" in inspect.signature(self.adapter).parameters else {}
        return self.adapter(**lockstep)
