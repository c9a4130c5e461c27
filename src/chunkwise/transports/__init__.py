"""The transport port: moves bytes or HTTP requests between two ends, and knows no protocol.

Serving happens on one asyncio event loop, and never blocks it; connecting is for the robot's side, blocks with a
time-out, and needs nothing but the standard library.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from chunkwise.contract import InterfaceValidationError

ALIASES = {"ws": "websocket"}
"""Schemes that others know a transport by."""


@dataclass(slots=True, frozen=True)
class Address:
    """Where something listens: ``unix:/run/x.sock``, ``tcp://127.0.0.1:7777``, ``http://[::1]:8000/``.

    Attributes:
        transport: ``unix``, ``tcp``, ``http``, ``websocket`` (or ``ws``) ...
        path: of the socket, or of the URL.
        host, port: for those that have them.
        options: the query, as texts by name.

    >>> Address.parse("tcp://localhost:7777?rows=16")
    Address(transport='tcp', path='', host='localhost', port=7777, options={'rows': '16'})
    >>> Address.parse("unix:/run/x.sock").path
    '/run/x.sock'
    """

    transport: str
    path: str = ""
    host: str = ""
    port: int = 0
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in a text.

        Raises:
            InterfaceValidationError: there is none, saying what is wrong.
        """
        try:
            parts = urlsplit(text)
            port, host = parts.port or 0, parts.hostname or ""
        except ValueError as error:
            raise InterfaceValidationError(f"{text!r} is no address: {error}") from error
        if not parts.scheme:
            raise InterfaceValidationError(
                f"{text!r} is no address; write unix:/path/to/socket, tcp://host:port or http://host:port"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = unquote(parts.path)
        if parts.scheme == "unix" or parts.scheme.endswith("+unix"):
            if not path or host:
                raise InterfaceValidationError(f"{text!r}: a socket's path is absolute, as in unix:/run/x.sock")
            return cls(parts.scheme, path, options=options)
        if not host:
            raise InterfaceValidationError(f"{text!r} names no host, as in {parts.scheme}://127.0.0.1:7777")
        transport = ALIASES.get(parts.scheme, parts.scheme)
        return cls(transport, "" if path == "/" else path, host, port, options)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if not self.host or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if not self.host:
            return f"{self.transport}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}{self.path}"


@dataclass(slots=True, frozen=True)
class Limits:
    """What a listener puts up with.

    Attributes:
        connections: at once; one more is closed at once.
        message_bytes: longest body of a request, and longest message; None for what the transport takes by itself:
            16 MiB over HTTP, 64 MiB over websockets, gRPC and ZeroMQ.
        unsent_bytes: what may wait for a client that does not read; beyond it the connection ends.
        idle_s: a connection that says nothing for so long ends; 0 for never.
    """

    connections: int = 256
    message_bytes: int | None = None
    unsent_bytes: int = 8 << 20
    idle_s: float = 0.0


class Connection(Protocol):
    """What a listener feeds: one per stream connection, or one per HTTP request."""

    def opened(self) -> None:
        """Once, before anything else; it may send already."""
        ...

    def received(self, data: Any) -> None:
        """A piece of the stream, or the request; valid during the call only."""
        ...

    def lost(self, why: str) -> None:
        """The other end has gone; once, and nothing comes after it."""
        ...

    # One may have ``admits(headers: Mapping[str, str]) -> bool`` too, asked before anything else by a transport
    # whose requests begin with headers: whether the rest is to be read.  Where not, it was answered already.


class Peer(Protocol):
    """The other end, as a connection sees it.

    Attributes:
        name: its address, or process, for logs.
        local: whether it is on this machine.
    """

    name: str
    local: bool

    def send(self, data: Any) -> None:
        """Send, without waiting; dropped where the other end has gone."""
        ...

    def close(self) -> None:
        """End the connection once what was sent has left."""
        ...


Accept = Callable[[Peer], Connection]
"""Makes the connection of a new peer."""


class Listener(Protocol):
    """Something that listens.

    Attributes:
        address: with the port that was really taken.
    """

    address: Address

    async def close(self) -> None:
        """Accept nobody any more, and end the connections.  Twice is fine."""
        ...


class Link(Protocol):
    """A client's connection, used from one thread."""

    local: bool

    def send(self, data: Any, timeout_s: float) -> None:
        """Send all of it: bytes, a list of pieces, or a request.

        Raises:
            OSError: the other end has gone (``TimeoutError``: it does not read).
        """
        ...

    def receive(self, timeout_s: float) -> Any:
        """Whatever has come, or None when the time is over.

        Raises:
            OSError: the other end has gone.
        """
        ...

    def close(self) -> None:
        """Twice is fine."""
        ...


class Transport(Protocol):
    """A way to move bytes or requests."""

    scheme: ClassVar[str]

    async def serve(
        self, address: Address, accept: Accept, limits: Limits, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Listen.

        Raises:
            OSError: the address cannot be had.
        """
        ...

    def connect(
        self, address: Address, *, timeout_s: float, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> Link:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        ...
