"""Messages over ZeroMQ: REQ and DEALER clients, each with the connection that its identity is."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, ClassVar, Final

from chunkwise import plugins
from chunkwise.transports import Accept, Address, Connection, Limits, Link, Listener

__all__ = ["Zmq"]

IDLE_S: Final = 300.0
"""A client that says nothing for so long is forgotten, where the limits say no other time."""
MAX_MESSAGE_BYTES: Final = 64 << 20
"""Where the limits say nothing else."""
WAITING: Final = 2
"""Messages of a client that the library keeps while nobody reads them; of clients that send before an answer."""
UNSENT: Final = 64
"""Answers that wait for a client that does not read; beyond it the connection ends."""
AT_ONCE: Final = 32
"""Messages that are taken before others on the event loop have their turn."""
LINGER_MS: Final = 200
MOST_ENVELOPE: Final = 8
"""Parts before the empty one, and bytes of a request's number among them."""


class Zmq:
    """Messages over ZeroMQ (TCP); a list that is sent is several of them."""

    scheme: ClassVar[str] = "zmq"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; port 0 takes one that is free.

        A connection is lost when its client's TCP connection ends, when the client was silent for too long, and
        where more clients come than there is room for: then the one that was silent for longest goes.

        Raises:
            OSError: the address cannot be had, or TLS is asked for, which ZeroMQ does not have.
            MissingExtra: pyzmq is not installed.
        """
        if tls is not None:
            raise OSError(f"{address}: ZeroMQ has no TLS; listen on 127.0.0.1 or behind a tunnel")
        listener = ZmqListener(plugins.require("zmq", extra="zmq"), address, accept, limits)
        listener.start()
        return listener

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        """Connect.

        Raises:
            OSError: nobody listens there, or who listens speaks no ZeroMQ.
            MissingExtra: pyzmq is not installed.
        """
        if tls is not None:
            raise OSError(f"{address}: ZeroMQ has no TLS")
        return ZmqLink(plugins.require("zmq", extra="zmq"), address, timeout_s)


class ZmqPeer:
    """One client's identity; the `Peer` that a `Connection` sees.

    Args:
        listener: that it speaks to.
        identity: of the client's socket.
        fd: of its TCP connection, or -1.
        name: its address.
    """

    def __init__(self, listener: ZmqListener, identity: bytes, fd: int, name: str) -> None:
        self._listener = listener
        self.identity, self.fd, self.name, self.local = identity, fd, name, _is_local(name)
        self.connection: Connection | None = None
        self.heard_s = 0.0
        self._envelopes: deque[list[bytes]] = deque(maxlen=256)

    def asked(self, envelope: list[bytes]) -> None:
        """A request has come, and what stands before its answer."""
        self._envelopes.append(envelope)

    def send(self, data: Any) -> None:
        """The next answer; requests are answered in their order, each in its own envelope."""
        for message in data if isinstance(data, list) else [data]:
            envelope = self._envelopes.popleft() if self._envelopes else [b""]
            self._listener.send(self, [self.identity, *envelope, message])

    def close(self) -> None:
        self._listener.lose(self, "closed")


class ZmqListener:
    """A ROUTER socket on the event loop, and the connections of its clients.

    Args:
        zmq: the library.
        address: where.
        accept: makes a connection of a peer.
        limits: what is put up with.
    """

    def __init__(self, zmq: Any, address: Address, accept: Accept, limits: Limits) -> None:
        self._zmq, self.address, self._accept, self._limits = zmq, address, accept, limits
        self._loop = asyncio.get_running_loop()
        self._peers: OrderedDict[bytes, ZmqPeer] = OrderedDict()
        self._context: Any = zmq.Context()
        self._socket: Any = None
        self._monitor: Any = None
        self._readable_bit = int(zmq.POLLIN)  # as a number: flags of the library's cost a microsecond a piece
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle_s = limits.idle_s or IDLE_S

    def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address cannot be had.
        """
        zmq = self._zmq
        most_bytes = MAX_MESSAGE_BYTES if self._limits.message_bytes is None else self._limits.message_bytes
        self._socket = _socket(zmq, self._context, zmq.ROUTER, self.address, most_bytes)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # else who comes again at once is never heard
        self._socket.setsockopt(zmq.RCVHWM, WAITING)
        self._socket.setsockopt(zmq.SNDHWM, UNSENT)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        try:
            self._socket.bind(_endpoint(self.address, port="*"))
        except zmq.ZMQError as error:
            self._end()
            self._context.destroy(linger=0)
            raise OSError(error.errno, f"cannot listen on {self.address}: {error.strerror}") from error
        port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.address = replace(self.address, port=port)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for sock in (self._socket, self._monitor):
            self._loop.add_reader(sock.getsockopt(zmq.FD), self._readable)
        self._loop.call_soon(self._readable)
        self._sweep()

    def send(self, peer: ZmqPeer, parts: Sequence[Any]) -> None:
        """Send at once, or let the peer go who does not read or has gone."""
        if self._peers.get(peer.identity) is not peer:
            return
        zmq = self._zmq
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._loop.call_soon(self.lose, peer, str(error))
        peer.heard_s = self._loop.time()  # it was served: a long inference is no silence
        self._loop.call_soon(self._readable)  # sending may have taken the edge of what has come meanwhile

    def lose(self, peer: ZmqPeer, why: str) -> None:
        """The peer has gone; what comes from its identity later is another's."""
        if self._peers.get(peer.identity) is peer:
            del self._peers[peer.identity]
            if peer.connection is not None:
                peer.connection.lost(why)

    async def close(self) -> None:
        """End it; what was sent has a moment to leave."""
        if self._socket is None:
            return
        for peer in list(self._peers.values()):
            self.lose(peer, "the server ends")
        self._end()
        await self._loop.run_in_executor(None, self._context.term)

    def _end(self) -> None:
        sock, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        if self._sweeper is not None:
            self._sweeper.cancel()
        for each in (sock, monitor):
            if each is not None and monitor is not None:
                self._loop.remove_reader(each.getsockopt(self._zmq.FD))
        if monitor is not None:
            sock.disable_monitor()
            monitor.close(linger=0)
        sock.close(linger=LINGER_MS)

    # What comes -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take what has come; the library tells only once that something has."""
        zmq = self._zmq
        for _ in range(AT_ONCE):
            if self._socket is None:
                return
            if not self._socket.getsockopt(zmq.EVENTS) & self._readable_bit:
                self._see_who_left()
                return
            parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            self._see_who_left()  # before: what a client says comes after what others with its descriptor said
            self._arrived(parts)
        self._loop.call_soon(self._readable)

    def _see_who_left(self) -> None:
        zmq = self._zmq
        while self._monitor is not None and self._monitor.getsockopt(zmq.EVENTS) & self._readable_bit:
            event, _ = self._monitor.recv_multipart(zmq.NOBLOCK)
            fd = int.from_bytes(event[2:6], "little", signed=True)
            for peer in [peer for peer in self._peers.values() if peer.fd == fd]:
                self.lose(peer, "the client has gone")

    def _arrived(self, parts: Sequence[Any]) -> None:
        identity, envelope = bytes(parts[0].buffer), list[bytes]()
        for part in parts[1:-1]:
            if len(envelope) >= MOST_ENVELOPE or len(part.buffer) > MOST_ENVELOPE:
                return  # neither a REQ nor a DEALER that speaks like one
            envelope.append(bytes(part.buffer))
        if len(parts) < 2 or (envelope and envelope[-1] != b""):
            return
        peer = self._peer(identity, parts[-1])
        peer.asked(envelope)
        if peer.connection is not None:
            peer.connection.received(parts[-1].buffer)

    def _peer(self, identity: bytes, part: Any) -> ZmqPeer:
        fd = part.get(self._zmq.SRCFD)
        peer = self._peers.get(identity)
        if peer is not None and peer.fd != fd:  # another client that calls itself the same
            self.lose(peer, "the client came again")
            peer = None
        if peer is None:
            while len(self._peers) >= self._limits.connections:
                self.lose(next(iter(self._peers.values())), "more clients than there is room for")
            peer = ZmqPeer(self, identity, fd, part.get("Peer-Address"))
            self._peers[identity] = peer
            peer.connection = self._accept(peer)
            peer.connection.opened()
        self._peers.move_to_end(identity)
        peer.heard_s = self._loop.time()
        return peer

    def _sweep(self) -> None:
        now_s = self._loop.time()
        for peer in [peer for peer in self._peers.values() if now_s - peer.heard_s > self._idle_s]:
            self.lose(peer, "silent for too long")
        self._sweeper = self._loop.call_later(self._idle_s / 4, self._sweep)


class ZmqLink:
    """A client's end: one request, one answer; blocks, with a time-out, and is used from one thread.

    A request whose answer was not waited for is followed by a new socket, so that the late answer is never taken
    for the next one's.

    Args:
        zmq: the library.
        address: where.
        timeout_s: for the handshake.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, zmq: Any, address: Address, timeout_s: float) -> None:
        self._zmq, self._address = zmq, address
        self.local = _is_local(address.host) or address.host == "localhost"
        self._context: Any = zmq.Context()
        self._socket: Any = None
        self._monitor: Any = None
        self._poller: Any = None
        self._waits = False
        try:
            self._open(timeout_s)
        except BaseException:
            self.close()
            raise

    def send(self, data: Any, timeout_s: float) -> None:
        zmq = self._zmq
        if self._waits:
            self._close_socket()
            self._open(timeout_s)
        self._see()
        self._socket.setsockopt(zmq.SNDTIMEO, _ms(timeout_s))
        try:
            self._socket.send(b"".join(data) if isinstance(data, list) else data)
        except zmq.Again as error:
            raise TimeoutError("the server does not read") from error
        except zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from error
        self._waits = True

    def receive(self, timeout_s: float) -> bytes | None:
        if not self._waits:
            time.sleep(max(timeout_s, 0.0))  # a server says nothing that it was not asked
            return None
        until_s = time.monotonic() + timeout_s
        while True:
            data = self._received()
            try:
                if data is None:
                    self._see()
            except ConnectionError:  # its answer may have come in between
                data = self._received()
                if data is None:
                    raise
            if data is not None:
                return data
            if not self._poller.poll(_ms(until_s - time.monotonic())) and time.monotonic() >= until_s:
                return None

    def close(self) -> None:
        self._close_socket()
        self._context.destroy(linger=0)

    def _open(self, timeout_s: float) -> None:
        """Connect, and wait until both ends have greeted each other."""
        zmq = self._zmq
        self._waits = False
        self._socket = _socket(zmq, self._context, zmq.REQ, self._address, -1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._monitor = self._socket.get_monitor_socket()
        self._poller = zmq.Poller()
        for each in (self._socket, self._monitor):
            self._poller.register(each, zmq.POLLIN)
        self._socket.connect(_endpoint(self._address, port="0"))
        until_s = time.monotonic() + timeout_s
        while not self._see():
            if not self._monitor.poll(_ms(until_s - time.monotonic())) and time.monotonic() >= until_s:
                raise TimeoutError(f"{self._address} does not greet")

    def _see(self) -> bool:
        """Whether the greeting was heard.

        Raises:
            ConnectionError: nobody listens, or the connection ended.
        """
        zmq = self._zmq
        self._open_socket()
        while self._monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            event, _ = self._monitor.recv_multipart(zmq.NOBLOCK)
            kind = int.from_bytes(event[:2], "little")
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return True
            if kind in (zmq.EVENT_CONNECT_RETRIED, zmq.EVENT_CLOSED):
                raise ConnectionRefusedError("nobody listens there")
            if kind not in (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECTED):
                raise ConnectionResetError("the server has closed the connection")
        return False

    def _open_socket(self) -> Any:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        return self._socket

    def _close_socket(self) -> None:
        sock, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            sock.disable_monitor()
            monitor.close(linger=0)
        if sock is not None:
            sock.close(linger=0)

    def _received(self) -> bytes | None:
        if not self._open_socket().getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN:
            return None
        data: bytes = self._socket.recv(self._zmq.NOBLOCK)
        self._waits = False
        return data


def _socket(zmq: Any, context: Any, kind: int, address: Address, most_bytes: int) -> Any:
    made = context.socket(kind)
    made.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    if ":" in address.host:
        made.setsockopt(zmq.IPV6, 1)
    return made


def _endpoint(address: Address, port: str) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host.replace("localhost", "127.0.0.1")
    return f"tcp://{host}:{address.port or port}"


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 0)


def _is_local(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False
