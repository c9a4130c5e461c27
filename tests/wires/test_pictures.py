"""Pictures through every wire, both halves, and the policy's image rule: circles stay circles, red stays red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chunkwise import options, plugins
from chunkwise.contract import (
    ActionChunk,
    ChunkRequest,
    ComponentSpec,
    Frame,
    ImageRule,
    PolicyFailed,
    PolicyOutputSpec,
    PolicySpec,
    RobotSpec,
    connect,
)
from chunkwise.policies import BoundPolicy
from chunkwise.server import Listen, Settings
from chunkwise.transports import Address

GOLDEN = Path(__file__).parent / "golden" / "pictures"
ALOHA = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
OPENARM = {"right_arm": 7, "right_gripper": 1, "left_arm": 7, "left_gripper": 1}
JOINTS = [f"joint{number}" for number in range(1, 7)]
SIDE = 64


def golden(name: str) -> np.ndarray[Any, Any]:
    """A picture that Pillow made, uint8 ``(height, width, 3)``."""
    return np.asarray(Image.open(GOLDEN / f"{name}.png").convert("RGB"))


RULES = {
    "as it is": (ImageRule(), golden("drawn")),
    "letterbox": (ImageRule(SIDE, SIDE, "letterbox"), golden("letterbox")),
    "bgr, channels first, the bar below": (
        ImageRule(SIDE, SIDE, "letterbox", "top_left", colours="bgr", axes="chw"),
        golden("letterbox_below")[..., ::-1].transpose(2, 0, 1),
    ),
    "crop": (ImageRule(SIDE, SIDE, "crop"), golden("crop")),
}


class Looks:
    """A policy that keeps what it saw; its rows are where the robot is.

    Args:
        rule: of its only camera.
        parts: of the robot, with their joints.
    """

    def __init__(self, rule: ImageRule, parts: dict[str, int]) -> None:
        kinds = {True: "joint_position", False: "gripper_position"}
        names = {part: JOINTS if dim > 1 else ["gripper"] for part, dim in parts.items()} if parts is ALOHA else {}
        self.spec = PolicySpec(
            "looks",
            ["head"],
            list(parts),
            outputs=[
                PolicyOutputSpec(part, kinds[dim > 1], dim, names=list(names.get(part, [])))
                for part, dim in parts.items()
            ],
            state_names=names,
            images={"head": rule},
            action_horizon=4,
            control_hz=50.0,
        )
        self.saw: list[np.ndarray[Any, Any]] = []

    def session(self) -> Looks:
        return self

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        self.saw.append(frame.images["head"].copy())
        return ActionChunk(
            np.tile(np.concatenate([frame.state[part] for part in self.spec.required_state_keys]), (4, 1))
        )


SAID = "outputs=" + ",".join(
    f"{part}:{'joint' if dim > 1 else 'gripper'}_position:{dim}" for part, dim in ALOHA.items()
)
NO_WRISTS = "cam_left_wrist:,cam_right_wrist:"
WIRES = {
    "shared memory": ("native", "native=unix", "native+unix", ""),
    "a UNIX socket": ("native", "native=unix", "native+unix", "shared_memory=false"),
    "TCP": ("native", "native=tcp", "native", "shared_memory=false"),
    "TCP and JPEG": ("native", "native=tcp", "native", "images=jpeg"),
    "openarm": (
        "openarm",
        "openarm=unix?cameras=camera_head:head&limits=none&stale_ms=0&patience_ms=5000&hold_after_reset_ms=0",
        "openarm+unix",
        "cameras=camera_head:head&limits=none",
    ),
    "ark": (
        "ark",
        f"ark=http?cameras=cam_high:head,{NO_WRISTS}",
        "ark+http",
        f"cameras=cam_high:head,{NO_WRISTS}&side=0&task=look",
    ),
    "openpi": ("openpi", "openpi=websocket", "openpi", ""),
    "openpi, ALOHA": ("openpi", "openpi=websocket", "openpi", "dialect=aloha&cameras=cam_high:head"),
    "lerobot": ("lerobot", "lerobot=grpc?cameras=front:head", "lerobot+grpc", f"{SAID}&cameras=front:head"),
    "gr00t, N1.7": ("gr00t", "gr00t=zmq", "gr00t", SAID),
    "gr00t, N1.6": ("gr00t", "gr00t=zmq", "gr00t", f"{SAID}&dialect=n1.6"),
    "gr00t, N1.5": ("gr00t", "gr00t=zmq", "gr00t", f"{SAID}&dialect=n1.5"),
}
JPEG = ("TCP and JPEG", "ark")
"""These carry pictures as JPEG: what was drawn with sharp edges comes back a little softer."""


def close_to(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], wire: str) -> bool:
    """Whether a picture is the one that is wanted: each byte, or in the middle of areas where it was a JPEG."""
    if found.shape != wanted.shape or found.dtype != np.uint8:
        return False
    off = np.abs(found.astype(int) - wanted.astype(int))
    return bool(off.mean() < 3) if wire in JPEG else not off.any()


def roundness(image: np.ndarray[Any, Any]) -> float:
    """Height of the white disc to its width; 1 for a circle."""
    white = image.min(axis=2) > 128
    rows, columns = np.nonzero(white.any(axis=1))[0], np.nonzero(white.any(axis=0))[0]
    return float((np.ptp(rows) + 1) / (np.ptp(columns) + 1))


@contextmanager
def unless_the_plan_goes_on(policy: Looks) -> Iterator[None]:
    """What an OpenArm is told that needs no new chunk yet."""
    try:
        yield
    except PolicyFailed as error:
        if not policy.saw or "no new chunk" not in str(error):
            raise


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_circle_stays_a_circle_and_red_stays_red(
    serve: Callable[..., Any], tmp_path: Path, wire: str, rule: str
) -> None:
    name, listen, scheme, query = WIRES[wire]
    declared, wanted = RULES[rule]
    parts = OPENARM if name == "openarm" else ALOHA
    policy = Looks(declared, parts)
    transport, _, listen_options = listen.partition("=")[2].partition("?")
    maker = plugins.load("wires", name)
    given = options.chosen(maker, Address.parse(f"tcp://127.0.0.1:0?{listen_options}").options, name)
    path = str(tmp_path / "socket")
    address = Address("unix", path) if transport == "unix" else Address(transport, host="127.0.0.1")
    served = serve(policy, listens=[Listen(name, maker(**given), address)], settings=Settings())
    where = path if transport == "unix" else f"127.0.0.1:{served.ports[name]}"
    remote = plugins.load("policies", "remote")(url=f"{scheme}://{where}?{query}", timeout_s=10.0)
    try:
        state = {part: np.zeros(dim) for part, dim in parts.items()}
        for _ in range(2):  # the second one where the first one was, if the memory is shared
            with unless_the_plan_goes_on(policy):
                remote.infer(Frame({"head": golden("drawn")}, state, {"prompt": "look"}), ChunkRequest(0))
    finally:
        remote.close()
    assert policy.saw
    for saw in policy.saw:
        assert close_to(saw, wanted, wire)


@pytest.mark.parametrize("rule", RULES)
def test_on_one_machine_the_same_rule_is_applied(rule: str) -> None:
    declared, wanted = RULES[rule]
    policy = Looks(declared, ALOHA)
    parts = [
        ComponentSpec(
            part,
            "arm" if dim > 1 else "gripper",
            dim,
            ["joint_position" if dim > 1 else "gripper_position"],
            joint_names=policy.spec.state_names[part],
        )
        for part, dim in ALOHA.items()
    ]
    bound = BoundPolicy(policy, connect(RobotSpec("bench", ["head"], parts), policy.spec))
    state = {part: np.zeros(dim) for part, dim in ALOHA.items()}
    bound(Frame({"head": golden("drawn")}, state), ChunkRequest(0))
    assert np.array_equal(policy.saw[0], wanted)


@pytest.mark.parametrize("name", ["drawn", "letterbox", "letterbox_below", "crop"])
def test_the_goldens_hold_a_circle(name: str) -> None:
    assert abs(roundness(golden(name)) - 1) < 0.04
    squashed = np.asarray(Image.fromarray(golden("drawn")).resize((SIDE, SIDE)))
    assert abs(roundness(squashed) - 1) > 0.25, "what is measured tells a squashed one"


@pytest.mark.parametrize("name", ["drawn", "letterbox", "letterbox_below"])
def test_the_goldens_have_their_colours(name: str) -> None:
    image = golden(name)
    rows = np.nonzero(image.any(axis=(1, 2)))[0]
    inside = image[rows[0] : rows[-1] + 1]
    assert inside[2, 2].tolist() == [255, 0, 0]
    assert inside[2, -3].tolist() == [0, 255, 0]
    assert inside[-3, -3].tolist() == [0, 0, 255]


def test_a_picture_of_another_size_is_refused_where_the_rule_is_exact(serve: Callable[..., Any]) -> None:
    policy = Looks(ImageRule(SIDE, SIDE, "exact"), ALOHA)
    served = serve(policy, "openpi")
    remote = plugins.load("policies", "remote")(url=f"openpi://127.0.0.1:{served.ports['openpi']}")
    try:
        state = {part: np.zeros(dim) for part, dim in ALOHA.items()}
        with pytest.raises(PolicyFailed, match=r"malformed: camera 'head': .*240"):
            remote.infer(Frame({"head": golden("drawn")}, state), ChunkRequest(0))
    finally:
        remote.close()
    assert not policy.saw


def test_to_another_machine_a_large_picture_goes_out_small(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    declared, wanted = RULES["bgr, channels first, the bar below"]
    policy, sent = Looks(declared, ALOHA), list[tuple[int, ...]]()
    served = serve(policy, "native=tcp")
    remote: Any = plugins.load("policies", "remote")(url=f"native://127.0.0.1:{served.ports['native']}")
    ask = remote._half.ask

    def spied(id: int, frame: Frame, *more: Any) -> Any:
        sent.append(frame.images["head"].shape)
        return ask(id, frame, *more)

    monkeypatch.setattr(remote._half, "ask", spied)
    assert remote.spec.images == {}, "nobody is to apply the rule before it is sent"
    try:
        state = {part: np.zeros(dim) for part, dim in ALOHA.items()}
        for local in (True, False):
            monkeypatch.setattr(remote._link, "local", local)
            remote.infer(Frame({"head": golden("drawn")}, state), ChunkRequest(0))
    finally:
        remote.close()
    assert sent == [(240, 320, 3), (SIDE, SIDE, 3)]
    assert all(np.array_equal(saw, wanted) for saw in policy.saw)
