"""Messages over a websocket, bytes and texts; health checks and the like are answered on the same port.

A connection begins with the `HttpRequest` that asks for the upgrade, at both ends: it is the first thing that the
server's connection receives and the first that a client sends.  Answered with an `HttpResponse`, it stays a plain
request and the connection ends.  After it, bytes are binary frames and texts are text frames.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from chunkwise import plugins
from chunkwise.transports import Accept, Address, Limits, Link, Listener
from chunkwise.wires import HttpRequest, HttpResponse

__all__ = ["Websocket"]

MAX_MESSAGE_BYTES: Final = 64 << 20
"""Of what a client receives, and a server where its limits say nothing else."""
PING_S: Final = 20.0
"""Between pings, at both ends; nobody is cut off for a pong that is late."""
CLOSE_S: Final = 1.0
"""For the other end to say goodbye, too."""
QUEUED_FRAMES: Final = 16


class Websocket:
    """Messages over a websocket, without compression, with TLS where it is asked for."""

    scheme: ClassVar[str] = "websocket"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; port 0 takes one that is free.

        Raises:
            OSError: the address cannot be had.
            MissingExtra: websockets is not installed.
        """
        plugins.require("websockets.asyncio.server", extra="websocket")
        from chunkwise.transports._websocket_server import listen

        return await listen(address, accept, limits, tls)

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        """Connect; the upgrade is asked for with the first thing that is sent.

        The token is shown as ``Authorization: Bearer`` where the request shows none of its own.

        Raises:
            OSError: nobody listens there.
            MissingExtra: websockets is not installed.
        """
        plugins.require("websockets.sync.client", extra="websocket")
        port = address.port or (80 if tls is None else 443)
        sock = socket.create_connection((address.host, port), timeout_s)
        return WebsocketLink(sock, address, tls, token)


class WebsocketLink:
    """A client's end; blocks, with a time-out, and is used from one thread.

    Pings of the server are answered by a thread of the library's, so that a pause of the robot ends no connection.

    Args:
        sock: connected, not upgraded yet.
        address: the path that stands before every request's.
        tls: to encrypt with.
        token: for a request that shows none.
    """

    def __init__(self, sock: socket.socket, address: Address, tls: ssl.SSLContext | None, token: str) -> None:
        self._sock, self._address, self._tls, self._token = sock, address, tls, token
        self._stack = ExitStack()
        self._stack.callback(sock.close)
        self._connection: Any = None
        self._asked = False
        self._refused: HttpResponse | None = None
        self.local = _is_local(sock)

    def send(self, data: Any, timeout_s: float) -> None:
        if isinstance(data, HttpRequest):
            self._upgrade(data, timeout_s)
            return
        connection = self._upgraded(timeout_s)
        with suppress(OSError):  # it is closed already, and send() knows why
            connection.socket.settimeout(max(timeout_s, 0.001))
        errors = plugins.require("websockets.exceptions", extra="websocket")
        try:
            connection.send(b"".join(data) if isinstance(data, list) else data)
        except errors.ConnectionClosed as error:
            raise ConnectionResetError(_why(error)) from error

    def receive(self, timeout_s: float) -> bytes | str | HttpResponse | None:
        refused, self._refused = self._refused, None
        if refused is not None:
            return refused
        connection = self._upgraded(timeout_s)
        errors = plugins.require("websockets.exceptions", extra="websocket")
        try:
            message: bytes | str = connection.recv(timeout_s)
        except TimeoutError:
            return None
        except errors.ConnectionClosed as error:
            raise ConnectionResetError(_why(error)) from error
        return message

    def close(self) -> None:
        self._stack.close()

    def _upgraded(self, timeout_s: float) -> Any:
        if not self._asked:
            self._upgrade(HttpRequest("GET", ""), timeout_s)
        if self._connection is None:
            raise ConnectionResetError("the server has refused the connection")
        return self._connection

    def _upgrade(self, request: HttpRequest, timeout_s: float) -> None:
        """Ask for the upgrade; where that is refused, the response is what is received next."""
        if self._asked:
            raise ConnectionResetError("a websocket begins with one request, and has had it")
        self._asked = True
        client = plugins.require("websockets.sync.client", extra="websocket")
        errors = plugins.require("websockets.exceptions", extra="websocket")
        headers = dict(request.headers)
        if self._token and "authorization" not in {name.lower() for name in headers}:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection = self._stack.enter_context(
                client.connect(
                    self._uri(request),
                    sock=self._sock,
                    ssl=self._tls,
                    additional_headers=headers,
                    compression=None,
                    open_timeout=max(timeout_s, 0.001),
                    ping_interval=PING_S,
                    ping_timeout=None,
                    close_timeout=CLOSE_S,
                    max_size=MAX_MESSAGE_BYTES,
                    max_queue=QUEUED_FRAMES,
                )
            )
        except errors.InvalidStatus as error:
            response = error.response
            kind = response.headers.get("Content-Type", "")
            self._refused = HttpResponse(response.status_code, bytes(response.body or b""), kind)
        except errors.WebSocketException as error:
            raise ConnectionResetError(f"no websocket: {_why(error)}") from error
        except EOFError as error:
            raise ConnectionResetError("the server has closed the connection") from error

    def _uri(self, request: HttpRequest) -> str:
        address = self._address
        host = f"[{address.host}]" if ":" in address.host else address.host
        port = f":{address.port}" if address.port else ""
        path = quote(address.path.rstrip("/") + request.path, safe="/:@!$&'()*+,;=~-._%")
        query = f"?{urlencode(request.query)}" if request.query else ""
        return f"{'ws' if self._tls is None else 'wss'}://{host}{port}{path or '/'}{query}"


def _why(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__


def _is_local(sock: socket.socket) -> bool:
    host: str = sock.getpeername()[0]
    return ip_address(host.partition("%")[0]).is_loopback or host == sock.getsockname()[0]
