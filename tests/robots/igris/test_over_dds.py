"""IGRIS-B over ROS 2's topics: the body on another node of the same host."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import Action, Command
from chunkwise.plugins import load
from chunkwise.robots._igris.simulation import SimulatedBody
from chunkwise.transports._ros2 import Settings
from chunkwise.transports._ros2.bus import Ros2Bus

pytestmark = pytest.mark.slow
PATIENCE_S = 20.0
DOMAIN = 101 + os.getpid() % 100


def test_commands_reach_the_body_and_its_state_comes_back(files: Any) -> None:
    with ExitStack() as stack:
        here, there = (Ros2Bus(Settings(name, domain=DOMAIN, loopback=True)) for name in ("robot", "body"))
        stack.callback(here.close)
        stack.callback(there.close)
        igris_b, params = load("robots", "igris_b"), files.params(camera_names=[])
        twin = igris_b(simulated=True, params=params).simulation
        body = SimulatedBody(twin._body, twin._topics, there, time.time)
        body.connect()

        def wait(seconds: float) -> None:
            body.advance()
            time.sleep(seconds)

        robot = igris_b(bus=here, params=params, sleep=wait)
        stack.callback(robot.close)
        robot.connect()
        assert robot.observe().state["left_arm"].shape == (6,)
        wanted = np.full(6, 0.2)
        until_s = time.monotonic() + PATIENCE_S
        while np.abs(robot.observe().state["left_arm"] - wanted).max() > 0.01:
            assert time.monotonic() < until_s, "the arm does not follow"
            robot.act(Action({"left_arm": Command("joint_position", wanted)}))
            body.advance()
