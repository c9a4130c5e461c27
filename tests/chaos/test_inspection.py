from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.chaos.inspection import Inspection
from chunkwise.contract import Action, Command, ComponentSpec, RobotSpec, robot_layout
from chunkwise.safety import Gate

PERIOD_S = 0.02
ROBOT = RobotSpec(
    "parts",
    [],
    [
        ComponentSpec("arm", "arm", 2, ["joint_position"], lower=[-1, -1], upper=[1, 1], max_rate=[5.0, 10.0]),
        ComponentSpec("delta", "arm", 1, ["joint_position_delta"], max_rate=1.0),
        ComponentSpec("base", "base", 1, ["joint_velocity"], max_rate=0.5),
        ComponentSpec("hand", "gripper", 1, ["gripper_open_close"], max_rate=0.1),
        ComponentSpec("free", "arm", 1, ["joint_position"]),
    ],
)
LAYOUT = robot_layout(ROBOT)


def action(*row: float) -> Action:
    return LAYOUT.action(np.array(row, dtype=np.float64))


def inspection(*standing: float) -> Inspection:
    made = Inspection(LAYOUT, PERIOD_S)
    made.begin(np.array(standing or (0.0,) * 6))
    return made


def test_a_good_command_is_good_and_its_largest_step_is_a_share_of_the_limit() -> None:
    seen = inspection().see(action(0.05, -0.1, 0.001, 0.1, 1.0, 9.0))
    assert seen.wrong == ""
    assert (seen.joint, seen.unit, seen.step) == ("arm.0", "rad", 0.05)
    assert seen.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0.2, 0, 0, 0, 0, 0), "arm.0 travels too far"),
        ((0, 0, 0.03, 0, 0, 0), "delta.0 travels too far"),
        ((0, 0, 0, -0.6, 0, 0), "base.0 travels too far"),
        ((0, math.nan, 0, 0, 0, 0), "arm.1 is not finite"),
        ((0, 0, 0, 0, math.inf, 0), "hand.0 is not finite"),
        ((0, 0, 0, 0, 0, -math.inf), "free.0 is not finite"),
    ],
)
def test_what_is_beyond_a_limit_is_named(row: tuple[float, ...], words: str) -> None:
    assert inspection().see(action(*row)).wrong == words


def test_a_position_limit_is_named_and_a_robot_beyond_it_may_come_back() -> None:
    assert inspection(0.95, 0, 0, 0, 0, 0).see(action(1.01, 0, 0, 0, 0, 0)).wrong == "arm.0 is above its limit"
    assert inspection(0, -0.95, 0, 0, 0, 0).see(action(0, -1.1, 0, 0, 0, 0)).wrong == "arm.1 is below its limit"
    made = inspection(1.5, 0, 0, 0, 0, 0)
    assert made.see(action(1.42, 0, 0, 0, 0, 0)).wrong == ""
    assert made.see(action(1.45, 0, 0, 0, 0, 0)).wrong == "arm.0 is above its limit"


def test_where_the_standing_is_not_known_the_first_command_may_be_anywhere() -> None:
    made = Inspection(LAYOUT, PERIOD_S)
    seen = made.see(action(0.9, 0.9, 0.0, 0.0, 0.0, 0.0))
    assert (seen.wrong, seen.step) == ("", 0.0)
    assert made.see(action(0.0, 0.9, 0.0, 0.0, 0.0, 0.0)).wrong == "arm.0 travels too far"


def test_a_step_of_a_joint_without_a_limit_is_in_units_alone() -> None:
    layout = robot_layout(RobotSpec("free", [], [ComponentSpec("lift", "arm", 2, ["joint_position"], unit="m")]))
    made = Inspection(layout, PERIOD_S)
    made.begin(np.zeros(2))
    seen = made.see(layout.action(np.array([1.0, -7.0])))
    assert (seen.step, seen.joint, seen.unit, seen.wrong) == (7.0, "lift.1", "m", "")
    assert math.isnan(seen.share)


def test_a_switch_has_no_way() -> None:
    parts = [
        ComponentSpec("lift", "arm", 1, ["joint_position"]),
        ComponentSpec("cup", "suction", 1, ["eef_activation"]),
    ]
    layout = robot_layout(RobotSpec("free", [], parts))
    made = Inspection(layout, PERIOD_S)
    made.begin(np.zeros(2))
    assert made.see(layout.action(np.array([0.25, 1.0])))[:3:2] == (0.25, "lift.0")


def test_commands_of_other_components_are_wrong() -> None:
    assert "of 2 numbers" in inspection().see(Action({"arm": Command("joint_position", np.zeros(2))})).wrong


@given(
    st.lists(
        st.lists(
            st.one_of(st.floats(-3, 3), st.sampled_from([math.nan, math.inf, 1.0, -1.0])), min_size=6, max_size=6
        ),
        min_size=1,
        max_size=30,
    )
)
def test_it_agrees_with_the_gate_on_what_passes(rows: list[list[float]]) -> None:
    gate, made = Gate(LAYOUT, PERIOD_S, start=np.zeros(6)), inspection()
    for row in rows:
        sent, _ = gate.check(np.array(row))
        assert sent is not None
        assert made.see(LAYOUT.action(sent)).wrong == ""


@given(st.lists(st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6), min_size=1, max_size=10))
def test_it_agrees_with_the_gate_on_what_does_not(rows: list[list[float]]) -> None:
    last: Any = np.zeros(6)
    for values in rows:
        row, made = np.array(values), inspection(*last)
        gate = Gate(LAYOUT, PERIOD_S, start=last)
        sent, _ = gate.check(row)
        assert sent is not None
        beyond = float(np.abs(sent - row).max())
        wrong = made.see(LAYOUT.action(row)).wrong
        if beyond > 1e-6:
            assert wrong
        elif beyond == 0.0:
            assert not wrong
        last = sent
