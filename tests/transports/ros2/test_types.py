"""Message types: their CDR is that of rosbags, byte by byte; what does not fit is refused by name."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from chunkwise.transports._ros2 import MalformedMessage, Ros2Error
from chunkwise.transports._ros2.types import Types

JOINTS = "sensor_msgs/msg/JointState"
VARIANT = """\
string key
string type
bool[] bool_array
string[] string_array
std_msgs/Int32MultiArray int_32_array
std_msgs/Int64MultiArray int_64_array
std_msgs/Float32MultiArray float_32_array
std_msgs/Float64MultiArray float_64_array
"""
LIST = "Variant[] variants\n"
TEXTS = {"ibrobot_msgs/msg/Variant": VARIANT, "ibrobot_msgs/msg/VariantsList": LIST}


@pytest.fixture(scope="module")
def types() -> Types:
    return Types("jazzy", TEXTS)


def test_bytes_are_those_of_rosbags(types: Types) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds = store.types
    stamp = kinds["builtin_interfaces/msg/Time"](12, 34)
    header = kinds["std_msgs/msg/Header"](stamp, "base")
    joints = kinds[JOINTS](header, ["a", "bc"], np.array([1.0, 2.0]), np.zeros(0), np.array([0.5, 0.25]))
    fields = {
        "header": {"stamp": {"sec": 12, "nanosec": 34}, "frame_id": "base"},
        "name": ["a", "bc"],
        "position": [1, 2],
        "effort": np.array([0.5, 0.25], np.float32),
    }
    assert types.encode(JOINTS, fields) == bytes(store.serialize_cdr(joints, JOINTS))
    assert types.encode(JOINTS, joints) == types.encode(JOINTS, fields), "an object with attributes is as good"
    image = "sensor_msgs/msg/Image"
    pixels = np.random.default_rng(0).integers(0, 256, 6, np.uint8)
    whole = kinds[image](header, 1, 2, "rgb8", 0, 6, pixels)
    given_fields = {"header": fields["header"], "height": 1, "width": 2, "encoding": "rgb8", "step": 6}
    assert types.encode(image, {**given_fields, "data": pixels.tobytes()}) == bytes(
        store.serialize_cdr(whole, image)
    )


def test_both_byte_orders_are_read(types: Types) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    message = types.make("std_msgs/msg/Float64MultiArray", {"data": [1.5, -2.0]})
    big = bytes(store.serialize_cdr(message, "std_msgs/msg/Float64MultiArray", little_endian=False))
    assert big[1] == 0
    read = types.decode("std_msgs/msg/Float64MultiArray", big)
    assert read.data.tolist() == [1.5, -2.0]


def test_types_of_texts_go_both_ways(types: Types) -> None:
    picture = np.arange(6, dtype=np.float32)
    dims = [{"label": "", "size": 2, "stride": 0}, {"label": "", "size": 3, "stride": 0}]
    given_fields = {
        "variants": [
            {
                "key": "observation.state",
                "type": "f",
                "float_32_array": {"layout": {"dim": dims}, "data": picture},
            },
            {"key": "task", "string_array": ["fold", "it"]},
        ]
    }
    read = types.decode(
        "ibrobot_msgs/msg/VariantsList", types.encode("ibrobot_msgs/msg/VariantsList", given_fields)
    )
    assert [item.key for item in read.variants] == ["observation.state", "task"]
    assert [dim.size for dim in read.variants[0].float_32_array.layout.dim] == [2, 3]
    assert np.array_equal(read.variants[0].float_32_array.data, picture)
    assert read.variants[1].string_array == ["fold", "it"]


def test_published_hashes() -> None:
    assert Types().hash(JOINTS) == "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"


@pytest.mark.parametrize(
    ("given_fields", "says"),
    [
        ({"nmae": []}, "no field 'nmae' (did you mean 'name'?)"),
        ({"position": [[1.0]]}, "position is a row of float64, got shape (1, 1)"),
        ({"position": ["x"]}, "position is a row of float64"),
        ({"name": [1]}, "name[0] is a text, got int"),
        ({"header": {"stamp": {"sec": 1.5}}}, "sec is one int32, got float"),
        ({"header": {"stamp": {"sec": 1 << 40}}}, "cannot be written"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(types: Types, given_fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Ros2Error) as caught:
        types.encode(JOINTS, given_fields)
    assert says in str(caught.value)


def test_fractions_are_no_bytes(types: Types) -> None:
    with pytest.raises(Ros2Error, match="data is a row of uint8: got fractions"):
        types.encode("sensor_msgs/msg/Image", {"data": [0.5]})


def test_an_objects_missing_fields_are_empty(types: Types) -> None:
    read = types.decode(JOINTS, types.encode(JOINTS, SimpleNamespace(position=[3.0])))
    assert read.position.tolist() == [3.0] and read.name == [] and read.header.stamp.sec == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("jazy",), "no ROS 2 distribution 'jazy' (did you mean 'jazzy'?)"),
        (("jazzy", {"a/b/c/d": "int32 x"}), "'a/b/c/d' is no message type"),
        (("jazzy", {"a/msg/B": "int32 = ="}), "a/msg/B is no .msg"),
        (("jazzy", {"a/msg/B": "other/Thing x"}), "a/msg/B has a other/msg/Thing"),
        (("jazzy", {"sensor_msgs/msg/JointState": "int32 x"}), "already present with different definition"),
        (("jazzy", {"a/msg/B": "#" * (1 << 19)}), "must be the text of a .msg file"),
    ],
)
def test_texts_that_are_no_types_are_refused(arguments: Any, says: str) -> None:
    with pytest.raises(Ros2Error) as caught:
        Types(*arguments)
    assert says in str(caught.value)


def test_unknown_types_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        Ros2Error, match=r"no message type 'sensor_msgs/msg/Imag' \(did you mean 'sensor_msgs/msg/I"
    ):
        Types().fields("sensor_msgs/msg/Imag")


def test_more_than_the_bound_is_neither_sent_nor_taken() -> None:
    types = Types(max_bytes=1000)
    with pytest.raises(Ros2Error, match="at most 1000 are sent"):
        types.encode("sensor_msgs/msg/Image", {"data": bytes(2000)})
    with pytest.raises(MalformedMessage, match="at most 1000 are taken"):
        types.decode("sensor_msgs/msg/Image", bytes(2000))


@given(data=st.binary(max_size=200))
def test_garbage_is_a_typed_error(types: Types, data: bytes) -> None:
    for name in (JOINTS, "ibrobot_msgs/msg/VariantsList", "trajectory_msgs/msg/JointTrajectory"):
        for head in (b"", b"\x00\x01\x00\x00"):
            with suppress(MalformedMessage):
                types.decode(name, head + data)


def test_every_cut_of_a_message_is_a_typed_error(types: Types) -> None:
    whole = types.encode(JOINTS, {"name": ["a", "b"], "position": [1.0, 2.0], "effort": [1.0]})
    for length in range(len(whole)):
        with pytest.raises(MalformedMessage):
            types.decode(JOINTS, whole[:length])


@pytest.mark.parametrize("little", [True, False])
def test_a_message_of_very_many_parts_is_not_put_together(types: Types, little: bool) -> None:
    """Their bytes are few, and each costs a hundred times as much in memory, and the interpreter's time."""
    store = types._store
    many = "ibrobot_msgs/msg/VariantsList"
    for fields in ({"variants": [{}] * 2000}, {"variants": [{"string_array": [""] * 20_000}]}):
        data = bytes(store.serialize_cdr(types.make(many, fields), many, little_endian=little))
        with pytest.raises(MalformedMessage, match="more than 16384 texts and messages"):
            types.decode(many, data)
    joints = {"name": [str(at) for at in range(17_000)]}
    with pytest.raises(MalformedMessage, match="more than 16384"):
        types.decode(JOINTS, bytes(store.serialize_cdr(types.make(JOINTS, joints), JOINTS, little_endian=little)))


def test_a_large_message_of_few_parts_is_read(types: Types) -> None:
    many = "ibrobot_msgs/msg/VariantsList"
    whole = {
        "variants": [
            {
                "key": f"k{at}",
                "type": "t" * at,
                "bool_array": [True] * at,
                "string_array": ["x" * at, ""],
                "int_64_array": {"layout": {"dim": [{"label": "l" * at, "size": at}] * at}, "data": range(at)},
                "float_32_array": {"data": np.zeros(9000 + at, np.float32)},
            }
            for at in range(6)
        ]
    }
    data = types.encode(many, whole)
    assert len(data) > 1 << 16 and types.encode(many, types.decode(many, data)) == data
    names = {"name": [f"j{at}" for at in range(16_000)], "position": np.zeros(16_000)}
    assert len(types.decode(JOINTS, types.encode(JOINTS, names)).name) == 16_000
