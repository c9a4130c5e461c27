"""The RULEs of a topics file: what each reads, and what each refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chunkwise.processing.igris import IgrisFileError
from chunkwise.robots._igris import messages
from chunkwise.robots._igris.rules import MessageError, rule_of

JOINTS = messages.JointState(position=np.arange(12.0), effort=-np.arange(12.0))
POSE = messages.PoseStamped(pose=messages.Pose(messages.Point(1, 2, 3), messages.Quaternion(0.1, 0.2, 0.3, 0.4)))


def read(rule: Any, message: Any) -> Any:
    return rule_of(rule, type(message).__name__, "key").read(message)


@pytest.mark.parametrize(
    ("rule", "message", "expected", "dtype"),
    [
        ({"attr": "position", "slice": [6, 12]}, JOINTS, range(6, 12), "float32"),
        ({"attr": "effort", "slice": [0, 2]}, JOINTS, [0, -1], "float32"),
        ({"attr": "position"}, JOINTS, range(12), "float64"),
        ({"slice": [1, 3]}, messages.Float32MultiArray([5.0, 6.0, 7.0]), [6, 7], "float32"),
        ({}, messages.Float32(2.5), [2.5], "float64"),
        ({}, messages.Bool(True), [True], "bool"),
        ("data", messages.Int32(7), [7], "int64"),
        ("data", messages.Float64(-1.5), [-1.5], "float64"),
        ("pose.position", POSE, [1, 2, 3], "float32"),
        ("pose.orientation", POSE, [0.1, 0.2, 0.3, 0.4], "float32"),
        ("header.stamp.sec", POSE, [0], "int64"),
    ],
)
def test_what_a_rule_reads(rule: Any, message: Any, expected: Any, dtype: str) -> None:
    value = read(rule, message)
    assert value.dtype == dtype and value.ndim == 1
    np.testing.assert_allclose(value, list(expected), rtol=1e-7)


def test_a_text_is_a_text() -> None:
    assert read("data", messages.String("fold")) == "fold"


def test_a_value_is_a_copy_of_the_message() -> None:
    message = messages.JointState(position=np.arange(12.0))
    for rule in ({"attr": "position"}, {"attr": "position", "slice": [0, 6]}):
        value = read(rule, message)
        message.position[0] = 9.0  # type: ignore[index]
        assert value[0] == 0.0
        message.position[0] = 0.0  # type: ignore[index]


def picture(encoding: str, height: int, width: int, step: int, count: int) -> messages.Image:
    data = np.arange(count, dtype=np.uint8).tobytes()
    return messages.Image(height=height, width=width, encoding=encoding, step=step, data=data)


def test_pictures() -> None:
    assert read("data", picture("rgb8", 2, 3, 9, 18))[1, 2].tolist() == [15, 16, 17]
    assert read("data", picture("rgb8", 2, 3, 0, 18)).shape == (2, 3, 3)
    padded = read("data", picture("mono8", 2, 3, 4, 8))
    assert padded.tolist() == [[0, 1, 2], [4, 5, 6]] and padded.dtype == np.uint8


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (picture("bgr8", 2, 3, 9, 18), "an image in 'bgr8'; rgb8, mono8, 8UC1 are read"),
        (picture("rgb8", 2, 3, 9, 17), "an image of 3 x 2 rgb8 in 17 bytes, 9 to a row"),
        (picture("rgb8", 2, 3, 6, 12), "12 bytes, 6 to a row"),
        (picture("mono8", 0, 3, 3, 0), "an image of 3 x 0"),
    ],
)
def test_a_picture_that_is_none(message: messages.Image, said: str) -> None:
    with pytest.raises(MessageError, match=said):
        read("data", message)


@pytest.mark.parametrize(
    ("rule", "message", "said"),
    [
        (
            {"attr": "position", "slice": [6, 12]},
            messages.JointState(position=[1.0] * 7),
            "7 numbers, .6:12. needs",
        ),
        ({"attr": "position", "slice": [0, 1]}, messages.JointState(), "has 0 numbers"),
        ({"attr": "position"}, messages.JointState(position=[1.0, float("nan")]), "not finite"),
        ({}, messages.Float32(float("inf")), "not finite"),
        ({}, messages.Float32("fast"), "no row of numbers"),  # type: ignore[arg-type]
        ({}, messages.Float32MultiArray([[1.0], [2.0]]), "no row of numbers"),  # type: ignore[list-item]
        ({}, messages.Float32MultiArray([1.0, [2.0]]), "no row of numbers"),  # type: ignore[list-item]
        ("data", messages.String(3), "is int, not a text"),  # type: ignore[arg-type]
        ("pose.position", messages.PoseStamped(pose=messages.Pose(messages.Point(1, None, 3))), "no row"),  # type: ignore[arg-type]
    ],
)
def test_a_field_of_another_shape_is_an_error_and_no_zeros(rule: Any, message: Any, said: str) -> None:
    with pytest.raises(MessageError, match=said):
        read(rule, message)


def test_a_field_that_is_not_there_is_an_error() -> None:
    rule = rule_of({"attr": "position", "slice": [0, 6]}, "JointState", "key")
    with pytest.raises(MessageError, match="a SimpleNamespace without position"):
        rule.read(SimpleNamespace(data=[1.0]))


@pytest.mark.parametrize(
    ("rule", "msg_type", "said"),
    [
        ({"atr": "position"}, "JointState", r"unknown key 'atr' \(did you mean 'attr'\?\)"),
        ({"attr": "postion"}, "JointState", r"no 'postion' in a JointState \(did you mean 'position'\?\)"),
        ({}, "JointState", "no 'data' in a JointState; there are: header, name, position, velocity, effort"),
        ({"attr": 3}, "JointState", "attr must be an attribute, got 3"),
        ({"attr": "position", "slice": [6]}, "JointState", r"slice must be \[start, end\)"),
        ({"attr": "position", "slice": [6, 6]}, "JointState", "slice must be"),
        ({"attr": "position", "slice": [-6, 6]}, "JointState", "slice must be"),
        ({"attr": "position", "slice": [0, 1 << 40]}, "JointState", "slice must be"),
        ({"attr": "position", "slice": [0.0, 6.0]}, "JointState", "slice must be"),
        ({"slice": [0, 1]}, "Float32", "slice needs an array, and data of a Float32 is none"),
        ({"attr": "header"}, "JointState", "header is no number, text or array, but has parts"),
        ({"attr": "data"}, "Image", 'the data of an Image is read by the rule "data"'),
        ("position", "JointState", 'no point; for its numbers write {"attr": "position"}'),
        ("effort", "JointState", 'no picture; write {"attr": "effort"}'),
        ("pose.position.x", "PoseStamped", "is no point"),
        ("pose.orientaton", "PoseStamped", r"did you mean 'orientation'"),
        ("pose", "PoseStamped", "has parts; name one of them"),
        ("data.x", "Float32", "no 'x' in a Float32; there are: none"),
        ("", "Float32", "no ''"),
        ([0, 6], "JointState", "must be a mapping"),
        (None, "JointState", "must be a mapping"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_before_anything_runs(rule: Any, msg_type: str, said: str) -> None:
    with pytest.raises(IgrisFileError, match=said.replace("{", r"\{")):
        rule_of(rule, msg_type, "key")
