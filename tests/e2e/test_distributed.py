"""The simulated OpenArm and its policy's network in two processes, over TCP and over ROS 2: the same task."""

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
from chunkwise.contract import ChunkRequest, connect
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate, Mode
from chunkwise.testing.world import SimulatedClock, StepWorker

pytestmark = pytest.mark.slow
write = plugins.load("policies", f"{Path(__file__).parents[1] / 'policies' / 'demo_checkpoint.py'}:write")
DELAY, PATIENCE_S = 3, 60.0
TOPICS = f"ros2://?domain={101 + os.getpid() % 100}&loopback=true"


class EngineProcess:
    """``chunkwise engine`` in a process of its own, ready.

    Args:
        folder: of the policy.
        url: where it shall be; a TCP port of 0 takes one that is free.

    Attributes:
        url: where it is.
        said: its events until then.
    """

    def __init__(self, folder: Path, url: str) -> None:
        argv = ["--policy", str(folder), "--log", "json"]
        argv += (
            [f"--ros2={url}"] if url.startswith("ros2:") else ["--listen", url.replace("native:", "native=tcp:")]
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chunkwise", "engine", *argv],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()
        self.url, self.said = url, list[str]()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            told = json.loads(line)
            self.said.append(told["event"])
            assert told["event"] != "policy_failed_to_load", told
            if told["event"] == "listening":
                self.url = f"native://{told['address'].partition('?')[0].rpartition('/')[2]}"
            if told["event"].startswith(("ready", "Waiting for preprocessed batches")):
                break

    def kill(self) -> None:
        """Twice is fine."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def near(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The robot's copy, without the weights."""
    folder: Path = tmp_path_factory.mktemp("near") / "near"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.onnx"))
    return folder


@pytest.fixture(params=["native://127.0.0.1:0", TOPICS], ids=["tcp", "dds"])
def engine(request: pytest.FixtureRequest, whole: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(whole, request.param)
    yield process
    process.kill()


def distributed(near: Path, engine: EngineProcess) -> Any:
    given = {"timeout_s": PATIENCE_S, "start_timeout_s": PATIENCE_S}
    return plugins.load("policies", "distributed")(path=str(near), network=engine.url, **given)


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
        scheduler = Scheduler(binding.layout, plugins.load("strategies", "switch")(), hold=start)
        worker = StepWorker(BoundPolicy(policy, binding), lambda: pacer.steps - 1, DELAY)
        gate = Gate(binding.layout, pacer.period_s, start=start)
        self.loop = ControlLoop(self.robot, worker, scheduler, gate, pacer, EventRing())

    def turn(self) -> Turn:
        return self.loop.turn(self.loop.pacer.wait())

    def close(self) -> None:
        self.policy.close()
        self.robot.close()


def test_the_task_is_done_as_in_one_process_to_the_last_bit(
    whole: Path, near: Path, engine: EngineProcess
) -> None:
    sent, scores = [], []
    for policy in (plugins.load("policies", "lerobot")(path=str(whole)), distributed(near, engine)):
        arm = Arm(policy)
        turns = [arm.turn() for _ in range(500)]
        scores.append(arm.robot.score())
        arm.close()
        assert not [fault for turn in turns for fault in turn.decision.faults]
        sent.append(np.array([turn.sent for turn in turns]))
    assert scores[0] == {"seconds": 10.0, "passed": 16, "hits": 0, "failed": False}
    assert scores[1] == scores[0]
    assert np.array_equal(*sent)


def test_a_network_that_is_killed_holds_the_arm_and_is_used_again_when_it_is_back(
    whole: Path, near: Path, engine: EngineProcess
) -> None:
    arm = Arm(distributed(near, engine))
    turns = [arm.turn() for _ in range(60)]
    engine.kill()
    gone = [arm.turn() for _ in range(60)]
    assert gone[-1].mode is Mode.HOLD and gone[-1].decision.source.kind is SourceKind.STARVED
    held = [turn.sent for turn in gone if turn.mode is Mode.HOLD]
    assert len(held) > 20 and all(np.array_equal(row, held[0]) for row in held), "it holds where it is"
    newest = max(turn.decision.source.chunk for turn in (*turns, *gone))
    back = EngineProcess(whole, engine.url)
    try:
        after: list[Turn] = []
        # It is found again after a time that passes on no simulated clock.
        while not after or (after[-1].mode is not Mode.RUNNING and len(after) < 100_000):
            after.append(arm.turn())
        assert after[-1].mode is Mode.RUNNING
        after += [arm.turn() for _ in range(100)]
        ran = [turn.decision for turn in after if turn.decision.source.kind is SourceKind.CHUNK]
        assert len(ran) > 90
        assert all(each.source.chunk > newest for each in ran), "what was planned before it went does not run"
        assert max(each.age for each in ran) <= 2 * DELAY
    finally:
        back.kill()
        arm.close()


def test_one_key_moves_it(whole: Path, near: Path, engine: EngineProcess, tmp_path: Path) -> None:
    out, config = tmp_path / "out.json", tmp_path / "arm.yaml"
    text = (
        "robot: {name: openarm_sim, lockstep: true}\nstrategy: blend\nseconds: 0.6\n"
        f"json: {out}\nnetwork: '{engine.url}'\npolicy: {{name: FOLDER, threads: 1}}\n"
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


def test_two_robots_on_one_engine_each_get_their_own(near: Path, whole: Path, engine: EngineProcess) -> None:
    robot = plugins.load("robots", "openarm_sim")(seed=3, lockstep=True)
    robot.connect()
    frames = [robot.observe() for _ in range(2)]
    robot.close()
    for key, value in frames[1].state.items():
        frames[1].state[key] = value + 0.1
    here = plugins.load("policies", "lerobot")(path=str(whole))
    here.meet(robot.spec)
    policies = [distributed(near, engine) for _ in frames]
    try:
        for policy in policies:
            policy.meet(robot.spec)
        for step in range(10):
            for policy, frame in zip(policies, frames, strict=True):
                wanted = here.infer(frame, ChunkRequest(step)).rows
                assert np.array_equal(policy.infer(frame, ChunkRequest(step)).rows, wanted)
    finally:
        for policy in policies:
            policy.close()


def test_an_engine_says_what_it_loads_and_ends_on_sigterm(engine: EngineProcess) -> None:
    if engine.url == TOPICS:  # in the words of the node that it stands for
        assert engine.said[0].startswith("Loading policy from ")
        assert engine.said[-3].startswith("Engine loaded: policy_type=act")
        assert engine.said[-2].startswith("PureInferenceNode ready: ")
    engine.process.terminate()
    assert engine.process.wait(PATIENCE_S) == 0
