from __future__ import annotations

import math

import numpy as np
import pytest

from chunkwise.chaos.inspection import Inspection
from chunkwise.chaos.measure import MAX_LISTED, Complaints, Measure
from chunkwise.chaos.plan import Harm, Injection
from chunkwise.chunking import Decision, Source, SourceKind
from chunkwise.contract import ChunkRequest, ComponentSpec, RobotSpec, robot_layout
from chunkwise.runtime.events import Turn
from chunkwise.safety import CLEAR, Mode

LAYOUT = robot_layout(RobotSpec("one", [], [ComponentSpec("arm", "arm", 1, ["joint_position"], max_rate=10.0)]))
PERIOD_S = 0.1
FAULT = Injection(Harm.STALL, 0.0, 1.0)


class Run:
    """A run of a joint, turn by turn, a request in every one."""

    def __init__(self, gap_limit_s: float = 0.25) -> None:
        self.measure = Measure(Inspection(LAYOUT, PERIOD_S), gap_limit_s)

    def turn(
        self,
        step: int,
        chunk: int = -1,
        *,
        at: float | None = 0.0,
        mode: Mode = Mode.RUNNING,
        motion: bool = False,
    ) -> None:
        sent = None if at is None else np.array([at])
        if sent is not None:
            self.measure.hear(step * PERIOD_S, LAYOUT.action(sent))
        kind = SourceKind.MOTION if motion else SourceKind.CHUNK if chunk >= 0 else SourceKind.WAIT
        decision = Decision(step, sent, Source(kind, chunk), ChunkRequest(step, id=step))
        self.measure.take([Turn(step, step * PERIOD_S, 0.0, decision, sent, CLEAR, mode)])


def test_a_run_begins_with_the_first_chunk() -> None:
    run = Run()
    run.turn(0, at=None, mode=Mode.HOLD)
    run.turn(1, mode=Mode.HOLD)
    run.turn(9, 0)  # a pause before it is nobody's fault
    run.turn(10, 0)
    measure = run.measure
    assert (measure.steps, measure.turns, measure.commands) == (2, 2, 2)
    assert measure.gap_s == pytest.approx(0.1)
    assert not measure.silent.count and not measure.gaps.count


def test_a_turn_without_a_command_and_a_gap_are_counted_apart() -> None:
    run = Run()
    for step in (0, 1):
        run.turn(step, 0)
    run.turn(2, 0, at=None)
    run.turn(3, 0)
    run.turn(7, 0)
    measure = run.measure
    assert (measure.steps, measure.turns, measure.commands) == (8, 5, 4)
    assert (measure.silent.count, str(measure.silent)) == (1, "step 2")
    assert str(measure.gaps) == "0.400 s before step 7, without a fault"


def test_an_effect_lasts_until_a_chunk_runs_that_was_asked_for_after_the_fault() -> None:
    run = Run()
    measure = run.measure
    run.turn(0, 0)
    measure.begin(FAULT, 0.1)
    (effect,) = measure.effects
    run.turn(1, 0, at=0.5)
    run.turn(2, 0, at=0.5, mode=Mode.DEGRADED)
    run.turn(3, 0, at=0.5, mode=Mode.HOLD)
    measure.end(FAULT, 0.4)
    run.turn(4, 3, at=0.5)  # what it was asked for before the end tells nothing of the time after
    assert effect.recover_s is None and measure.recovering
    run.turn(5, 4, at=0.75, mode=Mode.DEGRADED)  # nor does a chunk tell that all is well
    assert effect.recover_s is None
    run.turn(6, 4, at=0.75)
    assert effect.recover_s == pytest.approx(0.2) and not measure.recovering
    run.turn(7, 4, at=1.75)
    assert (effect.periods, effect.commands) == (6, 6)
    assert effect.hold_s == pytest.approx(0.2)
    assert effect.left_running
    assert (effect.largest.joint, effect.largest.step) == ("arm.0", 0.5)
    assert effect.to_dict()["largest_step_share"] == pytest.approx(0.5)


def test_a_run_that_goes_on_has_left_nothing() -> None:
    run = Run()
    run.turn(0, 0)
    run.measure.begin(FAULT, 0.1)
    run.turn(1, 0)
    run.measure.end(FAULT, 0.2)
    run.turn(2, 0)
    run.turn(3, 2)
    (effect,) = run.measure.effects
    assert not effect.left_running and effect.hold_s is None
    assert effect.recover_s == pytest.approx(0.1)


def test_the_way_to_a_standstill_is_no_recovery() -> None:
    run = Run()
    run.turn(0, 0)
    run.measure.begin(FAULT, 0.1)
    run.measure.end(FAULT, 0.1)
    run.turn(1, 0)
    run.turn(2, 9, motion=True)
    assert run.measure.effects[0].recover_s is None
    assert not run.measure.effects[0].left_running


def test_periods_that_the_loop_missed_count_and_a_gap_names_its_fault() -> None:
    run = Run()
    run.turn(4, 0)
    run.measure.begin(FAULT, 0.5)
    run.turn(9, 0)
    (effect,) = run.measure.effects
    assert (effect.periods, effect.commands) == (5, 1)
    assert effect.gap_s == pytest.approx(0.5)
    assert str(run.measure.gaps) == "0.500 s before step 9, stall"


def test_commands_beyond_a_limit_are_found_before_the_first_chunk_and_after_the_last_turn() -> None:
    run = Run()
    run.turn(0, at=0.0)
    run.turn(1, at=5.0)
    run.measure.hear(0.2, LAYOUT.action(np.array([math.nan])))
    run.measure.rest()
    assert str(run.measure.outside) == "step 1: arm.0 travels too far; the last command: arm.0 is not finite"


def test_complaints_list_the_first_and_count_the_rest() -> None:
    complaints = Complaints()
    for number in range(MAX_LISTED + 3):
        complaints.add(f"step {number}")
    assert str(complaints) == "step 0; step 1; step 2; step 3; step 4; and 3 more"
