from __future__ import annotations

import json

import numpy as np
import pytest

from chunkwise.chunking import Decision, Fault, FaultKind, Source, SourceKind
from chunkwise.contract import ChunkRequest, ComponentSpec, Layout, RobotSpec, robot_layout
from chunkwise.runtime.events import Turn
from chunkwise.runtime.pacing import Pacer
from chunkwise.runtime.report import jerk, report, seam_jump, sent_rows
from chunkwise.safety import CLEAR, Gate
from chunkwise.testing.world import SimulatedClock


def layout() -> Layout:
    components = [
        ComponentSpec("arm", "arm", 1, ["joint_position"]),
        ComponentSpec("base", "base", 1, ["joint_velocity"]),
    ]
    return robot_layout(RobotSpec("made up", [], components))


def turn(
    step: int,
    value: float | None,
    *,
    chunk: int = -1,
    kind: SourceKind = SourceKind.CHUNK,
    asks: int | None = None,
    faults: tuple[Fault, ...] = (),
) -> Turn:
    request = None if asks is None else ChunkRequest(step, id=asks)
    row = None if value is None else np.array([value, 0.0])
    return Turn(step, step / 50, 0.0, Decision(step, row, Source(kind, chunk, 0), request, faults), row, CLEAR)


def test_counts_waits_starvation_faults_and_chunks() -> None:
    late = Fault(FaultKind.LOST, 0, "no answer after 9 steps")
    turns = [
        turn(0, None, kind=SourceKind.WAIT, asks=0),
        turn(1, 0.0, kind=SourceKind.WAIT),
        turn(2, 0.1, chunk=0, asks=1),
        turn(3, 0.1, kind=SourceKind.STARVED, faults=(late, late)),
        turn(5, 0.2, chunk=1, asks=2),
        turn(7, 0.3, chunk=2),
    ]
    clock = SimulatedClock()
    gate = Gate(layout(), 0.02, start=np.zeros(2))
    gate.check(np.array([np.nan, 0.0]))
    made = report(turns, Pacer(50.0, clock=clock, sleep=clock.sleep), gate)
    assert (made.steps, made.waiting_steps, made.starved_steps) == (6, 2, 1)
    assert (made.requests, made.chunks) == (3, 3)
    assert made.faults_by_kind == {"lost": 2}
    assert made.fault_details == {"lost": "no answer after 9 steps"}
    assert made.delay_steps == {"min": 2.0, "median": 2.5, "max": 3.0}  # the first, of 2 steps, is left out
    assert made.gate == {"arm.finite": 1}
    assert json.loads(json.dumps(made.to_dict()))["faults"] == 2


def test_a_run_of_nothing_has_a_report() -> None:
    made = report([], Pacer(50.0), Gate(layout(), 0.02))
    assert (made.steps, made.chunks, made.seam_jump, made.jerk, made.control_hz_achieved) == (0, 0, 0.0, 0.0, 0.0)


def test_seams_are_where_another_chunk_took_over_also_across_a_hold() -> None:
    turns = [
        turn(0, 0.0, kind=SourceKind.WAIT),
        turn(1, 0.0, chunk=0),
        turn(2, 0.1, chunk=0),
        turn(3, 0.1, kind=SourceKind.STARVED),
        turn(4, 0.1, chunk=0),
        turn(5, 0.5, chunk=4),
    ]
    rows, seams = sent_rows(turns)
    assert rows.shape == (6, 2)
    assert seams == [1, 5]


def test_the_seam_jump_is_a_change_of_speed() -> None:
    steady = np.arange(10.0)[:, None] * [1.0, 2.0]
    assert seam_jump(steady, [3, 6]) == 0.0
    broken = steady.copy()
    broken[6:, 1] += 0.5
    assert seam_jump(broken, [3, 6]) == pytest.approx(0.25)  # the mean of 0 and 0.5
    assert seam_jump(broken, [1]) == 0.0  # nothing before it to compare with


def test_jerk_is_a_third_derivative_of_targets_alone() -> None:
    time_s = np.arange(200) / 50
    rows = np.stack([time_s**3, np.random.default_rng(0).normal(size=200)], axis=1)
    assert jerk(rows, layout(), 50.0) == pytest.approx(6.0, rel=1e-6)
    assert jerk(rows[:3], layout(), 50.0) == 0.0
