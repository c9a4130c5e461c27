"""Trees to bytes and back: to the last bit, and from any bytes without harm."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from chunkwise.contract.packing import MAX_TEXT_BYTES, Packed, PackingError, Unpacker


def there_and_back(tree: dict[str, Any]) -> dict[str, Any]:
    made = Unpacker()(memoryview(b"".join(Packed(tree).buffers)))
    assert made.pop("left_out") == []
    return made


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(
    arrays.arrays(
        st.one_of(
            arrays.integer_dtypes(endianness="?"),
            arrays.unsigned_integer_dtypes(),
            arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
            arrays.boolean_dtypes(),
        ),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_to_the_last_bit(array: np.ndarray) -> None:
    assert same(there_and_back({"a": array})["a"], array)


def test_whatever_the_order_in_memory() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for view in (array.T, array[:, ::2], array[..., ::-1], np.asfortranarray(array)):
        assert same(there_and_back({"a": view})["a"], np.ascontiguousarray(view))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "left_out"), plain, max_size=4))
def test_plain_values_come_back(tree: dict[str, Any]) -> None:
    assert there_and_back(tree) == tree


def test_arrays_anywhere_in_the_tree() -> None:
    tree = {"meta": {"a": [1, {"b": np.arange(3)}, np.float32(2)], "c": np.bool_(True)}}
    made = there_and_back(tree)["meta"]
    assert made["a"][1]["b"].tolist() == [0, 1, 2]
    assert made["a"][2] == 2.0 and made["c"] is True


def test_what_cannot_be_written_is_named() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    packed = Packed({"a": {"b": object(), "c": 1}, "n": np.array(["text"]), "k": {1: 2}, "loop": loop})
    made = Unpacker()(memoryview(b"".join(packed.buffers)))
    assert made["a"] == {"b": None, "c": 1}
    assert (
        made["left_out"][:3] == ["a.b", "n", "k.1"]
        and made["k"] == {}
        and made["left_out"][3].startswith("loop.again")
    )


def test_an_array_that_repeats_is_written_once() -> None:
    image = np.arange(1000)
    unpack = Unpacker(remembers=lambda path: True)
    first, again = Packed({"a": image}), Packed({"a": image}, lambda path, array, data: True)
    assert sum(map(len, again.buffers)) < 200
    made = [unpack(memoryview(b"".join(packed.buffers)))["a"] for packed in (first, again)]
    assert same(made[0], image) and same(made[1], image)
    made[0][:] = 0
    assert made[1][5] == 5


def test_too_much_text_is_refused() -> None:
    with pytest.raises(PackingError, match="too large"):
        Packed({"a": "x" * (MAX_TEXT_BYTES + 1)})


@given(st.binary(max_size=200))
def test_garbage_is_a_recording_error(data: bytes) -> None:
    with pytest.raises(PackingError):
        Unpacker()(memoryview(data))


@pytest.mark.parametrize(
    "packed",
    [
        "[]",
        "nonsense",
        "[" * 100_000,
        '{"tree":{"a":null},"arrays":[]}',
        '{"tree":[],"arrays":[],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"],"<f8",[1000000000000]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"],"<f8",[-1]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"],"<f8",[0.5]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"],"|O8",[1]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"],"<f8,<f8",[0]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["b"],"<f8",[0]]],"left_out":[]}',
        '{"tree":{"a":1},"arrays":[[["a"],"<f8",[0]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[[],"<f8",[0]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[["a"]]],"left_out":[]}',
        '{"tree":{"a":null},"arrays":[[[["x"]],"<f8",[0]]],"left_out":[]}',
        '{"tree":{"a":' + "9" * 5000 + '},"arrays":[],"left_out":[]}',
    ],
)
def test_hostile_text_is_a_recording_error(packed: str) -> None:
    data = struct.pack("<I", len(packed)) + packed.encode()
    with pytest.raises(PackingError):
        Unpacker()(memoryview(data))


def test_bytes_that_belong_to_nothing_are_an_error() -> None:
    data = b"".join(Packed({"a": np.zeros(3)}).buffers)
    with pytest.raises(PackingError, match="belong to nothing"):
        Unpacker()(memoryview(data + b"x"))
    with pytest.raises(PackingError, match="does not fit"):
        Unpacker()(memoryview(data[:-1]))
    assert json.loads(data[4 : 4 + struct.unpack_from("<I", data)[0]])["tree"] == {"a": None}
