"""The ARK wire against recorded requests, and its two halves against each other."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    Frame,
    InterfaceValidationError,
    validate_policy_spec,
    validate_robot_spec,
)
from chunkwise.wires import (
    Answered,
    Failed,
    Fetch,
    HttpRequest,
    HttpResponse,
    Observe,
    Offer,
    Played,
    Problem,
    Readiness,
    Reply,
    Reset,
    Status,
    Trouble,
    WireError,
)
from chunkwise.wires.ark import Ark

GOLDEN = Path(__file__).parent / "golden" / "ark"
STATE = [round(0.1 * index - 0.65, 2) for index in range(14)]
TASK = "balcony_pick_place"
COLOURS = {"cam_high": (255, 0, 0), "cam_left_wrist": (0, 255, 0), "cam_right_wrist": (0, 0, 255)}
READY = Offer(Readiness.READY)
MULTIPART = {"content-type": "multipart/form-data; boundary=B"}
URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


def golden(name: str) -> HttpRequest:
    """A recorded request, cut into its parts."""
    head, _, body = (GOLDEN / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.split(": ", 1) for line in lines)
    return HttpRequest(
        method, path, headers={key.lower(): value for key, value in pairs}, body=body, peer="10.0.0.7"
    )


def form(fields: dict[str, tuple[str, bytes]], **changes: Any) -> HttpRequest:
    """A multipart request of ``name -> (what stands behind it, content)``."""
    body = b"".join(
        f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for name, (more, content) in fields.items()
    )
    given = {
        "method": "POST",
        "path": "/predict",
        "headers": MULTIPART,
        "body": body + b"--B--\r\n",
        "peer": "10.0.0.7",
    }
    return HttpRequest(**(given | changes))


def texts(**more: Any) -> dict[str, tuple[str, bytes]]:
    """State and task, and other fields; None leaves one out."""
    found = {"state": json.dumps(STATE).encode(), "task": TASK.encode(), **more}
    return {name: ("", content) for name, content in found.items() if content is not None}


def observed(wire: Ark, request: HttpRequest, now_s: float = 0.0) -> Observe:
    """The one call of a request, answered at once as a server does."""
    half = wire.server()
    (call,) = half.receive(request, now_s)
    assert isinstance(call, Observe), getattr(call, "data", call)
    half.answer(call, played(), now_s)
    return call


def refusal(request: HttpRequest, wire: Ark | None = None) -> tuple[int, Any]:
    """Status and detail of a request that is refused."""
    (call,) = (wire or Ark()).server().receive(request, 0.0)
    assert isinstance(call, Reply), call
    return call.data.status, json.loads(call.data.body)["detail"]


def played(row: Any = STATE, holding: bool = False, faults: tuple[str, ...] = ()) -> Played:
    """What a server plays."""
    made = None if row is None else np.array(row, dtype=np.float64)
    return Played(made, holding, None, 3, 50.0, False, False, faults)


def png(kind: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(kind, (8, 8), 200).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(kind: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(kind, size).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exchange(wire: Ark, request: HttpRequest, result: Any, now_s: float = 0.0) -> HttpResponse:
    """The response to a request whose call has that result."""
    half = wire.server()
    (call,) = half.receive(request, now_s)
    response = half.answer(call, result, now_s)
    assert response is not None
    return response


# Recorded requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["three", "one", "none"])
def test_a_recorded_request_is_an_observation_by_name(name: str) -> None:
    call = observed(Ark(), golden(name))
    assert {key: value.tolist() for key, value in call.frame.state.items()} == {
        "left_arm": STATE[:6],
        "left_gripper": STATE[6:7],
        "right_arm": STATE[7:13],
        "right_gripper": STATE[13:],
    }
    assert call.frame.task == {"prompt": TASK} and not call.frame.images
    assert (call.session, call.paced, call.reset, call.control_hz) == ("at 10.0.0.7", True, True, 50.0)
    assert call.robot.image_keys == list(COLOURS)[: {"three": 3, "one": 1, "none": 0}[name]]
    validate_robot_spec(call.robot)


def test_colours_are_red_green_and_blue() -> None:
    frame = observed(Ark(), golden("three")).complete()
    for name, colour in COLOURS.items():
        image = frame.images[name]
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - colour).max() <= 2
    assert frame.images["cam_high"][0, 0].tolist() == [254, 0, 0]


def test_the_columns_are_the_protocols() -> None:
    columns = [part.names(part.dof) for part in observed(Ark(), golden("none")).robot.components]
    joints = [f"joint{number}" for number in range(1, 7)]
    assert columns == [joints, ["gripper"], joints, ["gripper"]]


@pytest.mark.parametrize("name", ["three", "none"])
def test_a_truncated_form_is_refused_and_never_raises(name: str) -> None:
    whole = golden(name)
    for length in range(len(whole.body) - 4 if name == "three" else whole.body.index(b"&task=b")):
        status, detail = refusal(
            HttpRequest("POST", "/predict", headers=whole.headers, body=whole.body[:length], peer="a")
        )
        assert 400 <= status < 500 and detail


def test_what_follows_the_form_is_no_part_of_it() -> None:
    whole = golden("one")
    call = observed(
        Ark(), HttpRequest("POST", "/predict", headers=whole.headers, body=whole.body + b"\r\n--trailing")
    )
    assert list(call.complete().images) == ["cam_high"]


# Forms --------------------------------------------------------------------------------------------------------


def test_names_filenames_and_header_order_are_free() -> None:
    body = (
        b"--x y\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=task\r\n\r\nfold\r\n"
        b'--x y\r\nContent-Type: image/jpeg\r\nContent-Disposition: form-data; filename="a;b.jpg"; name="cam_high"'
        b"\r\n\r\n" + jpeg() + b"\r\n"
        b'--x y\r\nContent-Disposition: form-data; name="unknown"; filename="u.bin"\r\n\r\n\x00\xff\r\n'
        b'--x y\r\nContent-Disposition: form-data; name="state"\r\n\r\n'
        + json.dumps(STATE).encode()
        + b"\r\n--x y--\r\n"
    )
    headers = {"content-type": 'Multipart/Form-Data; charset=utf-8; Boundary="x y"'}
    call = observed(Ark(), HttpRequest("POST", "/predict", headers=headers, body=body, peer="a"))
    assert call.frame.task == {"prompt": "fold"} and list(call.complete().images) == ["cam_high"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (b"[1, 2, 3]", "list of 3"),
        (json.dumps([*STATE, 0.0]).encode(), "list of 15"),
        (b"{}", "dict"),
        (b"nonsense", "no JSON"),
        (b"[NaN" + b", 0" * 13 + b"]", "no JSON"),
        (b"[-Infinity" + b", 0" * 13 + b"]", "no JSON"),
        (b"[1e999" + b", 0" * 13 + b"]", "number 0"),
        (b"[1" + b"0" * 400 + b", 0" * 13 + b"]", "number 0"),
        (b"[1" + b"0" * 5000 + b", 0" * 13 + b"]", "no JSON"),
        (b"[0, true" + b", 0" * 12 + b"]", "number 1"),
        (b'[0, 0, "0"' + b", 0" * 11 + b"]", "number 2"),
        (b"[[0]" + b", 0" * 13 + b"]", "number 0"),
        (b"[" * 16000, "no JSON"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_a_state_is_fourteen_finite_numbers(state: bytes, words: str) -> None:
    status, detail = refusal(form(texts(state=state)))
    assert status == 400 and detail.startswith("state") and words in detail


@pytest.mark.parametrize("name", ["state", "task"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_field_is_said_as_fastapi_says_it(name: str, content: bytes | None) -> None:
    missing = {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None}
    assert refusal(form(texts(**{name: content}))) == (422, [missing])


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (form(texts(), method="GET"), 405, "Method"),
        (form(texts(), path="/"), 404, "Not Found"),
        (form(texts(), path="/predict/"), 404, "Not Found"),
        (form(texts(), headers={}), 415, "multipart"),
        (form(texts(), headers={"content-type": "application/json"}), 415, "multipart"),
        (form(texts(), headers={"content-type": "multipart/form-data"}), 400, "boundary"),
        (form(texts(), headers={"content-type": "multipart/form-data; boundary=C"}), 400, "oundary"),
        (form(texts(), headers={"content-type": f"multipart/form-data; boundary={'B' * 71}"}), 400, "boundary"),
        (form(texts(), body=b""), 400, "form"),
        (form(texts(task=b"x" * 20000)), 413, "task"),
        (form({f"f{number}": ("", b"") for number in range(40)}), 413, "form"),
        (form(texts() | {"x": ("; a=" + "b" * 2000, b"")}), 413, "header"),
        (form(texts(), body=form(texts()).body.replace(b'"task"', b'"state"')), 400, "twice"),
        (form(texts(), headers=URLENCODED, body=b"state=1&state=2"), 400, "twice"),
        (form(texts(), headers=URLENCODED, body=b"state=%ff"), 400, "form"),
        (form(texts(), headers=URLENCODED, body=b"a" * 200000), 413, "bytes"),
        (form(texts(), headers=MULTIPART | {"x-session": "a\tb"}), 400, "x-session"),
        (form(texts(), headers=MULTIPART | {"x-session": "s" * 129}), 400, "x-session"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_a_detail(request_: HttpRequest, status: int, words: str) -> None:
    got, detail = refusal(request_)
    assert got == status and words in str(detail)


def test_a_wrong_method_is_told_the_right_one() -> None:
    (call,) = Ark().server().receive(form(texts(), method="PUT"), 0.0)
    assert isinstance(call, Reply) and call.data.headers["allow"] == "POST"


# Pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "neither"),
        (jpeg()[:-2], "without its end"),
        (b"\xff\xd8" + jpeg()[-40:], "frame header"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xd9", "frame header"),
        (b"\xff\xd8" + b"\xff" * 100000 + b"\xff\xd9", "frame header"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100000 + b"\xff\xd9", "frame header"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xd9", "cut off"),
        (b"\xff\xd8\xff\xc3\x00\x11\x08\x00\x08\x00\x08\x03" + bytes(9) + b"\xff\xd9", "lossless"),
        (jpeg("CMYK"), "4 channels"),
        (jpeg(size=(65, 8)), "8 x 65 pixels"),
        (png()[:20], "PNG"),
    ],
)
def test_a_bad_picture_is_found_without_decoding(data: bytes, words: str) -> None:
    status, detail = refusal(form(texts(cam_left_wrist=data)), Ark(max_side=64))
    assert status == 400 and detail.startswith("cam_left_wrist: ") and words in detail


@pytest.mark.parametrize("data", [jpeg("L"), png("L"), png("RGBA"), png("P"), jpeg(progressive=True)])
def test_every_kind_of_picture_has_three_channels(data: bytes) -> None:
    image = observed(Ark(), form(texts(cam_high=data))).complete().images["cam_high"]
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8


def test_bytes_behind_a_picture_are_padding() -> None:
    assert observed(Ark(), form(texts(cam_high=jpeg() + bytes(16)))).complete().images["cam_high"].shape == (
        8,
        8,
        3,
    )


def test_a_picture_that_is_broken_within_is_found_when_it_is_decoded() -> None:
    whole = jpeg(size=(64, 64))
    start = whole.index(b"\xff\xda")
    for data in (whole[:start] + b"\xff\xd9", png()[:40] + bytes(40)):
        call = observed(Ark(), form(texts(cam_high=data)))
        with pytest.raises(WireError, match=r"cam_high: it cannot be decoded"):
            call.complete()


def test_both_codecs_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    fast = Ark().codec
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    slow = Ark().codec
    for data in (fast.encode("x", pixels), slow.encode("x", pixels)):
        assert np.array_equal(fast.decode(data), slow.decode(data))


# Episodes -----------------------------------------------------------------------------------------------------


def test_an_episode_begins_with_the_first_call_another_task_or_a_pause() -> None:
    wire = Ark(idle_s=1.0, start_patience_s=4.0)
    first = observed(wire, form(texts()), 0.0)
    assert first.reset and first.patience_s == 4.0
    second = observed(wire, form(texts()), 0.9)
    assert not second.reset and second.patience_s == 0.0 and second.robot is first.robot
    assert observed(wire, form(texts(task=b"other")), 1.0).reset
    assert not observed(wire, form(texts(task=b"other")), 2.0).reset
    assert observed(wire, form(texts(task=b"other")), 3.1).reset


def test_a_pause_is_counted_from_the_answer() -> None:
    wire = Ark(idle_s=1.0)
    half = wire.server()
    (call,) = half.receive(form(texts()), 0.0)
    assert not wire.server().receive(form(texts()), 0.5)[0].reset  # type: ignore[union-attr]  # it came meanwhile
    half.answer(call, played(), 5.0)
    assert not observed(wire, form(texts()), 5.9).reset


def test_sessions_are_told_apart_by_header_or_address() -> None:
    wire = Ark()
    named = MULTIPART | {"x-session": "left cell"}
    assert observed(wire, form(texts())).session == "at 10.0.0.7"
    assert observed(wire, form(texts(), headers=named)).session == "named left cell"
    assert not observed(wire, form(texts(), headers=named)).reset
    assert observed(wire, form(texts(), peer="10.0.0.8")).reset


def test_nobody_takes_the_session_of_an_address_by_its_name() -> None:
    wire = Ark()
    observed(wire, form(texts()))
    stranger = observed(wire, form(texts(), headers=MULTIPART | {"x-session": "10.0.0.7"}, peer="10.0.0.9"))
    assert stranger.reset and stranger.session == "named 10.0.0.7"


def test_a_page_in_a_browser_drives_no_robot() -> None:
    (reply,) = Ark().server().receive(form(texts(), headers=MULTIPART | {"origin": "http://elsewhere"}), 0.0)
    assert isinstance(reply, Reply) and reply.data.status == 403


def test_only_so_many_sessions_are_remembered() -> None:
    wire = Ark()
    for number in range(1100):
        observed(wire, form(texts(), peer=f"10.1.{number}"))
    assert len(wire.episodes) == 1024


@pytest.mark.parametrize("kind", [Trouble.UNAUTHORISED, Trouble.LOADING, Trouble.MISMATCH])
def test_an_episode_that_could_not_begin_begins_with_the_next_call(kind: Trouble) -> None:
    wire = Ark()
    exchange(wire, form(texts()), Problem(kind, "no"))
    assert not wire.episodes
    assert observed(wire, form(texts())).reset


def test_who_may_not_ask_ends_no_episode() -> None:
    wire = Ark()
    observed(wire, form(texts()), 0.0)
    exchange(wire, form(texts(task=b"intruder")), Problem(Trouble.UNAUTHORISED, "no token"), 0.1)
    assert not observed(wire, form(texts()), 0.2).reset


def test_cameras_are_those_of_the_first_call() -> None:
    wire = Ark()
    first = observed(wire, form(texts(cam_high=jpeg())))
    less = observed(wire, form(texts()))
    assert less.robot is first.robot
    with pytest.raises(WireError, match="cam_high"):
        less.complete()


def test_reset_and_health() -> None:
    wire = Ark()
    observed(wire, form(texts()))
    headers = {"authorization": "Bearer secret"}
    half = wire.server()
    (call,) = half.receive(HttpRequest("POST", "/reset", headers=headers, peer="10.0.0.7"), 0.1)
    assert call == Reset(session="at 10.0.0.7", token="secret")
    response = half.answer(call, None, 0.1)
    assert response is not None and (response.status, json.loads(response.body)) == (200, {"ok": True})
    assert observed(wire, form(texts()), 0.2).reset
    (status,) = half.receive(HttpRequest("GET", "/health", headers=headers), 0.0)
    assert isinstance(status, Status) and status.token == "secret"
    for readiness in Readiness:
        response = half.answer(status, Offer(readiness, "a line"), 0.0)
        assert response is not None
        assert response.status == (200 if readiness is Readiness.READY else 503)
        assert json.loads(response.body)["status"] == readiness
    refused = half.answer(call, Problem(Trouble.DRAINING, "soon"), 0.0)
    assert refused is not None and refused.status == 503


# Answers ------------------------------------------------------------------------------------------------------


def test_an_action_is_the_row() -> None:
    response = exchange(Ark(), form(texts()), played(range(14)))
    assert (response.status, json.loads(response.body)) == (200, {"action": [float(n) for n in range(14)]})
    assert not response.headers and response.content_type == "application/json"


def test_a_hold_says_so() -> None:
    response = exchange(Ark(), form(texts()), played(holding=True, faults=("failed: a\r\nX: b", "ü" * 900)))
    assert response.status == 200 and json.loads(response.body)["action"] == STATE
    fault = response.headers["x-chunkwise-fault"]
    assert response.headers["x-chunkwise-hold"] == "1"
    assert len(fault) <= 512 and re.fullmatch(r"failed: a  X: b; \?+", fault)


@pytest.mark.parametrize("row", [None, [0.0] * 7, [float("nan")] * 14])
def test_what_is_no_action_is_a_503(row: Any) -> None:
    response = exchange(Ark(), form(texts()), played(row))
    assert response.status == 503 and "action" not in json.loads(response.body)


LASTING = {Trouble.MALFORMED: 400, Trouble.UNAUTHORISED: 401, Trouble.MISMATCH: 503}
PASSING = {Trouble.POLICY_FAILED: 500, Trouble.DEADLINE: 504}


@pytest.mark.parametrize("kind", Trouble)
@pytest.mark.parametrize("errors", ["hold", "status"])
def test_what_passes_holds_the_robot(kind: Trouble, errors: Any) -> None:
    response = exchange(Ark(errors=errors), form(texts()), Problem(kind, "the text"))
    tree = json.loads(response.body)
    if errors == "hold" and kind not in LASTING:
        assert response.status == 200 and tree == {"action": STATE}
        assert response.headers["x-chunkwise-hold"] == "1"
        assert response.headers["x-chunkwise-fault"] == f"{kind}: the text"
    else:
        assert response.status == (LASTING | PASSING).get(kind, 503)
        assert tree == {"detail": f"{kind}: the text"}
    if kind is Trouble.UNAUTHORISED:
        assert response.headers["www-authenticate"] == "Bearer"


def test_the_wire_has_no_files_and_says_nothing_first() -> None:
    half = Ark().server()
    assert half.opened(READY, 0.0) is None
    with pytest.raises(WireError):
        half.fetched(Fetch("/x", 1), memoryview(b""), 0.0)


# The client's half --------------------------------------------------------------------------------------------


def frame(cameras: tuple[str, ...] = tuple(COLOURS)) -> Frame:
    images = {name: np.full((8, 8, 3), COLOURS[name], dtype=np.uint8) for name in cameras}
    parts = (("left_arm", 0, 6), ("left_gripper", 6, 7), ("right_arm", 7, 13), ("right_gripper", 13, 14))
    state = {name: np.array(STATE[start:stop]) for name, start, stop in parts}
    return Frame(images, state, {"prompt": TASK})


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("three", ()),
        ("one", ("cam_left_wrist:", "cam_right_wrist:")),
        ("none", tuple(f"{name}:" for name in COLOURS)),
    ],
)
def test_the_client_sends_what_the_published_one_sends(name: str, left_out: tuple[str, ...]) -> None:
    recorded = golden(name)
    client = Ark(cameras=left_out).client()
    sent = client.ask(7, frame(), ChunkRequest(0), None).data
    kind, _, boundary = recorded.headers["content-type"].partition("; boundary=")
    ours = sent.headers["content-type"].partition("; boundary=")[2]
    assert sent.headers["content-type"].startswith(kind) and len(ours) == len(boundary)
    assert (sent.method, sent.path) == (recorded.method, recorded.path)
    assert sent.body.replace(ours.encode(), boundary.encode()) == recorded.body


def test_a_boundary_is_never_in_the_pictures() -> None:
    from chunkwise.wires.ark.client import form as client_form

    body, kind = client_form({}, {"cam_high": f"{3:032x}".encode()}, 3)
    boundary = kind.partition("boundary=")[2]
    assert len(boundary) == 32 and body.count(boundary.encode()) == 2


def test_the_halves_understand_each_other() -> None:
    names = ("left_arm:arm_l", "right_gripper:grip_r")
    joints = tuple("abcdef")
    wire = Ark(names=names, cameras=("cam_high:head", "cam_left_wrist:", "cam_right_wrist:"), joints=joints)
    client, half = wire.client(), wire.server()
    assert client.spec is not None
    validate_policy_spec(client.spec)
    assert client.lockstep and client.opening() is None and client.reset(1) is None
    assert client.spec.required_image_keys == ["head"] and client.spec.action_horizon == 1
    assert [output.target for output in client.spec.outputs] == ["arm_l", "left_gripper", "right_arm", "grip_r"]
    assert client.spec.outputs[0].names == list(joints)
    seen = frame(("cam_high",))
    seen.state = {"arm_l": seen.state["left_arm"], "grip_r": seen.state["right_gripper"], **seen.state}
    seen.images = {"head": seen.images["cam_high"]}
    (call,) = half.receive(client.ask(4, seen, ChunkRequest(0), 1.0).data, 0.0)
    assert isinstance(call, Observe) and call.complete().images["head"][0, 0].tolist() == [254, 0, 0]
    (event,) = client.receive(half.answer(call, played(range(14)), 0.0), 0.0)
    assert isinstance(event, Answered) and event.id == 4 and event.chunk is not None
    assert event.chunk.rows.tolist() == [[float(n) for n in range(14)]] and event.chunk.meta == {}
    (call,) = half.receive(client.ask(5, seen, ChunkRequest(1), 1.0).data, 0.0)
    (event,) = client.receive(half.answer(call, played(holding=True, faults=("late: x",)), 0.0), 0.0)
    assert isinstance(event, Answered) and isinstance(event.chunk, ActionChunk)
    assert event.chunk.meta == {"hold": True, "fault": "late: x"}


def test_a_client_may_post_resets() -> None:
    wire = Ark(send_reset=True, session="cell 1")
    client, half = wire.client(), wire.server()
    sending = client.reset(9)
    assert sending is not None
    (call,) = half.receive(sending.data, 0.0)
    assert call == Reset(session="named cell 1")
    assert client.receive(half.answer(call, None, 0.0), 0.0) == [Answered(9, None)]


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (HttpResponse(422, b'{"detail": [{"loc": ["body", "task"]}]}'), Trouble.MALFORMED, "task"),
        (HttpResponse(401, b'{"detail": "no"}'), Trouble.UNAUTHORISED, "no"),
        (HttpResponse(503, b"Service Unavailable"), Trouble.LOADING, "Service"),
        (HttpResponse(500, b"[" * 100000), Trouble.POLICY_FAILED, "500"),
        (HttpResponse(504, b""), Trouble.DEADLINE, "504"),
        (HttpResponse(200, b'{"action": [1.0, 2.0]}'), Trouble.POLICY_FAILED, "2 numbers"),
        (HttpResponse(200, b'{"action": [NaN' + b", 0" * 13 + b"]}"), Trouble.POLICY_FAILED, "finite"),
        (HttpResponse(200, b'{"action": [1' + b"0" * 400 + b", 0" * 13 + b"]}"), Trouble.POLICY_FAILED, "finite"),
        (HttpResponse(200, b'{"action": [[0]' + b", 0" * 13 + b"]}"), Trouble.POLICY_FAILED, "finite"),
    ],
)
def test_a_failure_of_the_server_is_told(response: HttpResponse, kind: Trouble, words: str) -> None:
    client = Ark().client()
    client.ask(2, frame(), ChunkRequest(0), None)
    (event,) = client.receive(response, 0.0)
    assert isinstance(event, Failed) and event.id == 2
    assert event.problem.kind is kind and words in event.problem.text


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"action": 3}', b"[" * 100000, b"\xff"])
def test_what_is_no_answer_is_a_wire_error(body: bytes) -> None:
    client = Ark().client()
    with pytest.raises(WireError):
        client.receive(HttpResponse(200, b'{"action": []}'), 0.0)
    client.ask(2, frame(), ChunkRequest(0), None)
    with pytest.raises(WireError):
        client.receive(HttpResponse(200, body), 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": {}}, "prompt"),
        ({"images": {}}, "cam_high"),
        ({"images": {**frame().images, "cam_high": np.zeros((8, 8, 3))}}, "uint8"),
        ({"state": {**frame().state, "left_arm": np.zeros(5)}}, "left_arm"),
        ({"state": {**frame().state, "left_arm": np.full(6, np.nan)}}, "left_arm"),
        ({"state": {}}, "left_arm"),
    ],
)
def test_a_frame_that_cannot_be_sent_is_refused(change: dict[str, Any], words: str) -> None:
    seen = frame()
    for name, value in change.items():
        setattr(seen, name, value)
    with pytest.raises(InterfaceValidationError, match=words):
        Ark().client().ask(0, seen, ChunkRequest(0), None)


@pytest.mark.parametrize(
    "options",
    [
        {"errors": "zero"},
        {"control_hz": 0.0},
        {"idle_s": -1.0},
        {"start_patience_s": 31.0},
        {"max_side": 0},
        {"joints": ("a",)},
        {"lower": (0.0,)},
        {"names": ("left_arms:x",)},
        {"names": ("left_arm:",)},
        {"names": ("left_arm:right_arm",)},
        {"cameras": ("head",)},
        {"session": "ü"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Ark(**options)


def test_limits_and_units_are_the_deployments() -> None:
    wire = Ark(lower=tuple(range(-14, 0)), upper=tuple(range(14)), max_rate=(2.0,) * 14, gripper_unit="opening")
    left, grip, right, _ = wire.robot([]).components
    assert (left.lower, grip.lower, right.upper) == ([-14, -13, -12, -11, -10, -9], [-8], [7, 8, 9, 10, 11, 12])
    assert (left.unit, grip.unit, grip.max_rate) == ("rad", "opening", [2.0])
    assert Ark().robot([]).components[0].lower is None


# Anything at all ----------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=300),
    st.sampled_from(["POST", "GET"]),
    st.sampled_from(["/predict", "/reset", "/health", "/x"]),
    st.dictionaries(
        st.sampled_from(["content-type", "authorization", "x-session"]),
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(["multipart/form-data; boundary=B", "application/x-www-form-urlencoded", "bearer é"]),
        ),
    ),
)
def test_no_request_raises(body: bytes, method: str, path: str, headers: dict[str, str]) -> None:
    wire = Ark()
    for content in (body, b"--B\r\n" + body, b"state=" + body):
        calls = wire.server().receive(HttpRequest(method, path, {}, headers, content, "p"), 0.0)
        assert len(calls) == 1


@given(st.data())
def test_no_damaged_request_raises(data: st.DataObject) -> None:
    whole = golden("three")
    body = bytearray(whole.body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    (call,) = Ark().server().receive(HttpRequest("POST", "/predict", {}, whole.headers, bytes(body), "p"), 0.0)
    if isinstance(call, Observe):
        try:
            call.complete()
        except WireError:
            return
