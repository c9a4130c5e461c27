"""HTTP requests on the event loop: a bare ASGI application under uvicorn, with no framework between."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qsl

import uvicorn

from chunkwise.transports import Accept, Address, Limits
from chunkwise.transports._http_protocol import MAX_HEAD_BYTES, BoundedProtocol
from chunkwise.transports._stream import accept_no_more, settle
from chunkwise.wires import HttpRequest, HttpResponse

MAX_BODY_BYTES: Final = 16 << 20
"""Where the limits say nothing else: a body is read before anybody has looked at its token."""
MAX_QUERY_FIELDS: Final = 64
BODY_S: Final = 30.0
RESPONSE_S: Final = 30.0
KEEP_ALIVE_S: Final = 75.0
CLOSE_S: Final = 1.0


class Exchange:
    """One request's other end; the `Peer` that a `Connection` sees.

    Args:
        host, port: of the other end.

    Attributes:
        response: what was sent; None inside for an end without one.
    """

    __slots__ = ("local", "name", "response")

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        self.local = _is_loopback(host)
        self.response: asyncio.Future[HttpResponse | None] = asyncio.get_running_loop().create_future()

    def send(self, data: Any) -> None:
        """The response; a second one is dropped."""
        if not self.response.done():
            self.response.set_result(data)

    def close(self) -> None:
        """End without a response, where there was none."""
        if not self.response.done():
            self.response.set_result(None)


class Application:
    """The ASGI application: whole requests to connections, their responses back.

    Args:
        accept: makes a connection of an exchange.
        limits: what is put up with.
    """

    def __init__(self, accept: Accept, limits: Limits) -> None:
        self._accept = accept
        self._most_bytes = MAX_BODY_BYTES if limits.message_bytes is None else limits.message_bytes
        self.exchanges: set[Exchange] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = _headers(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _send(send, refusal, last=True)
            return
        try:
            body = await _body(receive, self._most_bytes)
            fields = _query(scope["query_string"])
        except _Refused as refused:
            await _send(send, refused.response, last=True)
            return
        if body is None:
            return
        host, port = scope["client"] or ("", 0)
        exchange = Exchange(host, port)
        request = HttpRequest(scope["method"], scope["path"], fields, headers, body, host)
        await self._exchange(exchange, request, receive, send)

    async def _exchange(self, exchange: Exchange, request: HttpRequest, receive: Any, send: Any) -> None:
        connection = self._accept(exchange)
        why = "it was not answered"
        self.exchanges.add(exchange)
        try:
            connection.opened()
            connection.received(request)
            if not exchange.response.done() and not await _answered(exchange.response, receive):
                why = "the client has gone"
                return
            response = exchange.response.result()
            why = "" if response is not None else why
            await _send(send, response or _problem(400, "the request was refused"), last=response is None)
        finally:
            self.exchanges.discard(exchange)
            exchange.close()
            connection.lost(why)

    def _refusal(self, scope: Any, headers: dict[str, str]) -> HttpResponse | None:
        """What is refused on sight, without reading on."""
        size = len(scope["raw_path"]) + len(scope["query_string"])
        if size + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            return _problem(431, f"URL and headers have at most {MAX_HEAD_BYTES} bytes")
        if "transfer-encoding" in headers:
            return _problem(411, "content-length: a body must say how long it is")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self._most_bytes:
            return _problem(413, f"content-length: at most {self._most_bytes} bytes are taken")
        return None


class HttpListener:
    """Listens on a socket.

    Args:
        address: with the port that was taken.
        server: of uvicorn, started.
        application: that it serves.
    """

    def __init__(self, address: Address, server: uvicorn.Server, application: Application) -> None:
        self.address = address
        self._server, self._application = server, application
        self._ticking: asyncio.Task[None] | None = asyncio.create_task(server.main_loop())  # the Date header

    async def close(self) -> None:
        """Accept nobody any more; what is not answered yet gets a 503."""
        ticking, self._ticking = self._ticking, None
        if ticking is None:
            return
        ticking.cancel()
        state = self._server.server_state
        for server in self._server.servers:
            await accept_no_more(server.sockets)
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        for exchange in list(self._application.exchanges):
            exchange.send(_problem(503, "the server is about to stop"))
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=CLOSE_S)
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(s.wait_closed() for s in self._server.servers)), CLOSE_S)
        await asyncio.gather(ticking, *state.tasks, return_exceptions=True)
        await settle()


async def listen(address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None) -> HttpListener:
    """A listener on `address`; port 0 takes one that is free.

    Raises:
        OSError: the address cannot be had.
    """
    application = Application(accept, limits)
    protocol: Any = functools.partial(BoundedProtocol, limits)
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,  # what a client does wrong is its own to know
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(limits.idle_s or KEEP_ALIVE_S),
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    sock = await _bound(address)
    try:
        await server.startup(sockets=[sock])
    except BaseException:
        sock.close()
        raise
    return HttpListener(replace(address, port=sock.getsockname()[1]), server, application)


class _Refused(Exception):
    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status)
        self.response = response


async def _bound(address: Address) -> socket.socket:
    """A socket that has the address, on the first of the host's addresses that can be had."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    problem = OSError(f"{address} has no address")
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.setblocking(False)
            return sock
        except OSError as error:
            sock.close()
            problem = OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}")
    raise problem


async def _body(receive: Any, most: int) -> bytes | None:
    """The body; None where the client went away meanwhile.

    Raises:
        _Refused: longer than `most` bytes, or not there in time.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                piece = message["body"]
                size += len(piece)
                if size > most:
                    raise _Refused(_problem(413, f"the body has more than {most} bytes"))
                pieces.append(piece)
                if not message["more_body"]:
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        raise _Refused(_problem(408, f"the body was not there within {BODY_S:g} s")) from None


async def _answered(response: asyncio.Future[HttpResponse | None], receive: Any) -> bool:
    """Wait for the response; whether there is one, and the client is still there to get it."""
    gone = asyncio.ensure_future(receive())  # which after the body says only that the client has gone
    try:
        await asyncio.wait({response, gone}, timeout=RESPONSE_S, return_when=asyncio.FIRST_COMPLETED)
        if not response.done():
            if gone.done():
                return False
            response.set_result(_problem(504, f"no answer within {RESPONSE_S:g} s"))
        return True
    finally:
        gone.cancel()


async def _send(send: Any, response: HttpResponse, *, last: bool = False) -> None:
    headers = [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(response.body)),
    ]
    for name, value in response.headers.items():
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    if last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by their names in lower case; one that stands there twice is joined, as the standard has it."""
    made: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        made[key] = f"{made[key]}, {text}" if key in made else text
    return made


def _query(raw: bytes) -> dict[str, str]:
    if not raw:
        return {}
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise _Refused(_problem(400, f"the query: {error}")) from error


@functools.lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _problem(status: int, detail: str) -> HttpResponse:
    return HttpResponse(status, json.dumps({"detail": detail}).encode())
