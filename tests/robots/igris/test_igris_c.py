"""IGRIS-C: what is not published of it is asked for, key by key, and nothing is made up."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from chunkwise.contract import InterfaceValidationError, robot_layout
from chunkwise.plugins import load
from chunkwise.processing.igris import IgrisFileError
from chunkwise.robots import Robot
from chunkwise.testing import RobotConformance

IgrisC = load("robots", "igris_c")


FILES = str(Path(__file__).parent / "igris_c_files.py")
CONFIG, TOPICS = load("robots", f"{FILES}:CONFIG"), load("robots", f"{FILES}:TOPICS")


def options(files: Any, config: object = None, **changes: Any) -> dict[str, Any]:
    path: Path = files.path / "igris_c.yaml"
    path.write_text(yaml.safe_dump(CONFIG if config is None else config), encoding="utf-8")
    params = {"action_dim": 14, "proprio_state_dim": 14, "camera_names": ["head"]} | changes
    return {
        "config": path,
        "params": files.params(**params),
        "topics_file": files.topics(robot_id="one", topics=TOPICS),
        "simulated": True,
        "lockstep": True,
    }


class TestConformance(RobotConformance):
    @pytest.fixture(autouse=True)
    def _made(self, files: Any) -> None:
        self.options = options(files)

    def make_robot(self) -> Robot:
        robot: Robot = IgrisC(**self.options)
        return robot


def test_it_is_what_its_file_says(files: Any) -> None:
    robot = IgrisC(**options(files))
    left, right = robot.spec.components
    assert (left.name, left.dof, left.lower, left.initial) == ("left_arm", 7, [-2.0] * 7, [0.1] * 7)
    assert (right.lower, right.upper, right.initial) == (None, None, None)
    assert robot.spec.image_keys == ["head"] and robot.spec.control_hz == 20
    robot.connect()
    heard: list[Any] = []
    robot.bus.subscribe("/igris_c/one/target_joints", "JointState", lambda message: heard.append(message.position))
    robot.act(robot_layout(robot.spec).action(np.arange(14.0) / 14))
    assert np.round(14 * heard[0]).tolist() == [7, 8, 9, 10, 11, 12, 13, 0, 1, 2, 3, 4, 5, 6]


def test_the_slower_of_its_own_limit_and_the_parameters_holds(files: Any) -> None:
    assert IgrisC(**options(files)).spec.components[0].max_rate == [1.0] * 7
    robot = IgrisC(**options(files, max_delta_deg=1))
    assert np.allclose(robot.spec.components[0].max_rate, np.deg2rad(20))


def test_json_is_yaml(files: Any) -> None:
    given = options(files)
    given["config"].write_text(json.dumps(CONFIG), encoding="utf-8")
    assert len(IgrisC(**given).spec.components) == 2


@pytest.mark.parametrize("given", [{}, {"params": Path("params.json")}, {"config": Path("igris_c.yaml")}])
def test_without_its_files_it_says_which_and_what_stands_in_them(given: dict[str, Path]) -> None:
    with pytest.raises(IgrisFileError) as raised:
        IgrisC(simulated=True, **given)
    said = str(raised.value)
    assert all(name in said for name in ("components, publish, cameras", "dof", "max_rate", "initial"))
    assert all(f"{name}" in said.partition(";")[0] for name in {"config", "params", "topics_file"} - set(given))


def test_every_missing_key_is_named_at_once(files: Any) -> None:
    config = deepcopy(CONFIG)
    del config["components"][0]["dof"], config["components"][1]["max_rate"], config["components"][1]["lower"]
    del config["publish"][0]["topic"], config["cameras"]["mode"]
    with pytest.raises(IgrisFileError) as raised:
        IgrisC(**options(files, config))
    assert (
        "without components[0].dof, components[1].lower, components[1].max_rate, publish[0].topic, cameras.mode; "
        "nothing of this robot is guessed" in str(raised.value)
    )
    with pytest.raises(IgrisFileError, match="without components, publish, cameras;"):
        IgrisC(**options(files, {}))


def at(path: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at a path."""
    made: Any = deepcopy(CONFIG)
    *above, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    found = made
    for part in above:
        found = found[part]
    found[last] = value
    return dict(made)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "igris_c.yaml must be a mapping"),
        (at("componens", []), r"unknown key 'componens' \(did you mean 'components'\?\)"),
        (at("components", {}), "components must be a list of 1 to 64"),
        (at("components", []), "components must be a list of 1 to 64"),
        (at("components.0.doff", 7), r"components\[0\]: unknown key 'doff' \(did you mean 'dof'\?\)"),
        (at("components.0.dof", 0), "dof must be a whole number from 1 to 256"),
        (at("components.0.type", "leg"), "type must be one of arm, gripper"),
        (at("components.0.command", "joint_velocity"), "topics of joint targets take positions alone"),
        (at("components.0.command", "joint_postion"), r"did you mean 'joint_position'"),
        (at("components.0.max_rate", None), "max_rate must be 7 numbers: a robot without a limit of speed"),
        (at("components.0.max_rate", [0] * 7), "max_rate must be above zero"),
        (at("components.0.lower", [0] * 6), "lower must be 7 numbers, or null"),
        (at("components.0.lower", [float("nan")] * 7), "lower must be 7 numbers"),
        (at("components.0.initial", [3.0] * 7), "initial is not within the limits"),
        (at("components.0.unit", 1), "unit must be a unit"),
        (at("components.0.name", "right_arm"), "'left_arm' is 0 times in components and 1 times|'right_arm' is 2"),
        (at("components.0.state", "/observation/x"), "no topic has /observation/x .left_arm."),
        (at("publish.0.msg_type", "String"), "msg_type must be JointState or Float32MultiArray"),
        (at("publish.0.components", ["right_arm"]), "'left_arm' is 1 times in components and 0 times in publish"),
        (at("cameras.devices", {}), "igris_c has no 'head'; there are: none"),
        (at("cameras.rotate", "up"), "rotate must be a whole number from 0 to 270"),
    ],
)
def test_what_cannot_be_is_refused_by_name(files: Any, config: Any, said: str) -> None:
    with pytest.raises(InterfaceValidationError, match=said):
        IgrisC(**options(files, config))


def test_the_file_that_the_documentation_shows(files: Any) -> None:
    page = Path(__file__).parents[3] / "docs" / "robots" / "igris.md"
    shown = page.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    given = options(files, action_dim=7, proprio_state_dim=7)
    given["config"].write_text(shown, encoding="utf-8")
    topics = deepcopy(TOPICS)
    del topics["joints"]["fields"]["/observation/joint_pos/right"]
    given["topics_file"] = files.topics(robot_id="one", topics=topics)
    robot = IgrisC(**given)
    assert [part.name for part in robot.spec.components] == ["left_arm"]
