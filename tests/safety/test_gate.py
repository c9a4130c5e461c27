from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chunkwise.contract import ComponentSpec, Layout, RobotSpec, Rotation, robot_layout
from chunkwise.contract.rotations import angle_between
from chunkwise.safety import CLEAR, Gate, Rule


def layout(*components: ComponentSpec) -> Layout:
    return robot_layout(RobotSpec("made up", [], list(components)))


def part(name: str, kind: str, dof: int = 1, type: str = "arm", **limits: Any) -> ComponentSpec:
    return ComponentSpec(name, type, dof, [kind], **limits)


def row(*values: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


ARM = part("arm", "joint_position", 2, lower=[-1, -2], upper=[1, 2], max_rate=[5.0, 10.0])


def test_a_good_row_passes_untouched() -> None:
    gate = Gate(layout(ARM), 0.02, start=row(0, 0))
    sent, verdict = gate.check(row(0.1, -0.2))
    assert sent is not None
    assert sent.tolist() == [0.1, -0.2]
    assert verdict is CLEAR
    assert not verdict.refused
    assert not gate.counts


def test_a_limit_is_held_per_joint() -> None:
    gate = Gate(layout(ARM), 0.02)
    sent, verdict = gate.check(row(3.0, -3.0))
    assert sent is not None
    assert sent.tolist() == [1.0, -2.0]
    assert verdict.broken == (("arm", Rule.LIMIT),)
    assert not verdict.refused


def test_each_component_answers_for_itself() -> None:
    gate = Gate(layout(ARM, part("hand", "hand_joint_position", type="hand", upper=[0.5], max_rate=1.0)), 0.02)
    _, verdict = gate.check(row(0.0, 0.0, 9.0))
    assert verdict.broken == (("hand", Rule.LIMIT),)
    gate.check(row(math.nan, 0.0, 0.0))
    gate.check(row(0.0, 0.0, 9.0))
    assert gate.counts == {("hand", Rule.LIMIT): 2, ("arm", Rule.FINITE): 1}


@pytest.mark.parametrize("control_hz", [10.0, 50.0, 1000.0])
def test_the_slew_limit_is_per_second_whatever_the_rate(control_hz: float) -> None:
    gate = Gate(layout(part("arm", "joint_position", max_rate=5.0)), 1 / control_hz, start=row(0))
    sent = row(0)
    for _ in range(round(control_hz)):
        moved, verdict = gate.check(row(100.0))
        assert moved is not None
        assert verdict.broken == (("arm", Rule.SLEW),)
        sent = moved
    assert sent[0] == pytest.approx(5.0)


def test_a_catch_up_after_missed_periods_travels_no_further_than_one() -> None:
    gate = Gate(layout(part("arm", "joint_position", max_rate=5.0)), 0.02, start=row(0))
    gate.check(row(0.1))
    sent, _ = gate.check(row(1.1))  # ten periods went by in between; the gate knows of none of them
    assert sent is not None
    assert sent[0] == pytest.approx(0.2)


def test_without_a_start_the_first_command_may_go_anywhere_within_the_limits() -> None:
    gate = Gate(layout(ARM), 0.02)
    sent, verdict = gate.check(row(0.9, 1.9))
    assert sent is not None
    assert sent.tolist() == [0.9, 1.9]
    assert verdict is CLEAR


def test_a_delta_is_limited_from_zero_by_what_a_period_allows() -> None:
    gate = Gate(layout(part("arm", "joint_position_delta", max_rate=5.0)), 0.02, start=row(0))
    for asked, expected in ((0.5, 0.1), (0.05, 0.05), (-0.5, -0.1)):
        sent, _ = gate.check(row(asked))
        assert sent is not None
        assert sent[0] == pytest.approx(expected)
    assert gate.counts == {("arm", Rule.SLEW): 2}


def test_a_velocity_is_limited_to_the_rate_itself() -> None:
    gate = Gate(layout(part("base", "joint_velocity", type="base", max_rate=0.5)), 0.02, start=row(0))
    for asked, expected in ((0.4, 0.4), (3.0, 0.5), (-3.0, -0.5)):
        sent, _ = gate.check(row(asked))
        assert sent is not None
        assert sent[0] == pytest.approx(expected)


def test_a_switch_goes_over_at_once() -> None:
    gripper = part("gripper", "gripper_open_close", type="gripper", max_rate=0.1)
    gate = Gate(layout(gripper), 0.02, start=row(0))
    sent, verdict = gate.check(row(1))
    assert sent is not None
    assert (sent[0], verdict) == (1.0, CLEAR)


@pytest.mark.parametrize(("hold", "expected"), [("repeat", 0.1), ("zero", 0.02)])
def test_a_custom_kind_counts_its_travel_as_its_hold_says(hold: str, expected: float) -> None:
    lift = part("lift", "custom:lift", type="custom", max_rate=1.0, hold=hold)
    gate = Gate(layout(lift), 0.02, start=row(0.08 if hold == "repeat" else 0.0))
    sent, _ = gate.check(row(1))
    assert sent is not None
    assert sent[0] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_holds_each_component_by_its_kind(bad: float) -> None:
    parts = (
        part("arm", "joint_position"),
        part("delta", "joint_position_delta"),
        part("base", "joint_velocity", type="base"),
        part("suction", "eef_activation", type="suction"),
    )
    gate = Gate(layout(*parts), 0.02)
    gate.check(row(0.5, 0.1, 0.2, 1.0))
    sent, verdict = gate.check(row(0.6, bad, 0.3, 0.0))
    assert sent is not None
    assert sent.tolist() == [0.5, 0.0, 0.0, 1.0]
    assert verdict.broken == (("delta", Rule.FINITE),)
    assert verdict.refused


def test_a_bad_row_before_anything_was_sent_sends_nothing() -> None:
    gate = Gate(layout(ARM), 0.02)
    assert gate.check(row(math.nan, 0.0))[0] is None
    assert gate.check(row(0.0, 0.0), age_s=9.0)[0] is None
    sent, verdict = gate.check(row(0.5, 0.5))
    assert sent is not None
    assert verdict is CLEAR


def test_a_bad_row_before_anything_was_sent_holds_the_start() -> None:
    gate = Gate(layout(ARM), 0.02, start=row(0.3, 0.4))
    sent, verdict = gate.check(row(math.nan, 0.0))
    assert sent is not None
    assert sent.tolist() == [0.3, 0.4]
    assert verdict.refused


def test_a_plan_that_is_too_old_is_refused_for_every_component() -> None:
    gate = Gate(layout(ARM, part("lift", "joint_position")), 0.02, start=row(0, 0, 0), max_plan_age_s=0.5)
    assert gate.check(row(0.1, 0.1, 0.1), age_s=0.5)[1] is CLEAR
    sent, verdict = gate.check(row(0.2, 0.2, 0.2), age_s=0.501)
    assert sent is not None
    assert sent.tolist() == [0.1, 0.1, 0.1]
    assert verdict.broken == (("arm", Rule.AGE), ("lift", Rule.AGE))


def test_the_row_that_was_given_is_not_written() -> None:
    gate = Gate(layout(ARM), 0.02, start=row(0, 0))
    given_row = row(5, 5)
    given_row.flags.writeable = False
    gate.check(given_row)
    assert given_row.tolist() == [5, 5]


def test_a_robot_that_starts_beyond_a_limit_is_brought_back_at_the_rate_it_can_go() -> None:
    gate = Gate(layout(part("arm", "joint_position", lower=[-1], upper=[1], max_rate=5.0)), 0.02, start=row(1.25))
    values = [float(sent[0]) for sent, _ in (gate.check(row(0.99)) for _ in range(4)) if sent is not None]
    assert values == pytest.approx([1.15, 1.05, 0.99, 0.99])


POSES = [Rotation.QUATERNION_XYZW, Rotation.QUATERNION_WXYZ, Rotation.ROTATION_VECTOR, Rotation.MATRIX_6D]


def turned(angle: float, rotation: Rotation) -> list[float]:
    """A turn about z."""
    s, c = math.sin(angle / 2), math.cos(angle / 2)
    return {
        Rotation.QUATERNION_XYZW: [0, 0, s, c],
        Rotation.QUATERNION_WXYZ: [c, 0, 0, s],
        Rotation.ROTATION_VECTOR: [0, 0, angle],
        Rotation.MATRIX_6D: [math.cos(angle), math.sin(angle), 0, -math.sin(angle), math.cos(angle), 0],
    }[rotation]


@pytest.mark.parametrize("rotation", POSES)
def test_a_pose_turns_by_its_angle_and_moves_by_its_distance(rotation: Rotation) -> None:
    hand = part("hand", "cartesian_pose", 6, rotation=rotation, max_rate=1.0)
    start = row(0, 0, 0, *turned(0.0, rotation))
    gate = Gate(layout(hand), 0.02, start=start)
    asked = row(0.5, 0, 0, *turned(1.0, rotation))
    sent, verdict = gate.check(asked)
    assert sent is not None
    assert sent[:3] == pytest.approx([0.02, 0, 0])
    assert float(angle_between(start[3:], sent[3:], rotation)) == pytest.approx(0.02, abs=1e-7)
    assert sent[3:] == pytest.approx(turned(0.02, rotation), abs=1e-9)
    assert verdict.broken == (("hand", Rule.SLEW),)


@pytest.mark.parametrize("rotation", POSES)
def test_a_change_of_pose_turns_by_no_more_than_a_period_allows(rotation: Rotation) -> None:
    hand = part("hand", "cartesian_pose_delta", 6, rotation=rotation, max_rate=1.0)
    gate = Gate(layout(hand), 0.02, start=np.zeros(3 + rotation.dim))
    for _ in range(2):  # a delta is counted from nothing each time
        sent, _ = gate.check(row(0.5, 0, 0, *turned(-1.0, rotation)))
        assert sent is not None
        assert sent == pytest.approx([0.02, 0, 0, *turned(-0.02, rotation)], abs=1e-9)


def test_nonsense_is_refused_at_construction() -> None:
    for arguments in ({"period_s": 0.0}, {"period_s": math.nan}, {"period_s": 0.02, "max_plan_age_s": 0.0}):
        with pytest.raises(ValueError, match="above zero"):
            Gate(layout(ARM), **arguments)


WILD = st.one_of(
    st.floats(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1.7e308, -1.7e308, math.nan]),
)
MIXED = layout(
    ARM,
    part("delta", "joint_position_delta", max_rate=2.0),
    part("base", "joint_velocity", type="base", max_rate=0.7),
    part("gripper", "gripper_position", type="gripper", lower=[0], upper=[0.1], max_rate=1.0),
)


@settings(max_examples=200)
@given(
    rows=st.lists(st.lists(WILD, min_size=5, max_size=5), min_size=1, max_size=20),
    start=st.one_of(st.none(), st.lists(st.floats(-3, 3), min_size=5, max_size=5)),
    period_s=st.sampled_from([0.002, 0.02, 0.1]),
)
def test_whatever_comes_what_is_sent_is_finite_within_limits_and_slow(
    rows: list[list[float]], start: list[float] | None, period_s: float
) -> None:
    gate = Gate(MIXED, period_s, start=None if start is None else MIXED.hold(row(*start)))
    lower, upper = row(-1, -2, -np.inf, -np.inf, 0), row(1, 2, np.inf, np.inf, 0.1)
    target = np.array([True, True, False, False, True])
    reach = row(5 * period_s, 10 * period_s, 2 * period_s, 0.7, period_s) * (1 + 1e-9) + 1e-12
    last = None if start is None else MIXED.hold(row(*start))
    for values in rows:
        sent, verdict = gate.check(row(*values))
        if sent is None:
            assert last is None
            assert verdict.refused
            continue
        assert np.isfinite(sent).all()
        if last is not None:
            assert (np.abs(sent - np.where(target, last, 0.0)) <= reach).all()
            inside = (last >= lower) & (last <= upper)
            assert (~inside | ((sent >= lower) & (sent <= upper))).all()
        last = sent


def test_a_start_that_is_known_in_part_limits_that_part() -> None:
    gate = Gate(
        layout(ARM, part("gripper", "gripper_open_close", type="gripper")), 0.02, start=row(0, 0, math.nan)
    )
    assert gate.check(row(math.nan, 0, 0))[0] is None  # a hold would be a guess
    sent, verdict = gate.check(row(0.9, 0.1, 1))
    assert sent is not None
    assert sent.tolist() == pytest.approx([0.1, 0.1, 1.0])
    assert verdict.broken == (("arm", Rule.SLEW),)


def test_a_driver_cannot_change_what_the_next_command_counts_from() -> None:
    made = layout(ARM)
    gate = Gate(made, 0.02, start=row(0, 0))
    for sent in (gate.check(row(0.01, 0.01))[0], gate.check(row(math.nan, 0))[0], gate.hold()):
        assert sent is not None
        with pytest.raises(ValueError, match="read-only"):
            made.action(sent).commands["arm"].value[:] *= 57.3


@given(
    rows=arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-2, 2) | st.just(np.nan)),
    start=arrays(np.float64, 3, elements=st.floats(-1, 1) | st.just(np.nan)),
    age_s=st.floats(0, 4),
    scale=st.sampled_from([1.0, 0.05, 0.01]),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_rows_that_pass_are_rows_that_the_check_leaves_alone(
    rows: np.ndarray, start: np.ndarray, age_s: float, scale: float
) -> None:
    arm = part("arm", "joint_position", 3, lower=[-1.0] * 3, upper=[1.0] * 3, max_rate=[5.0, 10.0, np.inf])
    base = Gate(layout(arm), 0.02, start=np.zeros(3))
    rows = rows * scale
    asked, gate = base.at(start), base.at(start)
    if asked.passes(rows, age_s=age_s):
        for row in rows:
            sent, verdict = gate.check(row, age_s=age_s)
            assert not verdict.broken
            np.testing.assert_array_equal(sent, row)
    elif np.isfinite(rows).all() and np.isfinite(start).all() and age_s <= 3:
        assert any(gate.check(row, age_s=age_s)[1].broken for row in rows)
    assert not asked.counts and not base.counts
