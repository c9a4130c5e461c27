"""The native wire: both halves against each other and against bytes that were written by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    ImageRule,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.wires import (
    Answered,
    Cancel,
    Failed,
    Hello,
    Infer,
    Leave,
    Offer,
    Offered,
    Problem,
    Readiness,
    Reply,
    Reset,
    Share,
    Shared,
    Status,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires.native import Native

GOLDEN = Path(__file__).parent / "golden" / "native"
HEADER = struct.Struct("<2sBBII")
POLICY = PolicySpec(
    "golden",
    ["head"],
    ["arm"],
    outputs=[PolicyOutputSpec("arm", "joint_position", 2, names=["b", "a"], unit="rad")],
    state_names={"arm": ["b", "a"]},
    action_horizon=3,
    control_hz=50.0,
    supports_prefix=True,
    images={"head": ImageRule(2, 3, "letterbox", "top_left")},
    normalisation="sha256:0f",
)
ROBOT = RobotSpec(
    "golden robot",
    ["head"],
    [
        ComponentSpec(
            "arm",
            "arm",
            2,
            ["joint_position"],
            joint_names=["a", "b"],
            lower=[-1.0, -2.0],
            upper=[1.0, 2.0],
            max_rate=3.0,
        )
    ],
    control_hz=50.0,
)


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"golden_native_{name}", GOLDEN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hand = _beside("write")
FRAME = Frame(
    {"head": np.frombuffer(hand.PIXELS, np.uint8).reshape(2, 3, 3)},
    {"arm": np.array(hand.STATE)},
    {"prompt": "päck the box"},
    {"light": 0.5},
    timestamp_ns=1_700_000_000_000_000_001,
    sequence_id=7,
)
PLAIN = ChunkRequest(17, 0.34, 2, 2, 1, inference_delay=1, execute_horizon=2, id=2)
PLANNED = dataclasses.replace(PLAIN, prefix=np.array(hand.PREFIX), prefix_weights=np.array(hand.WEIGHTS), id=3)


def bits(value: Any) -> Any:
    """A call or an event as plain values that compare bit by bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {f.name: bits(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    return "callable" if callable(value) and not isinstance(value, type) else value


def parts(data: bytes) -> tuple[int, Any, bytes]:
    """Kind, text and arrays of one whole message, read without the package."""
    magic, version, kind, text, arrays = HEADER.unpack_from(data)
    assert (magic, version, len(data)) == (b"CW", 1, HEADER.size + text + arrays)
    return kind, json.loads(data[HEADER.size : HEADER.size + text]), data[HEADER.size + text :]


def raw(kind: int, tree: Any, arrays: Sequence[Any] = (), data: bytes = b"") -> bytes:
    """A message by hand."""
    return bytes(hand.message(kind, tree, list(arrays), data))


def sent(sending: Any) -> bytes:
    """What a client half wants sent, in one piece."""
    return b"".join(sending.data) if isinstance(sending.data, list) else bytes(sending.data)


def conversation() -> tuple[list[bytes], list[bytes]]:
    """One message of each kind, as the client and as the server writes it."""
    client, server = Native(session="left bench").client(), Native().server()
    client.robot, client.expects, client.token = ROBOT, POLICY, "s3cret"
    asked = [
        client.opening(),
        client.ask(2, FRAME, PLAIN, None),
        client.ask(3, FRAME, PLANNED, 0.25),
        client.reset(5),
        client.cancel(3),
        client.status(6),
        client.ask_for_memory(8, 4096),
        client.probe(9, 5),
    ]
    rows = ActionChunk(np.array(hand.ROWS), 19, {"server_s": 0.125})
    offer = Offer(Readiness.READY, "", POLICY, "left bench", "chunkwise 0")
    answered = [
        server.answer(Hello(id=0), offer, 0.0),
        server.answer(Infer(3, FRAME, PLANNED), rows, 0.0),
        server.answer(Reset(5), None, 0.0),
        server.answer(
            Infer(3, FRAME, PLANNED), Problem(Trouble.POLICY_FAILED, "RuntimeError: out of memory"), 0.0
        ),
        server.answer(Share(4096, 8), Shared("/proc/1/fd/9", b"\x00\xff" * 8, memoryview(bytearray(4096))), 0.0),
    ]
    (probed,) = Native().server().receive(raw(13, {"id": 9, "ballast": None}, [[["ballast"], "|u1", [0]]]), 0.0)
    answered.append(probed.data)
    return [sent(item) for item in asked], [bytes(item) for item in answered if item]


ASKED, ANSWERED = conversation()


def heard(half: Any, pieces: Iterable[bytes]) -> list[Any]:
    """What a half found in these pieces."""
    return [bits(item) for piece in pieces for item in half.receive(piece, 0.0)]


# There and back -----------------------------------------------------------------------------------------------


def test_every_call_arrives_as_it_was_made() -> None:
    calls = list(Native().server().receive(b"".join(ASKED), 0.0))
    hello, plain, planned, *others = calls
    assert bits(hello) == bits(Hello("left bench", "s3cret", ROBOT, POLICY, 0))
    for call, request, deadline_s in ((plain, PLAIN, None), (planned, PLANNED, 0.25)):
        assert isinstance(call, Infer) and call.complete is None
        assert (call.id, call.deadline_s) == (request.id, deadline_s)
        assert bits(call.frame) == bits(FRAME) and bits(call.request) == bits(request)
    assert others[:4] == [Reset(5), Cancel(3), Status(6), Share(4096, 8)]
    assert isinstance(others[4], Reply) and parts(others[4].data)[:2] == (
        12,
        {"tree": {"id": 9}, "arrays": [], "left_out": []},
    )


def test_every_answer_arrives_as_it_was_given() -> None:
    client = Native().client()
    welcome, chunk, done, problem, offered, probed = client.receive(b"".join(ANSWERED), 0.0)
    assert bits(welcome) == bits(Welcome(Offer(Readiness.READY, "", POLICY, "left bench", "chunkwise 0")))
    assert client.spec == POLICY and client.session == "left bench"
    assert isinstance(chunk, Answered) and chunk.chunk is not None
    assert (chunk.id, chunk.server_s, chunk.chunk.first_step) == (3, 0.125, 19)
    assert bits(chunk.chunk.rows) == bits(np.array(hand.ROWS))
    assert done == Answered(5, None) and probed == Answered(9, None)
    assert problem == Failed(3, Problem(Trouble.POLICY_FAILED, "RuntimeError: out of memory"))
    assert offered == Offered("/proc/1/fd/9", 4096, b"\x00\xff" * 8)


@pytest.mark.parametrize("kind", Trouble)
def test_every_problem_keeps_its_kind_and_its_words(kind: Trouble) -> None:
    problem = Problem(kind, "wörds\nof two lines")
    data = Native().server().answer(Reset(1 << 40), problem, 0.0)
    assert list(Native().client().receive(data, 0.0)) == [Failed(1 << 40, problem)]


@pytest.mark.parametrize("readiness", Readiness)
def test_a_server_says_how_it_is(readiness: Readiness) -> None:
    offer = Offer(readiness, "12 s of 40", None, "s", "v")
    data = Native().server().answer(Status(3), offer, 0.0)
    client = Native().client()
    assert list(client.receive(data, 0.0)) == [Welcome(offer)]
    assert client.spec is None


@settings(max_examples=30)
@given(
    npst.arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=64)),
    npst.arrays(np.float64, 3, elements=st.floats(0, 1)),
)
def test_the_running_plan_is_carried_bit_by_bit(prefix: Any, weights: Any) -> None:
    request = dataclasses.replace(PLAIN, prefix=prefix, prefix_weights=weights)
    data = sent(Native().client().ask(2, FRAME, request, None))
    (call,) = Native().server().receive(data, 0.0)
    assert isinstance(call, Infer) and bits(call.request) == bits(request)


def test_what_arrives_is_copied_out_of_the_transport() -> None:
    data = bytearray(b"".join(ASKED[1:3]))
    calls = Native().server().receive(memoryview(data), 0.0)
    before = [bits(call) for call in calls]
    data[:] = bytes(len(data))
    assert [bits(call) for call in calls] == before
    answered = bytearray(ANSWERED[1])
    (event,) = Native().client().receive(memoryview(answered), 0.0)
    answered[:] = bytes(len(answered))
    assert isinstance(event, Answered) and event.chunk is not None
    assert bits(event.chunk.rows) == bits(np.array(hand.ROWS))


# Pieces -------------------------------------------------------------------------------------------------------

HALVES: tuple[tuple[Callable[[], Any], bytes], ...] = (
    (lambda: Native().server(), b"".join(ASKED)),
    (lambda: Native().client(), b"".join(ANSWERED)),
)
SIDES = pytest.mark.parametrize(("half", "stream"), HALVES, ids=["server", "client"])


@SIDES
def test_byte_by_byte_is_as_whole(half: Callable[[], Any], stream: bytes) -> None:
    assert heard(half(), (stream[at : at + 1] for at in range(len(stream)))) == heard(half(), [stream])


@SIDES
@settings(max_examples=40)
@given(data=st.data())
def test_wherever_it_is_cut_it_is_as_whole(half: Callable[[], Any], stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[one:two] for one, two in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert heard(half(), pieces) == heard(half(), [stream])


@SIDES
def test_a_truncated_message_is_no_message_yet(half: Callable[[], Any], stream: bytes) -> None:
    whole = len(heard(half(), [stream]))
    for cut in range(1, 40):
        assert len(heard(half(), [stream[:-cut]])) == whole - 1


@pytest.mark.parametrize("name", ["infer", "infer_with_plan", "chunk", "reset", "problem"])
def test_bytes_that_belong_to_nothing_are_refused(name: str) -> None:
    data = (GOLDEN / f"{name}.bin").read_bytes()
    magic, version, kind, text, arrays = HEADER.unpack_from(data)
    half: Any = Native().client() if kind % 2 == 0 else Native().server()
    longer = HEADER.pack(magic, version, kind, text, arrays + 3) + data[HEADER.size :] + b"abc"
    with pytest.raises(WireError, match="3 bytes belong to nothing"):
        half.receive(longer, 0.0)
    half = Native().client() if kind % 2 == 0 else Native().server()
    with pytest.raises(WireError, match="begins with b'xy'"):
        half.receive(data + b"xyzxyzxyzxyz", 0.0)


# Written by hand ----------------------------------------------------------------------------------------------


def test_the_golden_files_are_what_the_hand_encoder_writes() -> None:
    made = hand.messages()
    assert {path.stem for path in GOLDEN.glob("*.bin")} == set(made)
    for name, data in made.items():
        assert (GOLDEN / f"{name}.bin").read_bytes() == data, name


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["hello", "infer", "infer_with_plan", "reset", "cancel", "status", "share", "probe"], ASKED),
        (["welcome", "chunk", "done", "problem", "shared", "probed"], ANSWERED),
    ],
    ids=["client", "server"],
)
def test_what_is_written_means_what_the_golden_files_mean(names: list[str], written: list[bytes]) -> None:
    for name, ours in zip(names, written, strict=True):
        kind, text, arrays = parts((GOLDEN / f"{name}.bin").read_bytes())
        if name == "welcome":
            del text["tree"]["policy"]["of_a_later_version"]
        if name == "hello":
            del text["tree"]["expects"]["of_a_later_version"]
            text["tree"]["robot"]["components"][0]["initial"] = None  # written since a later version
        assert parts(ours) == (kind, text, arrays), name


@pytest.mark.parametrize(
    ("half", "names", "written"),
    [
        (
            lambda: Native().server(),
            ["hello", "infer", "infer_with_plan", "reset", "cancel", "status", "share"],
            ASKED,
        ),
        (lambda: Native().client(), ["welcome", "chunk", "done", "problem", "shared", "probed"], ANSWERED),
    ],
    ids=["server", "client"],
)
def test_golden_files_are_read_as_what_is_written_here(
    half: Callable[[], Any], names: list[str], written: list[bytes]
) -> None:
    read = heard(half(), [(GOLDEN / f"{name}.bin").read_bytes() for name in names])
    assert read == heard(half(), written[: len(names)])


def test_a_golden_probe_is_echoed() -> None:
    (reply,) = Native().server().receive((GOLDEN / "probe.bin").read_bytes(), 0.0)
    assert isinstance(reply, Reply)
    assert parts(reply.data) == parts((GOLDEN / "probed.bin").read_bytes())


def test_the_golden_shared_memory_is_read() -> None:
    server = Native().server()
    memory = bytearray((GOLDEN / "infer_shared_memory.bin").read_bytes())
    server.answer(Share(len(memory), 8), Shared("/proc/1/fd/9", bytes(16), memoryview(memory)), 0.0)
    (call,) = server.receive((GOLDEN / "infer_shared.bin").read_bytes(), 0.0)
    assert isinstance(call, Infer) and call.id == 4
    assert bits(call.frame) == bits(FRAME)


# What is refused ----------------------------------------------------------------------------------------------


def test_a_version_that_is_not_spoken_is_named_by_both_ends() -> None:
    reply, leave = Native().server().receive(raw(1, {"versions": [7, 8], "id": 0}), 0.0)
    assert isinstance(reply, Reply) and isinstance(leave, Leave)
    (event,) = Native().client().receive(reply.data, 0.0)
    assert isinstance(event, Failed) and event.id is None and event.problem.kind is Trouble.MISMATCH
    assert "[7, 8]" in event.problem.text and "this server 1" in event.problem.text
    for half in (Native().server(), Native().client()):
        with pytest.raises(WireError, match="version 9; this end speaks version 1"):
            half.receive(HEADER.pack(b"CW", 9, 2, 2, 0) + b"{}", 0.0)


@pytest.mark.parametrize(
    "lengths",
    [(1 << 20, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0, (32 << 20) + 1), (1 << 21, 0)],
)
def test_a_message_that_announces_too_much_is_refused_before_memory_is_taken(lengths: tuple[int, int]) -> None:
    for half in (Native().server(), Native().client()):
        tracemalloc.start()
        try:
            with pytest.raises(WireError, match="at most 33554432 are taken"):
                half.receive(HEADER.pack(b"CW", 1, 4, *lengths), 0.0)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()


def test_no_more_is_kept_than_one_message() -> None:
    server = Native(max_message_mb=1).server()
    tracemalloc.start()
    try:
        server.receive(HEADER.pack(b"CW", 1, 3, 100, (1 << 20) - 100), 0.0)
        for _ in range(250):
            assert not server.receive(bytes(4096), 0.0)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * (1 << 20)
    finally:
        tracemalloc.stop()


INFER = {"id": 2, "deadline_s": None, "frame": hand.FRAME, "request": hand.REQUEST}
SEEN = [hand.IMAGE, hand.ARM_STATE]
BYTES = hand.PIXELS + hand.doubles(*hand.STATE)


def infer(change: dict[str, Any], *arrays: Any, data: bytes = b"") -> bytes:
    """INFER with another request."""
    return raw(3, INFER | {"request": hand.REQUEST | change}, [*SEEN, *arrays], BYTES + data)


PREFIX = [["request", "prefix"], "<f8", [2, 1]]
WEIGHTS = [["request", "prefix_weights"], "<f8", [2]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(2, {"id": 1}), "a client sends no WELCOME"),
        (HEADER.pack(b"CW", 1, 14, 0, 0), "unknown kind 14"),
        (HEADER.pack(b"CW", 1, 5, 0, 0), "no packed tree"),
        (raw(5, {}), "RESET: KeyError: 'id'"),
        (raw(5, {"id": True}), "needs a whole number, has True"),
        (raw(5, {"id": 1.0}), "needs a whole number, has 1.0"),
        (raw(5, {"id": 1 << 63}), "needs a whole number"),
        (raw(5, []), "no tree"),  # type: ignore[arg-type]
        (raw(1, {"versions": [1], "id": 0, "session": "x" * 129}), "at most 128 letters"),
        (raw(1, {"versions": [1], "id": 0, "robot": {"name": "r"}}), "not a robot spec"),
        (raw(1, {"versions": [1], "id": 0, "expects": {"name": "", "outputs": []}}), "not a policy spec|a name"),
        (raw(11, {"id": 1, "size": 0}), "0 bytes of shared memory"),
        (raw(11, {"id": 1, "size": 1 << 40}), "bytes of shared memory"),
        (raw(3, INFER), r"frame\.images|INFER"),  # a null in the place of an image
        (raw(3, INFER | {"deadline_s": -1.0}, SEEN, BYTES), "needs a time in seconds, has -1.0"),
        (raw(3, INFER | {"deadline_s": float("nan")}, SEEN, BYTES), "needs a time in seconds, has nan"),
        (infer({"request_step": None}), "needs a whole number, has None"),
        (infer({"request_time_s": 10**400}), "INFER"),
        (infer({"request_time_s": []}), "INFER: TypeError"),
        (infer({}, PREFIX, data=hand.doubles(1.0, float("nan"))), "the prefix holds a number that is not finite"),
        (infer({}, PREFIX, WEIGHTS, data=hand.doubles(1, 2, 0.5, 1.5)), r"must lie in \[0, 1\]"),
        (infer({}, PREFIX, WEIGHTS, data=hand.doubles(1, 2, 0.5, float("nan"))), r"must lie in \[0, 1\]"),
        (infer({}, WEIGHTS, data=hand.doubles(0.5, 0.5)), "one float64 per row"),
        (infer({}, PREFIX, [WEIGHTS[0], "<f8", [1]], data=hand.doubles(1, 2, 0.5)), "one float64 per row"),
        (infer({"prefix": "abc"}), "INFER"),
        (
            raw(3, INFER, [hand.IMAGE, [hand.ARM_STATE[0], "<f8", [0, 10**30]]], hand.PIXELS),
            "verflow|too large|packed|shape",
        ),
        (raw(3, INFER, [hand.IMAGE, [hand.ARM_STATE[0], "|O8", [1]]], BYTES), "no dtype"),
        (raw(3, INFER, [hand.IMAGE, [hand.ARM_STATE[0], "<f8", [1 << 40]]], BYTES), "does not fit"),
        (raw(3, INFER | {"jpeg": ["nose"]}, SEEN, BYTES), "INFER: KeyError: 'nose'"),
        (raw(15, {}), "there is no shared memory"),
    ],
)
def test_what_is_wrong_is_refused_and_said(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        Native().server().receive(data, 0.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(1, {"id": 1}), "a server sends no HELLO"),
        (raw(8, {"id": 1, "kind": "tired", "text": ""}), "PROBLEM: ValueError: 'tired'"),
        (raw(4, {"id": 1, "rows": None, "first_step": None, "server_s": None}), "CHUNK"),
        (raw(4, {"id": None, "rows": [[1.0]], "first_step": None, "server_s": None}), "needs a whole number"),
        (raw(4, {"id": 1, "rows": [[1.0], [1.0, 2.0]], "first_step": None, "server_s": None}), "rectangular"),
        (raw(10, {"id": 1, "path": "/proc/1/fd/2", "nonce": "zz", "size": 4}), "SHARED: ValueError"),
        (raw(2, {"id": 0, "readiness": "soon"}), "WELCOME"),
    ],
)
def test_what_a_server_says_wrongly_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        Native().client().receive(data, 0.0)


def test_a_chunk_of_another_width_than_the_policys_is_refused() -> None:
    client = Native().client()
    client.receive(ANSWERED[0], 0.0)
    with pytest.raises(WireError, match="3 columns, needs 2"):
        client.receive(Native().server().answer(Reset(1), ActionChunk(np.zeros((2, 3))), 0.0), 0.0)


@pytest.mark.parametrize(
    "options", [{"max_message_mb": 0}, {"max_message_mb": 4096}, {"images": "png"}], ids=lambda item: str(item)
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Native(**options)


ALL = [path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))]


@settings(max_examples=150)
@given(st.data())
def test_no_bytes_raise_anything_but_a_wire_error(data: st.DataObject) -> None:
    stream = bytearray(data.draw(st.one_of(st.binary(max_size=64), st.sampled_from(ALL))))
    for _ in range(data.draw(st.integers(0, 4))):
        if stream:
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    server: Any = Native(max_message_mb=1).server()
    server.answer(Share(256, 8), Shared("/proc/1/fd/9", bytes(16), memoryview(bytearray(256))), 0.0)
    for half in (server, Native(max_message_mb=1).client()):
        try:
            half.receive(bytes(stream), 0.0)
        except WireError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250)
@given(st.data())
def test_no_value_in_any_place_raises_anything_but_a_wire_error(data: st.DataObject) -> None:
    kind, text, arrays = parts(data.draw(st.sampled_from([*ASKED, *ANSWERED])))
    where = text
    while True:  # walk down to some place, and put something else there
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(where[key], (dict, list)) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(JSON)
    written = json.dumps(text).encode()
    for half in (Native().server(), Native().client()):
        try:
            half.receive(HEADER.pack(b"CW", 1, kind, len(written), len(arrays)) + written + arrays, 0.0)
        except WireError:
            continue


# Shared memory ------------------------------------------------------------------------------------------------


def sharing(size: int = 4096) -> tuple[Any, Any, bytearray]:
    """A client and a server with shared memory between them."""
    client, server, memory = Native().client(), Native().server(), bytearray(size)
    server.answer(Share(size, 8), Shared("/proc/1/fd/9", bytes(16), memoryview(memory)), 0.0)
    client.share(memoryview(memory))
    return client, server, memory


def test_arrays_in_shared_memory_are_the_same_arrays() -> None:
    client, server, memory = sharing()
    for number in range(5):
        seen = dataclasses.replace(FRAME, state={"arm": np.array([number, 0.1])})
        data = sent(client.ask(number, seen, dataclasses.replace(PLANNED, id=number), None))
        assert data[3] == 15 and len(data) < 1000
        (call,) = server.receive(data, 0.0)
        assert bits(call.frame) == bits(seen)
        assert bits(call.request) == bits(dataclasses.replace(PLANNED, id=number))
        images = [bytes(image) for image in call.frame.images.values()]
        assert all(not image.flags.writeable for image in call.frame.images.values())
        memory[:] = bytes(len(memory))  # what is not an image was copied
        assert bits(dataclasses.replace(call.frame, images={})) == bits(dataclasses.replace(seen, images={}))
        assert [bytes(image) for image in call.frame.images.values()] != images  # images are where they were put
        answered = server.answer(call, ActionChunk(np.zeros((1, 2))), 0.0)
        del call
        client.receive(server.answer(Reset(number), None, 0.0), 0.0)
        client.receive(answered, 0.0)


def test_nothing_is_written_where_somebody_still_looks() -> None:
    client, server, _ = sharing()
    chunk = ActionChunk(np.zeros((1, 2)))
    calls = [server.receive(sent(client.ask(number, FRAME, PLAIN, None)), 0.0)[0] for number in range(4)]
    assert sent(client.ask(4, FRAME, PLAIN, None))[3] == 3  # all four places are in use: through the stream
    client.receive(server.answer(calls[1], chunk, 0.0), 0.0)  # the policy keeps what it saw
    assert sent(client.ask(5, FRAME, PLAIN, None))[3] == 3
    kept = calls[0].frame
    del calls[0]
    client.receive(server.answer(calls[2], chunk, 0.0), 0.0)
    assert sent(client.ask(6, FRAME, PLAIN, None))[3] == 3  # `kept` holds its place
    del kept
    client.receive(server.answer(calls[2], Problem(Trouble.CANCELLED, "-"), 0.0), 0.0)
    assert sent(client.ask(7, FRAME, PLAIN, None))[3] == 15
    assert sent(client.ask(8, FRAME, PLAIN, None))[3] == 3


def test_an_answer_frees_no_place_that_was_taken_after_its_request() -> None:
    client, server, _ = sharing()
    (first,) = server.receive(sent(client.ask(1, FRAME, PLAIN, None)), 0.0)
    answered = server.answer(first, ActionChunk(np.zeros((1, 2))), 0.0)
    for number in (2, 3, 4):
        client.ask(number, FRAME, PLAIN, None)  # on their way while the answer is
    client.receive(answered, 0.0)
    assert sent(client.ask(5, FRAME, PLAIN, None))[3] == 3


def test_memory_that_was_written_meanwhile_is_refused() -> None:
    client, server, memory = sharing()
    first = sent(client.ask(1, FRAME, PLAIN, None))
    memory[:8] = bytes(8)
    with pytest.raises(WireError, match="changed the memory while it was read"):
        server.receive(first, 0.0)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 34), (7, 34), (4096 - 33, 34), (8, 1 << 63), ((1 << 64) - 1, 34), (5000, 34), (16, 4096)],
)
def test_a_place_outside_of_the_memory_is_refused(offset: int, size: int) -> None:
    client, server, _ = sharing()
    data = bytearray(sent(client.ask(1, FRAME, PLAIN, None)))
    struct.pack_into("<QQ", data, HEADER.size, offset, size)
    with pytest.raises(WireError, match="of 4096 shared ones"):
        server.receive(data, 0.0)
    with pytest.raises(WireError, match="no place in it"):
        server.receive(HEADER.pack(b"CW", 1, 15, 4, 0) + bytes(4), 0.0)


def test_a_request_that_does_not_fit_into_the_memory_goes_through_the_stream() -> None:
    client, server, _ = sharing(64)
    data = sent(client.ask(1, FRAME, PLAIN, None))
    assert data[3] == 3
    (call,) = server.receive(data, 0.0)
    assert bits(call.frame) == bits(FRAME)


# JPEG ---------------------------------------------------------------------------------------------------------


def picture(height: int = 48, width: int = 64) -> Any:
    """Something smooth with three different channels."""
    down, right = np.mgrid[0:height, 0:width]
    return np.stack([4 * down, 3 * right, down + right], axis=-1).astype(np.uint8)


def test_pictures_go_as_jpeg_and_everything_else_as_it_is() -> None:
    depth = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    seen = Frame({"head": picture(), "depth": depth}, {"arm": np.array([1.0, 2.0])})
    data = sent(Native(images="jpeg").client().ask(1, seen, PLAIN, None))
    assert len(data) < picture().nbytes
    (call,) = Native().server().receive(data, 0.0)
    assert isinstance(call, Infer) and call.complete is not None
    assert set(call.frame.images) == {"depth"}  # the picture is decoded when it is wanted
    frame = call.complete()
    assert bits(frame.images["depth"]) == bits(depth) and bits(frame.state) == bits(seen.state)
    difference = np.abs(frame.images["head"].astype(int) - picture().astype(int))
    assert frame.images["head"].dtype == np.uint8 and difference.mean(axis=(0, 1)).max() < 6


@pytest.mark.parametrize("content", [b"no JPEG", b"", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_a_picture_that_is_none_is_found_out_when_it_is_decoded(content: bytes) -> None:
    image = [["frame", "images", "head"], "|u1", [len(content)]]
    tree = INFER | {"jpeg": ["head"]}
    (call,) = (
        Native().server().receive(raw(3, tree, [image, hand.ARM_STATE], content + hand.doubles(*hand.STATE)), 0.0)
    )
    assert isinstance(call, Infer) and call.complete is not None
    with pytest.raises(WireError, match="image 'head'"):
        call.complete()
