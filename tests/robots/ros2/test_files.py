"""The three files that describe a robot: what they mean, and every key that is wrong by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkwise import plugins
from chunkwise.contract import Hold, InterfaceValidationError
from chunkwise.robots.ros2 import trees
from chunkwise.robots.ros2.contracts import contract_body, igris_body
from chunkwise.robots.ros2.own import body_of
from chunkwise.robots.ros2.trees import Ros2FileError
from chunkwise.transports._ros2 import Qos

OWN: dict[str, Any] = {
    "name": "bench",
    "control_hz": 30,
    "observations": {
        "arm": {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "names": ["a", "b"]},
        "head": {
            "topic": "/head",
            "type": "sensor_msgs/CompressedImage",
            "qos": {"reliability": "best_effort", "depth": 1},
            "align": {"strategy": "asof", "tol_ms": 200, "stamp": "receive"},
        },
    },
    "actions": {"arm": {"topic": "/commands", "type": "std_msgs/msg/Float64MultiArray", "safe": "hold"}},
}

CONTRACT: dict[str, Any] = {
    "robot": {
        "name": "so101",
        "joints": {"arm": ["1", "2"]},
        "contract": {
            "rate_hz": 20,
            "default_task": "pick",
            "observations": [
                {
                    "key": "observation.images.top",
                    "topic": "/camera/top/image_raw",
                    "image": {"resize": [2, 2], "encoding": "bgr8"},
                    "align": {"strategy": "hold", "tol_ms": 1500, "stamp": "header"},
                    "qos": {"reliability": "best_effort", "history": "keep_last", "depth": 10},
                },
                {
                    "key": "observation.state",
                    "topic": "/joint_states",
                    "type": "sensor_msgs/msg/JointState",
                    "selector": {"names": ["position.1", "position.2"]},
                },
                {
                    "key": "observation.state",
                    "topic": "/gripper/state",
                    "type": "sensor_msgs/msg/JointState",
                    "selector": {"names": ["position.jaw"]},
                },
            ],
            "actions": [
                {
                    "key": "action",
                    "selector": {"names": ["action.0", "action.1"]},
                    "publish": {
                        "topic": "/arm_position_controller/commands",
                        "type": "std_msgs/msg/Float64MultiArray",
                        "qos": {"reliability": "reliable", "depth": 5},
                    },
                    "from_tensor": {"clamp": [-3.14, 3.14]},
                    "safety_behavior": "hold",
                },
                {
                    "key": "action",
                    "selector": {"names": ["action.2"]},
                    "publish": {"topic": "/gripper_position_controller/commands"},
                    "from_tensor": {"clamp": [0, 1]},
                    "safety_behavior": "zeros",
                },
            ],
        },
    }
}

TOPICS: dict[str, Any] = {
    "robot_id": "packy",
    "HZ": 20,
    "topics": {
        "joints": {
            "topic": "/igris_b/packy/joint_states",
            "msg_type": "JointState",
            "fields": {
                "/observation/joint_pos/left": {"slice": [6, 12], "attr": "position"},
                "/observation/joint_pos/right": {"slice": [0, 6], "attr": "position"},
            },
        },
        "eye": {"topic": "/eye", "msg_type": "Image", "fields": {"/observation/head": "data"}},
    },
}
IGRIS_ACTIONS = {
    "actions": {
        side: {
            "topic": "/igris_b/packy/target_joints",
            "type": "sensor_msgs/msg/JointState",
            "names": [f"{side}_{number}" for number in range(6)],
            "state": f"joint_pos/{side[:-4]}",
        }
        for side in ("right_arm", "left_arm")
    }
}


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The tree with another value at a path; `...` takes it away."""
    made = deepcopy(tree)
    at: Any = made
    *way, last = path.split("/")
    for part in way:
        at = at[int(part) if part.isdecimal() else part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return made


def test_our_own() -> None:
    body = body_of(OWN, "own.yaml")
    spec = body.spec()
    assert (spec.name, spec.control_hz, spec.image_keys, spec.state_keys) == ("bench", 30, ["head"], [])
    arm, head = body.observations
    assert arm.qos == Qos() and head.qos == Qos("best_effort", depth=1)
    assert (head.align.limit_s(0.02), head.align.stamp) == (0.2, "receive")
    component = spec.components[0]
    assert (component.dof, component.joint_names, component.hold) == (2, ["a", "b"], Hold.REPEAT)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("nam", "x", "unknown key 'nam' (did you mean 'name'?)"),
        ("control_hz", 0, "control_hz must be a number above 0"),
        ("actions", {}, "no actions: nothing that a policy could command"),
        ("observations/arm/topik", "/x", "observations.arm: unknown key 'topik' (did you mean 'topic'?)"),
        ("observations/arm/topic", ..., "observations.arm: without topic"),
        ("observations/arm/topic", "/a b", "'/a b' is no topic"),
        ("observations/arm/type", "sensor_msgs/msg/LaserScan", "type sensor_msgs/msg/LaserScan is none of"),
        ("observations/arm/names", ["a", "a"], "names: 'a' twice"),
        ("observations/arm/names", [], "must be a list of 1 to"),
        ("observations/arm/slice", [0, 2], "names or a slice, not both"),
        ("observations/arm/field", "speed", "field must be one of position, velocity, effort"),
        ("observations/arm/image", {"encoding": "rgb8"}, "image is for pictures"),
        ("observations/head/names", ["a"], "a picture has neither names nor a slice"),
        ("observations/head/image", {"encoding": "bgr9"}, "did you mean 'bgr8'"),
        ("observations/head/image", {"resize": [1]}, "resize must be [height, width]"),
        ("observations/head/qos/reliability", "besteffort", "did you mean 'best_effort'"),
        ("observations/head/qos/history", "keep_all", "history must be keep_last"),
        ("observations/head/qos/dept", 3, "unknown key 'dept' (did you mean 'depth'?)"),
        ("observations/head/align/strategy", "latest", "strategy must be one of hold, asof, drop"),
        ("observations/head/align/tol_ms", ..., "without tol_ms, which must say how old"),
        ("observations/head/align/tol_ms", -1, "tol_ms must be a number above 0"),
        ("observations/head/align/stamp", "sent", "stamp must be one of header, receive"),
        ("actions/arm/type", "std_msgs/msg/String", "type std_msgs/msg/String is none of"),
        ("actions/arm/clamp", [1, -1], "clamp must leave room"),
        ("actions/arm/clamp", [None, 1], "both of them numbers"),
        ("observations/arm/qos", False, "qos must be a mapping of names, got False"),
        ("observations/arm/align", {"tol_ms": 0}, "tol_ms must be a number above 0"),
        ("actions/arm/clamp", [[0, 0, 0], 1], "lowest must be a number, or 2 of them"),
        ("actions/arm/safe", "stop", "safe must be one of hold, zeros"),
        ("actions/arm/command", "joint_positon", "did you mean 'joint_position'"),
        ("actions/arm/command", "cartesian_pose", "cartesian_pose goes out as PoseStamped"),
        ("actions/arm/names", ["a", "b", "c"], "action arm has 3 numbers, and arm 2"),
        ("actions/arm/state", "arms", "no observation 'arms' (did you mean 'arm'?)"),
        ("actions/other", {"topic": "/x", "type": "std_msgs/msg/Float64MultiArray", "names": ["x"]}, "state: KEY"),
        ("actions/other", {"topic": "/x", "type": "std_msgs/msg/Float64MultiArray"}, "how many numbers"),
    ],
)
def test_what_is_wrong_in_our_own_is_named(path: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        body_of(changed(OWN, path, value), "own.yaml").spec()
    assert says in str(caught.value)


def test_the_file_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "robots" / "ros2.md").read_text(encoding="utf-8")
    spec = body_of(yaml.safe_load(page.partition("```yaml")[2].partition("```")[0]), "ros2.md").spec()
    assert [component.name for component in spec.components] == ["arm", "gripper"]
    assert spec.components[0].lower == [-1.5, -2, -3] and spec.components[1].type == "gripper"


def test_a_topic_has_one_type_and_one_qos() -> None:
    twice = changed(OWN, "observations/other", OWN["observations"]["arm"] | {"qos": {"depth": 3}})
    with pytest.raises(Ros2FileError, match="/joint_states has two types or two QoS; other is the second"):
        body_of(twice, "own.yaml").spec()


def test_robot_config() -> None:
    body = contract_body(CONTRACT, "robot.yaml")
    spec = body.spec()
    assert (spec.name, spec.control_hz, spec.image_keys) == ("so101", 20, ["top"])
    assert spec.state_keys == ["observation.state"]
    arm, gripper = body.outputs
    assert (arm.component.name, arm.component.lower, arm.component.hold) == ("arm", [-3.14, -3.14], "repeat")
    assert (arm.state_columns, arm.names, arm.qos) == ((0, 1), ("1", "2"), Qos(depth=5))
    assert (gripper.component.name, gripper.component.type, gripper.component.hold) == (
        "gripper",
        "gripper",
        "zero",
    )
    assert (gripper.state_columns, gripper.component.joint_names) == ((2,), ["jaw"])
    top = body.observations[0]
    assert top.align.limit_s(0.05) == 1.5, "hold, and no longer than tol_ms"
    assert top.qos == Qos("best_effort")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("robot/contract/observation", [], "unknown key 'observation' (did you mean 'observations'?)"),
        ("robot/contract/base_contract", "base.yaml", "is merged by nobody"),
        ("robot/contract/observations", [], "observations must be a list of 1 to 256"),
        (
            "robot/contract/observations/0/alignn",
            {},
            "observations[0]: unknown key 'alignn' (did you mean 'align'?)",
        ),
        ("robot/contract/observations/0/topic", ..., "names no topic: write the topic that the peripheral"),
        ("robot/contract/observations/0/type", "sensor_msgs/msg/JointState", "is a picture, and its type is"),
        ("robot/contract/observations/0/image/channels", 1, "channels must be 3"),
        ("robot/contract/observations/1/selector/names", ["position.1", "velocity.2"], "position and velocity"),
        ("robot/contract/observations/1/selector/nams", ["1"], "unknown key 'nams'"),
        ("robot/contract/observations/1/align", {"strategy": "latest"}, "strategy must be one of"),
        ("robot/contract/actions/0/from_tensor/clam", [0, 1], "unknown key 'clam'"),
        ("robot/contract/actions/0/publish/strategy", "spline", "strategy must be nearest"),
        ("robot/contract/actions/0/safety_behavior", "stop", "safety_behavior must be one of hold, zeros"),
        ("robot/contract/actions/1/selector/names", ["action.3"], "number 3 of observation.state, which has 3"),
        (
            "robot/contract/actions/1/publish/topic",
            "/arm_position_controller/x",
            "there is a component 'arm' already",
        ),
        (
            "robot/contract/actions/0/selector/names",
            ["action.0"],
            "the actions are 2 numbers, and observation.state",
        ),
        (
            "robot/contract/actions/1/selector/names",
            ["action.1"],
            "number 1 of observation.state is commanded twice",
        ),
        (
            "robot/contract/actions/0/selector/names",
            ["1", "7"],
            "observation.state has no joint 7, but has the oth",
        ),
        ("robot/contract/observations/1/selector", {}, "no observation.state with selector.names"),
        ("robot/name", ..., "without name"),
        ("robot/contract", ..., "without observations"),
    ],
)
def test_what_is_wrong_in_a_robot_config_is_named(path: str, value: Any, says: str) -> None:
    with pytest.raises(Ros2FileError) as caught:
        contract_body(changed(CONTRACT, path, value), "robot.yaml").spec()
    assert says in str(caught.value)


def test_joints_whose_names_are_numbers_are_no_indices() -> None:
    by_name = changed(CONTRACT, "robot/contract/actions/0/selector/names", ["position.2", "position.1"])
    assert contract_body(by_name, "robot.yaml").outputs[0].state_columns == (1, 0)
    others = changed(CONTRACT, "robot/contract/actions/0/selector/names", ["shoulder", "elbow"])
    assert contract_body(others, "robot.yaml").outputs[0].state_columns == (0, 1)


def test_what_shares_a_topic_says_where_it_stands() -> None:
    arm = OWN["actions"]["arm"]
    suction = {"component_type": "suction", "command": "eef_activation", "names": ["cup"], "type": arm["type"]}
    alone = changed(OWN, "actions/cup", suction | {"topic": "/cup"})
    assert body_of(alone, "own.yaml").spec().components[1].name == "cup"
    with pytest.raises(Ros2FileError, match="cup shares /commands, and without a state"):
        body_of(changed(OWN, "actions/cup", suction | {"topic": "/commands"}), "own.yaml").spec()


def test_velocities_stop_where_nothing_runs() -> None:
    moving = changed(CONTRACT, "robot/contract/actions/1/publish/topic", "/base_velocity_controller/commands")
    moving = changed(moving, "robot/contract/actions/1/safety_behavior", ...)
    moving = changed(moving, "robot/contract/actions/1/from_tensor/clamp", [-0.5, 0.25])
    base = contract_body(moving, "robot.yaml").spec().get_component("base")
    assert base is not None
    assert (base.command, base.hold, base.max_rate) == (["joint_velocity"], "zero", [0.5])


def test_topics_of_the_igris_engine() -> None:
    body = igris_body(TOPICS, IGRIS_ACTIONS, "topics.json")
    spec = body.spec()
    assert (spec.name, spec.control_hz, spec.image_keys) == ("packy", 20, ["head"])
    assert [component.name for component in spec.components] == ["right_arm", "left_arm"]
    assert {item.key for item in body.observations} == {"joint_pos/left", "joint_pos/right", "head"}
    with pytest.raises(Ros2FileError, match="unknown key 'action'"):
        igris_body(TOPICS, {"action": {}}, "topics.json")
    with pytest.raises(ValueError, match="did you mean 'slice'"):
        igris_body(json.loads(json.dumps(TOPICS).replace('"slice"', '"slise"')), IGRIS_ACTIONS, "topics.json")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def test_the_kind_of_file_is_seen(written: Callable[[str, Any], Path]) -> None:
    make = plugins.load("robots", "ros2")
    assert make(config=written("own.yaml", OWN)).spec.name == "bench"
    assert make(config=written("robot.yaml", CONTRACT)).spec.name == "so101"
    topics, actions = written("topics.json", json.dumps(TOPICS)), written("actions.yaml", IGRIS_ACTIONS)
    assert make(config=topics, actions=actions).spec.name == "packy"
    with pytest.raises(Ros2FileError, match="which has no commands: actions names a YAML"):
        make(config=topics)
    with pytest.raises(Ros2FileError, match="has its own actions"):
        make(config=written("own.yaml", OWN), actions=actions)


def test_files_have_bounds(written: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        trees.read(Path("/nowhere/robot.yaml"))
    with pytest.raises(Ros2FileError, match="aliases are not taken"):
        trees.read(written("a.yaml", "a: &x [1]\nb: *x\n"))
    with pytest.raises(Ros2FileError, match="key 'a' twice"):
        trees.read(written("b.yaml", "a: 1\na: 2\n"))
    with pytest.raises(Ros2FileError, match="is no YAML"):
        trees.read(written("c.yaml", "[" * 5000))
    monkeypatch.setattr(trees, "MAX_BYTES", 10)
    with pytest.raises(Ros2FileError, match="larger than 10 bytes"):
        trees.read(written("d.yaml", "a: 123456789\n"))
    with pytest.raises(Ros2FileError, match="must be a mapping of names"):
        body_of([1], "own.yaml")


def paths(tree: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [way, *(found for key, item in items for found in paths(item, (*way, key)))]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a/b", "/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(data=st.data())
@pytest.mark.parametrize(
    ("tree", "make"),
    [
        (OWN, lambda tree: body_of(tree, "own.yaml")),
        (CONTRACT, lambda tree: contract_body(tree, "robot.yaml")),
        (TOPICS, lambda tree: igris_body(tree, IGRIS_ACTIONS, "topics.json")),
    ],
    ids=["own", "robot_config", "topics"],
)
def test_anything_in_the_place_of_anything_is_a_typed_error(tree: Any, make: Any, data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(paths(tree)))
    made = {"": deepcopy(tree)}
    at: Any = made
    for key in ("", *way)[:-1]:
        at = at[key]
    at[("", *way)[-1]] = data.draw(ANYTHING)
    with suppress(InterfaceValidationError):
        make(made[""]).spec()
