"""The gRPC transport on loopback: calls of every arity in, responses back, and LeRobot's service over it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from chunkwise import plugins
from chunkwise.contract import ActionChunk, ChunkRequest, Frame, PolicyFailed, PolicyOutputSpec, PolicySpec
from chunkwise.server import Listen, Server
from chunkwise.transports import Address, Limits, Listener, Peer
from chunkwise.transports import grpc as module
from chunkwise.transports.grpc import Grpc
from chunkwise.wires import HttpRequest, HttpResponse
from chunkwise.wires._grpc import Code, framed, messages_of, request, response, status
from chunkwise.wires.lerobot import SERVICE, LeRobot
from chunkwise.wires.lerobot.messages import MODULE, Seen, read_actions, write_observation
from chunkwise.wires.lerobot.protobuf import payload, payload_of, sliced

GOLDEN = Path(__file__).parents[1] / "wires" / "golden" / "lerobot"
LOOPBACK = Address.parse("grpc://127.0.0.1:0")
PATIENCE_S = 10.0
"""For what must happen; only a failing test uses it up."""


class Echo:
    """Answers with what it was sent; ``Never`` is not answered, ``Close`` is closed, ``Bad`` has a status."""

    def __init__(self, peer: Peer, events: list[Any], told: threading.Event) -> None:
        self._peer, self._events, self._told = peer, events, told

    def opened(self) -> None:
        self._events.append("opened")

    def received(self, data: HttpRequest) -> None:
        self._events.append(data)
        name = data.path.rpartition("/")[2]
        if name == "Close":
            self._peer.close()
        elif name == "Bad":
            self._peer.send(status(Code.FAILED_PRECONDITION, "it is closed: \u00e9"))
        elif name == "Wrong":
            self._peer.send(HttpResponse(500))
        elif name == "Later":
            asyncio.get_running_loop().call_soon(self._peer.send, HttpResponse(body=data.body))
        elif name != "Never":
            self._peer.send(HttpResponse(body=data.body))
            self._peer.send(HttpResponse(500))  # a second one is dropped
            self._peer.close()
        self._told.set()

    def lost(self, why: str) -> None:
        self._events.append(f"lost: {why}" if why else "lost")
        self._told.set()


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, doing: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(2 * PATIENCE_S)  # type: ignore[arg-type]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Serving:
    """A server of Echo on a loop of its own, and a channel of grpcio's own to it."""

    def __init__(self, limits: Limits) -> None:
        self.events: list[Any] = []
        self.told = threading.Event()
        self._loop = Loop()
        self.run = self._loop.run
        self.listener: Listener = self.run(Grpc().serve(LOOPBACK, self._accept, limits))
        self.address = self.listener.address
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.address.port}")

    def _accept(self, peer: Peer) -> Echo:
        return Echo(peer, self.events, self.told)

    def until(self, found: Callable[[], bool]) -> None:
        while not found():
            assert self.told.wait(PATIENCE_S)
            self.told.clear()

    def close(self) -> None:
        self.run(self.listener.close())
        self.run(self.listener.close())
        self.channel.close()
        self._loop.close()


@contextmanager
def serving(limits: Limits | None = None) -> Iterator[Serving]:
    server = Serving(limits or Limits())
    try:
        yield server
    finally:
        server.close()


def test_stubs_of_every_arity() -> None:
    with serving() as server:
        answer = server.channel.unary_unary("/a.B/Say")(b"hello", metadata=[("x-two", "2")], timeout=PATIENCE_S)
        assert answer == b"hello"
        seen = server.events[1]
        assert (seen.method, seen.path, seen.body) == ("POST", "/a.B/Say", framed([b"hello"]))
        assert seen.headers["x-two"] == "2" and seen.headers["content-type"] == "application/grpc"
        assert seen.peer.startswith("ipv4:127.0.0.1:")
        assert server.channel.stream_unary("/a.B/Later")(iter([b"x" * 3]), timeout=PATIENCE_S) == b"xxx"
        with pytest.raises(grpc.RpcError, match="2 messages answer a call") as caught:
            list(server.channel.stream_stream("/a.B/Say")(iter([b"a", b""]), timeout=PATIENCE_S))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert list(server.channel.unary_stream("/a.B/Say")(b"q", timeout=PATIENCE_S)) == [b"q"]
        server.until(lambda: server.events.count("lost") == 4)


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("Bad", grpc.StatusCode.FAILED_PRECONDITION, "it is closed: \u00e9"),
        ("Close", grpc.StatusCode.INVALID_ARGUMENT, "the server's log says why"),
        ("Wrong", grpc.StatusCode.UNKNOWN, "HTTP 500"),
    ],
)
def test_a_status_ends_a_call(method: str, code: Any, text: str) -> None:
    with serving() as server:
        with pytest.raises(grpc.RpcError) as caught:
            server.channel.unary_unary(f"/a.B/{method}")(b"", timeout=PATIENCE_S)
        assert caught.value.code() is code and text in caught.value.details()


def test_a_call_that_is_cancelled_is_told_of() -> None:
    with serving() as server:
        call = server.channel.unary_unary("/a.B/Never").future(b"", timeout=PATIENCE_S)
        server.until(lambda: len(server.events) == 2)
        call.cancel()
        server.until(lambda: server.events[-1] == "lost: the client has gone")


def test_a_call_that_breaks_off_is_not_answered() -> None:
    with serving() as server:
        begun, ended = threading.Event(), threading.Event()

        def breaks() -> Iterator[bytes]:
            yield b"half"
            begun.set()
            ended.wait(PATIENCE_S)

        call = server.channel.stream_unary("/a.B/Say").future(breaks(), timeout=PATIENCE_S)
        assert begun.wait(PATIENCE_S)
        call.cancel()
        ended.set()
        assert server.channel.unary_unary("/a.B/Say")(b"whole", timeout=PATIENCE_S) == b"whole"
        server.until(lambda: server.events[-1] == "lost")
        bodies = [seen.body for seen in server.events if isinstance(seen, HttpRequest)]
        assert bodies[-1] == framed([b"whole"]) and set(bodies[:-1]) <= {framed([b"half"])}


def test_what_waits_when_the_server_stops_is_told_so() -> None:
    with serving() as server:
        call = server.channel.unary_unary("/a.B/Never").future(b"", timeout=PATIENCE_S)
        server.until(lambda: len(server.events) == 2)
        server.run(server.listener.close())
        assert call.exception(PATIENCE_S).code() is grpc.StatusCode.UNAVAILABLE
        assert "about to stop" in call.exception().details()


def test_nothing_is_read_of_a_call_that_is_not_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def admits(self: Echo, headers: Mapping[str, str]) -> bool:
        if "x-key" in headers:
            return True
        self._peer.send(status(Code.UNAUTHENTICATED, "no key"))
        return False

    monkeypatch.setattr(Echo, "admits", admits, raising=False)
    read = threading.Event()

    def endless() -> Iterator[bytes]:
        while not read.wait(0):  # until the call is over; flow control holds it
            yield bytes(1 << 16)

    with serving() as server:
        call = server.channel.stream_unary("/a.B/Say")
        with pytest.raises(grpc.RpcError, match="no key") as caught:
            call(endless(), timeout=PATIENCE_S)
        read.set()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED and server.events == []
        assert call(iter([b"x"]), metadata=[("x-key", "1")], timeout=PATIENCE_S) == b"x"


def test_three_raw_pictures_of_1080p_are_one_call() -> None:
    pictures = bytes(3 * 1080 * 1920 * 3)
    with serving() as server:
        slices = [pictures[at : at + (2 << 20)] for at in range(0, len(pictures), 2 << 20)]
        server.channel.stream_unary("/a.B/Later", None, None).future(iter(slices), timeout=PATIENCE_S).exception()
        (seen,) = [event for event in server.events if isinstance(event, HttpRequest)]
        assert len(seen.body) == len(pictures) + 5 * len(slices)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    monkeypatch.setattr(module, "READ_S", 0.05)
    with serving(Limits(message_bytes=1000, connections=1)) as server:
        call = server.channel.stream_unary("/a.B/Say")
        for messages in ([b"x" * 1001], [b"x" * 600] * 2, [b""] * 4):
            with pytest.raises(grpc.RpcError) as caught:
                call(iter(messages), timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(b"x" * 1001 in getattr(seen, "body", b"") for seen in server.events)
        server.events.clear()
        ended = threading.Event()

        def never_ends() -> Iterator[bytes]:
            yield b"x"
            ended.wait(PATIENCE_S)

        with pytest.raises(grpc.RpcError) as caught:
            call(never_ends(), timeout=PATIENCE_S)
        ended.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "was not there within" in caught.value.details()
        monkeypatch.setattr(module, "READ_S", PATIENCE_S)
        waiting = server.channel.unary_unary("/a.B/Never").future(b"", timeout=PATIENCE_S)
        server.until(lambda: len(server.events) == 2)
        with pytest.raises(grpc.RpcError) as caught:
            server.channel.unary_unary("/a.B/Say")(b"", timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.cancel()


def test_it_is_not_served_with_tls() -> None:
    async def tried() -> None:
        with pytest.raises(OSError, match="without TLS"):
            await Grpc().serve(LOOPBACK, lambda peer: Echo(peer, [], threading.Event()), Limits(), tls)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asyncio.run(tried())


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:80", True),
        ("ipv6:%5B::1%5D:80", True),
        ("unix:/run/x", True),
        ("ipv4:10.0.0.1:80", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:80", False),
        ("", False),
    ],
)
def test_who_is_local(peer: str, local: bool) -> None:
    assert module._is_local(peer) is local


# Asking -------------------------------------------------------------------------------------------------------


def test_a_link_sends_several_requests_one_after_the_other() -> None:
    with serving() as server:
        link = Grpc().connect(server.address, timeout_s=PATIENCE_S, token="secret")
        assert link.local and link.receive(0.0) is None
        link.send([request("/a.B/Say", [b"1"]), request("/a.B/Later", [b"2"])], PATIENCE_S)
        assert [link.receive(PATIENCE_S), link.receive(PATIENCE_S)] == [response(b"1"), response(b"2")]
        assert link.receive(0.0) is None
        assert [seen.headers["authorization"] for seen in server.events[1::3]] == ["Bearer secret"] * 2
        link.send([request("/a.B/Bad", [b""]), request("/a.B/Say", [b"never"])], PATIENCE_S)
        assert link.receive(PATIENCE_S) == status(Code.FAILED_PRECONDITION, "it is closed: \u00e9")
        assert link.receive(0.0) is None, "what was to come after it is not sent"
        link.send(request("/a.B/Never", [b""]), PATIENCE_S)
        assert link.receive(0.0) is None
        server.run(server.listener.close())
        with pytest.raises(ConnectionResetError):
            link.receive(PATIENCE_S)
        link.close()
        link.close()
        with pytest.raises(OSError):
            link.receive(0.0)


def test_who_speaks_no_grpc_is_told_apart_from_nobody() -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = Address("grpc", "", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(TimeoutError, match="speaks no gRPC"):
            Grpc().connect(where, timeout_s=0.05)
    with pytest.raises(ConnectionRefusedError):
        Grpc().connect(where, timeout_s=PATIENCE_S)


# LeRobot's service --------------------------------------------------------------------------------------------

JOINTS = ["shoulder_pan", "elbow_flex", "gripper"]


class Wave:
    """Answers four rows of the state that it saw plus the step."""

    spec = PolicySpec(
        "wave",
        ["front"],
        ["arm"],
        outputs=[PolicyOutputSpec("arm", "joint_position", 3, names=JOINTS[::-1])],
        state_names={"arm": JOINTS[::-1]},
        action_horizon=4,
        control_hz=30.0,
    )

    def __init__(self, go: threading.Event | None = None) -> None:
        self.resets = 0
        if go is not None:
            assert go.wait(PATIENCE_S)

    def session(self) -> Wave:
        return Wave()

    def reset(self) -> None:
        self.resets += 1

    def infer(self, frame: Frame, request: ChunkRequest) -> ActionChunk:
        if frame.task.get("prompt") == "fail":
            raise RuntimeError("on purpose")
        return ActionChunk(np.tile(frame.state["arm"] + 1000 * self.resets, (4, 1)))


@contextmanager
def lerobot(make: Callable[[], Any] = Wave) -> Iterator[tuple[Address, list[Any], Server]]:
    """A policy served; where, what was logged, and the server."""
    log: list[Any] = []
    loop = Loop()

    async def begin() -> Server:
        listen = Listen("lerobot", LeRobot(park_s=0.05), LOOPBACK)
        server = Server(make, [listen], on_event=lambda name, **details: log.append((name, details)))
        await server.start()
        return server

    server = loop.run(begin())
    try:
        yield server.addresses[0], log, server
    finally:
        loop.run(server.stop(0))
        loop.close()


class Robot:
    """What a stock client sends, through grpcio's own stubs."""

    def __init__(self, address: Address) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]  # one connection each, as in two processes
        self._channel = grpc.insecure_channel(f"127.0.0.1:{address.port}", options)

    def call(self, method: str, message: bytes = b"") -> bytes:
        made: bytes = self._channel.unary_unary(SERVICE + method)(message, timeout=PATIENCE_S)
        return made

    def show(self, step: int, value: float, task: str = "go") -> None:
        numbers = {f"{name}.pos": value + index for index, name in enumerate(JOINTS)}
        picture = np.zeros((900, 900, 3), np.uint8)  # more than one slice
        data = write_observation(Seen(MODULE, 1.0, step, False, numbers, {"front": picture}, task))
        answer = self._channel.stream_unary(SERVICE + "SendObservations")(iter(sliced(data)), timeout=PATIENCE_S)
        assert answer == b""

    def actions(self) -> tuple[int, list[float]] | None:
        data = payload_of(memoryview(self.call("GetActions")))
        if not len(data):
            return None
        first, rows = read_actions(data)
        return first, rows[0].tolist()

    def close(self) -> None:
        self._channel.close()


def test_robots_are_kept_apart() -> None:
    with lerobot() as (address, _, _):
        robots = [Robot(address) for _ in range(3)]
        for robot in robots:
            assert robot.call("Ready") == b""
            assert robot.call("SendPolicyInstructions", (GOLDEN / "setup.bin").read_bytes()) == b""
        assert robots[0].actions() is None, "nothing was shown"
        for number, robot in enumerate(robots[:2]):
            robot.show(7 + number, 10.0 * number)
        robots[2].call("Ready")
        assert robots[1].actions() == (8, [10.0, 11.0, 12.0])
        assert robots[2].actions() is None, "another robot's actions are not its own"
        assert robots[0].actions() == (7, [0.0, 1.0, 2.0])
        robots[0].call("Ready")
        robots[0].show(0, 0.0)
        assert robots[0].actions() == (0, [1000.0, 1001.0, 1002.0]), "its episode began again"
        robots[1].show(9, 5.0)
        assert robots[1].actions() == (9, [5.0, 6.0, 7.0]), "and no other's"
        for robot in robots:
            robot.close()


def test_actions_that_are_waited_for_come_with_the_observation() -> None:
    with lerobot() as (address, _, _), ThreadPoolExecutor(1) as threads:
        robot = Robot(address)
        robot.call("Ready")
        waiting = threads.submit(lambda: next(found for _ in range(1000) if (found := robot.actions())))
        robot.show(3, 1.0)
        assert waiting.result(PATIENCE_S) == (3, [1.0, 2.0, 3.0])
        robot.close()


def test_ready_waits_for_the_policy() -> None:
    go = threading.Event()
    with lerobot(lambda: Wave(go)) as (address, _, _), ThreadPoolExecutor(1) as threads:
        robot = Robot(address)
        waiting = threads.submit(robot.call, "Ready")
        with pytest.raises(grpc.RpcError, match="not loaded"):
            robot.show(0, 0.0)
        assert not waiting.done()
        go.set()
        assert waiting.result(PATIENCE_S) == b""
        robot.close()


def test_what_goes_wrong_is_logged_and_counted() -> None:
    with lerobot() as (address, log, server):
        robot = Robot(address)
        robot.call("Ready")
        evil = payload(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
        with pytest.raises(grpc.RpcError, match="is not allowed"):
            robot.call("SendPolicyInstructions", evil)
        refused = [details["error"] for name, details in log if name == "refused"]
        assert refused == ["pickle: 'posix.system' is not allowed"]
        assert server.metrics.refused.labels("lerobot")._value.get() == 1
        robot.show(0, 0.0, task="fail")
        assert robot.actions() is None
        problems = [details["error"] for name, details in log if name == "problem"]
        assert problems == ["RuntimeError: on purpose"]
        robot.close()


def test_a_server_of_the_protocol_is_a_policy_here() -> None:
    remote_class: Any = plugins.load("policies", "remote")
    with lerobot() as (address, _, _):
        names = ",".join(f"{name}.pos:{name}" for name in JOINTS)
        url = f"lerobot+grpc://127.0.0.1:{address.port}?outputs=arm:joint_position:3&joints={names}&cameras=front"
        remote = remote_class(url=url, timeout_s=PATIENCE_S, sleep=lambda seconds: None)
        frame = Frame(
            {"front": np.zeros((4, 6, 3), np.uint8)}, {"arm": np.array([1.0, 2.0, 3.0])}, {"prompt": "go"}
        )
        assert remote.infer(frame, ChunkRequest(4)).rows.tolist() == [[1.0, 2.0, 3.0]] * 4
        remote.reset()
        assert remote.infer(frame, ChunkRequest(5)).rows[0].tolist() == [1001.0, 1002.0, 1003.0]
        frame.task["prompt"] = "fail"
        with pytest.raises(PolicyFailed, match="no actions"):
            remote.infer(frame, ChunkRequest(6))
        remote.close()
        with pytest.raises(PolicyFailed, match="camera 'front' is missing"):
            remote_class(url=url.replace("=front", "=top"), timeout_s=PATIENCE_S, sleep=lambda seconds: None)


def test_messages_are_views() -> None:
    body = framed([b"abc"])
    assert messages_of(body)[0].obj is body
