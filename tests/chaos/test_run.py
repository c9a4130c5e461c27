"""Whole runs under faults, in simulated time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from chunkwise.chaos.leaks import Held, look
from chunkwise.chaos.plan import Harm, Injection, default_plan, parsed, random_plan
from chunkwise.chaos.policy import FaultyPolicy
from chunkwise.chaos.run import Outcome, endure
from chunkwise.chaos.simulated import endure_simulated
from chunkwise.contract import Action, ComponentSpec, InterfaceValidationError, RobotSpec
from chunkwise.plugins import load
from chunkwise.robots import Robot
from chunkwise.runtime.session import Session
from chunkwise.safety import Gate, Limits
from chunkwise.testing.world import SimulatedClock


def simulated(robot: Robot, clock: SimulatedClock, plan: list[Injection], **options: Any) -> Outcome:
    made: dict[str, Any] = {"components": "arm:7", "rows": 60, **options.pop("wave", {})}
    return endure_simulated(robot, "wave", plan, clock, options=made, control_hz=robot.spec.control_hz, **options)


def one(robot: Robot, fault: str, **more: Any) -> list[Injection]:
    return parsed([{"fault": fault, "at_s": 1.0, **more}], robot.spec)


def test_every_fault_of_the_default_plan_keeps_every_promise(robot: Any, clock: SimulatedClock) -> None:
    outcome = simulated(robot, clock, default_plan(robot.spec))
    assert outcome.broken == []
    assert [effect.injection.harm for effect in outcome.effects] == list(Harm)
    assert outcome.commands == outcome.periods > 4000
    assert outcome.missed == 0 and outcome.leaks == {} and outcome.left_out == []
    assert outcome.gap_s == pytest.approx(0.01)
    *most, hang = outcome.effects
    assert all(effect.recover_s is not None and effect.recover_s < 1.0 for effect in most)
    assert hang.recover_s is not None and hang.recover_s > 5.0, "it takes a time-out"
    assert all(0 < effect.largest.share <= 1 + 1e-6 for effect in outcome.effects)
    json.dumps(outcome.to_dict())


@pytest.mark.parametrize(
    ("fault", "more", "hold_s", "recover_s"),
    [
        # chunks of 0.6 s; answers take half to one and a half of 50 ms; sensors may be 1 s old
        ("stall", {"for_s": 2.0}, (0.4, 0.6), (0.0, 0.2)),
        ("raise", {"for_s": 2.0}, (0.4, 0.6), (0.0, 0.2)),
        ("nan", {"for_s": 2.0}, (0.4, 0.6), (0.0, 0.2)),
        ("wrong_shape", {"for_s": 2.0}, (0.4, 0.6), (0.0, 0.2)),
        ("freeze_process", {"for_s": 2.0}, (0.4, 0.6), (0.0, 0.2)),
        ("dead_camera", {"for_s": 2.0, "camera": "wrist"}, (0.9, 1.1), (0.0, 0.2)),
        ("frozen_state", {"for_s": 2.0, "state": "gripper"}, (0.9, 1.1), (0.0, 0.2)),
        ("crash", {"for_s": 0.2}, (0.4, 0.6), (0.3, 0.6)),
        ("kill", {}, (0.4, 0.6), (0.5, 0.6)),
        ("clock_step", {"for_s": 2.0}, None, (0.0, 0.2)),
        ("remove_shared_memory", {}, None, (0.0, 0.2)),
        ("hang", {"for_s": 0.2}, (0.4, 0.8), (5.2, 5.8)),  # a time-out of 5 s, and a new start
    ],
)
def test_how_long_until_it_holds_and_until_it_goes_on(
    robot: Any,
    clock: SimulatedClock,
    fault: str,
    more: dict[str, Any],
    hold_s: tuple[float, float] | None,
    recover_s: tuple[float, float],
) -> None:
    outcome = simulated(robot, clock, one(robot, fault, **more))
    (effect,) = outcome.effects
    assert outcome.broken == []
    if hold_s is None:
        assert effect.hold_s is None
    else:
        assert effect.hold_s is not None and hold_s[0] <= effect.hold_s <= hold_s[1]
    assert effect.recover_s is not None and recover_s[0] <= effect.recover_s <= recover_s[1]
    assert effect.left_running == (hold_s is not None)
    assert (
        effect.commands
        == effect.periods
        == pytest.approx(100 * (more.get("for_s", 0.0) + effect.recover_s), abs=3)
    )


def test_a_policy_that_hangs_again_and_again_is_replaced_until_it_answers(
    robot: Any, clock: SimulatedClock
) -> None:
    outcome = simulated(robot, clock, one(robot, "hang", for_s=8.0), inference_timeout_s=0.5)
    assert outcome.broken == []
    assert outcome.report is not None and outcome.report.faults_by_kind["lost"] > 5
    recover_s = outcome.effects[0].recover_s
    assert recover_s is not None and recover_s < 1.5, "a time-out, a new start and an inference"


def inline(robot: Robot, clock: SimulatedClock) -> Callable[[Robot], Session]:
    """Sessions whose policy thinks in the loop."""
    options = {"components": "arm:7", "rows": 60}
    policy: Any = FaultyPolicy(
        name="wave", options=options, control_hz=robot.spec.control_hz, sleep=clock.sleep, hold=clock.sleep
    )
    worker = partial(load("workers", "inline"), clock=clock, sleep=clock.sleep)
    return lambda wrapped: Session(wrapped, policy, worker=worker, clock=clock, sleep=clock.sleep)


def test_a_policy_that_blocks_the_loop_breaks_the_promise_and_is_named(robot: Any, clock: SimulatedClock) -> None:
    outcome = endure(robot, inline(robot, clock), one(robot, "stall", for_s=1.0), clock=clock)
    assert len(outcome.broken) == 1
    assert "1 times no command for long: 1.0" in outcome.broken[0] and "stall" in outcome.broken[0]
    assert outcome.missed == pytest.approx(100, abs=3)
    assert outcome.effects[0].gap_s == outcome.gap_s == pytest.approx(1.01, abs=0.02)
    assert outcome.effects[0].commands < outcome.effects[0].periods
    wider = endure(robot, inline(robot, clock), one(robot, "stall", for_s=1.0), clock=clock, gap_s=1.5)
    assert wider.broken == []


def test_what_needs_a_process_is_refused_or_left_out_and_said(robot: Any, clock: SimulatedClock) -> None:
    plan = one(robot, "kill") + one(robot, "raise", for_s=0.1)
    with pytest.raises(InterfaceValidationError, match="kill: the worker has no process of its own"):
        endure(robot, inline(robot, clock), plan, clock=clock)
    outcome = endure(robot, inline(robot, clock), plan, optional=True, clock=clock)
    assert [effect.injection.harm for effect in outcome.effects] == [Harm.RAISE]
    assert outcome.left_out == ["kill: the worker has no process of its own (--worker process has one)"]
    assert outcome.broken == []


def test_a_policy_that_does_not_recover_ends_the_run_and_both_are_said(robot: Any, clock: SimulatedClock) -> None:
    outcome = simulated(robot, clock, one(robot, "raise", for_s=60.0), limits=Limits(hold_s=5.0))
    assert outcome.report is not None and outcome.report.stopped
    assert any(text.startswith("the run ended itself: held for 5 s") for text in outcome.broken)
    assert any(text == "no recovery from raise at 1 s" for text in outcome.broken)


def test_faults_that_never_began_are_said(robot: Any, clock: SimulatedClock) -> None:
    plan = one(robot, "raise", for_s=20.0) + parsed([{"fault": "nan", "at_s": 50}], robot.spec)
    outcome = simulated(robot, clock, plan, limits=Limits(hold_s=5.0))
    assert "1 faults never began, the first is nan" in outcome.broken


def test_a_policy_that_never_answers_is_said(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyPolicy, "infer", lambda self, frame, request: None)
    outcome = endure(robot, inline(robot, clock), one(robot, "nan"), clock=clock, start_s=2.0)
    assert any("no chunk ever ran (policy_failed: " in text for text in outcome.broken)
    assert "1 faults never began, the first is nan" in outcome.broken


def test_a_gate_that_lets_everything_through_is_found_out(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = simulated(robot, clock, one(robot, "stall"), wave={"amplitude": 4.0})
    assert outcome.broken == [] and outcome.effects[0].largest.share == pytest.approx(1.0)
    check = Gate.check

    def lax(self: Gate, row: Any, *, age_s: float = 0.0) -> Any:
        sent, verdict = check(self, row, age_s=age_s)
        return (row if sent is not None and np.isfinite(row).all() else sent), verdict

    monkeypatch.setattr(Gate, "check", lax)
    outcome = simulated(robot, clock, one(robot, "stall"), wave={"amplitude": 4.0})
    assert any("commands outside the limits: step " in text and "limit" in text for text in outcome.broken)


def test_a_leap_of_the_first_command_is_found_out(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, calls = Gate.check, 0

    def leaps(self: Gate, row: Any, *, age_s: float = 0.0) -> Any:
        nonlocal calls
        calls += 1
        sent, verdict = check(self, row, age_s=age_s)
        return (sent + 1.0 if calls == 1 and sent is not None else sent), verdict

    monkeypatch.setattr(Gate, "check", leaps)
    outcome = simulated(robot, clock, one(robot, "clock_step"))
    assert any("commands outside the limits: step 0: joint1 travels too far" in text for text in outcome.broken)


def test_a_loop_that_says_nothing_is_found_out(
    robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Gate.check

    def shy(self: Gate, row: Any, *, age_s: float = 0.0) -> Any:
        sent, verdict = check(self, row, age_s=age_s)
        return (None if clock() > 1002.0 and int(1000 * clock()) % 500 < 10 else sent), verdict

    monkeypatch.setattr(Gate, "check", shy)
    outcome = simulated(robot, clock, one(robot, "clock_step"))
    assert any("periods without a command: step " in text for text in outcome.broken)
    assert outcome.commands < outcome.periods


def test_a_leak_is_found_out(robot: Any, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkwise.chaos.run.LEAK_PATIENCE_S", 0.0)
    looks = [look()]

    def worse() -> Held:
        looks.append(looks[-1]._replace(shared=looks[-1].shared | {f"psm_{len(looks)}"}))
        return looks[-1]

    outcome = endure(robot, inline(robot, clock), one(robot, "nan"), clock=clock, look=worse)
    assert outcome.leaks == {"shared memory": ["psm_2"]}
    assert outcome.broken == ["a leak: shared memory: psm_2"]


def test_what_the_robot_raises_comes_out(robot: Any, clock: SimulatedClock) -> None:
    act, count = robot.act, 0

    def breaks(action: Action) -> Action:
        nonlocal count
        count += 1
        if count == 150:
            raise ConnectionError("the bus is gone")
        return act(action)  # type: ignore[no-any-return]

    robot.act = breaks
    with pytest.raises(ConnectionError, match="bus"):
        simulated(robot, clock, one(robot, "stall"))


def test_people_are_told_when_a_fault_begins(robot: Any, clock: SimulatedClock) -> None:
    said: list[str] = []
    simulated(robot, clock, one(robot, "stall", for_s=0.5) + one(robot, "kill"), say=said.append)
    assert [text.split(None, 2)[2] for text in said] == ["stall for 0.5 s", "kill"]


def test_a_robot_that_is_moved_to_its_start_by_a_ramp_is_followed_from_where_it_stands(
    clock: SimulatedClock,
) -> None:
    robot = load("robots", "mock")(arms=1, control_hz=100.0)
    arm = robot.spec.components[0]
    arm.initial = [1.0] * 7
    assert isinstance(robot.spec, RobotSpec) and isinstance(arm, ComponentSpec)
    outcome = simulated(robot, clock, one(robot, "stall"))
    assert outcome.broken == []
    assert outcome.report is not None and outcome.report.motion_steps > 50


@pytest.mark.parametrize("strategy", ["rtc", "switch", "blend", "temporal_ensemble", "sync"])
def test_twenty_thousand_periods_under_faults_at_random(strategy: str, clock: SimulatedClock) -> None:
    """No period without a command, none outside of the limits, nothing left, a recovery from every fault."""
    periods = 0
    for seed in range(4):
        robot = load("robots", "mock")(arms=1, cameras=("head",), control_hz=100.0)
        plan = random_plan(12, seed, robot.spec, rest_s=0.4)
        amplitude = 4.0 if seed % 2 else 0.3
        outcome = simulated(
            robot,
            clock,
            plan,
            strategy=strategy,
            seed=seed,
            latency_s=0.03 * (1 + seed),
            inference_timeout_s=2.0,
            wave={"amplitude": amplitude},
        )
        assert outcome.broken == []
        assert len(outcome.effects) == 12 and outcome.missed == 0
        periods += outcome.periods
    assert periods >= 4_000, "with five strategies, twenty thousand"
