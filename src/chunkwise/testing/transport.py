"""What every transport keeps, as checks: inherit, say how yours is made, and run them with pytest.

The listener runs on an event loop in a thread of its own, as in a server, and the test is the client.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from chunkwise.transports import Address, Connection, Limits, Link, Listener, Peer, Transport
from chunkwise.wires import HttpRequest

PATIENCE_S = 10.0
"""For what must happen; only a failing check uses it up."""
LOOP_S = 10.0
"""For a listener to begin and to end."""


class TransportConformance:
    """What every transport keeps.

    ::

        class TestMine(TransportConformance):
            def make_transport(self) -> Transport:
                return Mine()

            def make_address(self) -> Address:
                return Address.parse("mine://127.0.0.1:0")

    A transport of requests, each with one answer, says `streams = False` and how its messages are made.
    """

    streams: ClassVar[bool] = True
    """Whether a connection carries bytes for as long as it lasts; else it is one message with one answer."""

    def make_transport(self) -> Transport:
        """The transport under test; override this."""
        raise NotImplementedError("override make_transport()")

    def make_address(self) -> Address:
        """Where it can listen, again and again: with a port of 0, or a path in a folder of the test's; override
        this."""
        raise NotImplementedError("override make_address()")

    def make_request(self, content: bytes) -> Any:
        """What a client sends that carries these bytes."""
        return content

    def make_answer(self, content: bytes) -> Any:
        """What a server sends that carries these bytes."""
        return content

    def content(self, data: Any) -> bytes:
        """The bytes in what was received, at either end."""
        return bytes(data)

    def test_is_a_transport(self) -> None:
        transport = self.make_transport()
        assert isinstance(getattr(transport, "scheme", None), str), "a transport says its scheme"
        for name in ("serve", "connect"):
            assert callable(getattr(transport, name, None)), f"a transport has {name}()"

    def test_what_is_sent_comes_back(self) -> None:
        with self._listening(self._echo) as address, self._linked(address) as link:
            for size in (1, 1000, 3 << 20):
                sent = bytes(range(251)) * (size // 251 + 1)
                assert self._exchange(link, sent[:size]) == sent[:size], "all that is sent arrives, in its order"

    def test_clients_are_kept_apart(self) -> None:
        with self._listening(self._echo) as address:
            links = [self._link(address) for _ in range(5)]
            try:
                for number, link in enumerate(links):
                    link.send(self.make_request(bytes([number] * 4)), PATIENCE_S)
                for number, link in reversed(list(enumerate(links))):
                    assert self._received(link, 4) == bytes([number] * 4), "each client gets its own answers"
            finally:
                for link in links:
                    link.close()

    def test_the_address_says_where_it_listens(self) -> None:
        wanted = self.make_address()
        with self._listening(self._echo, wanted) as address:
            assert address.transport == wanted.transport, "a listener's address is of its transport"
            assert address.port or not wanted.host, "a listener's address has the port that was taken"

    def test_receive_ends_when_its_time_is_over(self) -> None:
        with self._listening(_Silent) as address, self._linked(address) as link:
            link.send(self.make_request(b"hello"), PATIENCE_S)
            assert link.receive(0.0) is None, "receive() gives None when its time is over"
            assert link.receive(0.01) is None, "receive() gives None when its time is over"

    def test_where_nobody_listens_is_an_os_error(self) -> None:
        with self._listening(self._echo) as address:
            pass
        assert self._refused(address), "connecting where nobody listens raises OSError"

    def test_an_address_that_is_taken_is_an_os_error(self) -> None:
        with self._listening(self._echo) as address:
            try:
                with self._listening(self._echo, address):
                    raise AssertionError("an address that somebody listens on cannot be had a second time")
            except OSError:
                pass
            with self._linked(address) as link:
                assert self._exchange(link, b"hello") == b"hello", "who was there first goes on listening"

    def test_the_end_of_a_connection_is_told_once(self) -> None:
        made: list[_Noted] = []

        def accept(peer: Peer) -> _Noted:
            made.append(_Noted(peer, self._answered))
            return made[-1]

        with self._listening(accept) as address, self._linked(address) as link:
            assert self._exchange(link, b"hello") == b"hello"
            link.close()
            assert made[0].notes.get(timeout=PATIENCE_S) == "opened", "a connection is opened first"
            assert made[0].notes.get(timeout=PATIENCE_S) == "received", "then it receives"
            try:
                told = made[0].notes.get(timeout=PATIENCE_S)
            except queue.Empty:
                told = "nothing"
            assert told == "lost", "a connection is told when the other end has gone"
        assert made[0].notes.empty(), "after that it is told nothing more"

    def test_a_server_can_end_a_connection(self) -> None:
        if not self.streams:
            return

        class Ends(_Echo):
            def received(self, data: Any) -> None:
                super().received(data)
                self.peer.close()

        with self._listening(lambda peer: Ends(peer, self._answered)) as address, self._linked(address) as link:
            link.send(b"hello", PATIENCE_S)
            assert self._received(link, 5) == b"hello", "what was sent before the end arrives"
            assert self._ended(link), "the link raises OSError once the server has closed it"

    def test_one_connection_too_many_is_turned_away(self) -> None:
        if not self.streams:
            return
        with (
            self._listening(self._echo, limits=Limits(connections=1)) as address,
            self._linked(address) as link,
        ):
            assert self._exchange(link, b"hello") == b"hello"
            assert self._refused(address), "a listener keeps its limit of connections"
            assert self._exchange(link, b"still") == b"still", "who was there before goes on"

    def test_who_does_not_read_is_cut_off(self) -> None:
        if not self.streams:
            return
        made: list[_Noted] = []

        class Pours(_Noted):
            def received(self, data: Any) -> None:
                for _ in range(64):
                    self.peer.send(bytes(1 << 20))

        def accept(peer: Peer) -> _Noted:
            made.append(Pours(peer, self._answered))
            return made[-1]

        with (
            self._listening(accept, limits=Limits(unsent_bytes=1 << 20)) as address,
            self._linked(address) as link,
        ):
            link.send(b"more", PATIENCE_S)
            assert link.receive(PATIENCE_S) is not None
            assert made[0].notes.get(timeout=PATIENCE_S) == "opened"
            try:
                told = made[0].notes.get(timeout=PATIENCE_S)
            except queue.Empty:
                told = "nothing"
            assert told == "lost", "a client that does not read does not fill the server's memory"

    def test_closing_twice_is_fine(self) -> None:
        with self._listening(self._echo, closings=2) as address, self._linked(address) as link:
            assert self._exchange(link, b"hello") == b"hello"
            link.close()  # and again as the block ends

    # ----------------------------------------------------------------------------------------------------------

    def _answered(self, peer: Peer, data: Any) -> None:
        peer.send(self.make_answer(self.content(data)))

    def _echo(self, peer: Peer) -> _Echo:
        return _Echo(peer, self._answered)

    @contextmanager
    def _listening(
        self,
        accept: Callable[[Peer], Any],
        address: Address | None = None,
        *,
        limits: Limits | None = None,
        closings: int = 1,
    ) -> Iterator[Address]:
        """Somebody who listens, on a loop in another thread; where."""
        with _loop() as run:
            made = (lambda peer: _Begun(accept(peer))) if self.streams else accept
            serve = self.make_transport().serve(address or self.make_address(), made, limits or Limits())
            listener: Listener = run(serve)
            try:
                yield listener.address
            finally:
                run(_settled())
                for _ in range(closings):
                    try:
                        run(listener.close())
                    except Exception as error:
                        raise AssertionError("a listener may be closed twice") from error

    def _link(self, address: Address) -> Link:
        return self.make_transport().connect(address, timeout_s=PATIENCE_S)

    @contextmanager
    def _linked(self, address: Address) -> Iterator[Link]:
        link = self._link(address)
        try:
            yield link
        finally:
            link.close()

    def _exchange(self, link: Link, content: bytes) -> bytes:
        link.send(self.make_request(content), PATIENCE_S)
        return self._received(link, len(content))

    def _received(self, link: Link, size: int) -> bytes:
        """The next `size` bytes; fewer where they do not come."""
        found = b""
        while len(found) < size:
            data = link.receive(PATIENCE_S)
            if data is None:
                break
            found += self.content(data)
        return found

    def _ended(self, link: Link) -> bool:
        """Whether the link says that the other end has gone."""
        try:
            return link.receive(PATIENCE_S) is not None and self._ended(link)
        except OSError:
            return True

    def _refused(self, address: Address) -> bool:
        """Whether connecting, or the first exchange, raises OSError."""
        try:
            with self._linked(address) as link:
                link.send(self.make_request(b"hello"), PATIENCE_S)
                link.receive(PATIENCE_S)
        except OSError:
            return True
        return False


class _Begun:
    """Hands everything on but the request that a connection may begin with."""

    def __init__(self, inner: Connection) -> None:
        self.opened, self.lost, self._received = inner.opened, inner.lost, inner.received

    def received(self, data: Any) -> None:
        if not isinstance(data, HttpRequest):
            self._received(data)


class _Echo:
    """Sends back what it received."""

    def __init__(self, peer: Peer, answer: Callable[[Peer, Any], None]) -> None:
        self.peer, self._answer = peer, answer

    def opened(self) -> None:
        pass

    def received(self, data: Any) -> None:
        self._answer(self.peer, data)

    def lost(self, why: str) -> None:
        pass


class _Noted(_Echo):
    """The same, and notes what it is told, for another thread."""

    def __init__(self, peer: Peer, answer: Callable[[Peer, Any], None]) -> None:
        super().__init__(peer, answer)
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def opened(self) -> None:
        self.notes.put("opened")

    def received(self, data: Any) -> None:
        self.notes.put("received")
        super().received(data)

    def lost(self, why: str) -> None:
        self.notes.put("lost")


class _Silent(_Echo):
    """Never answers."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer, lambda peer, data: None)


async def _settled() -> None:
    """Let connections that are being made or ended come to their end."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """An event loop in a thread of its own; what runs a coroutine there and waits for it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="conformance", daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(LOOP_S)

    async def drained() -> None:
        await _settled()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield run
    finally:
        run(drained())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LOOP_S)
        loop.close()
