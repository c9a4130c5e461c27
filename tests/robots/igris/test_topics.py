"""The topics file: every key is checked, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chunkwise.processing.igris import MAX_BYTES, IgrisFileError
from chunkwise.robots._igris.files import MissingIgrisFile, read_topics, read_yaml


def test_the_file_as_published(files: Any) -> None:
    topics = read_topics(files.topics())
    assert (topics.robot_id, topics.hz) == ("packy", 20.0)
    assert [(item.label, item.topic, item.msg_type) for item in topics.subscriptions] == [
        ("joints", "/igris_b/packy/joint_states", "JointState"),
        ("fingers", "/igris_b/packy/finger_state", "Float32MultiArray"),
        ("finger_currents", "/igris_b/packy/finger_current", "Float32MultiArray"),
    ]
    item, rule = topics.rules()["/observation/joint_pos/left"]
    assert item.label == "joints" and (rule.path, rule.start, rule.stop) == ("position", 6, 12)


def test_keys_that_are_no_observation_are_read_by_nobody(files: Any) -> None:
    def add(topics: dict[str, Any]) -> None:
        topics["joints"]["fields"]["/action/left"] = {"attr": "position"}

    assert "/action/left" not in read_topics(files.topics(add)).rules()


def twice(topics: dict[str, Any]) -> None:
    topics["again"] = topics["joints"]


def other_type(topics: dict[str, Any]) -> None:
    topics["again"] = {**topics["fingers"], "topic": topics["joints"]["topic"], "fields": {"/observation/x": {}}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"robot_id": ..., "HZ": ...}, "without robot_id, HZ; every key is needed"),
        ({"robotid": "packy"}, r"unknown key 'robotid' \(did you mean 'robot_id'\?\)"),
        ({"robot_id": ""}, "robot_id must be the robot's name"),
        ({"robot_id": "pa cky"}, "robot_id must be a name as it may stand in a topic"),
        ({"HZ": 0}, "HZ must be above 0"),
        ({"HZ": "20"}, "HZ must be above 0"),
        ({"topics": []}, "topics must be a mapping"),
        ({"topics": {}}, "topics must be 1 to 256, got 0"),
        (lambda topics: topics["joints"].pop("fields"), "topics.joints: without fields"),
        (lambda topics: topics["joints"].update(type="x"), "topics.joints: unknown key 'type'"),
        (
            lambda topics: topics["joints"].update(msg_type="JointStates"),
            r"msg_type 'JointStates' is not one of .*did you mean 'JointState'",
        ),
        (lambda topics: topics["joints"].update(topic="/a b"), "topic must be names with / between them"),
        (lambda topics: topics["joints"].update(topic="/a/"), "topic must be names"),
        (lambda topics: topics["joints"].update(fields={}), "fields must be 1 to 256, got 0"),
        (lambda topics: topics["joints"]["fields"].update({"/observation/x": {"attr": "pos"}}), "no 'pos' in a"),
        (twice, "/observation/joint_pos/left stands in topics.joints and in topics.again"),
        (other_type, "joint_states is JointState and Float32MultiArray"),
    ],
)
def test_what_cannot_be_is_refused_by_name(files: Any, change: Any, said: str) -> None:
    path = files.topics(change) if callable(change) else files.topics(**change)
    with pytest.raises(IgrisFileError, match=said):
        read_topics(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"HZ": 1, "HZ": 2}', '{"HZ": NaN}', "[" * 9999])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "topics.json"
    path.write_text(text)
    with pytest.raises(IgrisFileError, match=r"topics.json"):
        read_topics(path)


def test_a_file_is_bounded_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "topics.json"
    with pytest.raises(MissingIgrisFile, match=r"runtime topics: no file .*topics.json"):
        read_topics(path)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(IgrisFileError, match="larger than"):
        read_topics(path)
    with pytest.raises(IgrisFileError, match="cannot read"):
        read_topics(tmp_path)


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2", "a: &x [1]\nb: *x", "a: [", "!!python/object/apply:os.system ['true']", "[" * 9999]
)
def test_yaml_without_aliases_twice_keys_and_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(IgrisFileError, match=r"config.yaml is not YAML"):
        read_yaml(path, "config")
