"""The LeRobot wire against LeRobot's own bytes, and its two halves against each other."""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    ImageRule,
    InterfaceValidationError,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
)
from chunkwise.wires import (
    Answered,
    Failed,
    Fetch,
    Hello,
    HttpRequest,
    HttpResponse,
    Infer,
    Offer,
    Park,
    Poke,
    Problem,
    Readiness,
    Reply,
    Reset,
    Status,
    Trouble,
    Welcome,
    WireError,
)
from chunkwise.wires._grpc import MAX_MESSAGES, code_of, framed, messages_of, request, response, status
from chunkwise.wires.lerobot import MAX_ROBOTS, SERVICE, LeRobot
from chunkwise.wires.lerobot.arrays import TORCH
from chunkwise.wires.lerobot.messages import (
    ACTIONS,
    INBOUND,
    MODULE,
    MODULES,
    Seen,
    loaded,
    read_actions,
    read_observation,
    read_setup,
    write_actions,
    write_observation,
    write_setup,
)
from chunkwise.wires.lerobot.protobuf import SLICE_BYTES, joined, payload, payload_of, sliced

GOLDEN = Path(__file__).parent / "golden" / "lerobot"
JOINTS = ["gripper", "elbow_flex", "shoulder_pan"]
"""In another order than the robot's."""
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
ME = "ipv4:127.0.0.1:41234"


def policy(**changes: Any) -> PolicySpec:
    """Three joints and a camera."""
    given = {
        "name": "pick",
        "required_image_keys": ["front"],
        "required_state_keys": ["arm"],
        "outputs": [PolicyOutputSpec("arm", "joint_position", 3, names=JOINTS, unit="rad")],
        "state_names": {"arm": JOINTS},
        "action_horizon": 4,
        "control_hz": 20.0,
    }
    return PolicySpec(**(given | changes))


def ready(spec: PolicySpec | None = None) -> Offer:
    return Offer(Readiness.READY, "", spec or policy())


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def asked(wire: LeRobot, method: str, *messages: bytes, peer: str = ME, **headers: str) -> tuple[Any, list[Any]]:
    """A call's server half, and what it asks for."""
    made = request(SERVICE + method, messages)
    half = wire.server()
    half.opened(ready(wire.policy), 0.0)
    return half, list(half.receive(HttpRequest("POST", made.path, {}, headers, made.body, peer), 0.0))


def told(wire: LeRobot, method: str, *messages: bytes, peer: str = ME) -> HttpResponse:
    """The response to a call that is answered at once."""
    half, calls = asked(wire, method, *messages, peer=peer)
    call = calls[0]
    made = call.data if isinstance(call, Reply) else half.answer(call, ready(wire.policy), 0.0)
    assert made is not None
    return made


def shown(wire: LeRobot, seen: Seen, peer: str = ME) -> None:
    """The robot has shown what it sees."""
    assert code_of(told(wire, "SendObservations", *sliced(write_observation(seen)), peer=peer)) == (0, "")


def seen(step: int = 0, *, image: Any = PICTURE, **numbers: float) -> Seen:
    numbers = numbers or {"shoulder_pan": 1.0, "elbow_flex": 2.0, "gripper": 3.0}
    named = {f"{name}.pos": value for name, value in numbers.items()}
    return Seen(MODULE, 1e9, step, False, named, {"front": image}, "pick")


def wired(spec: PolicySpec | None = None, **options: Any) -> LeRobot:
    """A wire whose policy is known."""
    wire = LeRobot(**options)
    wire.policy = spec or policy()
    return wire


def infer(wire: LeRobot, peer: str = ME) -> tuple[Any, Infer]:
    half, (call,) = asked(wire, "GetActions", b"", peer=peer)
    assert isinstance(call, Infer), call
    return half, call


def refusal(doing: Callable[[], Any]) -> str:
    with pytest.raises(WireError) as caught:
        doing()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 4000
    return str(caught.value)


def loads(data: bytes, known: Any = INBOUND, most: int = 20_000) -> Any:
    return loaded(data, known, most)[0]


# LeRobot's own bytes ------------------------------------------------------------------------------------------


def test_a_stock_setup_is_read() -> None:
    setup = read_setup(payload_of(memoryview(golden("setup"))))
    assert setup == (MODULE, ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"), None, ("front",), 4)


@pytest.mark.parametrize("name", ["observation_4", "observation_5"])
def test_a_stock_observation_is_read(name: str) -> None:
    found = read_observation(joined([memoryview(golden(name))], 1 << 20))
    assert found._replace(images={}) == Seen(
        MODULE,
        1700000000.25,
        7,
        True,
        {"shoulder_pan.pos": 0.5, "elbow_flex.pos": -1.25, "gripper.pos": 30.0},
        {},
        "pick the block",
    )
    assert np.array_equal(found.images["front"], PICTURE)


@pytest.mark.parametrize("name", ["actions_float", "actions_half", "actions_bfloat"])
def test_a_stock_servers_tensors_are_read_without_torch(name: str) -> None:
    first, rows = read_actions(payload_of(memoryview(golden(name))))
    assert first == 7 and np.array_equal(rows, np.arange(12.0).reshape(4, 3) / 8)


def test_a_stock_conversation() -> None:
    wire = LeRobot()
    half, (call,) = asked(wire, "Ready", b"")
    assert call == Hello(session=ME, wait=True, keyed=True)
    assert half.answer(call, ready(), 0.0) == response(b"")
    assert told(wire, "SendPolicyInstructions", golden("setup")) == response(b"")
    half, calls = asked(wire, "SendObservations", golden("observation_4"))
    assert calls == [Status(), Poke(ME)] and half.answer(calls[0], ready(), 0.0) == response(b"")
    half, call = infer(wire)
    assert call.session == ME and call.request == ChunkRequest(7, id=1) and call.robot is None
    assert call.frame.state["arm"].tolist() == [30.0, -1.25, 0.5], "in the policy's order"
    assert np.array_equal(call.frame.images["front"], PICTURE) and call.frame.task == {"prompt": "pick the block"}
    assert call.frame.timestamp_ns == 1700000000250000000 and call.frame.sequence_id == 7
    rows = np.arange(30.0).reshape(10, 3)
    (message,) = messages_of(half.answer(call, ActionChunk(rows), 0.0).body)
    first, found = read_actions(payload_of(message))
    assert first == 7 and np.array_equal(found, rows[:4, ::-1]), "four, as was asked, in the robot's order"


class Action:
    """What a robot has for LeRobot's TimedAction."""


class Torch(pickle.Unpickler):
    """A robot's own unpickler, with a list in the place of a tensor."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in ((MODULES[1], "TimedAction"), ("torch", "tensor"))
        return Action if name == "TimedAction" else list


def test_what_is_answered_is_what_a_robot_unpickles(tmp_path: Path) -> None:
    rows = np.array([[0.1, -2.0], [3.0, 1e-3], [5.0, 6.0]])
    data = write_actions(MODULES[1], rows, 7, 1e9, 0.05)
    assert max(op.proto for op, _, _ in pickletools.genops(data)) == 2
    (tmp_path / "actions").write_bytes(data)
    with (tmp_path / "actions").open("rb") as file:
        actions = Torch(file).load()
    assert [vars(action) for action in actions] == [
        {"timestamp": 1e9 + index * 0.05, "timestep": 7 + index, "action": row.astype(np.float32).tolist()}
        for index, row in enumerate(rows)
    ]
    assert all(type(action.timestep) is int and type(action.timestamp) is float for action in actions)
    assert read_actions(data)[0] == 7


# What is not run ----------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, called: Any, *arguments: Any) -> None:
        self._reduced = called, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    "evil",
    [
        Malicious(os.system, "touch {}"),
        Malicious(eval, "open('{}', 'w')"),
        Malicious(getattr, "x", "upper"),
        Malicious(open, "{}", "w"),
        os.system,
        {"a": [Malicious(exec, "open('{}', 'w')")]},
        np.array([Malicious(os.system, "touch {}")], dtype=object),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_malicious_pickle_is_refused(evil: Any, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(evil, protocol=protocol).replace(b"{}", str(tmp_path / "x").encode()[-2:])
    for known in (INBOUND, ACTIONS):
        said = refusal(lambda known=known: loads(data, known))
        assert "is not allowed" in said or "must hold" in said or "cannot be" in said
    assert not list(tmp_path.iterdir())
    wire = wired()
    for method, message in (("SendPolicyInstructions", payload(data)), ("SendObservations", sliced(data)[0])):
        with pytest.raises(WireError) as caught:
            told(wire, method, message)
        code, text = code_of(caught.value.farewell)
        assert code == 3 and text == str(caught.value), "the robot is told, too"


def test_no_name_leads_to_code_of_others() -> None:
    for known in (TORCH, INBOUND, ACTIONS):
        for each in known.values():
            for function in (each.made, each.empty):
                module = getattr(function, "__module__", "")
                assert function is None or module.startswith(
                    ("chunkwise.wires.lerobot", "chunkwise.processing")
                ), function


def test_tensors_stay_within_their_storage() -> None:
    whole = bytes(payload_of(memoryview(golden("actions_float"))))
    assert read_actions(whole)
    good = b"K\x00K\x03\x85"  # offset, size
    assert whole.count(good) == 1
    for wrong in (b"K\x0aK\x03\x85", b"K\x00K\x0d\x85", b"K\x00J\xff\xff\xff\xff\x85"[:5]):
        refusal(lambda wrong=wrong: read_actions(whole.replace(good, wrong)))
    for old, new in (
        (b"FloatStorage", b"EvilsStorage"),
        (b"little_endian", b"little_endiam"),
        (b"K\x0cNt", b"K\x0bNt"),
    ):
        assert old in whole
        refusal(lambda old=old, new=new: read_actions(whole.replace(old, new)))


@given(st.binary(max_size=200))
def test_bytes_without_sense_are_refused_or_read(data: bytes) -> None:
    for read in (read_setup, read_observation, read_actions):
        try:
            read(b"\x80\x04" + data)
        except WireError:
            continue


@given(
    st.sampled_from(["setup", "observation_4", "observation_5", "actions_float"]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4),
)
def test_stock_bytes_that_are_spoiled_are_refused_or_read(
    name: str, changes: list[tuple[int, bytes, int]]
) -> None:
    data = bytearray(golden(name))
    for at, put, gone in changes:
        at %= len(data) + 1
        data[at : at + gone] = put
    wire = wired()
    try:
        if name.startswith("actions"):
            read_actions(payload_of(memoryview(bytes(data))))
        else:
            method = "SendPolicyInstructions" if name == "setup" else "SendObservations"
            told(wire, method, bytes(data))
    except WireError as error:
        assert str(error)


# Messages -----------------------------------------------------------------------------------------------------


def observation_message(state: int, data: bytes) -> bytes:
    """A message, written from the published format."""
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return b"\x08" + bytes([state]) + b"\x12" + size + data


def test_an_observation_comes_in_slices() -> None:
    messages = [observation_message(1, b"a" * 200), observation_message(2, b"b"), observation_message(3, b"c")]
    assert joined([memoryview(message) for message in messages], 1000) == b"a" * 200 + b"bc"
    again = [memoryview(message) for message in messages[:2] + messages]
    assert joined(again, 202) == b"a" * 200 + b"bc", "one that begins again is begun again"
    whole = bytes(range(256)) * (5 * SLICE_BYTES // 512)
    pieces = sliced(whole)
    assert [piece[1] for piece in pieces] == [1, 2, 3] and joined(
        list(map(memoryview, pieces)), len(whole)
    ) == whole
    assert [piece[1] for piece in sliced(b"x")] == [3], "one slice is sent as the end alone"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "without its end"),
        ([observation_message(1, b"a")], "without its end"),
        ([observation_message(3, b"a"), observation_message(3, b"b")], "follows the end"),
        ([observation_message(0, b"a")], "transfer_state"),
        ([observation_message(9, b"a")], "transfer_state"),
        ([observation_message(3, b"a" * 101)], "at most 100"),
        ([observation_message(1, b"a" * 60), observation_message(3, b"a" * 60)], "at most 100"),
        ([b"\x08\x03\x12\x05ab"], "cut off"),
        ([b"\x08\x03\x08\x03"], "not its own"),
        ([b"\x1a\x01a"], "not its own"),
        ([b"\x12\xff\xff\xff\xff\xff\xff"], "35 bits"),
        ([b"\x08"], "35 bits"),
    ],
)
def test_slices_that_are_none_are_refused(messages: list[bytes], said: str) -> None:
    assert said in refusal(lambda: joined(list(map(memoryview, messages)), 100))


def test_a_body_is_messages_with_their_lengths() -> None:
    body = struct.pack(">BI", 0, 2) + b"ab" + struct.pack(">BI", 0, 0)
    assert framed([b"ab", b""]) == body and [bytes(each) for each in messages_of(body)] == [b"ab", b""]
    for end in range(1, len(body)):
        if end != 7:
            assert "cut off" in refusal(lambda end=end: messages_of(body[:end]))
    assert "compressed" in refusal(lambda: messages_of(b"\x01" + body[1:]))
    assert "more than" in refusal(lambda: messages_of(framed([b""]) * (MAX_MESSAGES + 1)))


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        ("Ready", ()),
        ("Ready", (b"", b"")),
        ("GetActions", ()),
        ("SendPolicyInstructions", ()),
        ("SendPolicyInstructions", (b"\x0a\x05ab",)),
        ("SendPolicyInstructions", (b"",)),
        ("SendObservations", ()),
    ],
)
def test_a_call_without_sense_is_refused(method: str, messages: tuple[bytes, ...]) -> None:
    assert refusal(lambda: told(wired(), method, *messages))


def test_other_methods_are_not_there() -> None:
    assert code_of(told(wired(), "Kill", b""))[0] == 12
    refusal(lambda: LeRobot().server().receive(b"bytes", 0.0))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="file"):
        LeRobot().server().fetched(Fetch("/x", 1), memoryview(b""), 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"timestep": -1},
        {"timestep": 1.0},
        {"timestep": 1 << 60},
        {"timestamp": math.nan},
        {"timestamp": "now"},
        {"observation": []},
        {"observation": {"a.pos": math.inf}},
        {"observation": {"task": 3}},
        {"observation": {f"a{index}": 0.0 for index in range(2000)}},
    ],
)
def test_an_observation_has_finite_numbers(fields: dict[str, Any]) -> None:
    whole = {"timestamp": 1.0, "timestep": 1, "observation": {"a.pos": 1.0}, "must_go": True}
    plain = pickle.dumps(whole | fields, protocol=4)
    data = (
        b"\x80\x04c" + f"{MODULE}\nTimedObservation\n".encode() + b")\x81" + plain[2:].replace(b"\x95", b"\x95", 1)
    )
    refusal(lambda: read_observation(data[:-1] + b"b."))


# Names --------------------------------------------------------------------------------------------------------


def columns(wire: LeRobot, robot_joints: list[str]) -> list[float]:
    """The robot's action for a policy that answers 0, 1, 2, ..."""
    values = {name: float(index) for index, name in enumerate(robot_joints)}
    shown(wire, Seen(MODULE, 1.0, 0, True, values, {"front": PICTURE}, ""))
    half, call = infer(wire)
    assert wire.policy is not None
    row = np.arange(float(wire.policy.action_dim))[None]
    (message,) = messages_of(half.answer(call, ActionChunk(row), 0.0).body)
    return read_actions(payload_of(message))[1][0].tolist()


@pytest.mark.parametrize(
    "spelt",
    [
        ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"],
        ["shoulder_pan", "elbow_flex", "gripper"],
        ["arm_shoulder_pan.pos", "arm_elbow_flex.pos", "arm_gripper.pos"],
        ["arm.2", "arm.1.pos", "arm.0"],
    ],
)
def test_joints_go_by_name(spelt: list[str]) -> None:
    wire = wired()
    assert columns(wire, spelt) == [2.0, 1.0, 0.0]
    shown(wire, Seen(MODULE, 1.0, 0, True, dict(zip(spelt, (5.0, 6.0, 7.0), strict=True)), {"front": PICTURE}, ""))
    assert infer(wire)[1].frame.state["arm"].tolist() == [7.0, 6.0, 5.0]


def test_two_arms_with_the_same_joints_go_by_component() -> None:
    both = [PolicyOutputSpec(f"{side}_arm", "joint_position", 2, names=["a", "b"]) for side in ("left", "right")]
    spec = policy(
        required_state_keys=["left_arm", "right_arm"],
        state_names={output.target: ["a", "b"] for output in both},
        outputs=both,
    )
    order = ["right_arm_b.pos", "left_arm_a.pos", "right_arm_a.pos", "left_arm_b.pos"]
    assert columns(wired(spec), order) == [3.0, 0.0, 2.0, 1.0]
    said = refusal(lambda: columns(wired(spec), ["a.pos", "b.pos", "right_arm_a.pos", "right_arm_b.pos"]))
    assert "state 'left_arm': joint 'a' is missing" in said
    renamed = wired(spec, joints=("a.pos:left_arm.a", "b.pos:left_arm.b"))
    assert columns(renamed, ["a.pos", "b.pos", "right_arm_a.pos", "right_arm_b.pos"]) == [0.0, 1.0, 2.0, 3.0]


def test_a_state_without_names_takes_the_robots_order() -> None:
    spec = policy(state_names={}, outputs=[PolicyOutputSpec("arm", "joint_position", 3)])
    wire = wired(spec)
    assert columns(wire, ["x.pos", "y.pos", "z.pos"]) == [0.0, 1.0, 2.0]
    assert "commands 3 numbers and names none, the robot has 2" in refusal(
        lambda: columns(wired(spec), ["x.pos", "y.pos"])
    )
    two = policy(
        state_names={}, required_state_keys=["a", "b"], outputs=[PolicyOutputSpec("a", "joint_position", 1)]
    )
    assert "nobody knows whose is whose" in refusal(lambda: columns(wired(two), ["x.pos"]))


@pytest.mark.parametrize(
    ("joints", "options", "said"),
    [
        (
            ["shoulder_pan.pos", "elbow_flx.pos", "gripper.pos"],
            {},
            "'elbow_flex' is missing (did you mean 'elbow_flx.pos'?)",
        ),
        (["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos", "wrist.pos"], {}, "commands no 'wrist.pos'"),
        (
            ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"],
            {"cameras": ("top:frnt",)},
            "reads no 'frnt' (did you",
        ),
        (["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"], {"joints": ("x.pos:elbow",)}, "has no 'elbow'"),
        (
            ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"],
            {"cameras": ("top:front",)},
            "camera 'top' is missing",
        ),
        (["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"], {"actions": ("gripper",)}, "output 'arm': joint"),
    ],
)
def test_names_that_do_not_fit_are_refused_by_name(joints: list[str], options: Any, said: str) -> None:
    wire = wired(**options)
    assert said in refusal(lambda: columns(wire, joints))
    data = write_setup(joints, {"front": PICTURE.shape}, 4, ("act", "", "cpu"))
    with pytest.raises(WireError) as caught:
        told(wire, "SendPolicyInstructions", payload(data))
    assert said in code_of(caught.value.farewell)[1], "and the stock client's start() shows it"


def test_options_rename() -> None:
    wire = wired(
        cameras=("top:front",), joints=("lift.pos:elbow_flex",), actions=("gripper", "lift.pos", "shoulder_pan")
    )
    values = {"shoulder_pan.pos": 1.0, "lift.pos": 2.0, "gripper.pos": 3.0}
    with pytest.raises(WireError, match="output 'arm'"):
        told(wired(actions=("a", "b", "c")), "SendObservations", *sliced(write_observation(seen())))
    shown(wire, Seen(MODULE, 1.0, 0, True, values, {"top": PICTURE, "other": PICTURE[:2]}, ""))
    half, call = infer(wire)
    assert call.frame.state["arm"].tolist() == [3.0, 2.0, 1.0] and list(call.frame.images) == ["front"]
    (message,) = messages_of(half.answer(call, ActionChunk(np.array([[7.0, 8.0, 9.0]])), 0.0).body)
    assert read_actions(payload_of(message))[1].tolist() == [[7.0, 8.0, 9.0]]


def test_degrees_become_radians_and_back() -> None:
    wire = wired(degrees=True)
    shown(wire, seen(shoulder_pan=180.0, elbow_flex=90.0, gripper=-90.0))
    half, call = infer(wire)
    assert np.allclose(call.frame.state["arm"], [-math.pi / 2, math.pi / 2, math.pi])
    (message,) = messages_of(half.answer(call, ActionChunk(np.full((2, 3), math.pi)), 0.0).body)
    assert np.allclose(read_actions(payload_of(message))[1], 180.0)


def test_the_order_of_actions_may_be_announced() -> None:
    wire = wired()
    shown(wire, seen())
    infer(wire)
    robot = wire.robot(ME)
    robot.setup = robot.setup._replace(actions=("elbow_flex.pos", "gripper.pos", "shoulder_pan.pos"))
    assert columns(wire, ["shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]) == [1.0, 0.0, 2.0]


@pytest.mark.parametrize("image", [np.zeros((4, 6)), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 0, 3), np.uint8)])
def test_a_picture_that_is_none_is_refused(image: Any) -> None:
    said = refusal(lambda: shown(wired(), seen(image=image)))
    assert "camera 'front'" in said


def test_a_picture_arrives_as_it_was_sent_whatever_the_policy_declares() -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[1, 2] = (255, 1, 0)
    wire = wired(policy(images={"front": ImageRule(64, 64, "letterbox", colours="bgr", axes="chw")}))
    shown(wire, seen(image=red))
    assert np.array_equal(infer(wire)[1].frame.images["front"], red), "the rule is applied later, and once"


# A server's answers -------------------------------------------------------------------------------------------


def test_get_actions_waits_for_an_observation() -> None:
    wire = wired(park_s=0.5)
    half, (call,) = asked(wire, "GetActions", b"")
    assert call == Park(ME, 0.5)
    assert half.resumed(call, 1.0) == [Reply(response(b""))], "nothing came"
    shown(wire, seen(), peer="ipv4:127.0.0.1:1")
    assert half.resumed(call, 1.0) == [Reply(response(b""))], "another robot's is not this one's"
    shown(wire, seen(3))
    (infer_,) = half.resumed(call, 1.0)
    assert isinstance(infer_, Infer) and infer_.request.request_step == 3
    assert isinstance(asked(wire, "GetActions", b"")[1][0], Park), "an observation is answered once"


def test_the_newest_observation_is_answered_however_like_the_last_one() -> None:
    wire = wired()
    for step in (4, 5, 5):
        shown(wire, seen(step))
    assert infer(wire)[1].request.request_step == 5
    shown(wire, seen(5))
    assert infer(wire)[1].request == ChunkRequest(5, id=2), "no observation is taken for another"


def test_ready_waits_then_begins_episodes() -> None:
    wire = LeRobot()
    half, (call,) = asked(wire, "Ready", b"")
    assert isinstance(call, Hello)
    assert code_of(half.answer(call, Offer(Readiness.FAILED, "no file"), 0.0)) == (9, "failed: no file")
    assert isinstance(asked(wire, "Ready", b"")[1][0], Hello)
    half, (call,) = asked(wire, "Ready", b"")
    half.answer(call, ready(), 0.0)
    shown(wire, seen())
    half, (call,) = asked(wire, "Ready", b"")
    assert call == Reset(session=ME) and half.answer(call, None, 0.0) == response(b"")
    assert isinstance(asked(wire, "GetActions", b"")[1][0], Park), "what it had shown is of another episode"
    assert isinstance(asked(wire, "Ready", b"", peer="ipv4:127.0.0.1:2")[1][0], Hello)


@pytest.mark.parametrize("kind", list(Trouble))
def test_a_problem_is_an_empty_answer(kind: Trouble) -> None:
    wire = wired()
    shown(wire, seen())
    half, call = infer(wire)
    answer = half.answer(call, Problem(kind, "so it is"), 0.0)
    if kind is Trouble.UNAUTHORISED:
        assert code_of(answer) == (16, "unauthorised: so it is")
    else:
        assert answer == response(b"")
    half, (hello,) = asked(LeRobot(), "Ready", b"")
    code, text = code_of(half.answer(hello, Problem(kind, "so it is"), 0.0))
    assert code > 0 and text == f"{kind}: so it is"


def test_steps_and_times_are_the_observations() -> None:
    wire = wired()
    shown(wire, seen(12))
    half, call = infer(wire)
    (message,) = messages_of(half.answer(call, ActionChunk(np.zeros((3, 3)), first_step=14), 0.0).body)
    plain = loads(bytes(payload_of(message)), ACTIONS)
    assert [item.fields["timestep"] for item in plain] == [14, 15, 16]
    assert np.allclose([item.fields["timestamp"] for item in plain], [1e9 + 0.1, 1e9 + 0.15, 1e9 + 0.2])


@pytest.mark.parametrize(
    "chunk",
    [
        ActionChunk(np.zeros((3, 2))),
        ActionChunk(np.full((3, 3), 1e39)),
        ActionChunk(np.zeros((3, 3)), first_step=-1),
        ActionChunk(np.zeros((3, 3)), first_step=1 << 70),
    ],
)
def test_rows_that_cannot_be_sent_are_an_empty_answer(chunk: ActionChunk) -> None:
    wire = wired()
    shown(wire, seen())
    half, call = infer(wire)
    assert half.answer(call, chunk, 0.0) == response(b"")


def test_before_the_policy_is_known_nothing_is_kept() -> None:
    wire = LeRobot()
    half, calls = asked(wire, "SendObservations", golden("observation_4"))
    wire.policy = None
    assert "not loaded" in refusal(lambda: half.answer(calls[0], Offer(Readiness.LOADING), 0.0))
    assert not wire.robots


def test_who_may_not_ask_leaves_no_trace() -> None:
    wire = wired()
    for method, message in (
        ("SendObservations", golden("observation_4")),
        ("SendPolicyInstructions", golden("setup")),
    ):
        half, calls = asked(wire, method, message, authorization="Bearer  abc ")
        assert calls[0] == Status(token="abc")
        assert code_of(half.answer(calls[0], Problem(Trouble.UNAUTHORISED, "no"), 0.0))[0] == 16
    asked(wire, "GetActions", b"")
    asked(wire, "Ready", b"")
    assert not wire.robots
    refusal(lambda: asked(wire, "Ready", b"", authorization="Bearer " + "x" * 5000))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wired()
    for number in range(MAX_ROBOTS + 10):
        shown(wire, seen(), peer=f"ipv4:127.0.0.1:{number}")
    assert len(wire.robots) == MAX_ROBOTS
    monkeypatch.setattr("chunkwise.wires.lerobot.MAX_KEPT_BYTES", 2 * PICTURE.nbytes)
    shown(wire, seen())
    assert sum(robot.newest is not None for robot in wire.robots.values()) == 2
    assert wire.known(ME).newest is not None
    big = wired(max_observation_mb=1)
    data = write_observation(seen(image=np.zeros((700, 700, 3), np.uint8)))
    assert "at most 1048576 bytes" in refusal(lambda: told(big, "SendObservations", *sliced(data)))


def test_a_robot_that_reconnects_goes_on() -> None:
    wire = wired()
    shown(wire, seen(31), peer="ipv4:127.0.0.1:9")
    _, call = infer(wire, peer="ipv4:127.0.0.1:9")
    assert call.request.request_step == 31, "without Ready and instructions, which a stock client sends once"


@pytest.mark.parametrize("module", MODULES)
def test_a_robot_gets_the_classes_of_its_own_release(module: str) -> None:
    wire = wired()
    shown(wire, seen()._replace(module=module))
    half, call = infer(wire)
    assert f"c{module}\nTimedAction\n".encode() in half.answer(call, ActionChunk(np.zeros((1, 3))), 0.0).body


# The client's half --------------------------------------------------------------------------------------------

OPTIONS = {
    "outputs": ("arm:joint_position:3",),
    "joints": ("shoulder_pan.pos:shoulder_pan", "elbow_flex.pos:elbow_flex", "gripper.pos:gripper"),
    "cameras": ("front:wrist",),
}


def frame(value: float = 0.0) -> Frame:
    return Frame(
        {"wrist": PICTURE}, {"arm": np.array([value, 1.0, 2.0])}, {"prompt": "pick"}, timestamp_ns=5 * 10**9
    )


def served(wire: LeRobot, sending: Any, client: Any, result: Any = None) -> tuple[list[Any], list[Any]]:
    """What a server makes of a client's calls: the calls, and what the client hears."""
    requests = sending.data if isinstance(sending.data, list) else [sending.data]
    found, heard = [], []
    for each in requests:
        half = wire.server()
        half.opened(ready(wire.policy), 0.0)
        calls = half.receive(each, 0.0)
        found += calls
        first = calls[0]
        answer = half.answer(first, result if isinstance(first, Infer) else ready(wire.policy), 0.0)
        heard += client.receive(answer, 0.0)
    return found, heard


def test_a_client_and_a_server_of_ours() -> None:
    server, client = wired(), LeRobot(**OPTIONS).client()
    spec = client.spec
    assert spec is not None and spec.required_image_keys == ["wrist"] and spec.required_state_keys == ["arm"]
    assert spec.state_names == {"arm": ["shoulder_pan", "elbow_flex", "gripper"]} == {"arm": spec.outputs[0].names}
    (hello,), (welcome,) = served(server, client.opening(), client)
    assert isinstance(hello, Hello) and welcome == Welcome(Offer(Readiness.LOADING, "it is told what it drives"))
    (introduced,), (welcome,) = served(server, client.opening(), client)
    assert isinstance(introduced, Status) and welcome.offer.readiness is Readiness.READY
    assert client.opening() is None
    assert server.robot("somebody").setup.joints == ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")
    rows = np.arange(12.0).reshape(4, 3)
    calls, (answered,) = served(
        server, client.ask(5, frame(9.0), ChunkRequest(40), None), client, ActionChunk(rows)
    )
    assert calls[2].frame.state["arm"].tolist() == [2.0, 1.0, 9.0]
    assert calls[2].request.request_step == 40 and calls[2].frame.timestamp_ns == 5 * 10**9
    assert isinstance(answered, Answered) and answered.id == 5
    assert answered.chunk is not None and np.array_equal(answered.chunk.rows, rows[:, ::-1])
    (reset,), heard = served(server, client.reset(6), client)
    assert isinstance(reset, Reset) and heard == [Answered(6, None)]
    _, (failed,) = served(
        server, client.ask(7, frame(), ChunkRequest(41), None), client, Problem(Trouble.BUSY, "x")
    )
    assert isinstance(failed, Failed) and failed.id == 7 and "no actions" in failed.problem.text


def test_a_client_tells_what_the_robot_is_once_it_knows() -> None:
    client: Any = LeRobot().client()
    assert client.spec is None and client.patient
    assert client.opening().data.path == SERVICE + "Ready"
    (welcome,) = client.receive(response(b""), 0.0)
    assert welcome.offer.readiness is Readiness.READY and client.opening() is None
    arms = [ComponentSpec(f"{side}_arm", "arm", 2, ["joint_position"], joint_names=["a", "b"]) for side in "lr"]
    client.robot = RobotSpec("two", ["top"], arms)
    (message,) = messages_of(client.opening().data.body)
    setup = read_setup(payload_of(message))
    assert setup.joints == ("l_arm.a.pos", "l_arm.b.pos", "r_arm.a.pos", "r_arm.b.pos")
    assert setup.cameras == ("top",) and setup.per_chunk == 50
    client.receive(response(b""), 0.0)
    assert client.opening() is None


def test_a_client_needs_what_it_is_to_send() -> None:
    client = LeRobot(**OPTIONS).client()
    for wrong in (Frame({}, frame().state), Frame(frame().images, {"arm": np.zeros(2)}), Frame(frame().images)):
        with pytest.raises(InterfaceValidationError):
            client.ask(1, wrong, ChunkRequest(0), None)
    short: Any = LeRobot(joints=("a", "b")).client()
    short.robot = RobotSpec("one", [], [ComponentSpec("arm", "arm", 3, ["joint_position"])])
    with pytest.raises(InterfaceValidationError, match="2 names"):
        short.ask(1, frame(), ChunkRequest(0), None)


def test_what_a_server_says_wrong() -> None:
    def hearing() -> Any:
        client = LeRobot(**OPTIONS).client()
        sending = client.ask(1, frame(), ChunkRequest(7), None)
        for _ in sending.data[:-1]:
            assert client.receive(response(b""), 0.0) == []
        return client

    actions = payload(write_actions(MODULE, np.zeros((2, 3)), 3, 1.0, 0.1))
    (event,) = hearing().receive(response(actions), 0.0)
    assert event.problem == Problem(Trouble.SUPERSEDED, "the actions are for step 3, asked was 7")
    (event,) = hearing().receive(status(16, "no token"), 0.0)  # type: ignore[arg-type]
    assert event.problem == Problem(Trouble.UNAUTHORISED, "GetActions: no token")
    (event,) = hearing().receive(HttpResponse(200, b"", headers={"grpc-status": "77"}), 0.0)
    assert event.problem.kind is Trouble.POLICY_FAILED
    for wrong in (
        response(b"\x0a\x02ab"),
        HttpResponse(200, b""),
        HttpResponse(200, framed([b"", b""])),
        HttpResponse(500),
        HttpResponse(200, headers={"grpc-status": "x"}),
        response(payload(b"\x80\x02].")),
        response(payload(write_setup(["a"], {}, 1, ("", "", "")))),
    ):
        refusal(lambda wrong=wrong: hearing().receive(wrong, 0.0))
    refusal(lambda: LeRobot().client().receive(response(b""), 0.0))


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0.0},
        {"park_s": -1.0},
        {"max_observation_mb": 0},
        {"actions_per_chunk": 0},
        {"cameras": ("a:b", "c:b")},
        {"joints": (":b",)},
        {"states": ("arm",)},
        {"states": ("arm:0",)},
        {"outputs": ("arm:joint_position",)},
        {"outputs": ("arm:no_kind:3",)},
        {"outputs": ("arm:joint_position:3",), "joints": ("a", "b")},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LeRobot(**options)
