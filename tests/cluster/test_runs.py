"""Robots whose policy is on a cluster's other node: the same commands as in one process, and no kill costs one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Answer, Scheduler
from chunkwise.cli import main
from chunkwise.contract import ChunkRequest, Frame, connect
from chunkwise.policies import BoundPolicy, Recipe
from chunkwise.runtime.events import EventRing
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.runtime.session import Session
from chunkwise.safety import Gate
from chunkwise.testing.world import SimulatedClock
from chunkwise.workers import Worker, place

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RayWorker: Any = plugins.load("workers", "ray")
DELAY, STEPS, SEEDS = 5, 500, (3, 4, 5)
"""Steps that an answer takes, of an episode of ten seconds, and its belts."""
PATIENCE_S = 60.0
HERE = Path(__file__).with_name("on_nodes.py")


def on(cluster: Any, resource: str) -> Any:
    """What makes workers on a node with this resource."""
    return partial(RayWorker, address=cluster.address, resources=(resource,))


class InStep:
    """A worker whose answers arrive so many control steps after their request, however long they take."""

    in_line = True

    def __init__(self, worker: Worker, now: Callable[[], int]) -> None:
        self._worker, self._now = worker, now
        self._under_way: deque[tuple[int, Answer]] = deque()

    def submit(self, frame: Frame, request: ChunkRequest) -> None:
        self._worker.submit(frame, request)
        assert self._worker.wait(PATIENCE_S), "no answer came"
        self._under_way += [(self._now() + DELAY, answer) for answer in self._worker.arrivals()]

    def arrivals(self) -> Sequence[Answer]:
        due = []
        while self._under_way and self._under_way[0][0] <= self._now():
            due.append(self._under_way.popleft()[1])
        return due

    def wait(self, timeout_s: float | None = None) -> bool:
        return bool(self._under_way) and self._under_way[0][0] <= self._now()

    def restart(self) -> None:
        raise AssertionError("an answer was late")

    def close(self) -> None:
        self._worker.close()


def episodes(maker: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The belts in lock step, every answer 100 ms on its way: what was sent, and the score of each episode."""
    policy: Any = place(Recipe("demo", {"seed": 3}), maker)
    try:
        return tuple(zip(*(episode(policy, maker, seed) for seed in SEEDS), strict=True))  # type: ignore[return-value]
    finally:
        policy.close()


def episode(policy: Any, maker: Any, seed: int) -> tuple[Any, dict[str, Any]]:
    robot = plugins.load("robots", "openarm_sim")(seed=seed, lockstep=True)
    robot.connect()
    binding = connect(robot.spec, policy.spec)
    start = binding.layout.measured(robot.observe())
    clock = SimulatedClock()
    pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
    scheduler = Scheduler(binding.layout, plugins.load("strategies", "rtc")(), hold=start)
    with closing(robot), closing(InStep(maker(BoundPolicy(policy, binding)), lambda: pacer.steps - 1)) as worker:
        gate = Gate(binding.layout, pacer.period_s, start=start)
        loop = ControlLoop(robot, worker, scheduler, gate, pacer, EventRing())
        sent = [loop.turn(pacer.wait()).sent for _ in range(STEPS)]
        return np.array(sent), robot.score()


def test_the_openarm_is_driven_from_the_other_node_as_from_here_to_the_last_bit(cluster: Any) -> None:
    here, there = episodes(plugins.load("workers", "inline")), episodes(on(cluster, "inference_pc"))
    assert np.array_equal(here[0], there[0])
    assert here[1] == there[1]
    assert any(score["passed"] > 10 and not score["failed"] for score in there[1])


def survives(session: Session, kill: Callable[[Any], None]) -> list[str]:
    """Run until chunks come again after a kill; what was said.  Every period has a command."""
    said: list[str] = []
    session._say = said.append
    again, killed = threading.Event(), []

    def look(turns: list[Any]) -> None:
        worker: Any = session.worker
        newest = max((turn.decision.source.chunk for turn in turns), default=-1)
        if not killed and newest > 0:
            killed.append(newest)
            kill(worker)
        elif killed and worker.restarts and newest > killed[0] + 1:
            again.set()

    if not hasattr(session, "worker"):
        session.open()
    with closing(session):
        report = session.run(seconds=PATIENCE_S, stop=again, on_progress=look)
    sent = [turn.sent for turn in session.turns]
    first = next(index for index, row in enumerate(sent) if row is not None)
    assert all(row is not None for row in sent[first:])
    assert again.is_set(), f"no chunk came after the kill: {said}, {report.fault_details}"
    return [*said, *report.fault_details.values()]


def mock_session(cluster: Any, policy: Recipe, resource: str) -> Session:
    robot = plugins.load("robots", "mock")(arms=1)
    return Session(robot, policy, "switch", worker=on(cluster, resource), control_hz=50.0)


def test_killing_the_actor_costs_no_command(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    policy = Recipe(f"{HERE}:WaveThatTells", {"path": str(path)})
    session = mock_session(cluster, policy, "inference_pc")
    said = survives(session, lambda worker: os.kill(int(path.read_text()), signal.SIGKILL))
    assert any("actor is gone" in text for text in said)


def test_killing_the_driver_costs_no_command(cluster: Any) -> None:
    session = mock_session(cluster, Recipe("wave", {"components": "arm:7"}), "inference_pc")
    said = survives(session, lambda worker: os.kill(worker.pid, signal.SIGKILL))
    assert any("exit code -9" in text for text in said)


def test_killing_the_node_costs_no_command_and_another_node_takes_over(cluster: Any) -> None:
    first = cluster.add("spare")
    session = mock_session(cluster, Recipe("wave", {"components": "arm:7"}), "spare")
    session.open()
    second = cluster.add("spare")
    try:
        said = survives(session, lambda worker: cluster.remove(first))
    finally:
        cluster.remove(second)
    assert any("actor is gone" in text for text in said)


def test_one_word_of_the_configuration_moves_the_policy(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    config, report = tmp_path / "run.yaml", tmp_path / "report.json"
    text = (
        "robot: {name: mock, arms: 1}\npolicy: {name: wave, components: 'arm:7'}\nseconds: 0.5\n"
        "worker: {name: process, threads: 1, nice: 1}\n"
    )
    on_ray = text.replace("process", "ray")
    for words in (text, on_ray, on_ray.replace("threads: 1", "resources: inference_pc")):
        config.write_text(words, encoding="utf-8")
        assert main(["run", "--config", str(config), "--json", str(report)]) == 0
        assert json.loads(report.read_text())["chunks"] > 0
    argv = ["run", "--config", str(config), "--worker", "ray", "--worker.resources"]
    assert main([*argv, "inference_cp"]) == 2
    assert "did you mean 'inference_pc'?" in capsys.readouterr().err
