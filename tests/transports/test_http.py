"""The HTTP transport on loopback sockets: whole requests in, responses back, and what it does not put up with."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from chunkwise.contract import ChunkRequest, Frame
from chunkwise.transports import Address, Limits, Link, Listener, Peer, _http_protocol, _http_server
from chunkwise.transports.http import Http
from chunkwise.wires import Answered, HttpRequest, HttpResponse, Observe, Played, Reply
from chunkwise.wires.ark import Ark

GOLDEN = Path(__file__).parents[1] / "wires" / "golden" / "ark"
LOOPBACK = Address.parse("http://127.0.0.1:0")


class Echo:
    """Tells what it was asked; ``/never`` is not answered, ``/later`` not at once, ``/close`` is closed."""

    def __init__(self, peer: Peer, events: list[str]) -> None:
        self._peer, self._events = peer, events

    def opened(self) -> None:
        self._events.append("opened")

    def received(self, data: HttpRequest) -> None:
        self._events.append(f"{data.method} {data.path}")
        tree = {
            "method": data.method,
            "path": data.path,
            "query": dict(data.query),
            "headers": dict(data.headers),
            "body": len(data.body),
            "peer": data.peer,
            "local": self._peer.local,
        }
        response = HttpResponse(200, json.dumps(tree).encode(), headers={"X-Seen": "yes"})
        if data.path == "/close":
            self._peer.close()
        elif data.path == "/raise":
            raise ZeroDivisionError("on purpose")
        elif data.path == "/later":
            asyncio.get_running_loop().call_soon(self._peer.send, response)
        elif data.path != "/never":
            self._peer.send(response)
            self._peer.send(HttpResponse(500))  # a second one is dropped
            self._peer.close()

    def lost(self, why: str) -> None:
        self._events.append(f"lost: {why}" if why else "lost")


class Serving:
    """A listener on a loop of its own thread, for clients that block."""

    def __init__(self, accept: Callable[[Peer], Any], limits: Limits) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.listener: Listener = self.run(Http().serve(LOOPBACK, accept, limits))
        self.port = self.listener.address.port

    def run(self, doing: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(20)  # type: ignore[arg-type]

    def close(self) -> None:
        self.run(self.listener.close())
        self.run(self.listener.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def serving(accept: Callable[[Peer], Any] | None = None, limits: Limits | None = None) -> Iterator[Any]:
    """A server of Echo, with what happened to it in `events`."""
    events: list[str] = []
    server = Serving(accept or (lambda peer: Echo(peer, events)), limits or Limits())
    server.events = events  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        server.close()


@contextmanager
def linked(server: Any, **options: Any) -> Iterator[Link]:
    link = Http().connect(server.listener.address, timeout_s=5, **options)
    try:
        yield link
    finally:
        link.close()


def raw(server: Any, data: bytes) -> bytes:
    """Everything that a server says to some bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        sock.sendall(data)
        said = b""
        while True:
            try:
                piece = sock.recv(1 << 16)
            except ConnectionResetError:
                return said
            if not piece:
                return said
            said += piece


def status_of(said: bytes) -> int:
    return int(said.split(b" ", 2)[1]) if said else 0


# Serving ------------------------------------------------------------------------------------------------------


def test_a_request_arrives_whole_and_its_response_goes_back() -> None:
    async def conversation() -> None:
        events: list[str] = []
        listener = await Http().serve(LOOPBACK, lambda peer: Echo(peer, events), Limits())
        assert listener.address.port and listener.address.host == "127.0.0.1"
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        for path in ("/predict?a=1&b=%20x&a=2", "/later"):  # over one connection
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\n".encode())
            writer.write(b"Content-Length: 5\r\n\r\nhello")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and b"x-seen: yes\r\n" in head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            tree = json.loads(await reader.readexactly(length))
            assert tree["body"] == 5 and tree["peer"] == "127.0.0.1" and tree["local"] is True
            assert tree["headers"]["x-two"] == "1, 2"
            assert (tree["path"], tree["query"]) in (("/predict", {"a": "2", "b": " x"}), ("/later", {}))
        writer.close()
        await listener.close()
        assert events == ["opened", "POST /predict", "lost", "opened", "POST /later", "lost"]

    asyncio.run(conversation())


def test_a_request_may_come_byte_by_byte() -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        whole = (GOLDEN / "one.http").read_bytes()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(whole)):
            sock.sendall(whole[index : index + 1])
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            assert json.loads(response.read())["body"] == len(whole.partition(b"\r\n\r\n")[2])


def test_the_client_that_goes_away_is_told_of() -> None:
    async def conversation() -> None:
        events: list[str] = []
        lost = asyncio.Event()

        class Waiting(Echo):
            def lost(self, why: str) -> None:
                super().lost(why)
                lost.set()

        listener = await Http().serve(LOOPBACK, lambda peer: Waiting(peer, events), Limits())
        _, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.write(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        while "GET /never" not in events:
            await asyncio.sleep(0)
        writer.close()
        await asyncio.wait_for(lost.wait(), 10)
        await listener.close()
        assert events == ["opened", "GET /never", "lost: the client has gone"]

    asyncio.run(conversation())


def test_no_timer_keeps_a_connection_that_was_reset() -> None:
    async def conversation() -> None:
        listener: Any = await Http().serve(LOOPBACK, lambda peer: Echo(peer, []), Limits())
        _, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        alive = listener._server.server_state.connections
        while not any(connection.timeout_keep_alive_task for connection in alive):
            await asyncio.sleep(0)
        (connection,) = alive
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        while alive:
            await asyncio.sleep(0)
        assert connection.timeout_keep_alive_task is None
        await listener.close()

    asyncio.run(conversation())


def test_no_answer_in_time_is_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_server, "RESPONSE_S", 0.0)
    with serving() as server:
        said = raw(server, b"GET /never HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(said) == 504 and b'{"detail": "no answer within' in said


def test_a_connection_that_closes_or_raises_leaves_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        assert status_of(raw(server, b"GET /close HTTP/1.1\r\nHost: x\r\n\r\n")) == 400
        assert status_of(raw(server, b"GET /raise HTTP/1.1\r\nHost: x\r\n\r\n")) == 500
        assert server.events[2] == "lost: it was not answered" == server.events[5]


def test_what_waits_when_it_closes_gets_a_503() -> None:
    async def conversation() -> None:
        events: list[str] = []
        listener = await Http().serve(LOOPBACK, lambda peer: Echo(peer, events), Limits())
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.write(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        while "GET /never" not in events:
            await asyncio.sleep(0)
        await listener.close()
        await listener.close()
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert await idle.read() == b""
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", listener.address.port)
        writer.close()
        idle_writer.close()

    asyncio.run(conversation())


def test_an_address_that_is_taken_is_an_os_error() -> None:
    async def conversation() -> None:
        listener = await Http().serve(LOOPBACK, lambda peer: Echo(peer, []), Limits())
        with pytest.raises(OSError):
            await Http().serve(listener.address, lambda peer: Echo(peer, []), Limits())
        await listener.close()

    asyncio.run(conversation())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 17000 + b"\r\n\r\n", 431),
        (b"GET /?" + b"&".join(b"a=1" for _ in range(65)) + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70000, 0),  # a head that does not end
        (b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n" * 40, 400),  # they would be kept until the first is answered
    ],
)
def test_what_is_not_put_up_with(data: bytes, status: int) -> None:
    with serving(limits=Limits(message_bytes=1000)) as server:
        assert status_of(raw(server, data)) == status
        with linked(server) as link:  # and it goes on
            link.send(HttpRequest("POST", "/x", body=b"a" * 1000), 5)
            answer = link.receive(5)
            assert answer is not None and answer.status == 200


def test_a_connection_that_says_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_protocol, "HEAD_S", 0.0)
    monkeypatch.setattr(_http_server, "BODY_S", 0.0)
    with serving() as server:
        assert raw(server, b"") == b""
        assert status_of(raw(server, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n")) in (0, 408)


def test_one_connection_too_many_is_closed() -> None:
    with serving(limits=Limits(connections=2)) as server, linked(server) as first, linked(server) as second:
        for link in (first, second):
            link.send(HttpRequest("GET", "/x"), 5)
            assert link.receive(5) is not None
        assert raw(server, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        first.send(HttpRequest("GET", "/x"), 5)
        assert first.receive(5) is not None


# Asking -------------------------------------------------------------------------------------------------------


def test_a_link_shows_its_token_and_keeps_its_connection() -> None:
    with serving() as server, linked(server, token="secret") as link:
        assert link.local
        for path in ("/a b", "/c"):
            link.send(HttpRequest("POST", path, {"q": "1 2"}, {"X-Mine": "m"}, b"body"), 5)
            answer = link.receive(5)
            assert answer is not None and answer.headers["x-seen"] == "yes"
            tree = json.loads(answer.body)
            assert (tree["path"], tree["query"], tree["body"]) == (path, {"q": "1 2"}, 4)
            assert tree["headers"]["authorization"] == "Bearer secret" and tree["headers"]["x-mine"] == "m"


def test_a_link_asks_again_over_a_new_connection_where_the_old_one_was_closed() -> None:
    with serving() as server, linked(server) as link:
        for _ in range(3):
            link.send(HttpRequest("POST", "/x", body=b"y"), 5)
            answer = link.receive(5)
            assert answer is not None and answer.status == 200
            server.loop.call_soon_threadsafe(_end_all, server.listener)
            with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as other:  # a turn of the loop
                other.request("GET", "/x")
                other.getresponse().read()


def _end_all(listener: Any) -> None:
    for connection in list(listener._server.server_state.connections):
        connection.transport.abort()


def test_a_link_without_a_server_is_an_os_error() -> None:
    with serving() as server:
        address = server.listener.address
        link = Http().connect(address, timeout_s=5)
        link.send(HttpRequest("GET", "/x"), 5)
        assert link.receive(5) is not None
    with pytest.raises(OSError):
        link.send(HttpRequest("GET", "/x"), 5)
        link.receive(5)
    link.close()
    with pytest.raises(OSError):
        Http().connect(address, timeout_s=5)


def test_a_link_waits_only_so_long_and_drops_a_late_answer() -> None:
    with serving() as server, linked(server) as link:
        assert link.receive(0.0) is None
        link.send(HttpRequest("GET", "/never"), 5)
        assert link.receive(0.0) is None
        link.send(HttpRequest("GET", "/x"), 5)
        answer = link.receive(5)
        assert answer is not None and json.loads(answer.body)["path"] == "/x"


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b""]
)
def test_a_broken_response_is_an_os_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        link = Http().connect(Address("http", host="127.0.0.1", port=listener.getsockname()[1]), timeout_s=5)
        link.send(HttpRequest("GET", "/"), 5)
        with pytest.raises(OSError):
            link.receive(5)
        link.close()
        thread.join()


# ARK over it --------------------------------------------------------------------------------------------------


class ArkStub:
    """Answers every observation with its state, doubled, in the place of a server."""

    def __init__(self, peer: Peer, wire: Ark) -> None:
        self._peer, self._half = peer, wire.server()

    def opened(self) -> None: ...

    def received(self, data: HttpRequest) -> None:
        (call,) = self._half.receive(data, 0.0)
        if isinstance(call, Reply):
            self._peer.send(call.data)
            return
        assert isinstance(call, Observe)
        row = np.concatenate([2 * call.frame.state[part.name] for part in call.robot.components])
        self._peer.send(self._half.answer(call, Played(row, False, None, 0, 50.0, False, False), 0.0))

    def lost(self, why: str) -> None: ...


STATE = [0.1 * index for index in range(14)]


@pytest.mark.parametrize("cameras", [(), ("cam_high",), ("cam_high", "cam_left_wrist", "cam_right_wrist")])
def test_the_published_client_gets_its_actions(cameras: tuple[str, ...]) -> None:
    wire = Ark()
    jpeg = wire.codec.encode("x", np.zeros((224, 224, 3), np.uint8))
    with serving(lambda peer: ArkStub(peer, wire)) as server:
        url = f"http://127.0.0.1:{server.port}/predict"
        for _ in range(3):  # a new connection for every call
            files = {name: (name + ".jpg", jpeg, "image/jpeg") for name in cameras}
            response = requests.post(url, {"state": json.dumps(STATE), "task": "t"}, files=files, timeout=30)
            assert response.json() == {"action": [2 * number for number in STATE]}
        assert requests.post(url, {"state": "[]", "task": "t"}, timeout=30).status_code == 400
        assert requests.get(url, timeout=30).headers["Allow"] == "POST"


def test_an_ark_server_is_a_policy_here() -> None:
    wire = Ark()
    client = wire.client()
    assert client.spec is not None
    state = {
        part.name: np.array(STATE[start : start + part.dof])
        for part, start in zip(wire.components, (0, 6, 7, 13), strict=True)
    }
    images = {name: np.zeros((8, 8, 3), np.uint8) for name in wire.cameras}
    with serving(lambda peer: ArkStub(peer, wire)) as server, linked(server) as link:
        for number in range(3):
            link.send(client.ask(number, Frame(images, state, {"prompt": "t"}), ChunkRequest(0), 1.0).data, 5)
            (event,) = client.receive(link.receive(5), 0.0)
            assert isinstance(event, Answered) and event.chunk is not None and event.id == number
            assert np.allclose(event.chunk.rows, [2 * np.array(STATE)])
