"""Tensors and texts in a ``VariantsList``: as the original writes and reads them, and as two of ours do."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.transports._ros2.types import Types
from chunkwise.wires import WireError
from chunkwise.wires._variants import fields_of, message_texts, texts_at, values_of

TYPES = Types(texts=message_texts("ibrobot_msgs"))
LIST = "ibrobot_msgs/msg/VariantsList"
ORIGINAL = ("int32", "int64", "float32", "float64")
OURS = (*ORIGINAL, "bool", "int8", "uint8", "int16", "uint16", "uint32", "uint64", "float16")


def carried(fields: Any) -> Any:
    """The message that comes out of the bytes of one."""
    return TYPES.decode(LIST, TYPES.encode(LIST, fields))


def originals(key: str, field: str, values: Any, sizes: Any = ()) -> dict[str, Any]:
    """A variant with its numbers one by one and a stride of nothing, as the original's converter makes it."""
    array = {"layout": {"dim": [{"label": "", "size": size, "stride": 0} for size in sizes]}, "data": list(values)}
    return {"key": key, "type": field, field: array}


@pytest.mark.parametrize("dtype", ORIGINAL)
def test_tensors_are_the_originals_variants_byte_for_byte(dtype: str) -> None:
    tensor = np.arange(6).reshape(1, 2, 3).astype(dtype)
    field = f"{dtype[:-2]}_{dtype[-2:]}_array"
    wanted = originals("observation.state", field, tensor.ravel().tolist(), tensor.shape)
    assert TYPES.encode(LIST, fields_of({"observation.state": tensor})) == TYPES.encode(
        LIST, {"variants": [wanted]}
    )


def test_what_the_original_sends_is_read() -> None:
    message = carried(
        {
            "variants": [
                originals("observation.state", "float_32_array", [0.5, -1.0], (1, 2)),
                originals("observation.language.tokens", "int_64_array", [7, 8, 9], (1, 3)),
                {"key": "observation.language.attention_mask", "type": "bool_array", "bool_array": [True, False]},
                {"key": "task", "type": "string_array", "string_array": ["pick it up"]},
                originals("observation.scalar", "float_64_array", [2.0]),
            ]
        }
    )
    values = values_of(message)
    assert np.array_equal(values["observation.state"], np.array([[0.5, -1.0]], np.float32))
    assert values["observation.language.tokens"].dtype == np.int64, "tokens stay whole numbers"
    assert values["observation.language.attention_mask"].tolist() == [[True, False]]
    assert values["task"] == ("pick it up",)
    assert values["observation.scalar"].shape == (1,)
    assert texts_at(message, "task") == ("pick it up",) and texts_at(message, "nothing") == ()


@pytest.mark.parametrize("word", ["float_32_array", "float32_array", "float32", "float_32"])
def test_the_words_for_a_type_differ_between_versions_and_are_all_read(word: str) -> None:
    variant = originals("x", "float_32_array", [1.0], (1,)) | {"type": word}
    assert values_of(carried({"variants": [variant]}))["x"].tolist() == [1.0]


@given(
    st.sampled_from(OURS),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_every_tensor_comes_back_as_it_was_between_two_of_ours(dtype: str, shape: list[int], seed: int) -> None:
    tensor = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    back = values_of(carried(fields_of({"x": tensor}, packed=True)))["x"]
    assert back.dtype == tensor.dtype
    assert back.shape == (tensor.shape or (1,)) and np.array_equal(back.ravel(), tensor.ravel())


@pytest.mark.parametrize("dtype", [">u2", ">f2", ">f4", ">i8"])
def test_tensors_of_the_other_byte_order_go_out_as_their_numbers(dtype: str) -> None:
    tensor = np.array([1, 2, 300], dtype)
    back = values_of(carried(fields_of({"x": tensor}, packed=True)))["x"]
    assert back.tolist() == [1, 2, 300] and back.dtype.isnative


def test_pictures_are_neither_widened_nor_copied() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 480, 640, 3), np.uint8)
    fields = fields_of({"observation.images.top": picture}, packed=True)
    data = fields["variants"][0]["int_32_array"]["data"]
    assert np.shares_memory(data, picture)
    assert len(TYPES.encode(LIST, fields)) < picture.nbytes + 256


def test_what_the_original_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"observation\.x is uint8"):
        fields_of({"observation.x": np.zeros(3, np.uint8)})
    with pytest.raises(WireError, match="complex"):
        fields_of({"observation.x": np.zeros(3, np.complex64)}, packed=True)


def broken(change: Any) -> Any:
    tensor = originals("x", "float_32_array", [1.0, 2.0], (1, 2))
    tree = {"variants": [copy.deepcopy(tensor)]}
    change(tree["variants"])
    return carried(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda variants: variants[0].update(type="float_16_array"), "has the type 'float_16_array'"),
        (lambda variants: variants[0].update(key=""), "1 to 256 letters"),
        (lambda variants: variants[0].update(key="k" * 300), "1 to 256 letters"),
        (lambda variants: variants.append(variants[0]), "two variants are 'x'"),
        (
            lambda variants: variants.extend(originals(f"k{i}", "int_32_array", [0]) for i in range(200)),
            "variants; at most",
        ),
        (lambda variants: variants[0]["float_32_array"]["layout"]["dim"][1].update(size=3), r"shape \(1, 3\)"),
        (lambda variants: variants[0]["float_32_array"]["layout"].update(data_offset=1), "offset"),
        (
            lambda variants: variants[0]["float_32_array"]["layout"].update(dim=[{"size": 1}] * 9),
            "more than 8 dimensions",
        ),
        (
            lambda variants: variants[0]["float_32_array"]["layout"].update(dim=[{"size": 2**32 - 1}] * 8),
            "has 2 numbers",
        ),
        (
            lambda variants: variants.append(originals("y", "int_32_array", [1], (9,)) | {}),
            r"shape \(9,\)",
        ),
        (
            lambda variants: variants.append({"key": "t", "type": "string_array", "string_array": ["a"] * 65}),
            "more than 64 texts",
        ),
    ],
)
def test_what_is_no_list_of_variants_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        values_of(broken(change))


def test_packed_words_must_be_as_many_as_they_say() -> None:
    variant = originals("p", "int_32_array", [1, 2], (5,))
    variant["int_32_array"]["layout"]["dim"][0]["label"] = "uint16"
    with pytest.raises(WireError, match="and has 2 words"):
        values_of(carried({"variants": [variant]}))


def test_numbers_in_the_other_byte_order_are_the_same_numbers() -> None:
    array = SimpleNamespace(
        layout=SimpleNamespace(dim=[SimpleNamespace(size=2, label="")], data_offset=0),
        data=np.array([1.5, -2.0], ">f4"),
    )
    variant = SimpleNamespace(key="x", type="float_32_array", float_32_array=array)
    back = values_of(SimpleNamespace(variants=[variant]))["x"]
    assert back.tolist() == [1.5, -2.0] and back.dtype.isnative
