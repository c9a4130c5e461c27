"""Pickles are read without being run: values and arrays come out, and everything else is refused by name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.processing.errors import PickleError
from chunkwise.processing.pickled import Global, Instance, Machine, instance
from chunkwise.processing.pickled_arrays import NUMPY, plain

KNOWN = {**NUMPY, "theirs Thing": instance("theirs", "Thing")}


def loads(data: bytes, most: int = 20_000) -> Any:
    return Machine(memoryview(data), KNOWN, most).load()


def refusal(data: bytes) -> str:
    with pytest.raises(PickleError) as caught:
        loads(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 4000
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_protocol(protocol: int) -> None:
    value = {"a": [1, -1, 255, 70_000, 1 << 40, 0.5, None, True, False], "b": ("x", (), ("y",), "é" * 300)}
    assert loads(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "i4", ">f8", "f4", "b1"])
def test_arrays_of_every_protocol(kind: str, order: Any, protocol: int) -> None:
    array = np.array(np.arange(24).reshape(2, 3, 4), dtype=kind, order=order)
    one, again = loads(pickle.dumps([array, array], protocol=protocol))
    assert np.array_equal(one.array, array) and again is one
    assert loads(pickle.dumps(array[1, 2, 3], protocol=protocol)) == array[1, 2, 3]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_is_what_was_pickled(protocol: int) -> None:
    value = {"a": {"mean": np.arange(3.0), "count": np.int64(7)}, "b": [np.float32(0.5), (True, None, "x")]}
    made = plain(loads(pickle.dumps(value, protocol=protocol)), 100)
    assert (
        made["a"]["mean"].tolist() == [0, 1, 2]
        and made["a"]["count"] == 7
        and made["b"] == [0.5, (True, None, "x")]
    )


def test_plain_refuses_what_is_half_made() -> None:
    deep: Any = []
    for _ in range(20):
        deep = [deep]
    for value in (
        Instance("theirs", "Thing"),
        [memoryview(b"x")],
        Global("numpy", "ndarray", NUMPY["numpy ndarray"]),
        deep,
    ):
        with pytest.raises(PickleError, match=r"no array|nested"):
            plain(value, 100)


class Malicious:
    def __init__(self, called: Any, *arguments: Any) -> None:
        self._reduced = called, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    "evil", [(os.system, "touch {}"), (eval, "open('{}', 'w')"), (getattr, "x", "upper"), (open, "{}", "w")]
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_that_is_named_is_called(evil: Any, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"a": [Malicious(*evil)]}, protocol=protocol)
    assert "is not allowed" in refusal(data.replace(b"{}", str(tmp_path / "x").encode()[-2:]))
    assert not list(tmp_path.iterdir())


def test_no_name_leads_to_code_of_others() -> None:
    for each in NUMPY.values():
        for function in (each.made, each.empty):
            assert function is None or getattr(function, "__module__", "").startswith("chunkwise.processing")


def test_an_instance_keeps_its_fields() -> None:
    data = b"\x80\x02ctheirs\nThing\n)\x81}X\x01\x00\x00\x00aK\x07sb."
    assert loads(data).fields == {"a": 7}
    assert "built once, of a dict" in refusal(data.replace(b"sb.", b"sbNb."))
    assert "cannot be made" in refusal(data.replace(b")\x81", b"N\x85\x81"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (b"\x80\x01N.", "protocol 1"),
        (b"\x80\x04N", "cut off"),
        (b"\x80\x04.", "a value is missing"),
        (b"\x80\x04NN.", "left over"),
        (b"\x80\x04(.", "a value is missing"),
        (b"\x80\x04e.", "mark is missing"),
        (b"\x80\x04h\x00.", "not remembered"),
        (b"\x80\x040.", "instruction 0x30"),
        (b"\x80\x04" + b"(" * 100, "nested too deep"),
        (b"\x80\x04" + b"N" * 10_000, "too long"),
        (b"\x80\x04N" + b"\x85" * 30_000, "too long"),
        (b"\x80\x04\x8aff" * 3, "128 bits"),
        (b"\x80\x04X\xff\xff\xff\x7f", "more than"),
        (b"\x80\x04X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x04B\xff\xff\xff\xffabc.", "cut off"),
        (b"\x80\x04}K\x01K\x02s.", "a key must be a text"),
        (b"\x80\x04}(Nu.", "without its value"),
        (b"\x80\x04NNa.", "a list is missing"),
        (b"\x80\x04N)R.", "cannot be called"),
        (b"\x80\x04N)\x81.", "cannot be made"),
        (b"\x80\x04NNb.", "cannot be built"),
        (b"\x80\x04NQ.", "persistent"),
        (b"\x80\x04NN\x93.", "no text"),
        (b"\x80\x02c" + b"a" * 1000, "cut off, or too long"),
        (b"\x80\x02cos\nsystem\n.", "'os.system' is not allowed"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "cannot be called"),
        (b"\x80\x02cnumpy\ndtype\n)R.", "does not take"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "numbers"),
        (b"\x80\x02cnumpy\ndtype\nX\x04\x00\x00\x00S999\x85R.", "numbers"),
    ],
)
def test_what_is_no_pickle_of_ours_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


def test_arrays_are_as_large_as_their_bytes() -> None:
    whole = pickle.dumps(np.zeros((3, 5), np.uint8), protocol=4)
    for wrong in (
        whole.replace(b"K\x03K\x05\x86", b"K\x04K\x05\x86"),
        whole.replace(b"K\x03K\x05\x86", b"K\x03NN"[:5]),
    ):
        assert wrong != whole
        refusal(wrong)
    twice = whole.replace(b"b.", b"b") + b"NNb."
    refusal(twice)


def test_lists_of_the_same_lists_are_not_unfolded() -> None:
    value: Any = [None] * 1000
    for _ in range(8):
        value = [value] * 1000
    loaded = loads(pickle.dumps(value, protocol=4))
    with pytest.raises(PickleError, match="too many values"):
        plain(loaded, 20_000)


def test_what_is_recalled_is_not_copied_without_end() -> None:
    text = b"x" * 100_000
    named = b"\x80\x02c_codecs\nencode\nq\x00X" + len(text).to_bytes(4, "little") + text + b"q\x01"
    head = named + b"X\x06\x00\x00\x00latin1q\x02"
    assert "makes more" in refusal(head + b"h\x00h\x01h\x02\x86R" * 1000 + b".")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_value_or_a_refusal(data: bytes, at: int) -> None:
    whole = pickle.dumps({"a": {"mean": np.arange(3.0)}, "b": [1, "x"]}, protocol=4)
    for each in (data, b"\x80\x04" + data, whole[:at] + data + whole[at + len(data) :]):
        try:
            plain(loads(each), 1000)
        except PickleError:
            continue
