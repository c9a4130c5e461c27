"""The GR00T wire: three dialects, both halves, against bytes that were written by hand."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import re
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from chunkwise import plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    ImageRule,
    InterfaceValidationError,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.server import Listen, Server, Settings
from chunkwise.transports import Address
from chunkwise.wires import (
    Answered,
    Failed,
    Infer,
    Offer,
    Problem,
    Readiness,
    Reply,
    Reset,
    Status,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires._messagepack import packed
from chunkwise.wires._messagepack import unpacked as bounded
from chunkwise.wires.gr00t import Gr00t, matched
from chunkwise.wires.gr00t.dialects import DIALECTS, array_of, written

PATIENCE_S = 10.0
GOLDEN = Path(__file__).parent / "golden" / "gr00t"
POLICY = PolicySpec(
    "golden",
    ["head"],
    ["arm"],
    outputs=[PolicyOutputSpec("arm", "joint_position", 2)],
    action_horizon=3,
)
READY = Offer(Readiness.READY, "", POLICY)
DIALECT = pytest.mark.parametrize("dialect", list(DIALECTS))


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"golden_gr00t_{name}", GOLDEN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hand = _beside("write")
FRAME = Frame(
    {"head": np.frombuffer(hand.PIXELS, np.uint8).reshape(2, 3, 3)},
    {"arm": np.array(hand.STATE)},
    {"prompt": hand.TASK},
)
CHUNK = ActionChunk(np.array(hand.ROWS))


def unpacked(data: Any) -> Any:
    """What a message holds."""
    return bounded(data, 1 << 26)


def golden(name: str, dialect: str = "") -> bytes:
    """A recorded message."""
    return (GOLDEN / f"{dialect.replace('.', '')}{'_' if dialect else ''}{name}.bin").read_bytes()


def server(offer: Offer = READY, **options: Any) -> Any:
    """A server half that knows its policy."""
    half: Any = Gr00t(**options).server()
    assert half.opened(offer, 0.0) is None
    return half


def seen(half: Any, data: bytes) -> Frame:
    """What a request shows."""
    (call,) = half.receive(data, 0.0)
    assert isinstance(call, Infer) and call.complete is not None
    return call.complete()


def error(half: Any, data: bytes) -> str:
    """Why a request is refused; the connection lives."""
    (call,) = half.receive(data, 0.0)
    if isinstance(call, Infer):
        assert call.complete is not None
        with pytest.raises(WireError) as raised:
            call.complete()
        half.answer(call, Problem(Trouble.MALFORMED, str(raised.value)), 0.0)
        return str(raised.value)
    assert isinstance(call, Reply), call
    return str(unpacked(call.data)["error"])


def client(dialect: str = "n1.7", **options: Any) -> Any:
    """A client half that was welcomed by the golden server."""
    half: Any = Gr00t(dialect=dialect, outputs=("arm:joint_position:2",), **options).client()
    half.opening()
    (welcome,) = half.receive(golden("modalities", dialect), 0.0)
    assert isinstance(welcome, Welcome)
    return half


def asked(observation: Any, nested: bool = True, **more: Any) -> bytes:
    """`get_action` by hand."""
    data = {"observation": observation, "options": None} if nested else observation
    return bytes(hand.msgpack({"endpoint": "get_action", "data": data, **more}))


def nd(array: Any) -> Any:
    """An array as N1.7 writes it, by hand."""
    array = np.asarray(array)
    return hand.nd(array.dtype.str, array.shape, array.tobytes())


# Byte by byte -------------------------------------------------------------------------------------------------


def test_the_golden_bytes_are_those_that_are_written_by_hand() -> None:
    for name, data in hand.messages().items():
        assert golden(name) == data


@DIALECT
def test_a_request_of_each_dialect(dialect: str) -> None:
    assert client(dialect).ask(1, FRAME, ChunkRequest(0), None).data == golden("asked", dialect)
    found = seen(server(), golden("asked", dialect))
    assert found.images["head"].tobytes() == hand.PIXELS and found.images["head"].shape == (2, 3, 3)
    assert found.state["arm"].tolist() == list(hand.STATE) and found.state["arm"].dtype == np.float64
    assert found.task == {"prompt": hand.TASK}
    assert found.state["arm"].flags.writeable


@DIALECT
def test_an_answer_of_each_dialect(dialect: str) -> None:
    half = server()
    (call,) = half.receive(golden("asked", dialect), 0.0)
    assert half.answer(call, CHUNK, 0.0) == golden("acted", dialect)
    robot = client(dialect)
    robot.ask(7, FRAME, ChunkRequest(0), None)
    (event,) = robot.receive(golden("acted", dialect), 0.0)
    assert isinstance(event, Answered) and event.id == 7 and event.chunk is not None
    assert event.chunk.rows.tolist() == [list(row) for row in hand.ROWS]


@DIALECT
def test_the_modalities_of_each_dialect(dialect: str) -> None:
    half = server()
    (call,) = half.receive(golden("asked", dialect), 0.0)
    half.answer(call, CHUNK, 0.0)
    (call,) = half.receive(golden("modalities_asked"), 0.0)
    assert isinstance(call, Status)
    assert half.answer(call, READY, 0.0) == golden("modalities", dialect)
    spec = client(dialect).spec
    assert spec is not None and (spec.required_image_keys, spec.required_state_keys) == (["head"], ["arm"])
    assert spec.action_horizon == 3 and [output.target for output in spec.outputs] == ["arm"]


def test_modalities_that_nobody_has_hinted_at_suit_the_two_newest() -> None:
    half = server()
    (call,) = half.receive(golden("modalities_asked"), 0.0)
    tree = unpacked(half.answer(call, READY, 0.0))
    for marker in ("__ModalityConfig_class__", "__ModalityConfig__"):
        assert tree["video"][marker] is True
    assert tree["video"]["as_json"] == {"delta_indices": [0], "modality_keys": ["head"]}
    half = server(dialect="n1.5")
    (call,) = half.receive(golden("modalities_asked"), 0.0)
    assert half.answer(call, READY, 0.0) == golden("modalities", "n1.5")


def test_ping_kill_and_reset() -> None:
    half = server()
    (ping,) = half.receive(golden("ping"), 0.0)
    assert half.answer(ping, READY, 0.0) == golden("pong")
    (kill,) = half.receive(golden("kill"), 0.0)
    assert isinstance(kill, Status) and "gnored" in unpacked(half.answer(kill, READY, 0.0))["message"]
    (reset,) = half.receive(golden("reset"), 0.0)
    assert isinstance(reset, Reset) and reset.token == "s3cret"
    assert unpacked(half.answer(reset, None, 0.0)) == {}
    robot = client()
    robot.token = "s3cret"
    sending = robot.reset(4)
    assert sending.data == golden("reset")
    assert robot.receive(b"\x80", 0.0) == [Answered(4, None)]
    assert client("n1.5").reset(4) is None


def test_steps_are_counted_by_the_clock_from_the_episodes_first_request() -> None:
    half = server(Offer(Readiness.READY, "", replace(POLICY, control_hz=20.0)))

    def step(now_s: float) -> int:
        (call,) = half.receive(golden("asked", "n1.7"), now_s)
        assert isinstance(call, Infer)
        return call.request.request_step

    assert [step(7.0), step(7.5), step(9.0)] == [0, 10, 40]
    half.receive(golden("reset"), 9.5)
    assert [step(12.0), step(12.25)] == [0, 5]


def test_a_wrong_token_is_told_in_the_protocols_words() -> None:
    half = server()
    (call,) = half.receive(asked({}, api_token="x"), 0.0)
    problem = Problem(Trouble.UNAUTHORISED, "no token, or another one")
    assert half.answer(call, problem, 0.0) == golden("unauthorised")
    robot = client()
    robot.ask(1, FRAME, ChunkRequest(0), None)
    (event,) = robot.receive(golden("unauthorised"), 0.0)
    assert isinstance(event, Failed) and event.problem.kind is Trouble.UNAUTHORISED


def test_a_server_that_loads_says_so() -> None:
    half = server(Offer(Readiness.LOADING, "loading for 1.0 s"))
    for name in ("ping", "modalities_asked"):
        (call,) = half.receive(golden(name), 0.0)
        told = half.answer(call, Offer(Readiness.LOADING, "loading for 1.0 s"), 0.0)
        assert unpacked(told)["error"].startswith("loading")
    robot: Any = Gr00t().client()
    robot.opening()
    (event,) = robot.receive(told, 0.0)
    assert isinstance(event, Welcome) and event.offer.readiness is Readiness.LOADING
    status, infer = half.receive(golden("n17_asked"), 0.0)  # the spec is asked for until it is known
    assert half.answer(status, Offer(Readiness.LOADING), 0.0) is None
    problem = Problem(Trouble.LOADING, "loading for 1.0 s")
    assert unpacked(half.answer(infer, problem, 0.0)) == {"error": "loading for 1.0 s"}
    status, infer = half.receive(golden("n17_asked"), 0.0)
    assert half.answer(status, READY, 0.0) is None and infer.complete().state["arm"].tolist() == list(hand.STATE)
    assert half.answer(infer, CHUNK, 0.0) == golden("n17_acted")


def test_the_oldest_way_to_say_that_something_is_wrong() -> None:
    robot = client()
    robot.ask(1, FRAME, ChunkRequest(0), None)
    (event,) = robot.receive(b"ERROR", 0.0)
    assert isinstance(event, Failed) and event.problem.kind is Trouble.POLICY_FAILED


# Names --------------------------------------------------------------------------------------------------------


def test_names_are_matched_by_option_then_as_they_are_then_as_others_call_them() -> None:
    group = (("head", "ego_view"),)
    assert matched("camera", ["head"], ["head", "ego_view"], {}, group) == {"head": "head"}
    assert matched("camera", ["head"], ["ego_view", "x"], {}, group) == {"head": "ego_view"}
    assert matched("camera", ["head"], ["head", "x"], {"x": "head"}, group) == {"head": "x"}
    assert matched("camera", ["a", "head"], ["ego_view", "a"], {}, group) == {"a": "a", "head": "ego_view"}
    with pytest.raises(WireError, match=r"'wrist' is missing.*did you mean 'wrists'.*head, wrists"):
        matched("camera", ["head", "wrist"], ["head", "wrists"], {})
    with pytest.raises(WireError, match="'b' is missing"):  # what is called head is a now
        matched("camera", ["a", "b"], ["head", "x"], {"head": "a"})
    with pytest.raises(WireError, match="'head' is missing"):
        matched("camera", ["head"], ["top", "ego_view"], {}, (("head", "ego_view", "top"),))


def test_options_rename_both_ways() -> None:
    options = {"cameras": ("ego_view:head",), "states": ("single:arm",), "actions": ("out:arm",)}
    half = server(**options)
    observation = {
        "video": {"ego_view": nd(np.zeros((1, 1, 2, 2, 3), "u1"))},
        "state": {"single": nd(np.ones((1, 1, 2), "f4"))},
    }
    (call,) = half.receive(asked(observation), 0.0)
    assert call.complete().state["arm"].tolist() == [1, 1] and set(call.complete().images) == {"head"}
    assert set(unpacked(half.answer(call, CHUNK, 0.0))[0]) == {"out"}
    (call,) = half.receive(golden("modalities_asked"), 0.0)
    told = half.answer(call, READY, 0.0)
    assert unpacked(told)["video"]["as_json"]["modality_keys"] == ["ego_view"]
    robot: Any = Gr00t(outputs=("arm:joint_position:2",), **options).client()
    robot.opening()
    robot.receive(told, 0.0)
    assert robot.spec.required_image_keys == ["head"] and robot.spec.outputs[0].target == "arm"
    sent = robot.ask(1, FRAME, ChunkRequest(0), None).data
    assert seen(half, sent).state["arm"].tolist() == list(hand.STATE)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ({"state": {"arm": nd(np.zeros(2))}}, "camera 'head' is missing; there are: none"),
        ({"video": {"haed": nd(np.zeros((2, 2, 3), "u1"))}}, "did you mean 'haed'"),
        ({"video": {"head": nd(np.zeros((2, 1, 2, 2, 3), "u1"))}}, "video.head has a batch of 2; .*B = 1"),
        ({"video": {"head": nd(np.zeros((2, 2, 4), "u1"))}}, "video.head must be uint8"),
        ({"video": {"head": nd(np.zeros((2, 2, 3), "f4"))}}, "video.head must be uint8"),
        ({"video": {"head": nd(np.zeros((1, 0, 2, 2, 3), "u1"))}}, "video.head must be uint8"),
        ({"video": [1]}, "video must be a map"),
        ({"video": {"head": 3}}, "video.head must be an array, got int"),
        ({"state": {"arm": nd([np.nan, 1.0])}}, "state.arm holds a number that is not finite"),
        ({"state": {"arm": nd(np.zeros((3, 1, 2)))}}, "state.arm has a batch of 3"),
        ({"state": {"arm": nd(np.zeros((1, 1, 1, 2)))}}, "state.arm must be numbers"),
        ({"state": {"arm": [1, 2]}}, "state.arm must be an array, got list"),
        ({"language": {"task": [["a"], ["b"]]}}, "language.task: a batch of 2"),
        ({"language": {"task": []}}, "must be a text"),
        ({"annotation.task": nd([1.0])}, "must be a text, got an array"),
        ({"state.arm": {b"nd": True}}, "state.arm: an array without its shape"),
        ({"state.arm": {b"nd": False, b"type": "<f4", b"data": b"1234"}}, "neither a scalar"),
        ({"state.arm": {"x": 1}}, "got a map with x"),
        ([], "observation must be a map"),
        (3, "observation must be a map"),
        ({"state.arm": nd(np.array([0x7FA00000, 0], "u4").view("f4"))}, "not finite"),
        ({"state": {"x" * 127 + "yz": nd([1.0])}}, "a name of 129 letters"),
    ],
)
def test_what_is_wrong_is_named(observation: Any, words: str) -> None:
    half = server()
    said = error(half, asked(observation))
    assert re.search(words, said), said
    assert seen(half, golden("n17_asked")).task["prompt"] == hand.TASK  # the connection lives


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "incomplete"),
        (b"\xc1", "no msgpack"),
        (b"\x80\x80", "ExtraData"),
        (b"\x93\x01\x02\x03", "a request must be a map"),
        (b"\x81\xa8endpoint\xa4fire", "Unknown endpoint: 'fire'"),
        (b"\x81\xa8endpoint\xa8getacton", "did you mean 'get_action'"),
        (b"\x81\xa8endpoint\x90", "Unknown endpoint"),
        (b"\x80", "get_action needs data"),
        (b"\x81\xa9api_token\x05", "api_token must be a text"),
        (b"\x81\xa1a\xc7\x01\x05\x00", "ext"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\xc6\xff\xff\xff\xff", "no msgpack"),
        (b"\xdb\xff\xff\xff\xff", "incomplete"),
        (b"\x91" * 39 + b"\x90", "in one another"),
        (b"\x81\xa1\xff\x01", "UnicodeDecodeError"),
        (b"\x81\x01\x01", "map key"),
        (b"\xdc\x20\x00" + b"\xc0" * 0x2000, "max_array_len"),
    ],
)
def test_what_is_no_request_is_answered(data: bytes, words: str) -> None:
    assert words in error(server(), data)


def test_names_are_not_without_number() -> None:
    observation = {"state": {str(number): written(np.zeros(1), True) for number in range(300)}}
    data = packed({"data": {"observation": observation}})
    assert "more than 256 names" in error(server(), data)


def test_a_message_that_is_too_long_is_answered() -> None:
    assert "at most" in error(server(max_message_mb=1), bytes((1 << 20) + 1))


def test_shapes_of_every_kind_and_the_newest_of_them() -> None:
    frames = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 2, 3)
    states = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    for cut in (frames, frames[0], frames[0, -1]):
        for moved in (states, states[0], states[0, -1]):
            found = seen(server(), asked({"video.head": nd(cut), "state.arm": nd(moved)}))
            assert np.array_equal(found.images["head"], frames[0, -1])
            assert found.state["arm"].tolist() == [3.0, 4.0]


def test_dotted_names_below_observation_and_before_them() -> None:
    for keys in (("video.head", "state.arm"), ("observation.video.head", "observation.state.arm")):
        half = server()
        values = (nd(np.zeros((1, 1, 2, 2, 3), "u1")), nd(np.zeros((1, 1, 2))))
        (call,) = half.receive(asked(dict(zip(keys, values, strict=True))), 0.0)
        assert set(call.complete().images) == {"head"}
        answer = unpacked(half.answer(call, CHUNK, 0.0))
        assert list(answer[0]) == ["action.arm"]


def test_a_flat_request_with_a_batch_gets_one() -> None:
    half = server()
    flat = {"video.head": nd(np.zeros((1, 1, 2, 2, 3), "u1")), "state.arm": nd(np.zeros((1, 1, 2)))}
    (call,) = half.receive(asked(flat, nested=False), 0.0)
    answer = unpacked(half.answer(call, CHUNK, 0.0))
    assert array_of(answer["action.arm"], "").shape == (1, 3, 2)


def test_the_task_as_an_array_of_texts() -> None:
    texts = np.array(["old", "grasp ä"])
    half = server(Offer(Readiness.READY, "", PolicySpec("p", [], [], ["annotation.task"])))
    found = seen(half, asked({"annotation.task": nd(texts)}, nested=False))
    assert found.task == {"prompt": "grasp ä", "annotation.task": "grasp ä"}


def test_images_arrive_as_they_were_sent_whatever_the_policy_declares() -> None:
    picture = np.zeros((1, 1, 2, 3, 3), "u1")
    picture[..., 0] = 255  # red
    rule = ImageRule(64, 64, "letterbox", colours="bgr", axes="chw")
    half = server(Offer(Readiness.READY, "", PolicySpec("p", ["head"], [], images={"head": rule})))
    image = seen(half, asked({"video": {"head": nd(picture)}})).images["head"]
    assert np.array_equal(image, picture[0, 0]), "the rule is applied later, and once"


# Order --------------------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_their_requests() -> None:
    half = server()
    first, second = (half.receive(golden("n17_asked"), 0.0)[0] for _ in range(2))
    (ping,) = half.receive(golden("ping"), 0.0)
    assert half.answer(ping, READY, 0.0) is None
    assert half.receive(b"\xc1", 0.0) == []  # its error waits, too
    assert half.answer(second, Problem(Trouble.SUPERSEDED, "a newer one"), 0.0) is None
    told = half.answer(first, CHUNK, 0.0)
    assert isinstance(told, list) and len(told) == 4
    assert told[0] == golden("n17_acted") and told[2] == golden("pong")
    assert "superseded" in unpacked(told[1])["error"] and "no msgpack" in unpacked(told[3])["error"]


def test_who_never_waits_is_let_go() -> None:
    half = server()
    with pytest.raises(WireError, match="wait for an answer"):
        for _ in range(100):
            half.receive(golden("n17_asked"), 0.0)


# The client's half --------------------------------------------------------------------------------------------


def test_a_frame_that_cannot_be_sent_is_refused() -> None:
    robot = client(states=("arm:2",))
    for change, words in (
        (Frame({}, FRAME.state, FRAME.task), "camera 'head'"),
        (Frame(FRAME.images, {}, FRAME.task), "state 'arm'"),
        (Frame(FRAME.images, {"arm": np.zeros(3)}, FRAME.task), "2 finite numbers"),
        (Frame(FRAME.images, {"arm": np.array([np.inf, 0])}, FRAME.task), "finite"),
        (Frame({"head": np.zeros((2, 2, 3))}, FRAME.state, FRAME.task), "uint8"),
        (Frame(FRAME.images, FRAME.state, {"prompt": 3}), "must be a text"),
    ):
        with pytest.raises(InterfaceValidationError, match=words):
            robot.ask(1, change, ChunkRequest(0), None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outputs": ("leg:joint_position:2",)}, "leg are said, the server's are arm"),
        ({"cameras": ("front:head",)}, "no 'front'"),
        ({"states": ("amr:arm",)}, "did you mean 'arm'"),
    ],
)
def test_options_that_the_server_does_not_know_are_refused(options: dict[str, Any], words: str) -> None:
    robot: Any = Gr00t(**options).client()
    robot.opening()
    with pytest.raises(WireError, match=words):
        robot.receive(golden("n17_modalities"), 0.0)


def test_parts_that_nobody_put_into_an_order_are_refused() -> None:
    robot: Any = Gr00t().client()
    robot.opening()
    robot.receive(golden("n17_modalities"), 0.0)
    assert robot.spec is None
    robot.ask(1, FRAME, ChunkRequest(0), None)
    (event,) = robot.receive(golden("n17_acted"), 0.0)
    assert isinstance(event, Answered)  # one part needs no order
    two = packed([{name: written(np.zeros((1, 3, 2), "f4"), True) for name in "ab"}, {}])
    robot.ask(2, FRAME, ChunkRequest(0), None)
    (event,) = robot.receive(two, 0.0)
    assert isinstance(event, Failed) and "say outputs=" in event.problem.text


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [[], {}],
        {},
        {"arm": 3},
        [{"arm": hand.nd("<f4", (1, 3, 3), bytes(36))}, {}],
        [{"arm": hand.nd("<f4", (2, 3, 2), bytes(48))}, {}],
        [{"arm": hand.nd("|O", (1, 3, 2), bytes(48))}, {}],
        [{"arm": hand.nd("<f4", (1, 3, 2), b"\0\0\xa0\x7f" * 6)}, {}],
        [{"arm": hand.nd("|b1", (1, 3, 2), bytes(6))}, {}],
    ],
)
def test_what_is_no_answer_is_a_wire_error_or_a_failure(answer: Any) -> None:
    robot = client()
    with pytest.raises(WireError):
        robot.receive(b"\x80", 0.0)
    robot.ask(1, FRAME, ChunkRequest(0), None)
    try:
        (event,) = robot.receive(hand.msgpack(answer), 0.0)
    except WireError:
        return
    assert isinstance(event, Failed)


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "n2"},
        {"control_hz": 0.0},
        {"action_horizon": 0},
        {"max_message_mb": 0},
        {"outputs": ("arm",)},
        {"outputs": ("arm:joint_position:x",)},
        {"outputs": ("arm:walking:2",)},
        {"cameras": ("a:b:c",)},
        {"cameras": ("a:x", "b:x")},
        {"states": (":b",)},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Gr00t(**options)


# Arrays and MessagePack ---------------------------------------------------------------------------------------

ARRAYS = npst.arrays(
    st.sampled_from(["|b1", "|u1", "<i4", ">i8", "<f2", "<f4", ">f8"]), npst.array_shapes(min_dims=0, min_side=0)
)


@given(ARRAYS, st.booleans(), st.booleans())
def test_arrays_are_carried_bit_by_bit(array: Any, as_nd: bool, fortran: bool) -> None:
    form = written(array, as_nd)
    if not as_nd and fortran:
        file = io.BytesIO()
        np.save(file, np.array(array, order="F"), allow_pickle=False)
        form = {"__ndarray_class__": True, "as_npy": file.getvalue()}
    found = array_of(unpacked(packed(form)), "x")
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@given(ARRAYS)
def test_files_are_those_that_numpy_writes_and_reads(array: Any) -> None:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    assert written(array, False)["as_npy"] == file.getvalue()


@pytest.mark.parametrize("descr", ["|O", "|V8", "<c8", "<M8[s]", "<f16", "|S3", "<U99999", "[('a', 'i4')]"])
def test_other_arrays_are_refused(descr: str) -> None:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".encode().ljust(117) + b"\n"
    file = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text + bytes(400)
    for form in ({"__ndarray_class__": True, "as_npy": memoryview(file)}, unpacked(packed(nd(np.zeros(1))))):
        form = {**form, **({b"type": descr} if b"nd" in form else {})}
        with pytest.raises(WireError):
            array_of(form, "x")


def test_a_claim_is_checked_before_anything_is_made_of_it() -> None:
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999, 99), }".ljust(117) + b"\n"
    file = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text
    observation = {
        "a": {"state.arm": {"__ndarray_class__": True, "as_npy": file}},
        "b": {"state.arm": hand.nd("<f8", (100,) * 8, b"")},
        "c": {"state.arm": {b"nd": True, b"type": "<f8", b"shape": [127], b"data": b"", b"kind": b""}},
    }
    half = server()
    with pytest.raises(WireError, match="a shape of"):
        array_of(unpacked(packed(nd(np.zeros(1)) | {b"shape": [-1]})), "x")
    tracemalloc.start()
    for value in observation.values():
        assert "state.arm" in error(half, asked(value))
    for bomb in (b"\xdd\x00\x10\x00\x00", b"\xdc\x0f\xff" * 20, b"\x9f" * (1 << 20), b"\xdf\x00\x00\x10\x00"):
        error(half, bomb + b"\x80" * (1 << 16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x81\xa4data", b"\x82\xa8endpoint\xaaget_action\xa4data"]))
def test_no_request_raises(data: bytes, head: bytes) -> None:
    half = server()
    for call in half.receive(head + data, 0.0):
        if isinstance(call, Infer) and call.complete is not None:
            try:
                call.complete()
            except WireError:
                continue


@settings(max_examples=100)
@given(st.data())
def test_no_damaged_message_raises(data: st.DataObject) -> None:
    dialect = data.draw(st.sampled_from(list(DIALECTS)))
    for name in ("asked", "acted", "modalities"):
        body = bytearray(golden(name, dialect))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if name == "asked":
            for call in server().receive(bytes(body), 0.0):
                if isinstance(call, Infer) and call.complete is not None:
                    try:
                        call.complete()
                    except WireError:
                        continue
            continue
        robot = client(dialect)
        if name == "acted":
            robot.ask(1, FRAME, ChunkRequest(0), None)
        else:
            robot.opening()
        try:
            robot.receive(bytes(body), 0.0)
        except WireError:
            continue


@DIALECT
def test_every_beginning_of_a_message_is_refused(dialect: str) -> None:
    whole = golden("asked", dialect)
    for end in range(len(whole)):
        assert error(server(), whole[:end])
    assert "ExtraData" in error(server(), whole + b"\x00")


def test_what_arrives_is_copied() -> None:
    half, buffer = server(), bytearray(golden("n17_asked"))
    (call,) = half.receive(memoryview(buffer), 0.0)
    buffer[:] = b"\xff" * len(buffer)
    assert call.complete().state["arm"].tolist() == list(hand.STATE)
    assert call.complete().images["head"].tobytes() == hand.PIXELS


# Over a socket ------------------------------------------------------------------------------------------------


class Mirror:
    """Answers three rows of the state that it sees."""

    spec = POLICY

    def session(self) -> Mirror:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        return ActionChunk(np.tile(frame.state["arm"], (3, 1)))


def served(story: Callable[[Address], Any], policy: Any = Mirror, token: str = "") -> Any:
    """Runs a story in a thread beside a server on loopback; what it returns."""
    box: list[Any] = []

    async def whole() -> None:
        address = Address("zmq", host="127.0.0.1")
        server = Server(policy, [Listen("gr00t", Gr00t(), address)], Settings(token=token))
        await server.start()
        try:
            box.append(await asyncio.to_thread(story, server.addresses[0]))
        finally:
            await server.stop(drain_s=0.0)

    asyncio.run(whole())
    return box[0]


class Robot:
    """A REQ socket, as the published client has one."""

    def __init__(self, address: Address) -> None:
        zmq: Any = pytest.importorskip("zmq")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://{address.host}:{address.port}")

    def __enter__(self) -> Robot:
        return self

    def __exit__(self, *error: object) -> None:
        self._context.destroy(linger=0)

    def say(self, data: bytes) -> None:
        """A request."""
        self._socket.send(data)

    def hear(self) -> bytes:
        """The answer."""
        return bytes(self._socket.recv())

    def ask(self, data: bytes) -> bytes:
        """A request and its answer."""
        self.say(data)
        return self.hear()


def ready(robot: Robot) -> None:
    """Ask until the policy is loaded."""
    while "error" in unpacked(robot.ask(golden("ping"))):
        pass


def test_robots_of_all_releases_ask_one_server() -> None:
    def story(address: Address) -> None:
        robots = [Robot(address) for _ in DIALECTS]
        try:
            ready(robots[0])
            for robot, dialect in zip(robots, DIALECTS, strict=True):
                robot.say(golden("asked", dialect))
            for robot, dialect in zip(robots, DIALECTS, strict=True):
                answer = unpacked(robot.hear())
                part = answer["action.arm"] if dialect == "n1.5" else answer[0]["arm"]
                assert array_of(part, "").reshape(3, 2).tolist() == [list(hand.STATE)] * 3
                assert unpacked(robot.ask(golden("reset"))) == {}
                assert unpacked(robot.ask(golden("kill")))["status"] == "ok"
                assert robot.ask(golden("modalities_asked")) == golden("modalities", dialect)
        finally:
            for robot in robots:
                robot.__exit__()

    served(story)


def test_sessions_are_never_mixed() -> None:
    def story(address: Address) -> None:
        def one(number: int) -> None:
            with Robot(address) as robot:
                ready(robot)
                for turn in range(20):
                    state = np.array([[[number, turn]]], "f4")
                    picture = nd(np.zeros((1, 1, 2, 2, 3), "u1"))
                    answer = robot.ask(asked({"video": {"head": picture}, "state": {"arm": nd(state)}}))
                    rows = array_of(unpacked(answer)[0]["arm"], "")
                    found.append(bool((rows == [number, turn]).all()))

        found: list[bool] = []
        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert found == [True] * 120

    served(story)


def test_a_token_is_needed_where_there_is_one() -> None:
    def story(address: Address) -> None:
        with Robot(address) as robot:
            for data in (golden("ping"), golden("n17_asked"), golden("modalities_asked"), golden("kill")):
                assert robot.ask(data) == golden("unauthorised")
            tree = {"endpoint": "ping", "api_token": "s3cret"}
            while "error" in unpacked(robot.ask(packed(tree))):
                pass

    served(story, token="s3cret")


def test_a_policy_that_raises_is_an_error_and_no_end() -> None:
    class Raises(Mirror):
        def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
            if frame.state["arm"][0] < 0:
                raise RuntimeError("out of memory")
            return super().infer(frame, request)

    def story(address: Address) -> None:
        with Robot(address) as robot:
            ready(robot)
            picture = nd(np.zeros((1, 1, 2, 2, 3), "u1"))
            bad = asked({"video": {"head": picture}, "state": {"arm": nd(np.full((1, 1, 2), -1.0))}})
            assert "out of memory" in unpacked(robot.ask(bad))["error"]
            assert "'head' is missing" in unpacked(robot.ask(asked({})))["error"]
            assert isinstance(unpacked(robot.ask(golden("n17_asked"))), list)

    served(story, Raises)


@DIALECT
def test_a_server_is_a_policy_here(dialect: str) -> None:
    remote: Any = plugins.load("policies", "remote")

    def story(address: Address) -> None:
        url = f"gr00t://{address.host}:{address.port}?dialect={dialect}&outputs=arm:joint_position:2"
        policy = remote(url=url, timeout_s=PATIENCE_S)
        try:
            assert policy.spec.action_horizon == 3 and policy.spec.required_image_keys == ["head"]
            chunk = policy.infer(FRAME, ChunkRequest(5, id=5))
            assert chunk.rows.tolist() == [list(hand.STATE)] * 3
            policy.reset()
            assert policy.infer(FRAME, ChunkRequest(6, id=6)).rows.shape == (3, 2)
            with pytest.raises(InterfaceValidationError, match="camera 'head'"):
                policy.infer(Frame({}, FRAME.state, FRAME.task), ChunkRequest(7, id=7))
        finally:
            policy.close()

    served(story)


def test_a_client_without_the_token_is_told() -> None:
    remote: Any = plugins.load("policies", "remote")

    def story(address: Address) -> None:
        with pytest.raises(PolicyFailed, match="Unauthorized"):
            remote(url=f"gr00t://{address.host}:{address.port}", timeout_s=PATIENCE_S)

    served(story, token="s3cret")
