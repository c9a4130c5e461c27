"""Safetensors files are read into numpy, and what is none is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from chunkwise.processing.errors import SafetensorsError
from chunkwise.processing.safetensors import MAX_HEADER, metadata, read, write

TENSORS: dict[str, Any] = {
    "action.mean": np.array([0.5, -1.0], np.float32),
    "double": np.arange(6.0).reshape(2, 3),
    "half": np.array([1.5], np.float16),
    "count": np.array(7, np.int64),
    "bytes": np.arange(5, dtype=np.uint8),
    "flags": np.array([True, False]),
    "nothing": np.zeros((0, 3), np.float32),
}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key]) for key in one
    )


def test_files_of_the_library_are_read() -> None:
    data = save(TENSORS, {"by": "us"})
    assert same(read(data), TENSORS) and metadata(data) == {"by": "us"}
    assert not read(data)["double"].flags.writeable


def test_files_of_ours_are_read_by_the_library() -> None:
    data = write(TENSORS, {"by": "us"})
    assert same(load(data), TENSORS) and same(read(data), TENSORS) and metadata(data) == {"by": "us"}
    assert metadata(write({})) == {} and read(write({})) == {}


def test_other_byte_orders_are_written_as_the_format_has_them() -> None:
    assert read(write({"a": np.array([1, 2], ">i4")}))["a"].tolist() == [1, 2]


def test_bfloat16_is_float32() -> None:
    values = np.array([1.0, -2.5, 3.1415927, np.inf], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    data = write({"a": upper}).replace(b'"U16"', b'"BF16"').replace(b"}  ", b"} ", 1)
    size = len(data) - 8 - upper.nbytes
    made = read(size.to_bytes(8, "little") + data[8:])["a"]
    assert made.dtype == np.float32 and made.tolist() == [1.0, -2.5, 3.140625, np.inf]


def file(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str = "U8", shape: Any = (4,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off"),
        (b"\xff" * 8, "cut off"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + bytes(MAX_HEADER + 1), "at most"),
        (file(b"{"), "no JSON"),
        (file(b"[" * 100_000), "no JSON"),
        (file(b"\xff"), "no JSON"),
        (file([]), "must name"),
        (file(b'{"a": 1, "a": 2}'), "twice"),
        (file({"a": 1}), "'a' must have dtype"),
        (file({"a": entry(more=1)}, b"abcd"), "nothing else"),
        (file({"a": entry("F8_E4M3")}, b"abcd"), "'F8_E4M3' are not read"),
        (file({"a": entry(shape=[-4])}, b"abcd"), "shape must be"),
        (file({"a": entry(shape=[4.0])}, b"abcd"), "shape must be"),
        (file({"a": entry(shape=[True] * 4)}, b"abcd"), "shape must be"),
        (file({"a": entry(shape=[1] * 17)}, b"abcd"), "shape must be"),
        (file({"a": entry(shape=[3])}, b"abcd"), "does not take 4 bytes"),
        (file({"a": entry(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])}), "shape"),
        (file({"a": entry(offsets=[4, 0])}, b"abcd"), "begins and ends"),
        (file({"a": entry(offsets=[0, 4, 8])}, b"abcd"), "begins and ends"),
        (file({"a": entry(offsets=[1, 5])}, b"abcde"), "must begin at byte 0"),
        (file({"a": entry(), "b": entry()}, b"abcd"), "must begin at byte 4"),
        (file({"a": entry()}, b"abc"), "end within 3"),
        (file({"a": entry()}, b"abcde"), "1 bytes follow"),
        (file({"a": entry("I32", [1])}, b"abcd")[:-1], "end within 3"),
    ],
)
def test_what_is_no_file_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(SafetensorsError, match=words):
        read(data)


def test_what_a_file_says_of_itself_is_text() -> None:
    for wrong in ([], {"a": 1}):
        with pytest.raises(SafetensorsError, match="texts by name"):
            metadata(file({"__metadata__": wrong}))


def test_what_the_format_has_no_type_for_is_refused() -> None:
    for name, array in (("a", np.zeros(2, complex)), ("__metadata__", np.zeros(2)), ("o", np.array([None]))):
        with pytest.raises(SafetensorsError, match=f"{name}.* cannot be written"):
            write({name: array})


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 60))
def test_any_bytes_are_tensors_or_a_refusal(data: bytes, at: int, cut: int) -> None:
    whole = write(TENSORS, {"by": "us"})
    for each in (data, file(data), whole[:at] + data + whole[at + cut :]):
        try:
            read(each), metadata(each)
        except SafetensorsError:
            continue


_numbers = st.one_of(st.integers(-2, 1 << 70), st.floats(), st.none(), st.text(max_size=3))
_values = st.recursive(_numbers, lambda inner: st.lists(inner, max_size=4), max_leaves=6)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {
                "dtype": st.one_of(st.sampled_from(["F32", "U8", "BF16", "BOOL"]), _values),
                "shape": st.one_of(st.lists(st.integers(0, 5), max_size=3), _values),
                "data_offsets": st.one_of(st.tuples(st.integers(0, 20), st.integers(0, 20)), _values),
            }
        ),
        max_size=3,
    )
)
def test_any_header_is_tensors_or_a_refusal(header: dict[str, Any]) -> None:
    with contextlib.suppress(SafetensorsError):
        read(file(header, bytes(20)))
