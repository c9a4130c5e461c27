"""The validators of specs: each wrong field is refused by its name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chunkwise.contract import (
    ComponentSpec,
    ImageRule,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    Rotation,
    policy_differences,
    policy_spec_from_dict,
    robot_spec_from_dict,
    spec_to_dict,
    validate_component_spec,
    validate_policy_output_spec,
    validate_policy_spec,
    validate_robot_spec,
)

ARM = ComponentSpec(
    "arm", "arm", 2, ["joint_position"], joint_names=["a", "b"], lower=[-1, -2], upper=[1, 2], max_rate=[3, 3]
)
ROBOT = RobotSpec("robot", ["head"], [ARM], state_keys=["force"], control_hz=50.0)
OUTPUT = PolicyOutputSpec("arm", "joint_position", 2, names=["b", "a"], rotation="euler_xyz")
POLICY = PolicySpec("policy", ["head"], ["arm"], outputs=[OUTPUT], action_horizon=8)


def test_right_specs_pass() -> None:
    validate_component_spec(ARM)
    validate_component_spec(replace(ARM, max_rate=2.0, lower=None, hold="zero", rotation=Rotation.MATRIX_6D))
    validate_component_spec(replace(ARM, lower=np.array([-1, -np.inf]), upper=np.array([1, np.inf])))
    validate_robot_spec(ROBOT)
    validate_policy_output_spec(OUTPUT)
    validate_policy_spec(POLICY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": " "}, "component.name must be a name"),
        ({"name": 3}, "component.name must be a name, got 3"),
        ({"type": "armm"}, r"'arm': type must be one of .*did you mean 'arm'"),
        ({"dof": 0}, "'arm': dof must be an int above zero, got 0"),
        ({"dof": True}, "'arm': dof must be an int above zero"),
        ({"dof": 2.0}, "'arm': dof must be an int above zero"),
        ({"command": []}, "'arm': takes no command kind"),
        ({"command": ["joint_posision"]}, "'arm': command must be .*did you mean 'joint_position'"),
        ({"command": ["gripper_position"]}, "a component of type 'arm' cannot take 'gripper_position'"),
        ({"joint_names": ["a"]}, "'arm': joint_names must have 2 entries, got 1"),
        ({"joint_names": ["a", "a"]}, "'arm': joint_names must be distinct, twice: a"),
        ({"lower": [0.0]}, "'arm': lower must have 2 entries"),
        ({"upper": [0.0] * 3}, "'arm': upper must have 2 entries"),
        ({"max_rate": [1.0]}, "'arm': max_rate must have 2 entries"),
        ({"lower": [2.0, 0.0]}, "'arm': a lower limit is above its upper limit"),
        ({"lower": [np.nan, 0.0]}, "'arm': lower holds a NaN"),
        ({"max_rate": [np.nan, 0.0]}, "'arm': max_rate holds a NaN"),
        ({"max_rate": 0.0}, "'arm': max_rate must be above zero"),
        ({"hold": "freeze"}, "'arm': hold must be one of repeat, zero, got 'freeze'"),
        ({"rotation": "euler"}, "'arm': rotation must be one of quaternion_xyzw"),
    ],
)
def test_a_wrong_component_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_component_spec(replace(ARM, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "robot.name must be a name"),
        ({"components": [ARM, ARM]}, "component and state names must be distinct, twice: arm"),
        ({"state_keys": ["arm"]}, "component and state names must be distinct, twice: arm"),
        ({"image_keys": ["head", "head"]}, "image_keys must be distinct, twice: head"),
        ({"control_hz": 0.0}, "robot.control_hz must be above zero"),
        ({"control_hz": float("nan")}, "robot.control_hz must be above zero"),
        ({"components": [replace(ARM, dof=0)]}, "'arm': dof"),
    ],
)
def test_a_wrong_robot_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_robot_spec(replace(ROBOT, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": ""}, "output.target must be a name"),
        ({"command": "joint_pos"}, "'arm': command must be"),
        ({"dim": 0}, "'arm': dim must be an int above zero"),
        ({"command": "gripper_position"}, "gripper_position has 1 numbers, not 2"),
        ({"names": ["a"]}, "'arm': names must have 2 entries"),
        ({"names": ["a", "a"]}, "'arm': names must be distinct"),
        ({"rotation": "quat"}, "'arm': rotation must be one of"),
    ],
)
def test_a_wrong_output_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_policy_output_spec(replace(OUTPUT, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": " "}, "policy.name must be a name"),
        ({"outputs": [OUTPUT, OUTPUT]}, "output targets must be distinct, twice: arm"),
        ({"action_horizon": 0}, "policy.action_horizon must be an int above zero"),
        ({"outputs": [replace(OUTPUT, dim=-1)]}, "'arm': dim"),
    ],
)
def test_a_wrong_policy_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceValidationError, match=words):
        validate_policy_spec(replace(POLICY, **change))


def test_specs_answer_questions() -> None:
    gripper = ComponentSpec("gripper", "gripper", 1, ["gripper_position", "gripper_velocity"])
    robot = replace(ROBOT, components=[ARM, gripper])
    assert robot.get_component("gripper") is gripper and robot.get_component("leg") is None
    assert robot.all_supported_commands() == ["joint_position", "gripper_position", "gripper_velocity"]
    assert robot.all_state_keys() == ["arm", "gripper", "force"]
    assert gripper.supports_command("gripper_velocity") and not gripper.supports_command("joint_position")
    assert ARM.names(2) == ["a", "b"] and ARM.names(3) == ["arm.0", "arm.1", "arm.2"]
    assert POLICY.action_dim == 2 and POLICY.get_output("arm") is OUTPUT and POLICY.get_output("leg") is None


RULE = ImageRule(224, 224, "letterbox", "top_left", antialias=False)
TRAVELLER = replace(
    POLICY,
    state_names={"arm": ["b", "a"]},
    control_hz=50.0,
    supports_prefix=True,
    images={"head": RULE},
    normalisation="sha256:0f",
    meta={"step": 20_000, "by": ["us", None]},
)


def test_specs_travel_as_json() -> None:
    limited = replace(ARM, lower=[-np.inf, -2.0], hold="zero", rotation=Rotation.MATRIX_6D)
    for robot in (ROBOT, replace(ROBOT, components=[limited, replace(ARM, name="other", max_rate=None)])):
        assert robot_spec_from_dict(json.loads(json.dumps(spec_to_dict(robot)))) == robot
    for policy in (POLICY, TRAVELLER):
        assert policy_spec_from_dict(json.loads(json.dumps(spec_to_dict(policy)))) == policy


def test_limits_that_are_arrays_arrive_as_lists_so_that_specs_can_be_compared() -> None:
    arrays = replace(ARM, lower=np.array([-1.0, -2.0]), upper=np.array([1, 2]), max_rate=np.float32(3.0))
    there = robot_spec_from_dict(json.loads(json.dumps(spec_to_dict(replace(ROBOT, components=[arrays])))))
    again = robot_spec_from_dict(spec_to_dict(replace(ROBOT, components=[arrays])))
    assert there == again == replace(ROBOT, components=[replace(ARM, max_rate=3.0)])
    tree = spec_to_dict(ROBOT)
    tree["components"][0]["lower"] = np.array([-1.0, -2.0])  # as an array of a message
    assert robot_spec_from_dict(tree) == ROBOT


def test_what_a_later_version_added_is_left_aside() -> None:
    robot, policy = spec_to_dict(ROBOT), spec_to_dict(TRAVELLER)
    for tree in (robot, robot["components"][0], policy, policy["outputs"][0], policy["images"]["head"]):
        tree["of_a_later_version"] = 1
    assert robot_spec_from_dict(robot) == ROBOT and policy_spec_from_dict(policy) == TRAVELLER


@pytest.mark.parametrize("tree", [{}, {"name": "r"}, {"components": [3]}, {"components": [{}]}, [], "robot", None])
def test_what_is_no_spec_is_refused(tree: Any) -> None:
    with pytest.raises(InterfaceValidationError):
        robot_spec_from_dict(tree)
    with pytest.raises(InterfaceValidationError):
        policy_spec_from_dict(tree)


@pytest.mark.parametrize(
    ("make", "change", "words"),
    [
        (robot_spec_from_dict, {"control_hz": "fast"}, "control_hz|robot spec"),
        (robot_spec_from_dict, {"components": [spec_to_dict(ROBOT)["components"][0] | {"dof": 3}]}, "3 entries"),
        (robot_spec_from_dict, {"image_keys": 4}, "robot spec"),
        (policy_spec_from_dict, {"outputs": [{"target": "arm"}]}, "policy spec"),
        (policy_spec_from_dict, {"action_horizon": 0}, "action_horizon"),
        (policy_spec_from_dict, {"images": {"head": {"pad": "left"}}}, r"images\['head'\]: pad must be one of"),
        (policy_spec_from_dict, {"images": []}, "policy spec"),
        (policy_spec_from_dict, {"control_hz": -1.0}, "control_hz"),
    ],
)
def test_a_spec_that_arrives_is_checked_like_any_other(make: Any, change: dict[str, Any], words: str) -> None:
    tree = spec_to_dict(ROBOT if make is robot_spec_from_dict else TRAVELLER) | change
    with pytest.raises(InterfaceValidationError, match=words):
        make(tree)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"required_image_keys": []}, "cameras: ['head'] here, [] there"),
        ({"required_state_keys": ["arm", "force"]}, "states: ['arm'] here, ['arm', 'force'] there"),
        ({"outputs": [replace(OUTPUT, names=["a", "b"])]}, "output 'arm': names differ"),
        ({"outputs": [replace(OUTPUT, unit="deg", rotation=None)]}, "output 'arm': unit, rotation differ"),
        ({"outputs": []}, "outputs: ['arm'] here, [] there"),
        ({"state_names": {"arm": ["a", "b"]}}, "state_names['arm']: another order or other joints"),
        ({"action_horizon": 50}, "action_horizon: 8 here, 50 there"),
        ({"control_hz": 30.0}, "control_hz: 50.0 here, 30.0 there"),
        ({"normalisation": "sha256:1f"}, "normalisation: 'sha256:0f' here, 'sha256:1f' there"),
        ({"normalisation": ""}, "normalisation: 'sha256:0f' here, None there"),
        ({"images": {"head": replace(RULE, pad="centre")}}, "images['head'].pad: top_left here, centre there"),
        ({"images": {}}, "images['head'].height: 224 here, 0 there"),
    ],
)
def test_where_policies_differ_is_named(change: dict[str, Any], words: str) -> None:
    assert words in policy_differences(TRAVELLER, replace(TRAVELLER, **change))


def test_what_a_robot_need_not_know_is_no_difference() -> None:
    assert not policy_differences(TRAVELLER, replace(TRAVELLER, name="other", meta={}, supports_prefix=False))
