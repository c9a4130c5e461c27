"""The simulated OpenArm and its policy's network in two processes: the same motion, and what a kill does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Scheduler, SourceKind
from chunkwise.cli import main
from chunkwise.contract import connect
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate, Mode
from chunkwise.testing.world import SimulatedClock, StepWorker

write = plugins.load("policies", f"{Path(__file__).parents[1] / 'policies' / 'tiny_checkpoint.py'}:write")
INPUTS = {"observation.state": (16,), "observation.environment_state": (8,)}
DELAY, PATIENCE_S = 5, 60.0


class EngineProcess:
    """``chunkwise engine`` in a process of its own, ready."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        argv = ["--policy", str(folder), "--log", "json", "--listen", f"native=tcp://127.0.0.1:{port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chunkwise", "engine", *argv],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            told = json.loads(line)
            assert told["event"] != "policy_failed_to_load", told
            if told["event"] == "listening":
                self.port = int(told["address"].rpartition(":")[2].partition("?")[0])
            if told["event"] == "ready":
                break

    @property
    def url(self) -> str:
        return f"native://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Twice is fine."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    robot = plugins.load("robots", "openarm_sim")(lockstep=True)
    robot.connect()
    state = robot.observe().state
    robot.close()
    home = np.concatenate([state[component.name] for component in robot.spec.components])
    folder: Path = tmp_path_factory.mktemp("whole")
    write(folder, INPUTS, 16, rows=20, hold=home, spread=0.02)
    return folder


@pytest.fixture(scope="module")
def near(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The robot's copy, without the weights."""
    folder: Path = tmp_path_factory.mktemp("near") / "near"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.onnx"))
    return folder


@pytest.fixture
def engine(whole: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(whole)
    yield process
    process.kill()


class Arm:
    """The simulated arm in lock step; every answer comes `DELAY` steps after its request."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.robot = policy, plugins.load("robots", "openarm_sim")(seed=3, lockstep=True)
        self.robot.connect()
        policy.meet(self.robot.spec)
        binding = connect(self.robot.spec, policy.spec)
        start = binding.layout.measured(self.robot.observe())
        clock = SimulatedClock()
        pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
        scheduler = Scheduler(binding.layout, plugins.load("strategies", "blend")(), hold=start)
        worker = StepWorker(BoundPolicy(policy, binding), lambda: pacer.steps - 1, DELAY)
        gate = Gate(binding.layout, pacer.period_s, start=start)
        self.loop = ControlLoop(self.robot, worker, scheduler, gate, pacer, EventRing())

    def turn(self) -> Turn:
        return self.loop.turn(self.loop.pacer.wait())

    def close(self) -> None:
        self.policy.close()
        self.robot.close()


def test_the_motion_is_that_of_one_process_to_the_last_bit(whole: Path, near: Path, engine: EngineProcess) -> None:
    sent = []
    for policy in (
        plugins.load("policies", "lerobot")(path=str(whole)),
        plugins.load("policies", "distributed")(path=str(near), network=engine.url),
    ):
        arm = Arm(policy)
        turns = [arm.turn() for _ in range(100)]
        arm.close()
        assert not [fault for turn in turns for fault in turn.decision.faults]
        sent.append(np.array([turn.sent for turn in turns]))
    assert np.ptp(sent[0], axis=0).max() > 0.001, "it moves"
    assert np.array_equal(*sent)


def test_a_network_that_is_killed_holds_the_arm_and_is_used_again_when_it_is_back(
    whole: Path, near: Path, engine: EngineProcess
) -> None:
    arm = Arm(plugins.load("policies", "distributed")(path=str(near), network=engine.url))
    turns = [arm.turn() for _ in range(60)]
    engine.kill()
    gone = [arm.turn() for _ in range(60)]
    assert gone[-1].mode is Mode.HOLD and gone[-1].decision.source.kind is SourceKind.STARVED
    held = [turn.sent for turn in gone if turn.mode is Mode.HOLD]
    assert len(held) > 20 and all(np.array_equal(row, held[0]) for row in held), "it holds where it is"
    newest = max(turn.decision.source.chunk for turn in (*turns, *gone))
    back = EngineProcess(whole, engine.port)
    try:
        after: list[Turn] = []
        # The connection is tried again after a time that passes on no simulated clock.
        while not after or (after[-1].mode is not Mode.RUNNING and len(after) < 100_000):
            after.append(arm.turn())
        assert after[-1].mode is Mode.RUNNING
        assert after[-1].decision.source.chunk > newest, "what was planned before it went does not run"
        assert after[-1].decision.age <= 2 * DELAY
    finally:
        back.kill()
        arm.close()


def test_one_key_moves_it(whole: Path, near: Path, engine: EngineProcess, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    config = tmp_path / "arm.yaml"
    text = (
        "robot: {name: openarm_sim, lockstep: true}\nstrategy: blend\nseconds: 0.6\n"
        f"json: {out}\nnetwork: {engine.url}\npolicy: {{name: FOLDER, threads: 1}}\n"
    )
    for mode, folder in (("monolithic", whole), ("distributed", near)):
        config.write_text(text.replace("FOLDER", str(folder)) + f"execution_mode: {mode}\n", encoding="utf-8")
        assert main(["run", "--config", str(config)]) == 0
        made = json.loads(out.read_text(encoding="utf-8"))
        assert made["chunks"] > 0 and made["faults"] == 0


def test_a_policy_on_the_robot_takes_over_when_the_network_goes(
    whole: Path, near: Path, engine: EngineProcess
) -> None:
    far = {"name": "distributed", "path": str(near), "network": engine.url}
    arm = Arm(plugins.load("policies", "fallback")(policies=(far, str(whole))))
    turns = [arm.turn() for _ in range(60)]
    engine.kill()
    turns += [arm.turn() for _ in range(60)]
    assert arm.policy.using == 1 and arm.policy.switches == 1
    assert all(turn.mode is Mode.RUNNING for turn in turns[2 * DELAY :]), "nobody noticed"
    arm.close()
