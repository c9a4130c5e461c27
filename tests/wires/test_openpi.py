"""The openpi wire against bytes of the genuine client's packer, and its two halves against each other."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise import options
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    ImageRule,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
)
from chunkwise.transports import Address
from chunkwise.wires import (
    Answered,
    Failed,
    Hello,
    HttpRequest,
    HttpResponse,
    Infer,
    Offer,
    Problem,
    Readiness,
    Reply,
    Reset,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires._messagepack import MAX_CONTAINERS, MAX_ITEMS
from chunkwise.wires.openpi import SGLANG_PATH, VLLM_PATH, OpenPi
from chunkwise.wires.openpi.arrays import pack, unpack
from chunkwise.wires.openpi.observation import frame_of, picture

GOLDEN = Path(__file__).parent / "golden" / "openpi"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
UPGRADE = {"upgrade": "websocket"}


def golden(name: str) -> bytes:
    """What the genuine packer made."""
    return (GOLDEN / f"{name}.bin").read_bytes()


def spec(
    cameras: list[str], states: dict[str, int], outputs: dict[str, int] | None = None, **more: Any
) -> PolicySpec:
    """A policy that reads these cameras and states, and commands these components."""
    names = {key: [f"{key}{index}" for index in range(size)] for key, size in states.items()}
    made = [
        PolicyOutputSpec(name, "gripper_position" if size == 1 else "joint_position", size)
        for name, size in (outputs or states).items()
    ]
    given = {"state_names": names, "action_horizon": 4, "control_hz": 50.0, **more}
    return PolicySpec("mine", cameras, list(states), outputs=made, **given)


def read(data: bytes, policy: PolicySpec, **options: Any) -> Frame:
    """What a policy sees of an observation."""
    wire = OpenPi(**options)
    return frame_of(unpack(data, 1 << 26), policy, wire.cameras, wire.states, wire.task)


ALOHA = spec(
    ["cam_high", "cam_left_wrist", "cam_right_wrist"],
    {"right_arm": 6, "right_gripper": 1, "left_arm": 6, "left_gripper": 1},
)


# The genuine packer's observations ------------------------------------------------------------------------------


def is_marked(image: Any, colour: tuple[int, int, int]) -> bool:
    """Whether a picture of the golden ones stands upright: white above on the left, `colour` elsewhere."""
    whole = image.shape == (8, 6, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    return bool(
        whole and (image[:4, :3] == 255).all() and (image[4:] == colour).all() and (image[:, 3:] == colour).all()
    )


def test_aloha_is_bound_by_the_names_that_everybody_knows() -> None:
    frame = read(golden("aloha"), ALOHA)
    assert list(frame.images) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]  # cam_low is left aside
    for name, colour in zip(frame.images, (RED, GREEN, BLUE), strict=True):
        assert is_marked(frame.images[name], colour)
    assert frame.state["left_arm"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert frame.state["left_gripper"].tolist() == [0.6] and frame.state["right_gripper"].tolist() == [1.3]
    assert frame.state["right_arm"].tolist() == [0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    assert frame.task == {"prompt": "transfer cube"}


def test_droid_is_bound_by_the_names_that_everybody_knows() -> None:
    frame = read(golden("droid"), spec(["base", "wrist"], {"arm": 7, "gripper": 1}))
    assert is_marked(frame.images["base"], RED) and is_marked(frame.images["wrist"], GREEN)
    assert frame.state["arm"].tolist() == [index / 10 for index in range(7)]
    assert frame.state["gripper"].tolist() == [0.5] and frame.task["prompt"] == "put the pen in the cup"


def test_libero_is_bound_by_the_names_that_everybody_knows() -> None:
    frame = read(golden("libero"), spec(["image", "wrist_image"], {"proprio": 8}))
    assert is_marked(frame.images["image"], RED) and is_marked(frame.images["wrist_image"], GREEN)
    assert frame.state["proprio"].tolist() == [index / 8 for index in range(8)]


def test_options_say_other_names() -> None:
    policy = spec(["one", "two"], {"pose": 3, "hand": 5})
    options = {
        "cameras": ("observation/image:one", "wrist_image:two"),
        "states": ("observation/state:pose+hand",),
    }
    frame = read(golden("libero"), policy, **options)
    assert is_marked(frame.images["one"], RED) and is_marked(frame.images["two"], GREEN)
    assert frame.state["pose"].tolist() == [0, 0.125, 0.25] and frame.state["hand"][0] == 0.375


def test_numbers_are_read_as_the_genuine_packer_writes_them() -> None:
    tree = unpack(golden("numbers"), 1 << 20)
    assert (float(tree["a"]), int(tree["b"]), bool(tree["c"]), float(tree["d"])) == (0.5, 7, True, 2.5)
    assert tree["a"].dtype == np.float32 and tree["e"].tolist() == [0, 1, 2] and tree["f"].shape == (0, 2)


def test_what_is_sent_is_what_the_genuine_packer_writes() -> None:
    tree = {
        "actions": np.arange(4, dtype=np.float32).reshape(2, 2),
        "state": np.zeros(2),
        "policy_timing": {"infer_ms": 1.5},
        "server_timing": {"infer_ms": 2.5, "prev_total_ms": 9.0},
    }
    assert pack(tree) == golden("reply")
    (event,) = welcomed(OpenPi(outputs=("arm:joint_position:2",)), {}).receive(golden("reply"), 0.0)
    assert event.chunk.rows.tolist() == [[0, 1], [2, 3]] and event.server_s == 0.0025


# Other markers, by an encoder of the test's own -----------------------------------------------------------------


def encode(value: Any) -> bytes:
    """MessagePack by hand, long forms throughout."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, dict):
        pairs = b"".join(encode(key) + encode(item) for key, item in value.items())
        return b"\xdf" + struct.pack(">I", len(value)) + pairs
    return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(encode, value))


def openpi_marked(array: Any, text: bool = False) -> dict[Any, Any]:
    """openpi's marker, or the same with texts as keys."""
    marks = {
        "__ndarray__": True,
        "data": array.tobytes(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }
    return marks if text else {key.encode(): value for key, value in marks.items()}


def nd_marked(array: Any, text: bool = False) -> dict[Any, Any]:
    """msgpack_numpy's marker, or the same with texts as keys."""
    marks = {
        "nd": True,
        "type": array.dtype.str,
        "kind": b"",
        "shape": list(array.shape),
        "data": array.tobytes(),
    }
    return marks if text else {key.encode(): value for key, value in marks.items()}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("mark", [openpi_marked, nd_marked])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", "|b1", "<i2", "<f2"])
def test_arrays_of_every_marker_are_read(mark: Any, dtype: str, text: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = unpack(encode({"x": mark(array, text)}), 1 << 20)["x"]
    assert found.dtype == array.dtype and np.array_equal(found, array) and not found.flags.writeable


def test_single_numbers_of_every_marker_are_read() -> None:
    nd = {b"nd": False, b"type": "<f4", b"data": struct.pack("<f", 0.25)}
    generic = {"__npgeneric__": True, "data": 3, "dtype": "<i8"}
    tree = unpack(encode({"nd": nd, "generic": generic}), 1 << 20)
    assert float(tree["nd"]) == 0.25 and int(tree["generic"]) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({b"dtype": "|O"}, "no dtype '|O'"),
        ({b"dtype": "|V8"}, "no dtype"),
        ({b"dtype": "<c8"}, "no dtype"),
        ({b"dtype": "<U4"}, "no dtype"),
        ({b"dtype": "f4,f4"}, "no dtype"),
        ({b"dtype": 7}, "no dtype"),
        ({b"shape": [3]}, r"shape \[3\] has 12 bytes, got 8"),
        ({b"shape": [1 << 40]}, "no shape"),
        ({b"shape": [1 << 31] * 6}, "bytes, got 8"),
        ({b"shape": [-2]}, "no shape"),
        ({b"shape": [True]}, "no shape"),
        ({b"shape": [2.0]}, "no shape"),
        ({b"shape": [1] * 7}, "at most 6"),
        ({b"shape": 2}, "must be a list"),
        ({b"data": "text"}, "got str"),
        ({b"data": None}, "got NoneType"),
    ],
)
def test_an_array_that_is_none_is_refused(changes: dict[bytes, Any], words: str) -> None:
    marks = openpi_marked(np.zeros(2, np.float32)) | changes
    with pytest.raises(WireError, match=words):
        unpack(encode({"x": marks}), 1 << 20)


@pytest.mark.parametrize("kind", [b"V", b"O"])
def test_objects_and_records_are_never_read(kind: bytes) -> None:
    with pytest.raises(WireError, match="never read"):
        unpack(encode(nd_marked(np.zeros(2)) | {b"kind": kind}), 1 << 20)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "incomplete"),
        (b"\xc1", "FormatError"),
        (b"\x80\x80", "ExtraData"),
        (b"\x91" * 5000, "StackError"),
        (b"\xdd\x7f\xff\xff\xff", "max_array_len"),
        (b"\xdf\x7f\xff\xff\xff", "max_map_len"),
        (b"\xdb\x7f\xff\xff\xff", "incomplete"),
        (encode("x" * 70000), "max_str_len"),
        (b"\xc6\x7f\xff\xff\xff", "incomplete"),
        (b"\xd6\xff\0\0\0\0", "ext"),
        (b"\xa1\xff", "UnicodeDecodeError"),
        (b"\x81\x90\x01", "map key"),
        (encode([[]] * (MAX_ITEMS - 1) + [[[]] * MAX_ITEMS] + []), "more than"),
        (encode([[0.5] * MAX_ITEMS] * 40), "more than"),
        (b"\xc0" * 2000, "2000 bytes; at most 1000"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        unpack(data, 1000 if len(data) == 2000 else 1 << 20)
    assert MAX_CONTAINERS == 2 * MAX_ITEMS


@pytest.mark.parametrize(
    "level",
    [
        b"\xdc\x02\x00" + b"\xa2ab" * 511,
        b"\xde\x02\x00" + b"".join(b"\xcd%c%c\xa2ab" % (a, b) for a in range(2) for b in range(256))[:-3],
    ],
)
def test_no_message_becomes_much_larger_than_itself(level: bytes) -> None:
    data = level * 1000
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            unpack(data, 1 << 26)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data, 1 << 20)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
KEYS = st.sampled_from(
    [
        *(
            "a",
            "b",
            "state",
            "images",
            "prompt",
            "endpoint",
            "session_id",
            "nd",
            "__ndarray__",
            "data",
            "dtype",
            "shape",
        ),
        *(b"__ndarray__", b"__npgeneric__", b"nd", b"data", b"dtype", b"type", b"kind", b"shape"),
    ]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)


@given(TREES)
def test_no_tree_raises_anything_but_a_refusal(tree: Any) -> None:
    half = begun(OpenPi(), ALOHA)
    try:
        data = msgpack.packb(tree)
    except OverflowError:
        return
    for call in half.receive(data, 1.0):
        if isinstance(call, Infer):
            with contextlib.suppress(WireError):
                call.complete()  # type: ignore[misc]


@given(st.data())
def test_no_answer_raises_anything_but_a_refusal(data: Any) -> None:
    half = welcomed(OpenPi(outputs=("arm:joint_position:2",)), {})
    with contextlib.suppress(WireError, OverflowError):
        half.receive(msgpack.packb(data.draw(TREES)), 0.0)


# Names, states, pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (spec(["cam_higher"], {"state": 14}), r"camera 'cam_higher' is missing \(did you mean 'cam_high'\?\)"),
        (spec(["head", "top"], {"state": 14}), "camera 'head' is missing"),  # one of two of the same kind
        (spec([], {"one": 7, "two": 7}), "state 'one' is missing.*there are: state"),
        (spec([], {"left_arm": 6, "left_gripper": 1, "right_arm": 6}), "state 'left_arm' is missing"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(policy: PolicySpec, words: str) -> None:
    with pytest.raises(WireError, match=words):
        read(golden("aloha"), policy)


def test_a_renamed_state_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"state 'stat' is missing \(did you mean 'state'\?\)"):
        read(golden("aloha"), spec([], {"all": 14}), states=("stat:all",))
    with pytest.raises(WireError, match="camera 'cam_hgih' is missing"):
        read(golden("aloha"), spec(["cam_high"], {"all": 14}), cameras=("cam_hgih:cam_high",))
    with pytest.raises(WireError, match="state has 14 numbers, the policy reads one 7 \\+ two 8"):
        read(golden("aloha"), spec([], {"one": 7, "two": 8}), states=("state:one+two",))


def test_the_rest_of_a_vector_may_be_of_a_state_without_names() -> None:
    policy = PolicySpec("mine", [], ["arm", "rest"], state_names={"arm": ["a", "b"]})
    frame = read(pack({"state": np.arange(5)}), policy, states=("state:arm+rest",))
    assert frame.state["arm"].tolist() == [0, 1] and frame.state["rest"].tolist() == [2, 3, 4]
    policy.state_names.clear()
    with pytest.raises(WireError, match="does not say how many numbers arm, rest have"):
        read(pack({"state": np.arange(5)}), policy, states=("state:arm+rest",))


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (np.array([1.0, 2.0]), [1, 2]),
        (np.array([[1, 2]], np.int16), [1, 2]),
        ([1, 2.5], [1, 2.5]),
        (3, [3]),
        (np.float32(0.5), [0.5]),
    ],
)
def test_a_state_is_a_row_of_numbers(value: Any, numbers: list[float]) -> None:
    state = read(pack({"state": value}), PolicySpec("mine", [], ["arm"])).state["arm"]
    assert state.dtype == np.float64 and state.tolist() == numbers


def test_a_state_of_its_own_name_keeps_its_shape_where_it_has_no_joints() -> None:
    posts = np.arange(8.0).reshape(2, 2, 2)
    policy = PolicySpec("mine", [], ["posts", "arm"], state_names={"arm": ["a", "b"]})
    state = read(pack({"posts": posts, "arm": [[1, 2]]}), policy).state
    assert np.array_equal(state["posts"], posts)
    state = read(pack({"posts": posts, "arm": np.ones((1, 2))}), policy).state
    assert state["arm"].tolist() == [1, 1]
    with pytest.raises(WireError, match="one row"):
        read(pack({"posts": posts, "arm": np.ones((2, 2))}), policy)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([1.0, np.nan]), "not finite"),
        ([1.0, float("inf")], "not finite"),
        (np.zeros((2, 2)), "one row"),
        (np.zeros(0), "1 to 4096 numbers, got 0"),
        (np.zeros(5000), "state 'arm' is missing"),
        ([[1, 2], [3]], "no array of numbers"),
        ("text", "state 'arm' is missing"),
        ([1, "x"], "state 'arm' is missing"),
    ],
)
def test_what_is_no_row_of_numbers_is_refused(value: Any, words: str) -> None:
    with pytest.raises(WireError, match=words):
        read(pack({"state": value}), PolicySpec("mine", [], ["arm"]))


PLAIN = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (PLAIN, PLAIN),
        (PLAIN.transpose(2, 0, 1), PLAIN),
        (PLAIN[None], PLAIN),
        (PLAIN / 255, (255 * (PLAIN / 255)).astype(np.uint8)),
    ],
)
def test_a_picture_comes_rows_first_and_red_first(sent: Any, seen: Any) -> None:
    found = picture(sent, "head")
    assert np.array_equal(found, seen) and found.flags.c_contiguous and found.dtype == np.uint8


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (np.zeros((8, 6, 4), np.uint8), "three channels"),
        (np.zeros((2, 8, 6, 3), np.uint8), r"got \(2, 8, 6, 3\)"),
        (np.zeros((0, 6, 3), np.uint8), "got"),
        (np.zeros((9000, 1, 3), np.uint8), "got"),
        (np.zeros((8, 6, 3), np.int32), "uint8"),
        (np.full((8, 6, 3), 2.0), "0 to 1"),
        (np.full((8, 6, 3), np.nan), "0 to 1"),
    ],
)
def test_what_is_no_picture_is_refused(sent: Any, words: str) -> None:
    with pytest.raises(WireError, match=words):
        picture(sent, "head")


def test_the_task_comes_by_any_of_its_names_or_from_the_option() -> None:
    state = {"state": np.zeros(1)}
    policy = PolicySpec("mine", [], ["arm"], ["prompt", "subtask"])
    assert read(pack({**state, "task": "a", "subtask": "b"}), policy).task == {"prompt": "a", "subtask": "b"}
    with pytest.raises(WireError, match="task 'subtask' is missing"):
        read(pack({**state, "prompt": "a"}), policy)
    assert read(pack(state), PolicySpec("mine", [], ["arm"]), task="default").task == {"prompt": "default"}
    assert read(pack(state), PolicySpec("mine", [], ["arm"])).task == {}


def test_keys_are_texts_and_maps_are_not_deep() -> None:
    with pytest.raises(WireError, match="map key"):
        read(pack({1: 2}), ALOHA)
    with pytest.raises(WireError, match="a key must be a text"):
        read(pack({b"state": 2}), ALOHA)
    with pytest.raises(WireError, match="maps in one another"):
        read(pack({"a": {"b": {"c": {"d": {"e": 1}}}}}), ALOHA)


# The server's half ----------------------------------------------------------------------------------------------


def request(path: str = "/", **headers: str) -> HttpRequest:
    """A request for a websocket."""
    return HttpRequest("GET", path, headers=UPGRADE | headers)


def begun(wire: OpenPi, policy: PolicySpec | None, path: str = "/") -> Any:
    """A half that has said what it has."""
    half = wire.server()
    assert half.opened(Offer(Readiness.READY), 0.0) is None
    (hello,) = half.receive(request(path), 0.0)
    half.metadata = half.answer(hello, Offer(Readiness.READY, policy=policy, version="chunkwise 0"), 0.0)
    return half


def chunk(rows: Any, **meta: Any) -> ActionChunk:
    return ActionChunk(np.asarray(rows, dtype=np.float64), meta=meta)


def infer(half: Any, tree: dict[str, Any], now_s: float = 1.0) -> Infer:
    """The one call of an observation."""
    (call,) = half.receive(pack(tree), now_s)
    assert isinstance(call, Infer)
    return call


def test_the_server_says_first_what_it_has() -> None:
    half = OpenPi().server()
    half.opened(Offer(Readiness.LOADING), 0.0)
    (hello,) = half.receive(request(authorization="Api-Key s3cret"), 0.0)
    assert hello == Hello(token="s3cret", wait=True)
    metadata = unpack(half.answer(hello, Offer(Readiness.READY, policy=ALOHA, version="v"), 9.0), 1 << 20)
    assert metadata["server"] == "v" and metadata["action_horizon"] == 4 and metadata["action_dim"] == 14
    assert metadata["action_keys"] == ["left_arm", "left_gripper", "right_arm", "right_gripper"]  # ALOHA's order
    assert metadata["image_keys"] == ALOHA.required_image_keys and metadata["control_hz"] == 50.0


def test_what_only_the_policy_understands_is_not_sent() -> None:
    policy = spec([], {"arm": 2}, meta={"net": object()}, supports_prefix=True)
    policy.outputs[0].meta["net"] = object()
    sent = unpack(begun(OpenPi(), policy).metadata, 1 << 20)["spec"]
    assert sent["meta"] == sent["outputs"][0]["meta"] == {}
    assert sent["supports_prefix"] is False  # there is no place for one


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("api-key  abc ", "abc"), ("Basic abc", ""), ("", ""), ("Bearer " + "x" * 5000, "")],
)
def test_the_token_is_an_api_key_or_a_bearers(header: str, token: str) -> None:
    (hello,) = OpenPi().server().receive(request(authorization=header), 0.0)
    assert hello.token == token


def test_who_is_refused_at_once_gets_a_status_and_later_a_text() -> None:
    for readiness, kind, status in (
        (Readiness.READY, Trouble.UNAUTHORISED, 401),
        (Readiness.LOADING, Trouble.UNAUTHORISED, 401),
        (Readiness.READY, Trouble.BUSY, 503),
        (Readiness.LOADING, Trouble.BUSY, None),
    ):
        half = OpenPi().server()
        half.opened(Offer(readiness), 0.0)
        (hello,) = half.receive(request(), 0.0)
        told = half.answer(hello, Problem(kind, "so it is"), 0.0)
        assert told == f"{kind}: so it is" if status is None else told.status == status
    half = OpenPi().server()
    half.opened(Offer(Readiness.LOADING), 0.0)
    (hello,) = half.receive(request(), 0.0)
    assert half.answer(hello, Offer(Readiness.FAILED, "no such file"), 0.0).endswith("did not load: no such file")


def test_a_plain_request_is_told_that_this_is_a_websocket() -> None:
    (call,) = OpenPi().server().receive(HttpRequest("GET", "/", headers={"upgrade": "h2c"}), 0.0)
    assert isinstance(call, Reply) and call.data.status == 426


def test_a_connection_begins_with_one_request() -> None:
    half = OpenPi().server()
    with pytest.raises(WireError, match="before the request"):
        half.receive(b"\x80", 0.0)
    half.receive(request(), 0.0)
    with pytest.raises(WireError, match="a second request"):
        half.receive(request(), 0.0)


def test_a_chunk_is_answered_with_its_timings() -> None:
    policy = spec([], {"arm": 2})
    half = begun(OpenPi(), policy)
    first = infer(half, {"arm": np.zeros(2), "prompt": "do"}, 1.0)
    assert first.request.request_step == 50  # one second at 50 Hz
    answer = unpack(half.answer(first, chunk([[1, 2], [3, 4]], server_s=0.2), 1.25), 1 << 20)
    assert answer["actions"].dtype == np.float32 and answer["actions"].tolist() == [[1, 2], [3, 4]]
    assert answer["policy_timing"] == {"infer_ms": 200.0} and answer["server_timing"] == {"infer_ms": 250.0}
    second = infer(half, {"arm": np.zeros(2)}, 2.0)
    answer = unpack(half.answer(second, chunk([[1, 2]]), 2.5), 1 << 20)
    assert answer["server_timing"] == {"infer_ms": 500.0, "prev_total_ms": 1250.0}


def test_columns_come_in_the_order_of_the_metadata() -> None:
    half = begun(OpenPi(), ALOHA)
    call = infer(half, {"state": np.zeros(14), **unpack(golden("aloha"), 1 << 20)})
    answer = unpack(half.answer(call, chunk([np.arange(14)]), 1.0), 1 << 20)
    assert answer["actions"][0].tolist() == [*range(7, 14), *range(7)]  # the policy's right arm is first
    order = ("right_gripper", "left_gripper", "right_arm", "left_arm")
    half = begun(OpenPi(actions=order), ALOHA)
    call = infer(half, {"state": np.zeros(14)})
    answer = unpack(half.answer(call, chunk([np.arange(14)]), 1.0), 1 << 20)
    assert answer["actions"][0].tolist() == [6, 13, *range(6), *range(7, 13)]
    assert begun(OpenPi(actions=("left_amr",)), ALOHA).metadata.startswith(
        "mismatch: actions: the policy has no output 'left_amr' (did you mean 'left_arm'?)"
    )
    assert (
        "right_arm, right_gripper, left_gripper is missing" in begun(OpenPi(actions=("left_arm",)), ALOHA).metadata
    )


def test_what_no_float32_can_hold_is_no_chunk() -> None:
    half = begun(OpenPi(), spec([], {"arm": 2}))
    assert half.answer(infer(half, {"arm": np.zeros(2)}), chunk([[1e300, 0]]), 1.0).startswith("policy_failed")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xc1", "no msgpack"),
        ("text", "a text frame"),
        (pack([1]), "an observation is a map"),
        (pack({"endpoint": "kill"}), "no endpoint 'kill'"),
        (pack({"session_id": "x" * 200}), "session_id"),
        (pack({"session_id": [1]}), "session_id"),
        (pack({"legs": np.zeros(2)}), r"state 'arm' is missing; there are: legs"),
    ],
)
def test_what_is_wrong_is_refused_when_it_is_its_turn(data: Any, words: str) -> None:
    half = begun(OpenPi(), spec([], {"arm": 2}))
    (call,) = half.receive(data, 1.0)
    with pytest.raises(WireError, match=words):
        call.complete()
    assert half.answer(call, Problem(Trouble.MALFORMED, "so it is"), 1.0) == "malformed: so it is"
    assert infer(half, {"arm": np.zeros(2)}).complete().state["arm"].tolist() == [
        0,
        0,
    ]  # and the connection goes on


def test_a_policy_without_a_spec_is_no_policy_for_this() -> None:
    half = begun(OpenPi(), None)
    with pytest.raises(WireError, match=r"no spec.*--policy\.state and --policy\.actions"):
        infer(half, {"arm": np.zeros(2)}).complete()


def test_vllm_clients_get_bare_rows_and_errors_in_maps() -> None:
    half = begun(OpenPi(), spec([], {"arm": 2}), VLLM_PATH)
    metadata = unpack(half.metadata, 1 << 20)
    assert metadata["action_space"] == "joint_position" and metadata["action_dim"] == 2
    tree = {"arm": np.zeros(2), "endpoint": "infer", "session_id": "a", "seed": 3}
    call = infer(half, tree)
    assert unpack(half.answer(call, chunk([[1, 2]]), 1.0), 1 << 20).tolist() == [[1, 2]]
    told = half.answer(call, Problem(Trouble.BUSY, "later"), 1.0)
    assert unpack(told, 1 << 20) == {"type": "error", "message": "busy: later"}
    implied, again = half.receive(pack(tree | {"session_id": "b"}), 1.0)
    assert isinstance(implied, Reset) and half.answer(implied, None, 1.0) is None
    assert half.answer(implied, Problem(Trouble.DRAINING, "no"), 1.0) is None
    assert isinstance(again, Infer)
    (reset,) = half.receive(pack({"endpoint": "reset", "session_id": "c"}), 1.0)
    assert isinstance(reset, Reset)
    assert unpack(half.answer(reset, None, 1.0), 1 << 20) == {"status": "reset successful"}
    assert len(half.receive(pack(tree | {"session_id": "c"}), 1.0)) == 1  # which was reset for just now


def test_sglang_clients_get_errors_in_maps_and_chunks_like_openpis() -> None:
    half = begun(OpenPi(), spec([], {"arm": 2}), SGLANG_PATH + "/")
    call = infer(half, {"arm": np.zeros(2)})
    assert "server_timing" in unpack(half.answer(call, chunk([[1, 2]]), 1.0), 1 << 20)
    told = half.answer(call, Problem(Trouble.BUSY, "later"), 1.0)
    assert unpack(told, 1 << 20) == {"error": "busy: later"}


def test_bare_rows_may_be_had_on_any_path() -> None:
    for bare, path in ((True, "/"), (False, VLLM_PATH)):
        half = begun(OpenPi(bare=bare), spec([], {"arm": 2}), path)
        answer = unpack(half.answer(infer(half, {"arm": np.zeros(2)}), chunk([[1, 2]]), 1.0), 1 << 20)
        assert isinstance(answer, np.ndarray) is bare


# The client's half ----------------------------------------------------------------------------------------------


def welcomed(wire: OpenPi, metadata: Any) -> Any:
    """A half that knows what the server has, and has asked once."""
    half: Any = wire.client()
    assert half.opening().data == HttpRequest("GET", "")
    (event,) = half.receive(pack(metadata), 0.0)
    assert isinstance(event, Welcome) and event.offer.policy == half.spec
    half._asked = 7, False
    return half


FRAME = Frame({"head": PLAIN}, {"arm": np.array([1.0, 2.0]), "gripper": np.array([3.0])}, {"prompt": "fold"})
FOREIGN = {
    "cameras": ("observation/image:head",),
    "states": ("observation/state:arm+gripper:3",),
    "outputs": ("arm:joint_position:2", "gripper:gripper_position:1"),
}


def test_the_two_halves_fit() -> None:
    policy = spec(["head"], {"arm": 2, "gripper": 1}, images={"head": ImageRule(224, 224, "letterbox")})
    server, client = OpenPi().server(), OpenPi().client()
    client.token = "s3cret"  # type: ignore[attr-defined]
    server.opened(Offer(Readiness.READY), 0.0)
    opening = client.opening()
    assert opening is not None
    upgrade = opening.data
    lower = {name.lower(): value for name, value in upgrade.headers.items()}
    (hello,) = server.receive(HttpRequest("GET", "/", headers=UPGRADE | lower), 0.0)
    assert hello.token == "s3cret"  # type: ignore[union-attr]
    (welcome,) = client.receive(server.answer(hello, Offer(Readiness.READY, policy=policy), 0.0), 0.0)
    assert isinstance(welcome, Welcome) and client.spec == policy
    (call,) = server.receive(client.ask(3, FRAME, ChunkRequest(0), None).data, 0.0)
    seen = call.complete()  # type: ignore[union-attr, misc]
    assert np.array_equal(seen.images["head"], PLAIN) and seen.task == {"prompt": "fold"}
    assert {name: value.tolist() for name, value in seen.state.items()} == {"arm": [1, 2], "gripper": [3]}
    (event,) = client.receive(server.answer(call, chunk([[1, 2, 3]], server_s=0.1), 0.5), 0.5)
    assert isinstance(event, Answered) and event.id == 3 and event.server_s == 0.5
    assert event.chunk is not None and event.chunk.rows.tolist() == [[1, 2, 3]]
    sending = client.reset(4)
    assert sending is not None
    (reset,) = server.receive(sending.data, 0.0)
    assert list(client.receive(server.answer(reset, None, 0.0), 0.0)) == [Answered(4, None)]
    for kind in Trouble:
        (call,) = server.receive(client.ask(5, FRAME, ChunkRequest(0), None).data, 0.0)
        (failed,) = client.receive(server.answer(call, Problem(kind, "why: so"), 0.0), 0.0)
        assert failed == Failed(5, Problem(kind, "why: so"))


@pytest.mark.parametrize("path", [VLLM_PATH, SGLANG_PATH])
def test_the_two_halves_fit_on_every_path(path: str) -> None:
    server = begun(OpenPi(), spec(["head"], {"arm": 2}), path)
    client: Any = OpenPi(session="me").client()
    client.receive(server.metadata, 0.0)
    (call,) = server.receive(client.ask(1, FRAME, ChunkRequest(0), None).data, 0.0)
    (event,) = client.receive(server.answer(call, chunk([[1, 2]]), 0.0), 0.0)
    assert event.chunk.rows.tolist() == [[1, 2]]
    (call,) = server.receive(client.ask(2, FRAME, ChunkRequest(0), None).data, 0.0)
    (event,) = client.receive(server.answer(call, Problem(Trouble.BUSY, "later"), 0.0), 0.0)
    assert event == Failed(2, Problem(Trouble.BUSY, "later"))


def test_a_foreign_server_is_asked_as_the_options_say() -> None:
    half = welcomed(OpenPi(**FOREIGN, control_hz=20.0), {"action_horizon": 50})  # type: ignore[arg-type]
    assert half.spec.required_image_keys == ["head"] and half.spec.required_state_keys == ["arm", "gripper"]
    assert (half.spec.action_horizon, half.spec.control_hz, half.spec.action_dim) == (50, 20.0, 3)
    tree = unpack(half.ask(1, FRAME, ChunkRequest(0), None).data, 1 << 20)
    assert tree["observation/state"].dtype == np.float32 and tree["observation/state"].tolist() == [1, 2, 3]
    assert np.array_equal(tree["observation/image"], PLAIN) and tree["prompt"] == "fold" and len(tree) == 3
    assert half.reset(2) is None


def test_an_aloha_server_gets_channels_first() -> None:
    options = FOREIGN | {"cameras": ("cam_high:head",), "states": ("state:arm+gripper",)}
    half = welcomed(OpenPi(**options, dialect="aloha", task="default", send_reset=True), {})  # type: ignore[arg-type]
    tree = unpack(half.ask(1, Frame(FRAME.images, FRAME.state), ChunkRequest(0), None).data, 1 << 20)
    assert np.array_equal(tree["images"]["cam_high"], PLAIN.transpose(2, 0, 1))
    assert tree["state"].tolist() == [1, 2, 3] and tree["prompt"] == "default"
    assert unpack(half.reset(2).data, 1 << 20) == {"endpoint": "reset"}


def test_without_a_spec_everything_is_sent_under_its_own_name() -> None:
    half = welcomed(OpenPi(), {})
    assert half.spec is None
    tree = unpack(half.ask(1, FRAME, ChunkRequest(0), None).data, 1 << 20)
    assert set(tree) == {"head", "arm", "gripper", "prompt"}
    assert half.receive(pack({"actions": np.zeros((2, 3))}), 0.0)[0].chunk.rows.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": {}}, "no image 'head'"),
        ({"state": {"arm": np.zeros(2)}}, r"no state 'gripper'"),
        ({"state": {"arm": np.zeros(3), "gripper": np.zeros(1)}}, "is 3 numbers, the frame has 4"),
        ({"task": {"prompt": object()}}, "cannot be sent"),
    ],
)
def test_a_frame_that_cannot_be_sent_is_refused(changes: dict[str, Any], words: str) -> None:
    half = welcomed(OpenPi(**FOREIGN), {})  # type: ignore[arg-type]
    given = {"images": FRAME.images, "state": FRAME.state, "task": FRAME.task} | changes
    with pytest.raises(InterfaceValidationError, match=words):
        half.ask(1, Frame(**given), ChunkRequest(0), None)


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "answer",
    [
        {"actions": ROWS, "state": np.zeros(3)},
        ROWS,
        {"actions": ROWS[None]},
        {"arm": ROWS[:, :2], "gripper": ROWS[:, 2:]},
        {"gripper": ROWS[:, 2:].astype(np.float64), "arm": ROWS[:, :2], "server_timing": {"infer_ms": -1.0}},
    ],
)
def test_every_form_of_rows_is_read(answer: Any) -> None:
    (event,) = welcomed(OpenPi(**FOREIGN), {}).receive(pack(answer), 0.0)  # type: ignore[arg-type]
    assert event.id == 7 and event.chunk.rows.tolist() == ROWS.tolist() and event.server_s is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"actions": ROWS[:, :2]}, "2 columns, needs 3"),
        ({"actions": [[1, 2, 3]]}, "no actions"),
        ({"arm": ROWS[:, :2], "griper": ROWS[:, 2:]}, r"no action 'gripper' \(did you mean 'griper'\?\)"),
        ({"arm": ROWS[:, :2], "gripper": ROWS[:1, 2:]}, "side by side"),
        ({"actions": np.zeros((5000, 3))}, "more than 4096"),
        ({"actions": np.zeros((0, 3))}, "chunk.rows"),
        (3, "no actions"),
    ],
)
def test_an_answer_without_rows_is_refused(answer: Any, words: str) -> None:
    with pytest.raises(WireError, match=words):
        welcomed(OpenPi(**FOREIGN), {}).receive(pack(answer), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ("Traceback ...\nValueError: no", Problem(Trouble.POLICY_FAILED, "Traceback ...\nValueError: no")),
        ("busy: later", Problem(Trouble.BUSY, "later")),
        (pack({"error": "no"}), Problem(Trouble.POLICY_FAILED, "no")),
        (pack({"type": "error", "message": "deadline: no"}), Problem(Trouble.DEADLINE, "no")),
    ],
)
def test_every_form_of_errors_is_read(told: Any, problem: Problem) -> None:
    assert welcomed(OpenPi(), {}).receive(told, 0.0) == [Failed(7, problem)]
    assert OpenPi().client().receive(told, 0.0) == [Failed(0, problem)]


def test_what_a_server_is_not_is_refused() -> None:
    refused = OpenPi().client().receive(HttpResponse(401, b"unauthorised: no token\n"), 0.0)
    assert refused == [Failed(0, Problem(Trouble.UNAUTHORISED, "HTTP 401: unauthorised: no token"))]
    for data in (pack([1]), pack({"spec": {"name": "x"}}), b"\xc1"):
        with pytest.raises(WireError):
            OpenPi().client().receive(data, 0.0)
    half = welcomed(OpenPi(), {})
    half.receive(pack(ROWS), 0.0)
    with pytest.raises(WireError, match="an answer to nothing"):
        half.receive(pack(ROWS), 0.0)


def test_options_stand_in_an_address_as_the_page_shows_them() -> None:
    text = "openpi://gpu:8000?states=state:arm+gripper,other&outputs=arm:joint_position:7&cameras=a/b:head"
    given = Address.parse(text.replace("openpi:", "ws:")).options
    wire = OpenPi(**options.chosen(OpenPi, given, "wire openpi"))
    assert [pair.ours for pair in wire.states] == [("arm", "gripper"), ("other",)]
    assert [output.dim for output in wire.outputs] == [7] and wire.cameras[0].theirs == "a/b"


# Options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"cameras": ("a:b:c",)},
        {"cameras": ("a:b", "c:b")},
        {"cameras": ("a:b+c",)},
        {"states": ("a:",)},
        {"states": ("a:b", "a:c")},
        {"actions": ("a", "a")},
        {"outputs": ("arm:7",)},
        {"outputs": ("arm:no_kind:7",)},
        {"dialect": "droid"},
        {"control_hz": 0.0},
        {"action_horizon": 0},
        {"max_message_mb": 0},
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        OpenPi(**options)
