"""Websockets on the event loop: the connections of the library `websockets`, with the bounds that it lacks."""

from __future__ import annotations

import asyncio
import functools
import http
import logging
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from chunkwise.transports import Accept, Address, Connection, Limits
from chunkwise.transports._stream import accept_no_more, settle
from chunkwise.transports.websocket import CLOSE_S, MAX_MESSAGE_BYTES, PING_S, QUEUED_FRAMES
from chunkwise.wires import HttpRequest, HttpResponse

MAX_QUERY_FIELDS: Final = 64
UPGRADE_S: Final = 10.0
"""A connection that has not asked for anything after so long ends."""
POLICY_VIOLATION: Final = 1008
"""Why a connection is ended from here, in the words of RFC 6455."""


class WebsocketPeer:
    """One connection's other end; the `Peer` that a `Connection` sees.

    Args:
        connection: of the library.
        listener: that accepted it.
    """

    name = ""
    local = False

    def __init__(self, connection: BoundedConnection, listener: WebsocketListener) -> None:
        self._connection, self._listener = connection, listener
        self._inner: Connection | None = None
        self._early: list[bytes | str] = []
        self._response: HttpResponse | None = None
        self._closing = self._begun = False

    def send(self, data: Any) -> None:
        """Bytes as a binary frame, a text as a text frame; a response in the place of the upgrade."""
        if isinstance(data, HttpResponse):
            if not self._begun and self._response is None:
                self._response = data
        elif not self._begun:
            self._early.append(data)
        elif self._connection.state is State.OPEN and not self._connection.transport.is_closing():
            protocol = self._connection.protocol
            if isinstance(data, str):
                protocol.send_text(data.encode())
            else:
                protocol.send_binary(data)
            self._connection.send_data()
            self._connection.check_unsent()

    def close(self) -> None:
        """Say goodbye; who does not answer that within a second is cut off."""
        self._closing = True
        connection = self._connection
        if self._begun and connection.state is State.OPEN:
            connection.protocol.send_close(POLICY_VIOLATION)
            connection.send_data()
            connection.loop.call_later(CLOSE_S, connection.transport.abort)

    def asked(self, request: Request) -> Response | None:
        """Hand over the request; a response to it, or None for the upgrade."""
        transport = self._connection.transport
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.name = f"{host}:{port}"
        self.local = host.startswith("127.") or host == "::1"
        try:
            asked = _request(request, host)
            foreign = _is_foreign(asked)
        except ValueError:
            return _response(HttpResponse(400, b"the URL is none, or has too many fields\n", "text/plain"))
        if foreign:
            return _response(HttpResponse(403, b"a page of another site\n", "text/plain"))
        self._inner = self._listener.accept(self)
        self._inner.opened()
        self._inner.received(asked)
        if self._response is None and self._closing:
            self._response = HttpResponse(400, b"the request was refused\n", "text/plain")
        return None if self._response is None else _response(self._response)

    async def run(self) -> None:
        """Hand over every message of the upgraded connection, until it ends."""
        self._begun = True
        early, self._early = self._early, []
        for data in early:
            self.send(data)
        if self._closing:
            self.close()
        with suppress(ConnectionClosed):
            async for message in self._connection:
                if self._inner is None:
                    return
                if not self._closing:
                    self._inner.received(message)

    def lost(self, why: str) -> None:
        """The other end has gone."""
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.lost(why)


class BoundedConnection(ServerConnection):
    """The library's connection, with bounds of their number and of what is not read.

    Args:
        listener: that accepted it.
        given: the library's own arguments.

    Attributes:
        peer: what a `Connection` sees of it.
        heard_s: when something came, on the loop's clock.
    """

    def __init__(self, listener: WebsocketListener, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._listener = listener
        self.peer = WebsocketPeer(self, listener)
        self.heard_s = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One too many is let go at once."""
        super().connection_made(transport)
        if not self._listener.admit(self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Frames; the library has answered pings when it returns, and somebody may not read the answers."""
        self.heard_s = self.loop.time()
        super().data_received(data)
        self.check_unsent()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end has gone."""
        self._listener.forget(self)
        super().connection_lost(exc)
        self.peer.lost("" if exc is None else str(exc))

    def check_unsent(self) -> None:
        """Cut off who does not read; what it has not read is past anyway."""
        if self.transport.get_write_buffer_size() > self._listener.limits.unsent_bytes:
            self.transport.abort()


class WebsocketListener:
    """Listens on a socket.

    Args:
        address: where, with the port that was taken.
        accept: makes a connection of a peer.
        limits: what is put up with.
    """

    def __init__(self, address: Address, accept: Accept, limits: Limits) -> None:
        self.address, self.accept, self.limits = address, accept, limits
        self._connections: set[BoundedConnection] = set()
        self._server: Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Begin to accept."""
        connection: Any = functools.partial(BoundedConnection, self)
        self._server = await serve(
            lambda connection: connection.peer.run(),  # type: ignore[attr-defined]
            sock=sock,
            ssl=tls,
            backlog=256,
            compression=None,
            process_request=lambda connection, request: connection.peer.asked(request),  # type: ignore[attr-defined]
            server_header=None,
            open_timeout=UPGRADE_S,
            ping_interval=PING_S,
            ping_timeout=None,  # a policy that compiles may hold its client's interpreter, too
            close_timeout=CLOSE_S,
            max_size=MAX_MESSAGE_BYTES if self.limits.message_bytes is None else self.limits.message_bytes,
            max_queue=QUEUED_FRAMES,
            logger=logging.Logger(
                "websocket", logging.CRITICAL + 1
            ),  # what a client does wrong is its own to know
            create_connection=connection,
        )
        if self.limits.idle_s:
            self._watch = asyncio.create_task(self._end_silent())

    def admit(self, connection: BoundedConnection) -> bool:
        """Whether there is room for one more."""
        if self._closed or len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: BoundedConnection) -> None:
        """It has gone."""
        self._connections.discard(connection)

    async def _end_silent(self) -> None:
        while True:
            await asyncio.sleep(max(self.limits.idle_s / 4, 0.1))
            now = asyncio.get_running_loop().time()
            for connection in list(self._connections):
                if now - connection.heard_s > self.limits.idle_s:
                    connection.transport.abort()

    async def close(self) -> None:
        """Accept nobody any more, and end the connections."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        server, self._server = self._server, None
        if server is None:
            return
        await accept_no_more(server.sockets)
        server.close()
        for connection in list(self._connections):
            if connection.state is State.CONNECTING:
                connection.transport.abort()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(server.wait_closed()), CLOSE_S)
        for connection in list(self._connections):
            connection.transport.abort()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), CLOSE_S)
        await settle()


async def listen(
    address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None
) -> WebsocketListener:
    """A listener on `address`; port 0 takes one that is free.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error
    listener = WebsocketListener(replace(address, port=sock.getsockname()[1]), accept, limits)
    await listener.start(sock, tls)
    return listener


def _request(request: Request, host: str) -> HttpRequest:
    """What was asked, in this project's words.

    Raises:
        ValueError: the query has too many fields, or the path is none.
    """
    parts = urlsplit(request.path)
    query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    headers: dict[str, str] = {}
    for name, value in request.headers.raw_items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return HttpRequest(getattr(request, "method", "GET"), unquote(parts.path), query, headers, b"", host)


def _is_foreign(request: HttpRequest) -> bool:
    """Whether a browser sends it for a page of another site: such a page reaches what listens on loopback, too.

    Raises:
        ValueError: the origin is none.
    """
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _response(response: HttpResponse) -> Response:
    headers = Headers()
    headers["Content-Type"] = response.content_type
    headers["Content-Length"] = str(len(response.body))
    headers["Connection"] = "close"
    for name, value in response.headers.items():
        headers[name] = value
    return Response(response.status, http.HTTPStatus(response.status).phrase, headers, response.body)
