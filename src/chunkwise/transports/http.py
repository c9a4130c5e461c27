"""HTTP/1.1: a request and its response; uvicorn serves, the standard library asks."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from chunkwise import plugins
from chunkwise.transports import Accept, Address, Limits, Link, Listener
from chunkwise.wires import HttpRequest, HttpResponse

__all__ = ["Http"]

MAX_RESPONSE_BYTES: Final = 64 << 20


class Http:
    """HTTP/1.1, with TLS where it is asked for."""

    scheme: ClassVar[str] = "http"

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen; port 0 takes one that is free.

        Each request is a connection of its own, and is lost once it was answered.  A request that is never
        answered gets a 504 after 30 s.

        Raises:
            OSError: the address cannot be had.
            MissingExtra: uvicorn or httptools is not installed.
        """
        for package in ("uvicorn", "httptools"):
            plugins.require(package, extra="http")
        from chunkwise.transports._http_server import listen

        return await listen(address, accept, limits, tls)

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        """Connect; the token is shown with every request, as ``Authorization: Bearer``.

        Raises:
            OSError: nobody listens there.
        """
        if tls is None and address.transport == "https":
            tls = ssl.create_default_context()
        connection: http.client.HTTPConnection
        if tls is not None:
            connection = http.client.HTTPSConnection(
                address.host, address.port or None, timeout=timeout_s, context=tls
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port or None, timeout=timeout_s)
        connection.connect()
        return HttpLink(connection, address.path.rstrip("/"), token)


class HttpLink:
    """A client's end of a connection that is kept; blocks, with a time-out, and is used from one thread.

    A server may close a connection between two requests, and HTTP cannot tell when.  So a request that meets a
    closed one is sent once more, over a new one, if the old one had answered before.

    Args:
        connection: connected.
        base: what stands before every path.
        token: shown with every request; empty for none.
    """

    def __init__(self, connection: http.client.HTTPConnection, base: str, token: str) -> None:
        self._connection, self._base = connection, base
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._asked: HttpRequest | None = None
        self._answered = 0
        self.local = _is_local(connection.sock)

    def send(self, data: Any, timeout_s: float) -> None:
        if self._asked is not None:  # its answer was not waited for, and must not be taken for this one's
            self._drop()
        try:
            self._request(data, timeout_s)
        except (ConnectionError, ssl.SSLEOFError):
            if not self._drop():
                raise
            self._request(data, timeout_s)

    def receive(self, timeout_s: float) -> HttpResponse | None:
        deadline = time.monotonic() + timeout_s
        if self._asked is None:
            time.sleep(max(timeout_s, 0.0))  # a server says nothing that it was not asked
            return None
        while True:
            left = deadline - time.monotonic()
            if not self._readable(max(left, 0.0)):
                return None
            try:
                return self._response(max(left, 0.001))
            except (ConnectionError, ssl.SSLEOFError):
                again = self._asked
                if again is None or not self._drop():
                    raise
                self._request(again, max(deadline - time.monotonic(), 0.001))

    def close(self) -> None:
        self._asked = None
        self._connection.close()

    def _request(self, data: HttpRequest, timeout_s: float) -> None:
        path = quote(self._base + data.path, safe="/:@!$&'()*+,;=~-._%")
        if data.query:
            path += "?" + urlencode(data.query)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        with self._broken("the request broke"):
            self._connection.request(data.method, path, data.body or None, {**data.headers, **self._headers})
        self._asked = data

    def _response(self, timeout_s: float) -> HttpResponse:
        """The response, of which something is there.

        Raises:
            ConnectionError: the server closed the connection; nothing of the response had come.
            OSError: it broke later, it is no response, or it is too long.
        """
        self._connection.sock.settimeout(timeout_s)
        with self._broken("no HTTP"):
            response = self._connection.getresponse()
        try:
            body = response.read(MAX_RESPONSE_BYTES + 1)
            if len(body) > MAX_RESPONSE_BYTES or (response.length or 0) > 0:
                raise OSError(f"a response of more than {MAX_RESPONSE_BYTES} bytes, or one that is cut off")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError(f"the response broke: {error}") from error
        self._asked = None
        self._answered += 1
        headers = {name.lower(): value for name, value in response.getheaders()}
        return HttpResponse(response.status, body, headers.get("content-type", ""), headers)

    @contextmanager
    def _broken(self, what: str) -> Iterator[None]:
        """Whatever goes wrong closes the connection, and is an `OSError`."""
        try:
            yield
        except OSError:
            self._connection.close()
            raise
        except http.client.HTTPException as error:
            self._connection.close()
            raise OSError(f"{what}: {type(error).__name__}: {error}") from error

    def _drop(self) -> bool:
        """Close the connection; whether it had answered, so that a new one is worth a try."""
        self._connection.close()
        answered, self._answered, self._asked = self._answered > 0, 0, None
        return answered

    def _readable(self, seconds: float) -> bool:
        sock = self._connection.sock
        if sock is None:
            raise ConnectionResetError("the connection is closed")
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(seconds * 1e3))


def _is_local(sock: socket.socket) -> bool:
    host = sock.getpeername()[0]
    return ip_address(host.partition("%")[0]).is_loopback or host == sock.getsockname()[0]
