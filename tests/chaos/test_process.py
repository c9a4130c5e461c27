"""A real inference process that is killed, stopped, and ends itself, in real time."""

from __future__ import annotations

from typing import Any

import pytest

from chunkwise.chaos.plan import parsed
from chunkwise.chaos.run import endure
from chunkwise.policies import Recipe
from chunkwise.robots import Robot
from chunkwise.runtime.session import Session

pytestmark = pytest.mark.slow

PLAN = [
    {"fault": "crash", "at_s": 0.2, "for_s": 0.2},
    {"fault": "kill", "at_s": 2.0},
    {"fault": "freeze_process", "at_s": 3.0, "for_s": 0.8},
    {"fault": "stall", "at_s": 4.2, "for_s": 0.8},
    {"fault": "nan", "at_s": 5.2, "for_s": 0.2},
]


def test_the_loop_outlives_its_inference_process_however_it_ends(robot: Any) -> None:
    """How punctual the loop is, is for a quiet machine: any gap is allowed here."""
    options = {"name": "wave", "options": {"components": "arm:7", "rows": 30}}
    recipe = Recipe("chunkwise.chaos.policy:FaultyPolicy", options, {"control_hz": 100.0})

    def session(wrapped: Robot) -> Session:
        return Session(wrapped, recipe, worker="process", inference_timeout_s=30.0)

    outcome = endure(robot, session, parsed(PLAN, robot.spec), gap_s=30.0, settle_s=0.5)
    assert outcome.broken == []
    assert len(outcome.effects) == len(PLAN)
    crash, kill, freeze, stall, _ = outcome.effects
    assert crash.left_running and kill.left_running, "an answer with an error comes at once"
    assert freeze.hold_s is not None and stall.hold_s is not None, "the plan of 0.3 s ends before they do"
    assert outcome.report is not None
    assert "exit code 86" in outcome.report.fault_details["policy_failed"]
