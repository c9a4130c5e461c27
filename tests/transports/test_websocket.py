"""Websockets on loopback: the request that begins a connection, frames, and what is not put up with."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chunkwise import plugins
from chunkwise.contract import InterfaceValidationError
from chunkwise.transports import Address, Limits, Link, Listener, Peer
from chunkwise.wires import HttpRequest, HttpResponse

PATIENCE_S = 10.0
LOOPBACK = Address("websocket", host="127.0.0.1")
Websocket: Any = plugins.load("transports", "websocket")


@pytest.fixture(autouse=True)
def _goodbyes_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkwise.transports._websocket_server.CLOSE_S", 0.1)


class Echo:
    """Notes what it is told; sends frames back, and does what the path of the request says."""

    def __init__(self, peer: Peer, notes: queue.SimpleQueue[Any]) -> None:
        self.peer, self.notes = peer, notes

    def opened(self) -> None:
        self.notes.put("opened")

    def received(self, data: Any) -> None:
        if not isinstance(data, HttpRequest):
            self.peer.send(data)
            if data in ("close", b"close"):
                self.peer.close()
                self.peer.send(b"too late")
            return
        self.notes.put(data)
        if data.path == "/no":
            self.peer.send(HttpResponse(401, b"who are you\n", "text/plain", {"X-Why": "token"}))
            self.peer.send(HttpResponse(200))  # a second one is dropped
            self.peer.close()
        elif data.path == "/close":
            self.peer.close()
        elif data.path == "/early":
            self.peer.send(b"welcome")
            self.peer.send("in words")
        elif data.path == "/late":
            self.peer.send(b"welcome")
            asyncio.get_running_loop().call_soon(self.peer.close)

    def lost(self, why: str) -> None:
        self.notes.put("lost")


class Serving:
    """A listener on a loop in another thread.

    Attributes:
        notes: what its connections were told.
    """

    def __init__(self, limits: Limits, accept: Callable[[Peer, Any], Any]) -> None:
        self.notes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        serve = Websocket().serve(LOOPBACK, lambda peer: accept(peer, self.notes), limits)
        self.listener: Listener = self.run(serve)
        self.address = self.listener.address

    def run(self, doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self.loop).result(PATIENCE_S)

    def noted(self) -> Any:
        return self.notes.get(timeout=PATIENCE_S)

    def at(self, path: str) -> Address:
        return Address("websocket", path, self.address.host, self.address.port)

    def close(self) -> None:
        self.run(self.listener.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


@contextmanager
def serving(limits: Limits | None = None, accept: Callable[[Peer, Any], Any] = Echo) -> Iterator[Serving]:
    made = Serving(limits or Limits(), accept)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def linked(address: Address, token: str = "") -> Iterator[Link]:
    link = Websocket().connect(address, timeout_s=PATIENCE_S, token=token)
    try:
        yield link
    finally:
        link.close()


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """A frame of a client's, by hand (RFC 6455, masked with zeros)."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 * last | opcode]) + length + bytes(4) + payload


def raw(address: Address, path: str = "/") -> socket.socket:
    """A connection that was upgraded by hand."""
    sock = socket.create_connection((address.host, address.port), PATIENCE_S)
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock


def ended(sock: socket.socket) -> bool:
    """Whether the other end closes the connection; what it still says is dropped."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


# The request that begins a connection ---------------------------------------------------------------------------


def test_the_request_comes_first_and_whole() -> None:
    with serving() as there:
        request = HttpRequest("GET", "/robot one", {"a": "1&2", "b": ""}, {"X-Robot": "7"})
        with linked(there.at("/base"), "s3cret") as link:
            link.send(request, PATIENCE_S)
            assert there.noted() == "opened"
            seen = there.noted()
            assert (seen.method, seen.path, seen.query) == ("GET", "/base/robot one", {"a": "1&2", "b": ""})
            assert seen.headers["x-robot"] == "7" and seen.headers["authorization"] == "Bearer s3cret"
            assert seen.headers["upgrade"] == "websocket" and seen.peer == "127.0.0.1" and link.local


def test_a_request_that_shows_a_token_of_its_own_keeps_it() -> None:
    with serving() as there, linked(there.address, "s3cret") as link:
        link.send(HttpRequest("GET", "", headers={"authorization": "Api-Key mine"}), PATIENCE_S)
        assert there.noted() == "opened" and there.noted().headers["authorization"] == "Api-Key mine"


def test_a_response_takes_the_place_of_the_websocket() -> None:
    with serving() as there:
        with linked(there.at("/no")) as link:
            link.send(HttpRequest("GET", ""), PATIENCE_S)
            response = link.receive(PATIENCE_S)
            assert isinstance(response, HttpResponse) and response.status == 401
            assert response.body == b"who are you\n" and response.content_type == "text/plain"
            with pytest.raises(ConnectionError):
                link.send(b"all the same", PATIENCE_S)
        assert [there.noted() for _ in range(3)][::2] == ["opened", "lost"]
        with linked(there.at("/close")) as link:
            link.send(HttpRequest("GET", ""), PATIENCE_S)
            refused = link.receive(PATIENCE_S)
            assert isinstance(refused, HttpResponse) and refused.status == 400


def test_a_plain_request_is_answered_and_never_upgraded() -> None:
    with serving() as there:
        for path, status in (("/no", 401), ("/", 426), ("/?" + "a=1&" * 65, 400)):
            plain = http.client.HTTPConnection(there.address.host, there.address.port, timeout=PATIENCE_S)
            plain.request("GET", path)
            answer = plain.getresponse()
            assert answer.status == status and answer.read()
            plain.close()
        assert [there.noted() for _ in range(3)][::2] == ["opened", "lost"]
        assert [there.noted() for _ in range(3)][::2] == ["opened", "lost"]
        assert there.notes.empty()


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), ("null", 403), ("http://[", 400)])
def test_a_page_of_another_site_gets_in_nowhere(origin: str, status: int) -> None:
    with serving() as there:
        with linked(there.address) as link:
            link.send(HttpRequest("GET", "", headers={"Origin": origin}), PATIENCE_S)
            response = link.receive(PATIENCE_S)
            assert isinstance(response, HttpResponse) and response.status == status
        assert there.notes.empty()
        with linked(there.address) as link:  # some libraries send their own host as the origin
            mine = f"http://{there.address.host}:{there.address.port}"
            link.send(HttpRequest("GET", "", headers={"Origin": mine}), PATIENCE_S)
            link.send(b"hello", PATIENCE_S)
            assert link.receive(PATIENCE_S) == b"hello"


def test_what_is_sent_before_the_websocket_is_there_comes_after_it() -> None:
    with serving() as there:
        with linked(there.at("/early")) as link:
            link.send(HttpRequest("GET", ""), PATIENCE_S)
            assert [link.receive(PATIENCE_S), link.receive(PATIENCE_S)] == [b"welcome", "in words"]
        with linked(there.at("/late")) as link:
            assert link.receive(PATIENCE_S) == b"welcome"  # the request is implied
            with pytest.raises(ConnectionError, match="1008"):
                link.receive(PATIENCE_S)


# Frames ---------------------------------------------------------------------------------------------------------


def test_bytes_and_texts_keep_their_kind() -> None:
    with serving() as there, linked(there.address) as link:
        for data in (b"bytes", "a text, ü", [b"in ", b"pieces"], b"", ""):
            link.send(data, PATIENCE_S)
            assert link.receive(PATIENCE_S) == (b"in pieces" if isinstance(data, list) else data)
        with pytest.raises(ConnectionError):
            link.send(HttpRequest("GET", ""), PATIENCE_S)


def test_a_message_in_fragments_is_whole_and_pings_are_answered_between_them() -> None:
    with serving() as there, raw(there.address) as sock:
        sock.sendall(frame(2, b"one ", last=False) + frame(9, b"ping") + frame(0, b"two"))
        answer = b""
        while len(answer) < 15:
            answer += sock.recv(100)
        assert answer == b"\x8a\x04ping" + b"\x82\x07one two"


def test_who_is_told_goodbye_and_says_nothing_is_cut_off() -> None:
    with serving() as there, raw(there.address) as sock:
        sock.sendall(frame(1, b"close"))
        assert sock.recv(100).startswith(b"\x81\x05close")
        assert ended(sock)
        assert [there.noted() for _ in range(3)][::2] == ["opened", "lost"]
    with serving() as there, linked(there.address) as link:
        link.send(b"close", PATIENCE_S)
        assert link.receive(PATIENCE_S) == b"close"
        with pytest.raises(ConnectionError, match="1008"):
            link.receive(PATIENCE_S)


@pytest.mark.parametrize(
    "data",
    [
        frame(2, bytes(2000)),
        frame(2, bytes(800), last=False) + frame(0, bytes(800)),
        frame(3, b""),
        frame(0, b"nothing to go on with"),
        frame(1, b"\xff"),
        b"\x82\x05naked",
        frame(9, bytes(126)),
        b"\xff" * 100,
    ],
)
def test_what_is_no_frame_ends_the_connection_and_no_other(data: bytes) -> None:
    with serving(Limits(message_bytes=1000)) as there, linked(there.address) as link:
        link.send(b"before", PATIENCE_S)
        with raw(there.address) as sock:
            sock.sendall(data)
            assert ended(sock)
        assert link.receive(PATIENCE_S) == b"before"
        link.send(b"after", PATIENCE_S)
        assert link.receive(PATIENCE_S) == b"after"


# What is not put up with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01 TLS",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * 10000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"",
    ],
)
def test_a_head_that_is_none_ends_the_connection(head: bytes) -> None:
    with serving() as there, socket.create_connection((there.address.host, there.address.port)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(head)
        sock.shutdown(socket.SHUT_WR)
        assert ended(sock)
        with linked(there.address) as link:
            link.send(b"still", PATIENCE_S)
            assert link.receive(PATIENCE_S) == b"still"


def test_a_client_that_only_pings_and_never_reads_is_cut_off() -> None:
    with serving(Limits(unsent_bytes=100_000)) as there, raw(there.address) as sock:
        ping = frame(9, bytes(125)) * 1000
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                sock.sendall(ping)
        assert [there.noted() for _ in range(3)][::2] == ["opened", "lost"]


def test_a_silent_connection_ends_where_the_limit_says_so() -> None:
    with serving(Limits(idle_s=0.05)) as there, raw(there.address) as sock:
        assert ended(sock)


def test_a_listener_closes_though_somebody_is_half_way_in() -> None:
    with serving() as there:
        half = socket.create_connection((there.address.host, there.address.port))
        half.sendall(b"GET / HTTP/1.1\r\n")
        with raw(there.address) as whole:
            there.run(there.listener.close())
            there.run(there.listener.close())
            assert ended(whole) and ended(half)
        half.close()


def test_a_server_that_goes_says_so() -> None:
    with serving() as there, linked(there.address) as link:
        link.send(b"hello", PATIENCE_S)
        assert link.receive(PATIENCE_S) == b"hello"
        there.run(there.listener.close())
        with pytest.raises(ConnectionError, match="1001"):
            link.receive(PATIENCE_S)
        with pytest.raises(ConnectionError):
            link.send(b"again", PATIENCE_S)


def test_what_is_no_websocket_is_an_os_error() -> None:
    for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"no HTTP\r\n\r\n", b""):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve(server: socket.socket = server, answer: bytes = answer) -> None:
                sock, _ = server.accept()
                sock.recv(1 << 16)
                sock.sendall(answer)
                sock.close()

            thread = threading.Thread(target=serve)
            thread.start()
            with linked(Address("websocket", host="127.0.0.1", port=server.getsockname()[1])) as link:
                try:
                    link.send(HttpRequest("GET", ""), PATIENCE_S)
                    response = link.receive(PATIENCE_S)
                    assert isinstance(response, HttpResponse) and response.status == 200
                except OSError:
                    assert not answer.startswith(b"HTTP/1.1 200")
            thread.join(PATIENCE_S)


def test_a_connection_that_raises_is_a_500_and_nobody_elses() -> None:
    class Raises(Echo):
        def received(self, data: Any) -> None:
            raise ZeroDivisionError("on purpose")

    with serving(accept=Raises) as there, linked(there.address) as link:
        link.send(HttpRequest("GET", ""), PATIENCE_S)
        response = link.receive(PATIENCE_S)
        assert isinstance(response, HttpResponse) and response.status == 500


def test_nothing_is_logged_and_no_warning_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with serving() as there, linked(there.address) as link, raw(there.address) as sock:
            sock.sendall(b"\xff" * 100)
            assert ended(sock)
            link.send(b"hello", PATIENCE_S)
            assert link.receive(PATIENCE_S) == b"hello"
    told = capfd.readouterr()
    assert not told.out and not told.err


def test_a_file_descriptor_is_left_nowhere(descriptors: Callable[[], set[str]]) -> None:
    before = descriptors()
    with serving() as there:
        for path in ("", "/no"):
            with linked(there.at(path)) as link:
                link.send(HttpRequest("GET", ""), PATIENCE_S)
        with linked(there.address):
            pass
    assert descriptors() - before == set()


# Addresses ------------------------------------------------------------------------------------------------------


def test_ws_is_another_word_for_it() -> None:
    assert Address.parse("ws://127.0.0.1:8000") == Address.parse("websocket://127.0.0.1:8000/")
    with pytest.raises(InterfaceValidationError, match="names no host"):
        Address.parse("ws:///path")


def test_the_answer_to_a_health_check_is_the_connections(tmp_path: Any) -> None:
    class Health(Echo):
        def received(self, data: Any) -> None:
            self.peer.send(HttpResponse(200, json.dumps({"path": data.path}).encode() * 20_000))

    with serving(accept=Health) as there:
        plain = http.client.HTTPConnection(there.address.host, there.address.port, timeout=PATIENCE_S)
        plain.request("GET", "/metrics")
        answer = plain.getresponse().read()
        assert len(answer) == 20_000 * len(b'{"path": "/metrics"}')  # all of it, before the connection ends
        plain.close()
