"""The two-armed OpenArm and the demo policy in simulated time, under every strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.chunking import Scheduler, SourceKind
from chunkwise.contract import connect
from chunkwise.policies import BoundPolicy
from chunkwise.runtime.events import EventRing, Turn
from chunkwise.runtime.loop import ControlLoop
from chunkwise.runtime.pacing import Pacer
from chunkwise.safety import Gate
from chunkwise.testing.world import SimulatedClock, StepWorker

DELAY, STEPS = 5, 150


def run(strategy: str) -> tuple[list[Turn], dict[str, Any]]:
    """Three seconds in lock step, every answer 100 ms on its way."""
    robot = plugins.load("robots", "openarm_sim")(seed=3, lockstep=True)
    policy = plugins.load("policies", "demo")(seed=3)
    robot.connect()
    try:
        binding = connect(robot.spec, policy.spec)
        start = binding.layout.measured(robot.observe())
        clock = SimulatedClock()
        pacer = Pacer(50.0, clock=clock, sleep=clock.sleep)
        scheduler = Scheduler(binding.layout, plugins.load("strategies", strategy)(), hold=start)
        worker = StepWorker(BoundPolicy(policy, binding), lambda: pacer.steps - 1, DELAY)
        gate = Gate(binding.layout, pacer.period_s, start=start)
        loop = ControlLoop(robot, worker, scheduler, gate, pacer, EventRing())
        turns = [loop.turn(pacer.wait()) for _ in range(STEPS)]
        return turns, robot.score()
    finally:
        policy.close()
        robot.close()


@pytest.mark.parametrize("strategy", plugins.names("strategies"))
def test_the_plan_never_runs_dry_and_nothing_goes_wrong(strategy: str) -> None:
    turns, score = run(strategy)
    kinds = [turn.decision.source.kind for turn in turns]
    assert SourceKind.STARVED not in kinds
    assert not [fault for turn in turns for fault in turn.decision.faults]
    waited = kinds.count(SourceKind.WAIT)
    assert waited > 2 * DELAY if strategy == "sync" else waited == DELAY
    assert score["seconds"] == pytest.approx(STEPS / 50)


def test_two_runs_with_one_seed_are_the_same_to_the_last_bit() -> None:
    first, second = (np.array([turn.sent for turn in run("rtc")[0]]) for _ in range(2))
    assert np.array_equal(first, second)


def test_rtc_jumps_less_at_its_seams_than_switch() -> None:
    rough, smooth = (_roughness(run(strategy)[0]) for strategy in ("switch", "rtc"))
    assert smooth < rough


def _roughness(turns: list[Turn]) -> float:
    """Root mean square of the commands' second difference, rad."""
    rows = np.array([turn.sent for turn in turns if turn.sent is not None])
    return float(np.sqrt(np.mean(np.diff(rows, n=2, axis=0) ** 2)))
