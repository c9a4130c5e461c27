"""The OpenArm socket: genuine requests, both halves against each other, and nothing that kills a dataflow."""

from __future__ import annotations

import io
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.chunking import Plan
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, InterfaceValidationError, connect, robot_layout
from chunkwise.wires import (
    Answered,
    Call,
    Event,
    Failed,
    Fetch,
    Observe,
    Offer,
    Played,
    Problem,
    Readiness,
    Reply,
    Result,
    Status,
    Trouble,
    WireError,
)
from chunkwise.wires.openarm import OpenArm

GOLDEN = Path(__file__).parent / "golden" / "openarm"
HZ = 50.0
ARMS = ("right_arm", "right_gripper", "left_arm", "left_gripper")
STILL = np.tile([0.1, 0.1, 0.0, 0.5, 0.0, 0.0, 0.0, -0.1, -0.1, -0.1, 0.0, 0.5, 0.0, 0.0, 0.0, 0.1], 1)
"""16 positions within the limits."""


# What a dataflow puts up with ---------------------------------------------------------------------------------


def checked(line: bytes, *, rows: int = 16, width: int = 16) -> dict[str, Any]:
    """An answer that neither the bridge nor the executor stumbles over, as the bridge reads it."""
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and len(line) > 1
    assert line.isascii()
    text = io.TextIOWrapper(io.BytesIO(line), encoding="utf-8").readline()  # as socket.makefile("rw") does
    answer = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))
    positions = answer["positions"]
    if not positions:
        return answer
    assert type(answer["interval"]) is int and answer["interval"] > 0
    assert 0 < answer["cutoff_hz"] < 125
    assert len(positions) == rows >= 2
    assert all(len(row) == width for row in positions)
    numbers = pa.array(positions, type=pa.list_(pa.float32())).values.to_numpy().reshape(rows, width)
    assert np.isfinite(numbers).all()
    return answer


def test_the_checker_fails_what_kills_a_dataflow() -> None:
    row = [0.0] * 16
    good = {"interval": 20_000_000, "cutoff_hz": 15, "positions": [row] * 16}
    checked(json.dumps(good).encode() + b"\n")
    for key, value in (
        ("positions", [row] * 15),
        ("positions", [row[:14]] * 16),
        ("positions", [[float("nan")] * 16] * 16),
        ("interval", 0),
        ("cutoff_hz", 126),
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            checked(json.dumps({**good, key: value}).encode() + b"\n")
    for text in (b"\n", b"{}\n", json.dumps(good, indent=1).encode() + b"\n", json.dumps(good).encode()):
        with pytest.raises((AssertionError, KeyError)):
            checked(text)


# What comes in ------------------------------------------------------------------------------------------------


def lists(values: Any, kind: Any = None) -> pa.Array:
    return pa.array(values, None if kind is None else pa.list_(kind))


def picture(name: str, height: int = 6, width: int = 8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)


CAMERAS = ("camera_wrist_right", "camera_wrist_left", "camera_head_left", "camera_head_right", "camera_ceiling")


def columns(shown: Sequence[float] | None = None, cameras: Sequence[str] = CAMERAS, **more: Any) -> dict[str, Any]:
    """Columns of a file as the genuine observer makes it."""
    made = {"position": lists([STILL if shown is None else shown], pa.float32())}
    made |= {name: lists([picture(name).reshape(-1)], pa.uint8()) for name in cameras}
    made |= {"phase_classifier_result": pa.nulls(1), "task_prompt": pa.array(["pick it up"]), "id": pa.array([0])}
    return {**made, **more}


def described(cameras: Sequence[str] = CAMERAS) -> dict[str, Any]:
    made: dict[str, Any] = {"timestamp": 1_795_232_329_453_161_859, "episode_number": 0}
    for name in cameras:
        made |= {f"{name}.encoding": "rgb8", f"{name}.height": 6, f"{name}.width": 8}
    return made


def arrow(batch: Mapping[str, Any], **options: Any) -> bytes:
    table = pa.record_batch(dict(batch))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, **options) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def line(reset: bool | None = False, metadata: Any = None, path: str = "/a", **more: Any) -> bytes:
    asked = {"name": "inference", "data_path": path, "metadata": described() if metadata is None else metadata}
    if reset is not None:
        asked["reset"] = reset
    return json.dumps({**asked, **more}).encode() + b"\n"


# What a server does -------------------------------------------------------------------------------------------

Answering = Callable[[Observe], Result]


class Server:
    """Does what a server half asks, with time and files that are ours."""

    def __init__(
        self, wire: OpenArm, answering: Answering | None = None, files: Mapping[str, Any] | None = None
    ) -> None:
        self.half = wire.server()
        self.now_s = 100.0
        self.answering = answering or (lambda call: Problem(Trouble.LOADING, "not yet"))
        self.files = dict(files or {"/a": arrow(columns())})
        self.observed: list[Observe] = []
        assert self.half.opened(Offer(Readiness.LOADING), self.now_s) is None

    def send(self, data: bytes) -> bytes:
        out = b""
        todo: list[Call] = list(self.half.receive(data, self.now_s))
        for call in todo:
            if isinstance(call, Reply):
                out += call.data
            elif isinstance(call, Fetch):
                found = self.files.get(call.path)
                content = Problem(Trouble.MALFORMED, "no such file") if found is None else memoryview(found)
                todo += self.half.fetched(call, content, self.now_s)
            elif isinstance(call, Observe):
                self.observed.append(call)
                out += self.half.answer(call, self.answering(call), self.now_s) or b""
            else:
                assert isinstance(call, Status)
                out += self.half.answer(call, Offer(Readiness.LOADING), self.now_s) or b""
        return out


def played(
    rows: Any = None,
    *,
    plan_rows: int = 50,
    step: int = 0,
    first: int = 0,
    hz: float = HZ,
    fresh: bool = True,
    **more: Any,
) -> Played:
    """What the server finds in a plan that begins at `first`; `rows` are the first ones to be played."""
    ahead = np.repeat(STILL[None], 16, axis=0) if rows is None else np.asarray(rows, dtype=np.float64)
    plan = Plan(first, np.repeat(ahead[:1], plan_rows, axis=0), 0, first)
    return Played(ahead[0], False, plan, step, hz, fresh, False, rows=ahead, **more)


def waiting(**more: Any) -> Played:
    """Nothing to play: no chunk yet."""
    return Played(STILL, True, None, 0, HZ, False, False, **more)


def ramp(rows: int = 16, start: float = 0.0) -> np.ndarray[Any, Any]:
    """Rows of which each is another, near STILL."""
    return STILL + (start + 0.001 * np.arange(rows))[:, None]


def observed(batch: Mapping[str, Any], metadata: Any = None, wire: OpenArm | None = None, **more: Any) -> Observe:
    """What the wire makes of a file."""
    server = Server(wire or OpenArm(), files={"/a": arrow(batch)})
    server.send(line(metadata=metadata, **more))
    assert server.observed
    return server.observed[0]


# Genuine requests ---------------------------------------------------------------------------------------------

COLOURS = {
    "camera_wrist_right": (200, 40, 40),
    "camera_wrist_left": (40, 200, 40),
    "camera_head_left": (40, 40, 200),
    "camera_head_right": (200, 200, 40),
    "camera_ceiling": (40, 200, 200),
}
MIDDLE = np.array([-0.493901, 0.602816, -0.113705, 1.989474, 0.466938, -0.188308, -0.327392, -0.1])
"""Where the right arm stood; the left one stood mirrored."""
MIRROR = np.array([-1, -1, -1, 1, -1, -1, -1, -1])
GENUINE = sorted(path.stem for path in GOLDEN.glob("*.json"))


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("pieces", [1, 100, 10_000])
def test_genuine_requests_are_understood(name: str, pieces: int) -> None:
    asked = (GOLDEN / f"{name}.json").read_bytes()
    said = json.loads(asked)
    shown = {"right": [MIDDLE], "left": [MIDDLE * MIRROR]}.get(name.split("_")[0], [MIDDLE, MIDDLE * MIRROR])
    position = np.concatenate(shown)
    rows = np.repeat(position[None], 16, axis=0)
    files = {said["data_path"]: (GOLDEN / f"{name}.arrow").read_bytes()}
    server = Server(OpenArm(), lambda call: played(rows), files)
    answer = b"".join(server.send(asked[i : i + pieces]) for i in range(0, len(asked), pieces))
    np.testing.assert_allclose(checked(answer, width=position.size)["positions"], rows)
    (call,) = server.observed
    assert call.reset is said["reset"] is not name.endswith("second")
    assert call.frame.timestamp_ns == said["metadata"]["timestamp"]
    assert call.frame.sequence_id == name.endswith("second") and call.frame.task == {}
    assert call.frame.state["phase_classifier_result"].shape == (8,)
    joints = [call.frame.state[part.name] for part in call.robot.components]
    np.testing.assert_allclose(np.concatenate(joints), position, atol=1e-6)
    images = call.complete().images
    assert list(images) == [
        n for n in COLOURS if n != {"r": "camera_wrist_left", "l": "camera_wrist_right"}.get(name[0])
    ]
    for camera, image in images.items():
        assert image.shape == ((4, 10, 3) if "head" in camera else (6, 8, 3))
        assert np.abs(image[: len(image) // 2].astype(int) - COLOURS[camera]).max() <= 4  # JPEG


def test_the_genuine_requests_are_there() -> None:
    assert len(GENUINE) == 6


# Requests -----------------------------------------------------------------------------------------------------


def test_an_observation_is_read() -> None:
    call = observed(columns(), reset=True)
    assert (
        call.reset and call.rows == 16 and call.lead_s == 0.05 and call.stale_s == 0.5 and call.patience_s == 2.0
    )
    assert call.robot.image_keys == list(CAMERAS)
    assert [part.name for part in call.robot.components] == list(ARMS) == list(call.frame.state)
    np.testing.assert_array_equal(np.concatenate(list(call.frame.state.values())), STILL.astype(np.float32))
    assert call.frame.task == {"prompt": "pick it up"} and call.frame.images == {}
    assert call.frame.timestamp_ns == 1_795_232_329_453_161_859 and call.frame.sequence_id == 0
    frame = call.complete()
    for name in CAMERAS:
        np.testing.assert_array_equal(frame.images[name], picture(name))
    assert frame.task == call.frame.task and frame.timestamp_ns == call.frame.timestamp_ns


def test_the_robot_is_the_simulated_one() -> None:
    from chunkwise.robots.openarm_sim import OpenArmSim

    here, there = observed(columns()).robot.components, OpenArmSim().spec.components
    assert [(c.name, c.joint_names, c.unit) for c in here] == [(c.name, c.joint_names, c.unit) for c in there]
    for mine, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(mine.lower or [], theirs.lower or [])
        np.testing.assert_allclose(mine.upper or [], theirs.upper or [])
        assert mine.max_rate == theirs.max_rate


def test_pictures_are_views_of_the_file_that_keep_it_alive() -> None:
    content = arrow(columns())
    server = Server(OpenArm(), files={"/a": content})
    server.send(line())
    image = server.observed[0].complete().images["camera_ceiling"]
    whole = np.frombuffer(content, np.uint8)
    assert np.shares_memory(image, whole) and not image.flags.writeable
    del server, content
    np.testing.assert_array_equal(image, picture("camera_ceiling"))


def test_the_newest_row_of_several_is_read() -> None:
    old = STILL + 0.01
    rows = {
        "position": lists([old, STILL], pa.float32()),
        "camera_ceiling": lists([np.zeros(144), picture("camera_ceiling").reshape(-1)], pa.uint8()),
        "task_prompt": pa.array(["old", "new"]),
        "id": pa.array([6, 7]),
    }
    call = observed(rows, described(["camera_ceiling"]))
    np.testing.assert_array_equal(call.frame.state["left_arm"], STILL[8:15].astype(np.float32))
    assert call.frame.task == {"prompt": "new"} and call.frame.sequence_id == 7
    np.testing.assert_array_equal(call.complete().images["camera_ceiling"], picture("camera_ceiling"))


def test_positions_of_newer_arm_drivers_are_read() -> None:
    kind = pa.list_(pa.struct([("qpos", pa.list_(pa.float32()))]))
    old = [{"qpos": np.zeros(8)}, {"qpos": np.zeros(8)}]
    both = pa.array([old, [{"qpos": STILL[:8]}, {"qpos": STILL[8:]}]], kind)
    twice = {name: pa.concat_arrays([column, column]) for name, column in columns().items()}
    call = observed({**twice, "position": both})
    np.testing.assert_array_equal(np.concatenate(list(call.frame.state.values())), STILL.astype(np.float32))


@pytest.mark.parametrize(
    ("cameras", "option", "side"),
    [
        (["camera_wrist_right", "camera_ceiling"], "", "right"),
        (["camera_wrist_left"], "", "left"),
        ([], "left", "left"),
        (["camera_wrist_right"], "left", "left"),
    ],
)
def test_one_arm_is_the_one_whose_wrist_camera_is_there(cameras: list[str], option: Any, side: str) -> None:
    wire = OpenArm(arms=option)
    own = STILL[:8] if side == "right" else STILL[8:]
    answering = lambda call: played(np.repeat(own[None], 16, axis=0))  # noqa: E731
    server = Server(wire, answering, {"/a": arrow(columns(own.tolist(), cameras))})
    answer = checked(server.send(line(metadata=described(cameras))), width=8)
    assert [part.name for part in server.observed[0].robot.components] == [f"{side}_arm", f"{side}_gripper"]
    np.testing.assert_allclose(answer["positions"], np.repeat(own[None], 16, axis=0))


def test_an_observer_of_before_is_understood() -> None:
    metadata = described(["camera_head"])
    del metadata["camera_head.encoding"]
    old = columns(cameras=["camera_head"])
    del old["id"], old["task_prompt"]
    call = observed(old, metadata, reset=None)
    assert call.reset and call.frame.task == {} and call.frame.sequence_id is None
    assert list(call.complete().images) == ["camera_head"]
    assert observed(columns(task_prompt=pa.nulls(1, pa.string()))).frame.task == {}


def test_bgr_is_turned_and_other_encodings_are_refused() -> None:
    metadata = {**described(), "camera_ceiling.encoding": "bgr8"}
    np.testing.assert_array_equal(
        observed(columns(), metadata).complete().images["camera_ceiling"], picture("camera_ceiling")[..., ::-1]
    )
    metadata["camera_ceiling.encoding"] = "mono8"
    assert "mono8" in checked(Server(OpenArm()).send(line(metadata=metadata)))["error"]


def test_cameras_and_phase_take_other_names() -> None:
    wire = OpenArm(cameras=("camera_ceiling:ceiling",), phase="belts", phase_shape=(2, 2, 2))
    phase = lists([np.arange(8.0)], pa.float32())
    call = observed(columns(phase_classifier_result=phase), wire=wire)
    assert "ceiling" in call.robot.image_keys and "ceiling" in call.complete().images
    assert call.robot.state_keys == ["belts"]
    np.testing.assert_array_equal(call.frame.state["belts"], np.arange(8.0).reshape(2, 2, 2))


def test_a_phase_of_words_is_kept_beside() -> None:
    kind = pa.struct([("phase", pa.int64()), ("phase_name", pa.string()), ("spans", pa.list_(pa.int64()))])
    said = {"phase": 3, "phase_name": "grasp", "spans": [1]}
    for column in (pa.array([said], kind), pa.array([[said]], pa.list_(kind))):
        call = observed(columns(phase_classifier_result=column))
        assert call.frame.meta == {"phase_classifier_result": {"phase": 3, "phase_name": "grasp"}}
        assert call.robot.state_keys == []
    call = observed(columns(phase_classifier_result=pa.array([0.5])))
    np.testing.assert_array_equal(call.frame.state["phase_classifier_result"], [0.5])
    call = observed(columns(phase_classifier_result=pa.array(["grasp"])))
    assert not call.frame.meta and not call.robot.state_keys


def test_a_stamp_of_another_clock_is_not_taken_for_unix_time() -> None:
    for stamp in (12_345, "now", None, True, 1 << 70):
        assert observed(columns(), {**described(), "timestamp": stamp}).frame.timestamp_ns == 0


def broken_files() -> dict[str, bytes]:
    whole = arrow(columns())
    dictionary = pa.array(["a"]).dictionary_encode()
    return {
        "empty": b"",
        "batch in the place of the schema": whole[:8] + whole[16 + int.from_bytes(whole[12:16], "little") :],
        "signalling not-a-number": whole.replace(struct.pack("<f", STILL[0]), b"\0\0\xa0\x7f", 1),
        "text": b"hello",
        "truncated": whole[: len(whole) // 2],
        "truncated at the end": whole[:-9],
        "without its middle": whole[:200] + whole[-200:],
        "position missing": arrow({"id": pa.array([0])}),
        "position short": arrow(columns([0.0] * 14)),
        "position not finite": arrow(columns([float("nan"), *STILL[1:]])),
        "position infinite": arrow(columns([float("inf"), *STILL[1:]])),
        "position null": arrow(columns(position=pa.nulls(1, pa.list_(pa.float32())))),
        "position with nulls": arrow(columns(position=lists([[None, *STILL[1:]]], pa.float32()))),
        "position of texts": arrow(columns(position=lists([["1"] * 16]))),
        "position of other structs": arrow(columns(position=pa.array([[{"q": [0.0] * 16}]]))),
        "position a number": arrow(columns(position=pa.array([0.0]))),
        "picture too small": arrow(columns(camera_ceiling=lists([[0] * 143], pa.uint8()))),
        "picture null": arrow(columns(camera_ceiling=pa.nulls(1, pa.list_(pa.uint8())))),
        "picture without size": arrow(columns(camera_new=lists([[0] * 144], pa.uint8()))),
        "prompt a number": arrow(columns(task_prompt=pa.array([1]))),
        "prompt endless": arrow(columns(task_prompt=pa.array(["x" * 70_000]))),
        "prompt in a dictionary": arrow(columns(task_prompt=dictionary)),
        "phase not finite": arrow(columns(phase_classifier_result=pa.array([float("nan")]))),
        "no rows": arrow({name: column[:0] for name, column in columns().items()}),
        "too many columns": arrow({f"c{n}": pa.array([0]) for n in range(300)}),
        "compressed": arrow(columns(), options=pa.ipc.IpcWriteOptions(compression="zstd")),
        "no batch": arrow_of_no_batch(),
    }


def arrow_of_no_batch() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.record_batch(columns()).schema):
        pass
    return bytes(sink.getvalue())


@pytest.mark.parametrize("name", sorted(broken_files()))
def test_a_broken_file_is_answered_and_the_next_one_served(name: str) -> None:
    server = Server(OpenArm(), lambda call: played(), {"/a": arrow(columns()), "/broken": broken_files()[name]})
    answer = checked(server.send(line(path="/broken", reset=True)))
    assert answer["positions"] == [] and answer["error"]
    assert not server.observed
    checked(server.send(line()))
    assert server.observed[0].reset, "an episode that a broken file began is begun by the next one"


@pytest.mark.parametrize(
    "asked",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"name": "inference"}\n',
        b'{"name": "train", "data_path": "/a"}\n',
        b'{"data_path": "/a"}\n',
        line(transport="shm_ring_v1"),
        line(path="relative"),
        line(path="/a\0b"),
        line(path="/\ud800"),
        line(metadata=[1]),
        line(metadata={**described(), "camera_ceiling.height": float("nan")}),
        line(metadata={**described(), "camera_ceiling.height": 7}),
        line(metadata={**described(), "camera_ceiling.height": -6, "camera_ceiling.width": -8}),
        line(metadata={**described(), "camera_ceiling.height": True}),
        line(metadata={**described(), "camera_ceiling.encoding": ["rgb8"]}),
        line(metadata={}),
        line(path="/missing"),
        b'{"name": ' + b"9" * 5000 + b"}\n",
        b"[" * 100_000 + b"\n",
    ],
    ids=range(21),
)
def test_a_wrong_request_is_answered_and_the_next_one_served(asked: bytes) -> None:
    server = Server(OpenArm(), lambda call: played())
    answer = checked(server.send(asked))
    assert answer["positions"] == [] and answer["error"] and len(answer["error"]) <= 300
    assert checked(server.send(line()))["positions"]


def test_a_ping_is_answered() -> None:
    half = OpenArm().server()
    for readiness, ready in ((Readiness.LOADING, False), (Readiness.READY, True)):
        (call,) = half.receive(b'{"ping": true}\n', 0.0)
        assert half.answer(call, Offer(readiness), 0.0) == b'{"ready":%s}\n' % str(ready).lower().encode()


def test_a_stream_without_end_or_without_waiting_ends() -> None:
    half = OpenArm().server()
    for _ in range(16):
        half.receive(bytes(65536), 0.0)
    with pytest.raises(WireError, match="a line of more than"):
        half.receive(b"x", 0.0)
    half = OpenArm().server()
    with pytest.raises(WireError, match="one by one"):
        half.receive(b"\n" * 17, 0.0)
    half = OpenArm().server()
    half.receive(line() * 16, 0.0)
    with pytest.raises(WireError, match="without waiting"):
        half.receive(line(), 0.0)


def test_answers_come_in_the_order_of_the_requests() -> None:
    half = OpenArm().server()
    calls = half.receive(line() + b"nonsense\n" + b'{"ping": true}\n' + line(), 0.0)
    assert [type(call) for call in calls] == [Fetch, Status, Fetch]
    assert half.answer(calls[1], Offer(Readiness.READY), 0.0) is None
    assert half.fetched(calls[2], Problem(Trouble.MALFORMED, "gone"), 0.0) == []
    (reply,) = half.fetched(calls[0], Problem(Trouble.MALFORMED, "gone"), 0.0)
    assert isinstance(reply, Reply)
    answers = [json.loads(text) for text in reply.data.splitlines()]
    assert [answer.get("ready") for answer in answers] == [None, None, True, None]
    assert "JSON" in answers[1]["error"]
    assert half.answer(calls[1], Offer(Readiness.READY), 0.0) is None
    assert half.fetched(calls[0], memoryview(b""), 0.0) == []


# Answers ------------------------------------------------------------------------------------------------------


def test_rows_are_those_that_the_gate_let_pass() -> None:
    server = Server(OpenArm(cutoff_hz=5), lambda call: played(ramp()))
    answer = checked(server.send(line()))
    assert answer["interval"] == 20_000_000 and answer["cutoff_hz"] == 5 and "error" not in answer
    np.testing.assert_array_equal(answer["positions"], ramp())


def test_nothing_is_sent_twice_and_a_longer_plan_goes_on() -> None:
    steps = iter([0, 1, 5, 6, 7, 8, 20, 30, 35])
    answers = Server(OpenArm())

    def running(call: Observe) -> Played:
        step = next(steps)
        return played(ramp(start=0.001 * step), step=step, fresh=step == 0)

    answers.answering = running
    sent = [step for step in (0, 1, 5, 6, 7, 8, 20, 30, 35) if checked(answers.send(line()))["positions"]]
    # 16 rows from step 2 on: the next are due when the executor has less than 0.2 s (10 rows) of them
    assert sent == [0, 6, 20, 30]


def test_rows_are_as_many_as_ever() -> None:
    for count in (1, 5, 16, 40):
        answer = checked(Server(OpenArm(), lambda call, n=count: played(ramp(n))).send(line()))  # type: ignore[misc]
        np.testing.assert_array_equal(answer["positions"], ramp(40)[np.minimum(np.arange(16), count - 1)])
    answer = checked(Server(OpenArm(rows=2), lambda call: played(ramp())).send(line()), rows=2)
    np.testing.assert_array_equal(answer["positions"], ramp(2))


def unsafe() -> dict[str, Any]:
    nan, huge, far, wide = ramp(), ramp(), ramp(), np.zeros((16, 14))
    nan[7, 3], huge[15, 0], far[0, 3] = np.nan, 1e39, 2.4
    return {"nan": played(nan), "float32": played(huge), "jump": played(far), "width": played(wide)} | {
        "rate": played(hz=float("nan")),
        "rate zero": played(hz=0.0),
        "no rows": Played(STILL, False, played().plan, 0, HZ, True, False),
        "empty": waiting(),
        "failed": Problem(Trouble.POLICY_FAILED, "it raised: \N{SNOWMAN}\n" + "x" * 1000),
        "none": None,
        "chunk": ActionChunk(ramp()),
        "faults": waiting(faults=("policy_failed: it raised",)),
    }


@pytest.mark.parametrize("name", sorted(unsafe()))
@pytest.mark.parametrize("reset", [False, True])
def test_what_cannot_be_played_is_not_sent(name: str, reset: bool) -> None:
    server = Server(OpenArm(), lambda call: unsafe()[name])
    answer = checked(server.send(line(reset=reset)))
    if reset and isinstance(unsafe()[name], Played) and not name.startswith("rate"):
        np.testing.assert_array_equal(answer["positions"], np.repeat(STILL.astype(np.float32)[None], 16, axis=0))
    else:
        assert answer["positions"] == []
    assert name == "empty" or answer["error"]


def test_what_is_sent_is_within_the_limits() -> None:
    beyond = ramp()
    beyond[:, 3] = 2.6
    measured = STILL.copy()
    measured[3] = 2.4
    files = {"/a": arrow(columns(measured.tolist()))}
    answer = checked(Server(OpenArm(), lambda call: played(beyond), files).send(line()))
    layout = robot_layout(observed(columns()).robot)
    upper = np.concatenate([slot.upper for slot in layout.slots])
    assert (np.asarray(answer["positions"]) <= upper).all()
    answer = checked(Server(OpenArm(limits="none"), lambda call: played(beyond), files).send(line()))
    np.testing.assert_array_equal(answer["positions"], beyond)


def test_the_rate_stays_what_it_was() -> None:
    rates = iter([50.0, 50.1, 30.0, 50.0])
    server = Server(OpenArm(), lambda call: played(hz=next(rates)))
    answers = [checked(server.send(line())) for _ in range(4)]
    assert [answer.get("interval") for answer in answers] == [20_000_000, 20_000_000, None, 20_000_000]
    assert "30 Hz" in answers[2]["error"]


def test_the_arms_stay_what_they_were() -> None:
    wrist = ["camera_wrist_left"]
    files = {"/a": arrow(columns()), "/one": arrow(columns(STILL[8:].tolist(), wrist))}
    server = Server(OpenArm(), lambda call: played(), files)
    assert checked(server.send(line()))["positions"]
    answer = checked(server.send(line(path="/one", metadata=described(wrist))))
    assert answer["positions"] == [] and "right, left" in answer["error"]
    assert checked(server.send(line()))["positions"]


def test_a_reset_is_told_while_the_policy_loads_where_the_rate_is_known() -> None:
    answer = checked(Server(OpenArm(control_hz=30.0)).send(line(reset=True)))
    assert answer["interval"] == 33_333_333 and len(answer["positions"]) == 16 and "loading" in answer["error"]
    assert checked(Server(OpenArm()).send(line(reset=True)))["positions"] == []


# Episodes -----------------------------------------------------------------------------------------------------


def resets(asked: Sequence[tuple[bool | None, int | None]]) -> list[bool]:
    files = {str(number): {**columns(), "id": pa.array([number])} for _, number in asked}
    for batch in files.values():
        if batch["id"][0].as_py() is None:
            del batch["id"]
    holds = Played(None, True, None, 0, HZ, False, False)
    batches = {f"/{number}": arrow(batch) for number, batch in files.items()}
    server = Server(OpenArm(), lambda call: holds, files=batches)
    for reset, number in asked:
        server.send(line(reset=reset, path=f"/{number}"))
    return [call.reset for call in server.observed]


def test_an_episode_begins_when_the_bridge_says_so() -> None:
    assert resets([(True, 0), (False, 1), (False, 0), (True, 0), (True, 1)]) == [True, False, False, True, True]
    assert resets([(False, 5), (False, 6)]) == [False, False]


def test_an_older_bridge_says_it_by_its_numbers() -> None:
    assert resets([(None, 0), (None, 1), (None, 2), (None, 0), (None, 1)]) == [True, False, False, True, False]
    assert resets([(None, None), (None, None)]) == [True, False]


def test_a_reset_whose_observation_was_refused_is_not_lost() -> None:
    refused = Problem(Trouble.MISMATCH, "a camera is missing")
    results: list[Result] = [refused, refused, Played(None, True, None, 0, HZ, False, False)]
    server = Server(OpenArm(), lambda call: results.pop(0) if len(results) > 1 else results[0])
    for reset in (True, False, False, False):
        server.send(line(reset=reset))
    assert [call.reset for call in server.observed] == [True, True, True, False]


def test_a_reset_is_answered_with_rows_and_then_with_nothing_for_a_while() -> None:
    plans: dict[float, Result] = {}
    server = Server(OpenArm(hold_after_reset_ms=250), lambda call: plans[round(server.now_s, 3)])
    said = []
    timeline = [  # when, whether it is the first of an episode, what the server has
        (0.000, True, played(ramp(start=0.01))),
        (0.033, False, played(ramp(start=0.02))),
        (0.249, False, played(ramp(start=0.03), fresh=False)),
        (0.251, False, played(ramp(start=0.04), fresh=False)),
        (0.284, False, played(ramp(start=0.05), fresh=False)),
        (9.000, True, waiting()),
        (9.100, False, played(ramp(start=0.06))),
        (9.260, False, played(ramp(start=0.07), fresh=False)),
        (20.00, True, Problem(Trouble.POLICY_FAILED, "it raised")),
        (20.10, False, played(ramp(start=0.08))),
        (20.26, False, waiting()),
        (30.00, True, played(ramp(start=0.09))),
    ]
    for at, reset, result in timeline:
        server.now_s = at
        plans[round(at, 3)] = result
        answer = checked(server.send(line(reset=reset)))
        said.append(None if not answer["positions"] else round(answer["positions"][0][0], 6))
    still = round(float(np.float32(STILL[0])), 6)
    assert said == [0.11, None, None, 0.14, None, still, None, 0.17, still, None, None, 0.19]
    assert [call.patience_s for call in server.observed[:2]] == [2.0, 0.025]


def test_a_plan_of_the_episode_before_is_not_sent() -> None:
    results = iter([played(ramp()), waiting(), waiting()])
    server = Server(OpenArm(hold_after_reset_ms=0), lambda call: next(results))
    assert checked(server.send(line()))["positions"]
    assert (
        checked(server.send(line(reset=True)))["positions"]
        == np.repeat(STILL.astype(np.float32)[None].astype(float), 16, axis=0).tolist()
    )
    assert checked(server.send(line()))["positions"] == []


class Bridge:
    """The dataflow's node and the executor behind it, as they treat a socket: in lock-step, as text, line by line.

    The executor looks for a chunk every 100 ms, finds the newest, and counts those that say reset.
    """

    def __init__(self, server: Server) -> None:
        here, self.there = socket.socketpair()
        self.server, self.io = server, here.makefile("rw")
        self.here = here
        self.newest: bool | None = None
        self.resets = self.chunks = 0

    def show(self, reset: bool) -> None:
        self.io.write(line(reset=reset).decode())
        self.io.flush()
        self.there.sendall(self.server.send(self.there.recv(1 << 20)))
        answer = json.loads(self.io.readline())
        self.here.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.here.recv(1)
        self.here.setblocking(True)
        if checked(json.dumps(answer).encode() + b"\n")["positions"]:
            self.newest = reset

    def look(self) -> None:
        if self.newest is not None:
            self.chunks += 1
            self.resets += self.newest
            self.newest = None

    def close(self) -> None:
        for end in (self.io, self.here, self.there):
            end.close()


@pytest.mark.parametrize(("hold_ms", "resets"), [(250, 2), (0, 0)])
def test_both_resets_of_two_episodes_reach_the_executor(hold_ms: float, resets: int) -> None:
    server = Server(OpenArm(hold_after_reset_ms=hold_ms), lambda call: played(ramp()))
    bridge = Bridge(server)
    for tick in range(60):  # at 30 Hz, an episode a second
        server.now_s = 100 + tick / 30
        bridge.show(reset=tick % 30 == 0)
        if tick % 3 == 2:
            bridge.look()
    bridge.close()
    assert bridge.resets == resets and bridge.chunks >= 14


# The client ---------------------------------------------------------------------------------------------------


def frame(**more: Any) -> Frame:
    parts = zip(ARMS, np.split(STILL, [7, 8, 15]), strict=True)
    images = {"camera_ceiling": picture("camera_ceiling"), "camera_head": picture("camera_head", 4, 5)}
    return Frame(images, {**dict(parts), **more}, {"prompt": "tidy \N{SNOWMAN} up"}, timestamp_ns=2 * 10**18)


class Pair:
    """A client half and a server half, whose bytes are cut as one likes."""

    def __init__(self, answering: Answering, pieces: int = 0, **options: Any) -> None:
        self.wire = OpenArm(**options)
        self.server, self.client = Server(self.wire, answering), self.wire.client()
        self.pieces, self.ids, self.sent = pieces, 0, b""

    def cut(self, data: bytes) -> list[bytes]:
        return [data[i : i + self.pieces] for i in range(0, len(data), self.pieces)] if self.pieces else [data]

    def ask(self, shown: Frame) -> list[Event]:
        self.ids += 1
        sending = self.client.ask(self.ids, shown, ChunkRequest(self.ids), None)
        self.server.files = {path: b"".join(map(bytes, parts)) for path, parts in sending.files.items()}
        self.sent = sending.data
        answer = b"".join(self.server.send(piece) for piece in self.cut(sending.data))
        return [event for piece in self.cut(answer) for event in self.client.receive(piece, 0.0)]


@pytest.mark.parametrize("pieces", [0, 1, 7])
def test_client_and_server_understand_each_other(pieces: int) -> None:
    pair = Pair(lambda call: played(ramp()), pieces, phase="belts", control_hz=HZ)
    (event,) = pair.ask(frame(belts=np.arange(8.0).reshape(2, 2, 2)))
    assert isinstance(event, Answered) and event.id == 1 and event.chunk is not None
    np.testing.assert_array_equal(event.chunk.rows, ramp())
    assert event.chunk.meta == {"interval_s": 0.02}
    (call,) = pair.server.observed
    assert call.reset and call.frame.task == {"prompt": "tidy \N{SNOWMAN} up"}
    assert call.frame.timestamp_ns == 2 * 10**18 and call.robot.image_keys == ["camera_ceiling", "camera_head"]
    np.testing.assert_array_equal(call.frame.state["belts"], np.arange(8.0))
    for name, image in frame().images.items():
        np.testing.assert_array_equal(call.complete().images[name], image)


def test_the_client_says_when_an_episode_begins() -> None:
    pair = Pair(lambda call: played())
    for number in range(5):
        if number == 3:
            assert pair.client.reset(9) is None
        pair.ask(frame())
    assert [call.reset for call in pair.server.observed] == [True, False, False, True, False]
    assert [call.frame.sequence_id for call in pair.server.observed] == [0, 1, 2, 0, 1]


def test_the_client_sends_the_cameras_that_it_was_told() -> None:
    pair = Pair(lambda call: played(), cameras=("camera_top:camera_ceiling",))
    assert pair.client.spec is not None and pair.client.spec.required_image_keys == ["camera_ceiling"]
    pair.ask(frame())
    assert b"camera_top.height" in pair.sent and b"camera_head" not in pair.sent
    with pytest.raises(InterfaceValidationError, match="camera_ceiling"):
        pair.client.ask(9, Frame(state=frame().state), ChunkRequest(0), None)


def test_the_clients_spec_binds_to_the_simulated_robot() -> None:
    from chunkwise.robots.openarm_sim import OpenArmSim

    spec = OpenArm().client().spec
    assert spec is not None and spec.action_dim == 16 and OpenArm().client().lockstep
    assert connect(OpenArmSim().spec, spec).layout.width == 16


def test_one_arm_as_a_client() -> None:
    pair = Pair(lambda call: played(np.repeat(STILL[None, 8:], 16, axis=0)), arms="left")
    (event,) = pair.ask(frame())
    assert isinstance(event, Answered) and event.chunk is not None and event.chunk.rows.shape == (16, 8)


def test_what_the_client_cannot_write_is_said() -> None:
    client = OpenArm().client()
    for wrong in (
        Frame(),
        frame(left_arm=np.zeros(6)),
        frame(left_arm=np.full(7, np.nan)),
        Frame({"c": np.zeros((4, 4, 3))}, frame().state),
        Frame({"c": np.zeros((4, 4), np.uint8)}, frame().state),
    ):
        with pytest.raises(InterfaceValidationError):
            client.ask(0, wrong, ChunkRequest(0), None)


def heard(answer: bytes, **options: Any) -> Event:
    client = OpenArm(**options).client()
    client.ask(5, frame(), ChunkRequest(0), None)
    (event,) = client.receive(answer, 0.0)
    return event


def test_a_server_that_has_nothing_new_is_busy() -> None:
    assert heard(b'{"positions": []}\n') == Failed(5, Problem(Trouble.BUSY, "no new chunk"))
    assert heard(b'{"positions": [], "error": "oh"}\n') == Failed(5, Problem(Trouble.POLICY_FAILED, "oh"))
    for text in ("NaN", "Infinity", "1e999"):
        rows = "[[" + ",".join([text] * 16) + "]]"
        event = heard(f'{{"interval": 1e7, "positions": {rows}}}\n'.encode())
        assert isinstance(event, Failed) and "finite" in event.problem.text


def test_a_server_of_another_rate_is_refused() -> None:
    answer = json.dumps({"interval": 33_333_333, "positions": [[0.0] * 16]}).encode() + b"\n"
    assert isinstance(heard(answer), Answered) and isinstance(heard(answer, control_hz=30.0), Answered)
    with pytest.raises(WireError, match="30 Hz, control_hz is 50 Hz"):
        heard(answer, control_hz=50.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"{}\n",
        b'{"positions": 1}\n',
        b'{"positions": [[1]]}\n',
        b'{"interval": 0, "positions": [[1]]}\n',
        b'{"interval": true, "positions": [[1]]}\n',
        b'{"interval": NaN, "positions": [[1]]}\n',
        b'{"interval": 1e7, "positions": [[1, 2]]}\n',
        b'{"interval": 1e7, "positions": [[1], [1, 2]]}\n',
        b'{"interval": 1e7, "positions": ["a"]}\n',
        b'{"interval": 1e7, "positions": [[' + b"1," * 15 + b"9" * 400 + b"]]}\n",
        b'{"interval": 1e7, "positions": [[' + b"true," * 15 + b"true]]}\n",
        b'{"positions": []}\n{"positions": []}\n',
        b"x" * ((4 << 20) + 1),
    ],
    ids=range(14),
)
def test_a_server_of_another_protocol_is_refused(answer: bytes) -> None:
    with pytest.raises(WireError):
        heard(answer)


def test_an_answer_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(WireError, match="nobody"):
        OpenArm().client().receive(b'{"positions": []}\n', 0.0)


# Anything at all ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["inference", "ping", "", None])
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES,
        "data_path": st.just("/a") | JSON,
        "reset": st.booleans() | JSON,
        "ping": JSON,
        "transport": JSON,
        "metadata": JSON
        | st.dictionaries(st.sampled_from(sorted(described())), JSON).map(lambda d: described() | d),
    },
)


@given(st.lists(st.binary(max_size=64) | JSON.map(lambda t: json.dumps(t).encode() + b"\n"), max_size=6))
def test_no_bytes_break_either_half(pieces: list[bytes]) -> None:
    server, client = Server(OpenArm(), lambda call: played()), OpenArm().client()
    client.ask(0, frame(), ChunkRequest(0), None)
    for piece in pieces:
        try:
            for answer in server.send(piece).splitlines(keepends=True):
                json.loads(answer)
            client.receive(piece, 0.0)
        except WireError:
            return


@given(st.lists(ASKED, max_size=4))
def test_every_request_has_one_answer(asked: list[dict[str, Any]]) -> None:
    server = Server(OpenArm(), lambda call: played())
    for request in asked:
        answer = server.send(json.dumps(request).encode() + b"\n")
        if b'"ready"' in answer:
            assert answer == b'{"ready":false}\n'
        else:
            checked(answer)


WHOLE = arrow(columns())


@given(st.data())
def test_no_file_breaks_the_server(data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
        content += b"ARROW1" if data.draw(st.booleans()) else b""
    server = Server(OpenArm(), lambda call: played(), {"/a": bytes(content)})
    checked(server.send(line()))
    for call in server.observed:
        call.complete()


@given(st.integers(0, 2**32), st.integers(0, 500), st.sampled_from(["i", "f", "huge"]))
def test_no_rows_break_a_dataflow(seed: int, count: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scale = {"i": 1.0, "f": 0.01, "huge": 1e300}[kind]
    rows = STILL + scale * rng.standard_normal((count % 40, 16)) if count else np.zeros((0, 3))
    if count % 7 == 1 and rows.size:
        rows[rng.integers(len(rows)), 3] = rng.choice([np.nan, np.inf, -np.inf])
    result = Played(None, False, Plan(0, rows, 0, 0), 0, HZ, True, False, rows=rows)
    checked(Server(OpenArm(), lambda call: result).send(line(reset=bool(seed % 2))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 1},
        {"cutoff_hz": 125.0},
        {"cutoff_hz": 0.0},
        {"cutoff_hz": float("nan")},
        {"control_hz": 0.0},
        {"control_hz": float("inf")},
        {"max_rate": -1.0},
        {"arms": "both"},
        {"limits": "all"},
        {"lead_ms": -1.0},
        {"stale_ms": float("nan")},
        {"cameras": ("a:b", "c:b")},
        {"cameras": ("a:",)},
        {"phase_shape": (0,)},
        {"folder": "here"},
        {"max_file_bytes": 0},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OpenArm(**wrong)
