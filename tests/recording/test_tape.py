"""Tapes: what went over the wires, written and read back; and how two messages are compared."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkwise.recording import RecordingError
from chunkwise.recording.readings import (
    UNREAD,
    Framing,
    differences,
    first_difference,
    first_message,
    framing_of,
    hexdump,
    reading,
    without,
)
from chunkwise.recording.tape import MAGIC, Kind, TapeReader, TapeWriter
from chunkwise.wires import HttpRequest, HttpResponse

HEAD = struct.Struct("<IIBIQI")


class Clock:
    """Advances by 5 ns with every look."""

    def __init__(self) -> None:
        self.now_ns = 1000

    def __call__(self) -> int:
        self.now_ns += 5
        return self.now_ns


class Peer:
    """The other end, as a transport has it."""

    name, local = "10.0.0.7:99", True

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.closed = False

    def send(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


class Upper:
    """Answers in upper case."""

    def __init__(self, peer: Any) -> None:
        self.peer, self.told = peer, list[str]()

    def opened(self) -> None:
        self.told.append("opened")
        self.peer.send(b"hello")

    def received(self, data: Any) -> None:
        self.peer.send(bytes(data).upper())

    def lost(self, why: str) -> None:
        self.told.append(f"lost {why}")


def conversation(path: Path, **options: Any) -> Peer:
    """Two connections, the second without an end."""
    tape = TapeWriter(path, clock_ns=Clock(), **options)
    accept = tape.tap({"wire": "native", "transport": "tcp"}, Upper)
    peer = Peer()
    first, second = accept(peer), accept(peer)
    first.opened()
    buffer = bytearray(b"abc")
    first.received(memoryview(buffer))
    buffer[:] = b"xyz"
    second.opened()
    first.lost("gone")
    second.received(b"d")
    tape.close()
    tape.close()
    return peer


def test_a_tape_has_everything_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "a" / "one.tape"
    peer = conversation(path)
    assert peer.sent == [b"hello", b"ABC", b"hello", b"D"]
    reader = TapeReader(path)
    for _ in range(2):  # it reads any number of times
        records = list(reader)
        assert [(record.kind, record.connection) for record in records] == [
            (Kind.BEGAN, 0),
            (Kind.OPENED, 1),
            (Kind.OPENED, 2),
            (Kind.WENT, 1),
            (Kind.CAME, 1),
            (Kind.WENT, 1),
            (Kind.WENT, 2),
            (Kind.LOST, 1),
            (Kind.CAME, 2),
            (Kind.WENT, 2),
        ]
        assert not reader.truncated
    assert records[1].data == {"wire": "native", "transport": "tcp", "peer": "10.0.0.7:99"}
    assert [record.data for record in records[3:6]] == [b"hello", b"abc", b"ABC"]
    assert records[7].data == {"why": "gone"}
    times = [record.time_ns for record in records]
    assert times == sorted(times) and times[1] - times[0] == 5
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_nothing_goes_around_the_tape(tmp_path: Path) -> None:
    seen: list[Any] = []
    tape = TapeWriter(tmp_path / "t.tape")
    tape.tap({}, lambda peer: seen.append(peer) or Upper(peer))(Peer())  # type: ignore[func-returns-value]
    tape.close()
    assert seen[0].local is False and seen[0].name == Peer.name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(range(256)),
        "a text ä\udcff",
        HttpRequest("POST", "/predict", {"a": "ä"}, {"x": "y"}, b"\x00body", "1.2.3.4"),
        HttpResponse(503, b"\xff", "text/plain", {"retry-after": "1"}),
        {"why": "so"},
    ],
)
def test_every_form_comes_back(data: Any, tmp_path: Path) -> None:
    tape = TapeWriter(tmp_path / "t.tape")
    tape.note(Kind.CAME, 7, data)
    tape.note(Kind.CAME, 8, object())
    tape.close()
    _, found, other = TapeReader(tmp_path / "t.tape")
    assert found.data == data and found.connection == 7 and other.data is None


def test_several_messages_at_once_are_several_records(tmp_path: Path) -> None:
    tape = TapeWriter(tmp_path / "t.tape")
    peer = Peer()
    made: list[Any] = []
    tape.tap({}, lambda taped: made.append(taped) or Upper(taped))(peer)  # type: ignore[func-returns-value]
    made[0].send([b"a", b"b"])
    made[0].close()
    tape.close()
    assert peer.sent == [[b"a", b"b"]] and peer.closed
    assert [record.data for record in TapeReader(tmp_path / "t.tape")][2:] == [b"a", b"b"]


def test_a_head_is_what_the_page_says(tmp_path: Path) -> None:
    conversation(tmp_path / "t.tape")
    raw = (tmp_path / "t.tape").read_bytes()
    assert raw.startswith(MAGIC)
    size, _, kind, connection, time_ns, form = HEAD.unpack_from(raw, len(MAGIC))
    assert (kind, connection, time_ns, form) == (0, 0, 5, 2)
    assert "wall_ns" in json.loads(raw[len(MAGIC) + HEAD.size :][:size])


def test_a_tape_that_is_cut_off_reads_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "t.tape"
    conversation(path)
    whole = path.read_bytes()
    counts = []
    for end in range(len(MAGIC), len(whole) + 1):
        path.write_bytes(whole[:end])
        reader = TapeReader(path)
        counts.append(len(list(reader)))
        assert reader.truncated == (end not in _ends(whole))
    assert counts == sorted(counts) and counts[-1] == 10


def _ends(whole: bytes) -> set[int]:
    """Where records end."""
    at, found = len(MAGIC), {len(MAGIC)}
    while at < len(whole):
        at += HEAD.size + HEAD.unpack_from(whole, at)[0]
        found.add(at)
    return found


def test_a_damaged_record_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "t.tape"
    conversation(path)
    whole = path.read_bytes()
    for at in range(len(MAGIC), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        reader = TapeReader(path)
        assert len(list(reader)) < 10 and reader.truncated


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_what_is_no_tape_is_said_or_cut_off(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tape"
    for content in (data, MAGIC + data):
        path.write_bytes(content)
        try:
            list(TapeReader(path))
        except RecordingError:
            continue


def test_a_record_of_another_version_is_said(tmp_path: Path) -> None:
    rest = HEAD.pack(0, 0, 99, 1, 0, 0)[8:]
    (tmp_path / "t.tape").write_bytes(MAGIC + struct.pack("<II", 0, zlib.crc32(rest)) + rest)
    with pytest.raises(RecordingError, match="another version"):
        list(TapeReader(tmp_path / "t.tape"))


def test_a_full_tape_takes_nothing_more_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    peer = conversation(tmp_path / "t.tape", max_bytes=300, on_full=told.append)
    assert peer.sent == [b"hello", b"ABC", b"hello", b"D"]  # who is recorded notices nothing
    records = list(TapeReader(tmp_path / "t.tape"))
    assert records[-1].kind is Kind.FULL and len(told) == 1 and "300 bytes" in told[0]
    assert (tmp_path / "t.tape").stat().st_size < 400


def test_a_disk_that_is_full_stops_the_tape_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real, calls = os.writev, list[int]()

    def fails(fd: int, pieces: Any) -> int:
        calls.append(fd)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(fd, pieces)

    monkeypatch.setattr(os, "writev", fails)
    assert conversation(tmp_path / "t.tape", on_full=told.append).sent[-1] == b"D"
    assert len(told) == 1 and "No space" in told[0]


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda fd, pieces: os.write(fd, b"".join(pieces)[:3]))
    conversation(tmp_path / "t.tape")
    assert len(list(TapeReader(tmp_path / "t.tape"))) == 10


def test_a_tape_is_never_written_over(tmp_path: Path) -> None:
    conversation(tmp_path / "t.tape")
    with pytest.raises(RecordingError, match="exists"):
        TapeWriter(tmp_path / "t.tape")
    with pytest.raises(RecordingError, match="cannot read"):
        TapeReader(tmp_path / "none.tape")


# Messages -----------------------------------------------------------------------------------------------------


def native(tree: Any) -> bytes:
    """A message of the native wire without arrays."""
    text = json.dumps({"tree": tree, "arrays": [], "left_out": []}).encode()
    return struct.pack("<2sBBII", b"CW", 1, 4, len(text), 0) + text


def test_streams_are_cut_where_their_messages_end() -> None:
    one, two = native({"id": 1}), native({"id": 22})
    assert framing_of(one[:3], two[-1:]) is Framing.NATIVE
    for end in range(len(one)):
        assert first_message(one[:end], Framing.NATIVE) == 0
    assert first_message(one + two, Framing.NATIVE) == len(one)
    assert framing_of(b"{", b"\n") is Framing.LINES
    assert first_message(b"abc", Framing.LINES) == 0 and first_message(b"abc\nd", Framing.LINES) == 4
    assert framing_of(b"abc", b"d") is Framing.NONE and first_message(b"abc", Framing.NONE) == 3


def test_messages_are_read_by_their_bytes() -> None:
    assert reading(native({"id": 1}))["id"] == 1
    assert reading('{"a": [1]}\n') == {"a": [1]} and reading(b'{"a":') is UNREAD
    assert reading(b"\x81\xa1a\x01") == {"a": 1} and reading(b"hello") is UNREAD
    assert reading(HttpResponse(200, b'{"a": 1}')) == {
        "status": 200,
        "content_type": "application/json",
        "body": {"a": 1},
    }
    assert reading(HttpResponse(200, b"hello")) is UNREAD and reading(native({})[:20]) is UNREAD


@given(st.binary(max_size=60), st.sampled_from([b"", b"CW\x01", b"{", b"["]))
def test_reading_never_raises(data: bytes, head: bytes) -> None:
    reading(head + data)


def test_what_is_ignored_may_differ_and_nothing_else() -> None:
    one, other = (
        native({"id": 1, "server_s": 0.25, "rows": [1.5]}),
        native({"id": 1, "server_s": 0.5, "rows": [1.5]}),
    )
    assert differences(one, one) == []
    assert differences(one, other, ["server_s"]) == []
    found = differences(one, other)
    assert any("server_s: 0.25 | 0.5" in line for line in found) and "first differing byte" in found[0]
    third = native({"id": 1, "server_s": 0.5, "rows": [1.75]})
    assert any("rows[0]: 1.5 | 1.75" in line for line in differences(one, third, ["server_s"]))
    assert without({"a": [{"b": 1, b"c": 2}]}, {"c"}) == {"a": [{"b": 1}]}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (b'{"a": 1}', b'{"b": 1}', ["a: there | nothing", "b: nothing | there"]),
        (b'{"a": [1]}', b'{"a": [1, 2]}', ["a: 1 entries | 2 entries"]),
        (b'{"a": 1}', b'{"a": "1"}', ["a: 1 | '1'"]),
        (b"\x81\xa1a\xc4\x02ab", b"\x81\xa1a\xc4\x02ac", ["a: 2 bytes | 2 bytes, from byte 1 on"]),
        (b"hello", b"help!", ["first differing byte: 3 of 5 (tape) and 5 (now)", "6c 70 21"]),
        (HttpResponse(200, b"{}"), HttpResponse(503, b"{}"), ["status: 200 | 503"]),
        (b"abc", b"abcd", ["first differing byte: 3 of 3"]),
        (b"abc", "abc", ["first differing byte"]),
        (
            json.dumps(dict.fromkeys(map(str, range(30)), 0)),
            json.dumps(dict.fromkeys(map(str, range(30)), 1)),
            ["and 20 more"],
        ),
    ],
)
def test_differences_are_shown(one: Any, other: Any, words: list[str]) -> None:
    text = "\n".join(differences(one, other))
    for word in words:
        assert word in text, text


def test_arrays_are_compared_by_their_numbers(packed_rows: Callable[[Any], bytes]) -> None:
    one, other = np.zeros((2, 3)), np.zeros((2, 3))
    other[1, 2] = np.nan
    text = "\n".join(differences(packed_rows(one), packed_rows(other)))
    assert "rows[1, 2]" in text and "1 of 6 differ" in text
    assert "float64 (2, 3) | float64 (6,)" in "\n".join(
        differences(packed_rows(one), packed_rows(one.reshape(-1)))
    )


@pytest.fixture
def packed_rows() -> Callable[[Any], bytes]:
    """A message of the native wire with one array."""

    def pack(rows: Any) -> bytes:
        entry = [["rows"], rows.dtype.str, list(rows.shape)]
        text = json.dumps({"tree": {"rows": None}, "arrays": [entry], "left_out": []}).encode()
        return struct.pack("<2sBBII", b"CW", 1, 4, len(text), rows.nbytes) + text + rows.tobytes()

    return pack


def test_the_first_difference_and_its_surroundings() -> None:
    assert first_difference(b"abc", b"abc") is None and first_difference(b"", b"a") == 0
    assert first_difference(bytes(100) + b"\x01", bytes(101)) == 100
    lines = hexdump(bytes(range(100)), 40)
    assert [line[:8] for line in lines] == ["00000010", "00000020", "00000030"]
    assert lines[1].endswith(" !\"#$%&'()*+,-./")
    assert hexdump(b"", 0) == ["00000000  (the end)"]
