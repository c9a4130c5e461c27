"""An IGRIS policy behind a server: the same rows, and a history of each robot's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ChunkRequest
from chunkwise.policies.igris import Igris
from chunkwise.server import Listen, Server
from chunkwise.transports import Address

STATE = ("right_arm:7", "right_gripper:1", "left_arm:7", "left_gripper:1")
ACTIONS = ("right_arm:7", "right_gripper:1:gripper_position", "left_arm:7", "left_gripper:1:gripper_position")


@pytest.fixture
def url(folder: Any, tmp_path: Path) -> Iterator[str]:
    """A server of the policy, which looks back at three steps."""
    folder.params(proprio_history_size=3)
    loop, address = asyncio.new_event_loop(), Address("unix", str(tmp_path / "igris.sock"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def make() -> Any:
        return Igris(config=folder.yaml, state_keys=STATE, action_keys=ACTIONS)

    async def start() -> Server:
        server = Server(make, [Listen("native", plugins.load("wires", "native")(), address)])
        await server.start()
        await server.service.loaded
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield f"native+unix://{address.path}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(drain_s=0.0), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_two_robots_share_the_weights_and_nothing_else(folder: Any, url: str) -> None:
    robots = [plugins.load("policies", "remote")(url=url) for _ in range(2)]
    try:
        for step in range(3):
            for number, robot in enumerate(robots):
                frame = folder.frame(10 * number + step)
                rows = robot.infer(frame, ChunkRequest(step)).rows
                state = np.concatenate([frame.state[item.partition(":")[0]] for item in STATE])
                np.testing.assert_allclose(rows, np.tile(state, (50, 1)), atol=1e-6)
        plan = np.full((30, 16), 0.25)
        guided = robots[0].infer(folder.frame(), ChunkRequest(20, prefix=plan, prefix_weights=np.ones(30)))
        np.testing.assert_allclose(guided.rows, 0.25, atol=1e-6)
        assert robots[0].spec.action_horizon == 50 and robots[0].spec.supports_prefix
    finally:
        for robot in robots:
            robot.close()
