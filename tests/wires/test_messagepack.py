"""MessagePack with bounds: what is carried, and what is refused."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.wires import WireError
from chunkwise.wires._messagepack import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT_BYTES,
    MAX_VALUES,
    packed,
    unpacked,
)

MOST = 1 << 24
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=20), inner, max_size=20),
    max_leaves=16,
)


def nested(depth: int) -> Any:
    """A list in a list, so many of them."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@given(PLAIN)
def test_values_are_carried(value: Any) -> None:
    assert unpacked(packed(value), MOST) == value


def test_texts_bytes_lists_and_maps_of_every_length() -> None:
    for size in (0, 31, 32, 255, 256, 65535, 65536):
        assert unpacked(packed("a" * size), MOST) == "a" * size
        assert unpacked(packed(memoryview(bytes(size))), MOST) == bytes(size)
    assert unpacked(packed(list(range(MAX_ITEMS))), MOST) == list(range(MAX_ITEMS))
    assert unpacked(packed({b"a": (1, 2), "b": nested(MAX_DEPTH - 1)}), MOST)[b"a"] == [1, 2]


def test_what_is_read_is_no_view_of_the_message() -> None:
    message = bytearray(packed({"picture": b"1234"}))
    found = unpacked(message, MOST)
    message[:] = bytes(len(message))
    assert found == {"picture": b"1234"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (packed(1) + b"\x00", "ExtraData"),
        (packed({"a": [1, 2]})[:-1], "incomplete"),
        (packed(list(range(MAX_ITEMS + 1))), "max_array_len"),
        (packed(dict.fromkeys(map(str, range(MAX_ITEMS + 1)))), "max_map_len"),
        (packed([[0] * MAX_ITEMS] * (MAX_VALUES // MAX_ITEMS)), "values in them"),
        (packed([[[]] * (MAX_CONTAINERS // 2)] * 2), "lists and maps"),
        (packed("a" * (MAX_TEXT_BYTES + 1)), "max_str_len"),
        (packed(nested(MAX_DEPTH + 1)), "in one another"),
        (packed(nested(400)), "in one another"),
        (b"\x91" * 5000 + b"\xc0", "no msgpack"),
        (packed({1: 2}), "map key"),
        (b"\x81\xc0\x01", "map key"),
        (b"\xd4\x05\x00", "no msgpack"),
        (msgpack.packb(msgpack.Timestamp(1)), "no msgpack"),
        (b"\xa1\xff", "UnicodeDecodeError"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        unpacked(data, MOST)


def test_a_longer_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(WireError, match="at most 3 are taken"):
        unpacked(b"\xc4\x02ab", 3)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdc\x02\x00" * 1000,
        b"\xdc\x02\x00" + (b"\xdc\x02\x00" + b"\x90" * 512) * 512,
    ],
)
def test_no_message_costs_more_than_it_may(bomb: bytes) -> None:
    unpacked(b"\x90", MOST)  # what is imported late is imported now
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            unpacked(bomb, MOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("wrong", "kind"), [(object(), TypeError), (1 << 64, OverflowError), ({"a": 1 + 1j}, TypeError)]
)
def test_what_cannot_be_written_is_an_error(wrong: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        packed(wrong)


@given(st.binary(max_size=300))
def test_nothing_raises_anything_but_a_refusal(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpacked(data, MOST)
