"""What a driver asks before it sends anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkwise.contract import Command, ComponentSpec, InterfaceValidationError, RobotSpec, commanded

SPEC = RobotSpec("robot", [], [ComponentSpec("arm", "arm", 2, ["joint_position", "joint_velocity"])])


@pytest.mark.parametrize("kind", ["joint_position", "joint_velocity"])
def test_a_command_that_its_component_takes_leads_to_it(kind: str) -> None:
    assert commanded(SPEC, "arm", Command(kind, np.zeros(2))) is SPEC.components[0]


@pytest.mark.parametrize(
    ("name", "kind", "value", "message"),
    [
        ("amr", "joint_position", np.zeros(2), "no component 'amr'.*did you mean 'arm'"),
        ("arm", "gripper_position", np.zeros(2), "arm takes 2 numbers as joint_position, not gripper_position"),
        ("arm", "joint_position", np.zeros(3), r"not joint_position of \(3,\)"),
        ("arm", "joint_position", np.array([0.0, np.nan]), "not finite"),
        ("arm", "joint_velocity", np.array([np.inf, 0.0]), "not finite"),
    ],
)
def test_any_other_is_refused_by_name(name: str, kind: str, value: Any, message: str) -> None:
    with pytest.raises(InterfaceValidationError, match=message):
        commanded(SPEC, name, Command(kind, value))
