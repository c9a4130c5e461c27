"""Exported policies drive the simulated OpenArm: through the loop, and through a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Scheduler, SourceKind
from chunkwise.cli import main
from chunkwise.contract import connect
from chunkwise.engines._lerobot import import_lerobot
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate
from chunkwise.testing.world import SimulatedClock, StepWorker

write = plugins.load("policies", f"{Path(__file__).parents[1] / 'policies' / 'tiny_checkpoint.py'}:write")
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
INPUTS = {STATE: (16,), ENVIRONMENT: (8,)}
SPREAD = 0.02
"""Standard deviation that the policy's actions are given [rad]: it trembles about where the robot stands."""
DELAY, STEPS, PATIENCE_S = 5, 100, 60.0
"""What the loop takes from the robot must be said where there is none."""


@pytest.fixture(scope="module")
def home() -> Any:
    """Where the robot's joints stand at the start (16,) [rad]."""
    robot = plugins.load("robots", "openarm_sim")(lockstep=True)
    robot.connect()
    state = robot.observe().state
    robot.close()
    return np.concatenate([state[component.name] for component in robot.spec.components])


@pytest.fixture(scope="module")
def tiny(home: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one random matrix."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    write(folder, INPUTS, 16, rows=20, hold=home, spread=SPREAD)
    return folder


@pytest.fixture(scope="module")
def act(home: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeRobot's ACT with random weights, exported by the command."""
    folder, out = tmp_path_factory.mktemp("act"), tmp_path_factory.mktemp("exported") / "act"
    torch = import_lerobot("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    factory, types = import_lerobot("lerobot.policies.factory"), import_lerobot("lerobot.configs.types")
    feature, kinds = types.PolicyFeature, types.FeatureType
    config = factory.make_policy_config(
        "act",
        input_features={STATE: feature(kinds.STATE, (16,)), ENVIRONMENT: feature(kinds.ENV, (8,))},
        output_features={"action": feature(kinds.ACTION, (16,))},
        device="cpu",
        push_to_hub=False,
        dim_model=64,
        n_heads=2,
        dim_feedforward=128,
        chunk_size=20,
        n_action_steps=20,
    )
    factory.get_policy_class("act")(config).save_pretrained(folder)
    mean, std = torch.tensor(home, dtype=torch.float32), torch.full((16,), SPREAD)
    one = {"mean": torch.zeros(8), "std": torch.ones(8)}
    statistics = {"action": {"mean": mean, "std": std}, STATE: {"mean": mean, "std": std + 0.1}, ENVIRONMENT: one}
    for processor in factory.make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    assert main(["export", "--policy", str(folder), "--to", "onnx", "--out", str(out)]) == 0
    return out


def drive(folder: Path) -> list[Turn]:
    """Two seconds in lock step, every answer 100 ms on its way."""
    robot = plugins.load("robots", "openarm_sim")(seed=3, lockstep=True)
    policy = plugins.load("policies", "lerobot")(path=str(folder))
    robot.connect()
    try:
        policy.meet(robot.spec)
        binding = connect(robot.spec, policy.spec)
        start = binding.layout.measured(robot.observe())
        clock = SimulatedClock()
        pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
        scheduler = Scheduler(binding.layout, plugins.load("strategies", "blend")(), hold=start)
        worker = StepWorker(BoundPolicy(policy, binding), lambda: pacer.steps - 1, DELAY)
        gate = Gate(binding.layout, pacer.period_s, start=start)
        loop = ControlLoop(robot, worker, scheduler, gate, pacer, EventRing())
        return [loop.turn(pacer.wait()) for _ in range(STEPS)]
    finally:
        policy.close()
        robot.close()


@contextmanager
def serving(*argv: str) -> Iterator[str]:
    """The command in a process of its own; the address to drive by, once its policy is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chunkwise", "serve", "--log", "json", *argv],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told = json.loads(line)
            assert told["event"] != "policy_failed_to_load", told
            if told["event"] == "ready":
                break
        yield argv[-1].partition("=unix:")[2]
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def run(tmp_path: Path, *argv: str) -> dict[str, Any]:
    """What `chunkwise run` with the simulated arm reports."""
    out = tmp_path / "out.json"
    robot = ["--robot", "openarm_sim", "--robot.lockstep", "true", "--seconds", "0.6"]
    assert main(["run", *robot, *argv, "--strategy", "blend", "--json", str(out)]) == 0
    made: dict[str, Any] = json.loads(out.read_text())
    return made


def test_it_drives_the_arm_in_the_loop(tiny: Path, home: Any) -> None:
    turns = drive(tiny)
    assert not [fault for turn in turns for fault in turn.decision.faults]
    assert SourceKind.STARVED not in [turn.decision.source.kind for turn in turns]
    sent = np.array([turn.sent for turn in turns])
    assert 0.001 < np.abs(sent - home).max() < 1.5 * SPREAD
    assert np.ptp(sent, axis=0).max() > 0.001


def test_two_runs_are_the_same_to_the_last_bit(tiny: Path) -> None:
    first, second = (np.array([turn.sent for turn in drive(tiny)]) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_gate_stands_behind_it(home: Any, tmp_path: Path) -> None:
    """A policy whose actions are radians beyond the joints' limits moves no joint there, and none too fast."""
    write(tmp_path, INPUTS, 16, rows=20, hold=home + 10.0, spread=3.0)
    turns = drive(tmp_path)
    spec = plugins.load("robots", "openarm_sim")().spec
    sent = np.array([turn.sent for turn in turns])
    for name, at in (("lower", np.less), ("upper", np.greater)):
        limit = np.concatenate([getattr(component, name) for component in spec.components])
        assert not at(sent, limit + (1e-9 if name == "upper" else -1e-9)).any()
    rate = max(component.max_rate for component in spec.components)
    assert np.abs(np.diff(sent, axis=0)).max() <= rate / 50 + 1e-9
    assert any(turn.verdict.broken for turn in turns)


def test_run_takes_the_directory(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(tmp_path, "--policy", str(tiny))
    assert made["chunks"] > 0 and made["faults"] == 0
    assert "policy 'act' drives robot 'openarm_sim'" in capsys.readouterr().out


def test_serve_takes_the_directory(tiny: Path, tmp_path: Path) -> None:
    with serving("--policy", str(tiny), "--listen", f"native=unix:{tmp_path / 's'}") as address:
        made = run(tmp_path, "--policy", f"native+unix://{address}")
    assert made["chunks"] > 0 and made["faults"] == 0


@pytest.mark.slow
def test_lerobots_act_drives_the_arm_in_the_loop_and_through_a_server(
    act: Path, home: Any, tmp_path: Path
) -> None:
    sent = np.array([turn.sent for turn in drive(act)])
    assert 0.001 < np.abs(sent - home).max() < 0.5
    assert run(tmp_path, "--policy", str(act))["chunks"] > 0
    with serving("--policy", str(act), "--listen", f"native=unix:{tmp_path / 's'}") as address:
        made = run(tmp_path, "--policy", f"native+unix://{address}")
    assert made["chunks"] > 0 and made["faults"] == 0
