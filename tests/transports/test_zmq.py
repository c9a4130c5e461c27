"""ZeroMQ: identities are connections, envelopes come back, and nothing of a client's goes to another."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chunkwise.transports import Address, Limits
from chunkwise.transports.zmq import Zmq

zmq: Any = pytest.importorskip("zmq")
PATIENCE_S = 10.0
HERE = Address("zmq", host="127.0.0.1")


class Desk:
    """What a listener is given: answers what it is told to, and notes everything.

    Attributes:
        notes: number of the connection, and what it was told.
    """

    def __init__(self, answer: Callable[[Any, bytes], None] | None = None) -> None:
        self.notes: list[tuple[int, str, Any]] = []
        self.peers: list[Any] = []
        self._answer = answer or (lambda peer, data: peer.send(b"re:" + data))
        self._news = asyncio.Event()

    def __call__(self, peer: Any) -> Any:
        number = len(self.peers)
        self.peers.append(peer)
        desk = self

        class Connection:
            def opened(self) -> None:
                desk.note(number, "opened", peer.local)

            def received(self, data: Any) -> None:
                desk.note(number, "received", bytes(data))
                desk._answer(peer, bytes(data))

            def lost(self, why: str) -> None:
                desk.note(number, "lost", why)

        return Connection()

    def note(self, number: int, what: str, more: Any) -> None:
        """It happened."""
        self.notes.append((number, what, more))
        self._news.set()

    def of(self, what: str) -> list[tuple[int, Any]]:
        """All that happened of this kind."""
        return [(number, more) for number, kind, more in self.notes if kind == what]

    async def until(self, what: str, count: int = 1) -> list[tuple[int, Any]]:
        """All of this kind, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.of(what)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(what)


@contextmanager
def client(address: Address, kind: int = 0, **options: Any) -> Iterator[Any]:
    """A client's socket; `options` are its socket options."""
    context = zmq.Context()
    try:
        made = context.socket(kind or zmq.REQ)
        made.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        for name, value in options.items():
            made.setsockopt(getattr(zmq, name), value)
        made.connect(f"tcp://{address.host}:{address.port}")
        yield made
    finally:
        context.destroy(linger=0)


def play(
    story: Callable[[Desk, Address], Awaitable[None]],
    answer: Callable[[Any, bytes], None] | None = None,
    limits: Limits | None = None,
) -> None:
    """A story beside a listener."""

    async def whole() -> None:
        desk = Desk(answer)
        listener = await Zmq().serve(HERE, desk, limits or Limits())
        try:
            await story(desk, listener.address)
        finally:
            await listener.close()

    asyncio.run(whole())


def on_thread(work: Callable[[], Any]) -> Awaitable[Any]:
    """Blocking work beside the loop."""
    return asyncio.to_thread(work)


def test_a_client_that_closes_is_told_as_gone() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address) as one:
            one.send(b"a")
            assert await on_thread(one.recv) == b"re:a"
        assert await desk.until("lost") == [(0, "the client has gone")]
        with client(address) as two:
            two.send(b"b")
            assert await on_thread(two.recv) == b"re:b"
            assert desk.of("opened") == [(0, True), (1, True)]

    play(story)


def test_a_client_that_comes_again_is_another() -> None:
    async def story(desk: Desk, address: Address) -> None:
        for _ in range(3):
            with client(address, IDENTITY=b"robot") as one:
                one.send(b"a")
                assert await on_thread(one.recv) == b"re:a"
        assert len(await desk.until("lost", 3)) == 3 and len(desk.peers) == 3

    play(story)


def test_dealers_and_numbered_requests_get_their_envelopes_back() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address, zmq.DEALER) as one:
            one.send_multipart([b"", b"a"])
            one.send_multipart([b"seven", b"", b"b"])
            one.send(b"c")
            answers = [await on_thread(one.recv_multipart) for _ in range(3)]
            assert answers == [[b"", b"re:a"], [b"seven", b"", b"re:b"], [b"re:c"]]
        with client(address, REQ_CORRELATE=1, REQ_RELAXED=1) as two:
            two.send(b"d")
            assert await on_thread(two.recv) == b"re:d"

    play(story)


def test_a_late_answer_is_never_taken_for_the_next_ones() -> None:
    held: list[Any] = []

    def answer(peer: Any, data: bytes) -> None:
        if data == b"slow":
            held.append(peer)
            return
        peer.send([b"late", b"re:" + data] if held and held[0] is peer else b"re:" + data)

    async def story(desk: Desk, address: Address) -> None:
        with client(address, REQ_CORRELATE=1, REQ_RELAXED=1) as one:
            one.send(b"slow")
            await desk.until("received")
            one.send(b"quick")
            assert await on_thread(one.recv) == b"re:quick"
        assert desk.of("lost") == [] or len(desk.peers) == 1

        def blocking() -> None:
            held.clear()
            link = Zmq().connect(address, timeout_s=PATIENCE_S)
            try:
                link.send(b"slow", PATIENCE_S)
                assert link.receive(0.05) is None
                link.send(b"quick", PATIENCE_S)
                assert link.receive(PATIENCE_S) == b"re:quick"
            finally:
                link.close()

        await on_thread(blocking)

    play(story, answer)


def test_the_one_that_was_silent_for_longest_makes_room() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address) as one, client(address) as two, client(address) as three:
            for each, word in ((one, b"a"), (two, b"b"), (one, b"c"), (three, b"d")):
                each.send(word)
                assert await on_thread(each.recv) == b"re:" + word
            assert [number for number, _ in desk.of("lost")] == [1]
            two.send(b"e")  # it goes on, as somebody new
            assert await on_thread(two.recv) == b"re:e"
            assert len(desk.peers) == 4

    play(story, limits=Limits(connections=2))


def test_the_silent_are_forgotten() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address) as one:
            one.send(b"a")
            assert await on_thread(one.recv) == b"re:a"
            assert await desk.until("lost") == [(0, "silent for too long")]

    play(story, limits=Limits(idle_s=0.05))


def test_what_is_too_long_ends_its_connection_alone() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address) as one, client(address, RECONNECT_IVL=-1) as two:
            one.send(b"a")
            assert await on_thread(one.recv) == b"re:a"
            two.send(b"b")
            assert await on_thread(two.recv) == b"re:b"
            two.send(bytes(2000))
            assert await desk.until("lost") == [(1, "the client has gone")]
            one.send(b"c")
            assert await on_thread(one.recv) == b"re:c"

    play(story, limits=Limits(message_bytes=1000))


def test_what_is_no_request_is_left_aside() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address, zmq.DEALER) as one:
            one.send_multipart([b"x"] * 20)
            one.send_multipart([b"x" * 100, b"", b"y"])
            one.send_multipart([b"", b"a"])
            assert await on_thread(one.recv_multipart) == [b"", b"re:a"]
            assert desk.of("received") == [(0, b"a")]

    play(story)


def test_bytes_that_are_no_zeromq_disturb_nobody() -> None:
    async def story(desk: Desk, address: Address) -> None:
        for junk in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 500,
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03" + b"\0" * 53,
        ):
            with socket.create_connection((address.host, address.port), PATIENCE_S) as raw:
                raw.sendall(junk)
        with client(address) as one:
            one.send(b"a")
            assert await on_thread(one.recv) == b"re:a"
        assert len(desk.peers) == 1

    play(story)


def test_many_at_once_all_get_theirs() -> None:
    async def story(desk: Desk, address: Address) -> None:
        def many(number: int) -> None:
            with client(address) as one:
                for turn in range(30):
                    word = f"{number}.{turn}".encode()
                    one.send(word)
                    found.append(one.recv() == b"re:" + word)

        found: list[bool] = []
        threads = [threading.Thread(target=many, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        await on_thread(lambda: [thread.join(PATIENCE_S) for thread in threads])
        assert found == [True] * 300
        assert len(await desk.until("lost", 10)) == 10

    play(story)


def test_a_burst_is_taken_whole() -> None:
    async def story(desk: Desk, address: Address) -> None:
        with client(address, zmq.DEALER) as one:
            for number in range(60):
                one.send_multipart([b"", b"%d" % number])
            answers = [await on_thread(one.recv_multipart) for _ in range(60)]
            assert answers == [[b"", b"re:%d" % number] for number in range(60)]

    play(story)


def test_a_server_that_closes_a_connection_goes_on_with_the_next() -> None:
    def answer(peer: Any, data: bytes) -> None:
        if data == b"bad":
            peer.close()
            peer.send(b"too late")
        else:
            peer.send(b"fine")

    async def story(desk: Desk, address: Address) -> None:
        with client(address, zmq.DEALER) as one:
            one.send_multipart([b"", b"bad"])
            one.send_multipart([b"", b"good"])
            assert await on_thread(one.recv_multipart) == [b"", b"fine"]
            assert desk.of("lost") == [(0, "closed")] and len(desk.peers) == 2

    play(story, answer)


def test_a_link_notices_that_the_server_has_gone() -> None:
    async def whole() -> None:
        desk = Desk(lambda peer, data: None)
        listener = await Zmq().serve(HERE, desk, Limits())
        link = await on_thread(lambda: Zmq().connect(listener.address, timeout_s=PATIENCE_S))
        try:
            assert link.local
            await on_thread(lambda: link.send(b"a", PATIENCE_S))
            await desk.until("received")
            await listener.close()

            def waits() -> float:
                began = time.monotonic()
                with pytest.raises(ConnectionError):
                    link.receive(PATIENCE_S)
                return time.monotonic() - began

            assert await on_thread(waits) < PATIENCE_S
            with pytest.raises(OSError):
                await on_thread(lambda: link.send(b"b", PATIENCE_S))
        finally:
            link.close()
            await listener.close()

    asyncio.run(whole())


def test_a_listener_that_says_nothing_is_a_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = Address("zmq", host="127.0.0.1", port=deaf.getsockname()[1])
        with pytest.raises(TimeoutError):
            Zmq().connect(address, timeout_s=0.05)


def test_tls_is_refused_and_not_left_out() -> None:
    tls = ssl.create_default_context()
    with pytest.raises(OSError, match="no TLS"):
        Zmq().connect(HERE, timeout_s=1.0, tls=tls)

    async def serve() -> None:
        with pytest.raises(OSError, match="no TLS"):
            await Zmq().serve(HERE, lambda peer: None, Limits(), tls)  # type: ignore[arg-type, return-value]

    asyncio.run(serve())


def test_names_and_the_newer_protocol() -> None:
    for host in ("localhost", "::1"):

        async def whole(host: str = host) -> None:
            try:
                listener = await Zmq().serve(Address("zmq", host=host), Desk(), Limits())
            except OSError:
                pytest.skip(f"{host} is not to be had here")
            link = await on_thread(lambda: Zmq().connect(listener.address, timeout_s=PATIENCE_S))
            try:
                await on_thread(lambda: link.send([b"a", b"b"], PATIENCE_S))
                assert await on_thread(lambda: link.receive(PATIENCE_S)) == b"re:ab"
                assert link.local
            finally:
                link.close()
                await listener.close()

        asyncio.run(whole())
