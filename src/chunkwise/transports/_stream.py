"""What unix and tcp have in common: one stream of bytes each way, on the event loop and in a blocking client."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from chunkwise.transports import Accept, Address, Connection, Limits

PIECE_BYTES = 256 << 10
SOCKET_BUFFER_BYTES = 1 << 20
"""Asked of the kernel, so that a camera's picture is one system call."""
REDIAL_S = 0.5
KEEPALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 5),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)
"""A silent peer is asked after 10 s, and gone after 25."""


TURNS_TO_SETTLE: Final = 4


async def settle() -> None:
    """Let the event loop end what it has begun with sockets: one that was aborted is closed two turns later."""
    for _ in range(TURNS_TO_SETTLE):
        await asyncio.sleep(0)


async def accept_no_more(listening: Iterable[socket.socket]) -> None:
    """Take nobody from the queues of these sockets any more, before their server is closed.

    A socket accepted in the turn in which an `asyncio.Server` closes is left open by it: no transport can be made
    for a server without sockets, and only the garbage collector would close it.
    """
    for sock in listening:
        asyncio.get_running_loop().remove_reader(sock)
    await settle()


class StreamPeer(asyncio.BufferedProtocol):
    """One connection on the event loop; the `Peer` that a `Connection` sees.

    Args:
        listener: that accepted it.
    """

    name = ""
    local = False

    def __init__(self, listener: StreamListener) -> None:
        self._listener = listener
        self._buffer = bytearray(PIECE_BYTES)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None
        self._heard_s = 0.0
        self._closing = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # another event loop's is like it, and no subclass
        tune(transport.get_extra_info("socket"))
        where = transport.get_extra_info("peername")
        self.name = f"{where[0]}:{where[1]}" if isinstance(where, tuple) else "unix"
        self.local = not isinstance(where, tuple) or where[0] in ("127.0.0.1", "::1")
        self._heard_s = asyncio.get_running_loop().time()
        if not self._listener.admit(self):
            self._transport.abort()
            return
        self._connection = self._listener.accept(self)
        self._connection.opened()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if self._connection is not None and not self._closing:
            self._connection.received(self._view[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self)
        self._transport = None
        self.gone.set()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.lost("" if exc is None else str(exc))

    def eof_received(self) -> bool | None:
        return None

    def send(self, data: Any) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > self._listener.limits.unsent_bytes:
            transport.abort()  # it does not read; what it has not read is past anyway

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it now, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def silent_s(self, now_s: float) -> float:
        """Seconds since it said something."""
        return now_s - self._heard_s


class StreamListener:
    """Listens on a socket that is bound already.

    Args:
        address: with the port that was taken.
        accept: makes a connection of a peer.
        limits: what is put up with.
        cleanup: called once it is closed.
    """

    def __init__(self, address: Address, accept: Accept, limits: Limits, cleanup: Any = None) -> None:
        self.address, self.accept, self.limits = address, accept, limits
        self._cleanup = cleanup
        self._peers: set[StreamPeer] = set()
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        kind = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._server = await kind(lambda: StreamPeer(self), sock=sock, ssl=tls, backlog=256)
        if self.limits.idle_s:
            self._watch = asyncio.create_task(self._end_silent())

    def admit(self, peer: StreamPeer) -> bool:
        """Whether there is room for one more."""
        if self._closed or len(self._peers) >= self.limits.connections:
            return False
        self._peers.add(peer)
        return True

    def forget(self, peer: StreamPeer) -> None:
        """It has gone."""
        self._peers.discard(peer)

    async def _end_silent(self) -> None:
        while True:
            await asyncio.sleep(max(self.limits.idle_s / 4, 0.1))
            now = asyncio.get_running_loop().time()
            for peer in [peer for peer in self._peers if peer.silent_s(now) > self.limits.idle_s]:
                peer.abort()

    async def close(self) -> None:
        self._closed = True  # somebody may be between the accepting of the socket and connection_made
        if self._watch is not None:
            self._watch.cancel()
        server, self._server = self._server, None
        if server is not None:
            await accept_no_more(server.sockets)
            server.close()
        for peer in list(self._peers):
            peer.close()
        deadline = asyncio.get_running_loop().time() + 1.0
        while self._peers and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for peer in list(self._peers):
            peer.abort()
        await settle()
        if server is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 1.0)
        cleanup, self._cleanup = self._cleanup, None
        if cleanup is not None:
            cleanup()


class StreamDialer:
    """Connects to a UNIX socket that somebody else listens on, and again whenever the connection ends.

    Args:
        address: the socket.
        accept: makes a connection of the peer that was found.
        limits: what is put up with.
    """

    def __init__(self, address: Address, accept: Accept, limits: Limits) -> None:
        self.address = address
        self._listener = StreamListener(address, accept, limits)
        self._task = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError):
                _, peer = await loop.create_unix_connection(lambda: StreamPeer(self._listener), self.address.path)
                await peer.gone.wait()
            await asyncio.sleep(REDIAL_S)

    async def close(self) -> None:
        self._task.cancel()
        await self._listener.close()


class StreamLink:
    """A client's end; blocks, with a time-out, and is used from one thread.

    Args:
        sock: connected.
        local: whether the other end is on this machine.
    """

    def __init__(self, sock: socket.socket, local: bool) -> None:
        self._sock, self.local = sock, local
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._buffer = bytearray(PIECE_BYTES)
        tune(sock)
        sock.setblocking(False)

    def send(self, data: Any, timeout_s: float) -> None:
        views = [memoryview(piece).cast("B") for piece in data] if isinstance(data, list) else [memoryview(data)]
        deadline = time.monotonic() + timeout_s
        while views:
            try:
                sent = self._sock.send(views[0]) if self._tls else self._sock.sendmsg(views)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT, deadline - time.monotonic(), "does not read")
                continue
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline - time.monotonic(), "does not answer")
                continue
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def receive(self, timeout_s: float) -> memoryview | None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                got = self._sock.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                left = deadline - time.monotonic()
                if left <= 0 or not self._poll(select.POLLIN, left):
                    return None
                continue
            if not got:
                raise ConnectionResetError("the server has closed the connection")
            return memoryview(self._buffer)[:got]

    def _poll(self, what: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, what)
        return bool(poll.poll(max(seconds, 0.0) * 1e3))

    def _wait(self, what: int, seconds: float, complaint: str) -> None:
        if seconds <= 0 or not self._poll(what, seconds):
            raise TimeoutError(f"the server {complaint}")

    def close(self) -> None:
        self._sock.close()


def tune(sock: socket.socket) -> None:
    """No waiting for more bytes, and room for a picture; what the kernel does not grant is not needed."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in KEEPALIVE:  # a robot whose power was cut says no goodbye
                sock.setsockopt(*option, value)
