"""One server, one policy, four robots of three kinds at the same time: each gets its own actions."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import Action, Frame
from chunkwise.runtime.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.dora]

POLICY = Path(__file__).with_name("marking_policy.py")
MARKS = {"first": 0.001, "second": 0.002, "ark": 0.003}
STANDS = {"first": 0.01, "second": 0.02, "ark": 0.03}
"""Where each robot's joints stand [rad]."""


class Still:
    """The mock robot, standing still somewhere and keeping what it was told."""

    def __init__(self, prompt: str) -> None:
        self._robot = plugins.load("robots", "mock")(cameras=())
        self._prompt, self.spec = prompt, self._robot.spec
        self.told: list[Action] = []

    def connect(self) -> None: ...

    def observe(self) -> Frame:
        state = {item.name: np.full(item.dof, STANDS[self._prompt]) for item in self.spec.components}
        return Frame({}, state, {"prompt": self._prompt})

    def act(self, action: Action) -> Action:
        self.told.append(action)
        return action

    def close(self) -> None: ...


def drive(robot: Still, url: str, stop: threading.Event) -> None:
    """Chunkwise's own loop, with the policy behind a server."""
    with Session(robot, plugins.load("policies", "remote")(url=url), "switch") as session:
        session.run(stop=stop)


def post(url: str, stop: threading.Event, answers: list[tuple[list[float], bool]]) -> None:
    """The ARK interface's sample client: a new connection for every call, pictures of high quality."""
    import requests
    import simplejpeg

    picture = simplejpeg.encode_jpeg(np.full((224, 224, 3), 99, np.uint8), quality=100, colorsubsampling="420")
    state = json.dumps([STANDS["ark"]] * 14)
    while not stop.wait(0.05):
        cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist")
        files = {name: (f"{name}.jpg", picture, "image/jpeg") for name in cameras}
        reply = requests.post(url, data={"state": state, "task": "ark"}, files=files, timeout=30)
        assert reply.status_code == 200, reply.text
        answers.append((reply.json()["action"], "X-Chunkwise-Hold" in reply.headers))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_four_robots_of_three_kinds_at_once(
    venv: Path, serve: Callable[..., Any], dataflow: ModuleType, tmp_path: Path
) -> None:
    port = free_port()
    with_native = Path(serve.folder, "native.socket")  # type: ignore[attr-defined]
    server = serve(f"{POLICY}:Marks", f"ark=http://127.0.0.1:{port}", f"native=unix:{with_native}")
    stop = threading.Event()
    robots = {name: Still(name) for name in ("first", "second")}
    answers: list[tuple[list[float], bool]] = []
    threads = [
        threading.Thread(target=drive, args=(robot, f"native+unix://{with_native}", stop))
        for robot in robots.values()
    ]
    threads.append(threading.Thread(target=post, args=(f"http://127.0.0.1:{port}/predict", stop, answers)))
    for thread in threads:
        thread.start()
    try:
        text = dataflow.with_schedule(dataflow.DATAFLOW.read_text(encoding="utf-8"), episodes=2, seconds=2.0)
        ended = dataflow.run(
            dataflow.with_spy(text), venv=venv, socket=server.socket, folder=tmp_path, stop_after_s=30
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert ended.code == 0, ended.output[-4000:]
    assert ended.printed("actions-executor", dataflow.RESET) == 2
    assert len(ended.report["episodes"]) == 2
    for episode in ended.report["episodes"]:
        assert episode["commands"]["right"] > 50
        assert episode["farthest_rad"] < 0.02, "the arms were told to stay"
    for name, robot in robots.items():
        assert len(robot.told) > 50
        for command in robot.told[-1].commands.values():
            np.testing.assert_allclose(command.value, STANDS[name] + MARKS[name], atol=1e-12)
        for action in robot.told:  # on the way there: never beyond, never another's
            for command in action.commands.values():
                assert ((command.value >= STANDS[name]) & (command.value <= STANDS[name] + MARKS[name])).all()
    played = [action for action, holds in answers if not holds]
    assert len(played) > 20
    for action in played:
        np.testing.assert_allclose(action, STANDS["ark"] + MARKS["ark"], atol=1e-12)
